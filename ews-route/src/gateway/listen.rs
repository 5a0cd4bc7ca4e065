//! Listening sockets, and how connections reach the data threads.
//!
//! On Linux each thread has a listener of its own at the same address (`SO_REUSEPORT`): the kernel spreads connections, and
//! no thread wakes for another's. An address where another gateway listens is refused all the same. A listener that is given
//! already bound is shared by all threads instead. Elsewhere one task accepts and deals each connection to the thread that has
//! the fewest.

use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::thread::{Ending, Shared};

/// How many connections wait in the kernel until a thread takes them; the kernel may allow fewer.
const BACKLOG: i32 = 4096;
/// How many dealt connections wait for a thread.
const DEALT: usize = 1024;

/// What is spoken at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HTTP as it is.
    Plain,
    /// HTTP within TLS.
    Tls,
    /// Whatever it is, for the TCP listener of this number.
    Tcp(usize),
}

/// Where a thread gets connections from, and what is spoken there.
pub(crate) struct Source {
    pub(crate) kind: Kind,
    from: From,
}

enum From {
    /// A listener, made a part of the thread's runtime when it is first used.
    Listener(Option<StdListener>, Option<TcpListener>),
    /// The one that deals.
    Dealt(mpsc::Receiver<std::net::TcpStream>),
}

impl Source {
    /// Whether it ends by itself, when all that was accepted is taken.
    pub(crate) fn ends(&self) -> bool {
        matches!(self.from, From::Dealt(_))
    }

    /// The next connection; `None` where there are no more.
    pub(crate) async fn next(&mut self) -> Result<Option<(TcpStream, SocketAddr)>> {
        match &mut self.from {
            From::Listener(bound, listener) => {
                if let Some(bound) = bound.take() {
                    *listener = Some(TcpListener::from_std(bound)?);
                }
                let listener = listener.as_ref().ok_or_else(|| Error::from(ErrorKind::NotConnected))?;
                listener.accept().await.map(Some)
            }
            From::Dealt(receiver) => {
                let Some(stream) = receiver.recv().await else { return Ok(None) };
                let peer = stream.peer_addr()?;
                Ok(Some((TcpStream::from_std(stream)?, peer)))
            }
        }
    }
}

/// The sources of each thread, what deals if anything does, and the addresses.
pub(crate) struct Bound {
    pub(crate) sources: Vec<Vec<Source>>,
    pub(crate) dealers: Vec<Dealer>,
    pub(crate) addresses: Vec<SocketAddr>,
    /// Every listener once more, for a successor.
    pub(crate) kept: Vec<StdListener>,
}

/// A listener whose connections are dealt out.
pub(crate) struct Dealer {
    listener: StdListener,
    threads: Vec<mpsc::Sender<std::net::TcpStream>>,
}

/// Binds every address for so many threads, and takes over what is bound: what `inherited` gives for an address of the
/// configuration is used in place of binding it, and `bound` besides.
pub(crate) fn bind(
    addresses: impl IntoIterator<Item = (SocketAddr, Kind)>,
    mut inherited: impl FnMut(SocketAddr) -> Vec<StdListener>,
    bound: Vec<(StdListener, Kind)>,
    threads: usize,
    deals: bool,
) -> Result<Bound> {
    let mut result = Bound {
        sources: (0..threads).map(|_| Vec::new()).collect(),
        dealers: Vec::new(),
        addresses: Vec::new(),
        kept: Vec::new(),
    };
    let own = |kind, listener: StdListener| Source { kind, from: From::Listener(Some(listener), None) };
    for (address, kind) in addresses {
        let from_before = inherited(address);
        if !from_before.is_empty() {
            result.addresses.push(address);
            share(&mut result, kind, from_before, threads, deals)?;
            continue;
        }
        if !deals {
            claim(address)?;
        }
        let first = open(address, !deals)?;
        let address = first.local_addr()?;
        result.addresses.push(address);
        if deals {
            deal(&mut result, kind, first, threads)?;
            continue;
        }
        // The first took a free port where port 0 was asked for; the others share it.
        let mut listeners = vec![first];
        for _ in 1..threads {
            listeners.push(open(address, true)?);
        }
        for (sources, listener) in result.sources.iter_mut().zip(listeners) {
            result.kept.push(listener.try_clone()?);
            sources.push(own(kind, listener));
        }
    }
    for (listener, kind) in bound {
        listener.set_nonblocking(true)?;
        result.addresses.push(listener.local_addr()?);
        if deals {
            deal(&mut result, kind, listener, threads)?;
            continue;
        }
        result.kept.push(listener.try_clone()?);
        for sources in &mut result.sources {
            sources.push(own(kind, listener.try_clone()?));
        }
    }
    Ok(result)
}

