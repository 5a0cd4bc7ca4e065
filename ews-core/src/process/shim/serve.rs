//! What a shim answers to controllers.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::WriteHalf;
use tokio::time::Instant;

use super::exec::exec;
use super::{Shim, halves};
use crate::process::protocol::{Ask, Frame, FrameReader, Hello, Tell, VERSIONS, say, shared_version};
use crate::process::sys::ipc::{Connection, Listener};
use crate::process::sys::{spawn, tree};
use crate::spec::lifecycle::Signal;

/// How many connections a shim has at a time; more wait in the system's queue. A command run inside takes one.
const CONNECTIONS: usize = 256;

/// How long a controller may take for its first words.
const FIRST_WORDS: Duration = Duration::from_secs(10);

/// The longest grace: a year, so that no sum of times overflows.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Answers whoever connects.
pub(super) async fn accept(shim: Rc<Shim>, mut listener: Listener) {
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok(connection) => {
                let shim = Rc::clone(&shim);
                tokio::task::spawn_local(async move {
                    // A controller that breaks off in the middle has told us all that it will.
                    let _ = answer(&shim, connection).await;
                    drop(place);
                });
            }
            // No descriptors, no memory: others are served, and it is tried again.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn answer(shim: &Rc<Shim>, connection: Connection) -> std::io::Result<()> {
    let (mut reader, mut write) = halves(connection);
    let first = async {
        let Some(Frame::Words(hello)) = reader.next::<Hello>().await? else { return Ok(None) };
        let Some(version) = shared_version(hello.versions) else {
            say(&mut write, &Tell::Strange { versions: VERSIONS }).await?;
            return Ok(None);
        };
        let stopping = shim.stop.borrow().is_some();
        say(&mut write, &Tell::Welcome { version, incarnation: shim.plan.incarnation, stopping }).await?;
        reader.next::<Ask>().await
    };
    let ask = tokio::time::timeout(FIRST_WORDS, first).await.unwrap_or(Ok(None))?;
    match ask {
        Some(Frame::Words(Ask::Watch)) => watch(shim, &mut reader, &mut write).await,
        Some(Frame::Words(Ask::Stop { signal, grace })) => {
            stop(shim, signal, Duration::from_millis(grace).min(LONGEST));
            say(&mut write, &Tell::Done).await
        }
        Some(Frame::Words(Ask::Signal { number })) => {
            let tell = match (shim.reaper.lives(shim.pid), Signal::from_number(i32::from(number))) {
                (false, _) => Tell::Refused { reason: "the program has ended".to_owned() },
                (true, Ok(signal)) => match spawn::signal(shim.pid, signal) {
                    Ok(()) => Tell::Done,
                    Err(error) => Tell::Refused { reason: error.to_string() },
                },
                (true, Err(error)) => Tell::Refused { reason: error.to_string() },
            };
            say(&mut write, &tell).await
        }
        Some(Frame::Words(Ask::Follow)) => follow(shim, &mut reader, &mut write).await,
        Some(Frame::Words(Ask::Exec(plan))) => exec(shim, *plan, reader, write).await,
        Some(_) => say(&mut write, &Tell::Refused { reason: "these are no first words".to_owned() }).await,
        None => Ok(()),
    }
}

/// Tells of the end, or sees the controller go.
pub(super) async fn watch(
    shim: &Rc<Shim>,
    reader: &mut FrameReader<tokio::io::ReadHalf<Connection>>,
    write: &mut WriteHalf<Connection>,
) -> std::io::Result<()> {
    shim.watchers.set(shim.watchers.get() + 1);
    let mut ended = shim.ended.clone();
    let result = tokio::select! {
        // A copy of the value, since a borrow must not outlive the wait.
        end = async { ended.wait_for(Option::is_some).await.map(|end| (*end).clone()) } => match end {
            Ok(Some(status)) => say(write, &Tell::Ended(status)).await,
            _ => Ok(()),
        },
        _gone = reader.next::<Ask>() => Ok(()),
    };
    shim.watchers.set(shim.watchers.get() - 1);
    result
}

/// Tells of each change of the log, or sees the controller go: a program that writes nothing would keep its place for ever. A controller
/// that does not read is told once, when it does.
async fn follow(
    shim: &Rc<Shim>,
    reader: &mut FrameReader<tokio::io::ReadHalf<Connection>>,
    write: &mut WriteHalf<Connection>,
) -> std::io::Result<()> {
    let mut changes = shim.log.changes();
    say(write, &Tell::Done).await?;
    let tell = async {
        while changes.changed().await.is_ok() {
            say(write, &Tell::Changed).await?;
        }
        Ok(())
    };
    tokio::select! {
        told = tell => told,
        _gone = reader.next::<Ask>() => Ok(()),
    }
}

/// Asks the program to end. A later call may only bring its kill nearer.
fn stop(shim: &Rc<Shim>, signal: Option<u8>, grace: Duration) {
    if let Some(signal) = signal.and_then(|number| Signal::from_number(i32::from(number)).ok())
        && shim.reaper.lives(shim.pid)
    {
        // A signal that can't be sent is no reason not to kill at the deadline.
        let _ = spawn::ask_to_end(shim.pid, signal);
    }
    let grace = if signal.is_some() { grace } else { Duration::ZERO };
    let deadline = Instant::now() + grace;
    shim.stop.send_if_modified(|kill| {
        let nearer = kill.is_none_or(|kill| deadline < kill);
        if nearer {
            *kill = Some(deadline);
        }
        nearer
    });
}

/// Kills the whole tree once the deadline of a stop is over.
pub(super) async fn stop_at_deadline(shim: Rc<Shim>) {
    let mut stop = shim.stop.subscribe();
    loop {
        let deadline = *stop.borrow_and_update();
        let over = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => {
                // Without a group the program goes first: at its end the shim ends all that it has left.
                if !shim.plan.cgroups.is_empty() {
                    tree::kill_all(&shim.plan.cgroups).await;
                } else if shim.reaper.lives(shim.pid) {
                    let _ = spawn::signal(shim.pid, Signal::KILL);
                }
                return;
            }
            changed = stop.changed() => if changed.is_err() { return },
        }
    }
}
