//! A socket in front of an engine's, which can be cut, hung and closed, so that tests disturb their own connection and nobody's engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

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
}

pub(crate) struct Relay {
    path: PathBuf,
    state: watch::Sender<State>,
    tasks: Option<tokio::runtime::Runtime>,
}

impl Relay {
    pub(crate) fn open(path: PathBuf, engine: PathBuf) -> Self {
        let (state, watched) = watch::channel(State { mode: Mode::Pass, epoch: 0 });
        let tasks =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let guard = tasks.enter();
        let listener = UnixListener::bind(&path).unwrap();
        drop(guard);
        let engine = Arc::new(engine);
        tasks.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(relay(near, Arc::clone(&engine), watched.clone()));
            }
        });
        Self { path, state, tasks: Some(tasks) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends every connection and refuses new ones.
    pub(crate) fn sever(&self) {
        self.state.send_modify(|state| *state = State { mode: Mode::Severed, epoch: state.epoch + 1 });
    }

    /// Takes connections and lets nothing pass either way.
    pub(crate) fn hang(&self) {
        self.state.send_modify(|state| state.mode = Mode::Hung);
    }

    /// Ends every connection; new ones pass.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| *state = State { mode: Mode::Pass, epoch: state.epoch + 1 });
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

async fn relay(near: UnixStream, engine: Arc<PathBuf>, mut state: watch::Receiver<State>) {
    let epoch = state.borrow().epoch;
    if state.borrow().mode == Mode::Severed {
        return;
    }
    let Ok(far) = UnixStream::connect(&*engine).await else { return };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let up = tokio::spawn(pump(near_read, far_write, state.clone()));
    let down = tokio::spawn(pump(far_read, near_write, state.clone()));
    let (up_abort, down_abort) = (up.abort_handle(), down.abort_handle());
    let over = async {
        let _ = up.await;
        let _ = down.await;
    };
    tokio::select! {
        () = over => {}
        _ = state.wait_for(|state| state.epoch != epoch) => {}
    }
    up_abort.abort();
    down_abort.abort();
}

/// Copies one way, half-closes at the end, and stands still while the relay hangs.
async fn pump(
    mut from: tokio::net::unix::OwnedReadHalf,
    mut to: tokio::net::unix::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = from.read(&mut buffer).await {
        if state.wait_for(|state| state.mode != Mode::Hung).await.is_err() {
            break;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