/// Listeners of one address that another number of threads may have had: each thread gets its share of them, and some of them
/// are shared where there are not enough. None may be left without a thread, for it has connections of its own.
fn share(
    result: &mut Bound,
    kind: Kind,
    listeners: Vec<StdListener>,
    threads: usize,
    deals: bool,
) -> Result<()> {
    let count = listeners.len();
    for (at, listener) in listeners.into_iter().enumerate() {
        listener.set_nonblocking(true)?;
        if deals {
            deal(result, kind, listener, threads)?;
            continue;
        }
        result.kept.push(listener.try_clone()?);
        for (index, sources) in result.sources.iter_mut().enumerate() {
            if index % count == at || at % threads == index {
                let from = From::Listener(Some(listener.try_clone()?), None);
                sources.push(Source { kind, from });
            }
        }
    }
    Ok(())
}

fn deal(result: &mut Bound, kind: Kind, listener: StdListener, threads: usize) -> Result<()> {
    result.kept.push(listener.try_clone()?);
    let mut senders = Vec::with_capacity(threads);
    for sources in &mut result.sources {
        let (sender, receiver) = mpsc::channel(DEALT);
        senders.push(sender);
        sources.push(Source { kind, from: From::Dealt(receiver) });
    }
    result.dealers.push(Dealer { listener, threads: senders });
    Ok(())
}

/// Refuses an address where somebody listens already. Sockets that share an address would share its connections too, and so would
/// those of two gateways: half of the requests would meet one that knows nothing.
fn claim(address: SocketAddr) -> Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    socket(address).and_then(|socket| socket.bind(&address.into())).map_err(|error| at(address, &error))
}

/// The error of an address, which it names.
fn at(address: SocketAddr, error: &Error) -> Error {
    Error::new(error.kind(), format!("{address}: {error}"))
}

/// Opens a listener; an error says at which address.
fn open(address: SocketAddr, is_shared: bool) -> Result<StdListener> {
    bound(address, is_shared).map_err(|error| at(address, &error))
}

fn socket(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Or `[::]` would take the port from `0.0.0.0` as well.
        socket.set_only_v6(true)?;
    }
    // On Windows this option means that a port can be stolen.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn bound(address: SocketAddr, is_shared: bool) -> Result<StdListener> {
    let socket = socket(address)?;
    #[cfg(target_os = "linux")]
    if is_shared {
        socket.set_reuse_port(true)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = is_shared;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Dealer {
    /// Deals until the gateway ends, or nobody takes any more. What was accepted is dealt in any case.
    pub(crate) async fn run(self, shared: Arc<Shared>, mut ending: watch::Receiver<Ending>) {
        let Ok(listener) = TcpListener::from_std(self.listener) else { return };
        loop {
            let accepted = tokio::select! {
                biased;
                _ = ending.wait_for(|ending| *ending != Ending::Runs) => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let loads = shared.connections.iter().map(|count| count.load(Ordering::Relaxed));
            let fewest = loads.zip(&self.threads).min_by_key(|(load, _)| *load);
            let (Some((_, thread)), Ok(stream)) = (fewest, stream.into_std()) else { continue };
            if thread.send(stream).await.is_err() {
                return;
            }
        }
    }
}
