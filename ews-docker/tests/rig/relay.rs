//! A socket or port in front of an engine's socket, which can be cut, hung and closed, so that tests disturb their own connection and nobody's
//! engine. A port makes the engine another machine's, as far as its address tells; with TLS where that is asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
#[cfg(feature = "tls")]
use tokio_rustls::TlsAcceptor;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Connections are refused at once.
    Severed,
    /// Connections are taken, and nothing passes.
    Hung,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// Connections of an earlier number are over.
    epoch: u64,
    /// How much of what the engine says passes on each connection, before it breaks.
    most: Option<usize>,
}

pub(crate) struct Relay {
    path: PathBuf,
    port: u16,
    state: watch::Sender<State>,
    tasks: Option<tokio::runtime::Runtime>,
}

impl Relay {
    /// A socket of this path.
    pub(crate) fn open(path: PathBuf, engine: PathBuf) -> Self {
        let (mut relay, watched) = Self::new();
        let tasks = relay.tasks.as_ref().unwrap();
        let guard = tasks.enter();
        let listener = UnixListener::bind(&path).unwrap();
        drop(guard);
        let engine = Arc::new(engine);
        tasks.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(relay_to(near, Arc::clone(&engine), watched.clone()));
            }
        });
        relay.path = path;
        relay
    }

    /// A port of loopback.
    pub(crate) fn tcp(engine: PathBuf) -> Self {
        let (mut relay, watched) = Self::new();
        let (port, listener) = relay.listen();
        relay.port = port;
        let engine = Arc::new(engine);
        relay.tasks.as_ref().unwrap().spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                near.set_nodelay(true).unwrap();
                tokio::spawn(relay_to(near, Arc::clone(&engine), watched.clone()));
            }
        });
        relay
    }

    /// A port of loopback that speaks TLS.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(engine: PathBuf, acceptor: TlsAcceptor) -> Self {
        let (mut relay, watched) = Self::new();
        let (port, listener) = relay.listen();
        relay.port = port;
        let engine = Arc::new(engine);
        relay.tasks.as_ref().unwrap().spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                near.set_nodelay(true).unwrap();
                let (acceptor, engine, watched) = (acceptor.clone(), Arc::clone(&engine), watched.clone());
                tokio::spawn(async move {
                    // A client that does not trust us hangs up, and one that we don't trust is told so.
                    if let Ok(near) = acceptor.accept(near).await {
                        relay_to(near, engine, watched).await;
                    }
                });
            }
        });
        relay
    }

    fn new() -> (Self, watch::Receiver<State>) {
        let (state, watched) = watch::channel(State { mode: Mode::Pass, epoch: 0, most: None });
        let tasks =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        (Self { path: PathBuf::new(), port: 0, state, tasks: Some(tasks) }, watched)
    }

    fn listen(&self) -> (u16, TcpListener) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let _guard = self.tasks.as_ref().unwrap().enter();
        (listener.local_addr().unwrap().port(), TcpListener::from_std(listener).unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection and refuses new ones.
    pub(crate) fn sever(&self) {
        self.state.send_modify(|state| {
            *state = State { mode: Mode::Severed, epoch: state.epoch + 1, most: None };
        });
    }

    /// Takes connections and lets nothing pass either way.
    pub(crate) fn hang(&self) {
        self.state.send_modify(|state| state.mode = Mode::Hung);
    }

    /// Ends every connection; new ones pass.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| {
            *state = State { mode: Mode::Pass, epoch: state.epoch + 1, most: None };
        });
    }

    /// Ends every connection; new ones break once the engine has said so much.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.state.send_modify(|state| {
            *state = State { mode: Mode::Pass, epoch: state.epoch + 1, most: Some(bytes) };
        });
    }

    pub(crate) fn heal(&self) {
        self.state.send_modify(|state| state.mode = Mode::Pass);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Within a test's own tasks a runtime can't be waited for.
        if let Some(tasks) = self.tasks.take() {
            tasks.shutdown_background();
        }
    }
}

async fn relay_to(
    near: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    engine: Arc<PathBuf>,
    mut state: watch::Receiver<State>,
) {
    let State { mode, epoch, most } = *state.borrow();
    if mode == Mode::Severed {
        return;
    }
    let Ok(far) = UnixStream::connect(&*engine).await else { return };
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = far.into_split();
    let up = tokio::spawn(pump(near_read, far_write, state.clone(), None));
    let mut down = tokio::spawn(pump(far_read, near_write, state.clone(), most));
    let (up_abort, down_abort) = (up.abort_handle(), down.abort_handle());
    let over = async {
        // What may say no more breaks both ways; an engine that has said all may still listen.
        if (&mut down).await.is_ok_and(|whole| whole) {
            let _ = up.await;
        }
    };
    tokio::select! {
        () = over => {}
        _ = state.wait_for(|state| state.epoch != epoch) => {}
    }
    up_abort.abort();
    down_abort.abort();
}

/// Copies one way, half-closes at the end, and stands still while the relay hangs. Says whether all passed.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    most: Option<usize>,
) -> bool {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = most.unwrap_or(usize::MAX);
    while let Ok(count) = from.read(&mut buffer).await {
        if state.wait_for(|state| state.mode != Mode::Hung).await.is_err() {
            break;
        }
        let pass = count.min(left);
        left -= pass;
        if count == 0 || to.write_all(&buffer[..pass]).await.is_err() {
            break;
        }
        // TLS keeps what it has until it is told that there is no more for now.
        if to.flush().await.is_err() {
            break;
        }
        if left == 0 {
            return false;
        }
    }
    let _ = to.shutdown().await;
    true
}
