//! Commands run inside an instance: one connection each, which is the session.
//!
//! Nothing here is unbounded. Output goes on when the controller has taken what was sent. Input is taken up to a window
//! ([`INPUT_WINDOW`]) before the command has read it, so that words such as "terminate" are never stuck behind it; a controller
//! that sends more breaks the rules and its session ends. When the connection ends, so do the command and all it started.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, Notify};

use super::{Shim, now};
use crate::instance::ExitStatus;
use crate::process::protocol::{
    Ask, ExecPlan, Frame, FrameReader, INPUT_WINDOW, MOST_BYTES, Tell, say, send_output,
};
use crate::process::sys::ipc::Connection;
use crate::process::sys::spawn::{Input, Program, Spawned, Terminal, spawn};
use crate::process::sys::tree;
use crate::runtime::OutputStream;

type Write = Rc<Mutex<WriteHalf<Connection>>>;

/// Input that the command has not read yet.
#[derive(Default)]
struct Pending {
    bytes: std::cell::RefCell<VecDeque<Bytes>>,
    held: std::cell::Cell<usize>,
    ended: std::cell::Cell<bool>,
    more: Notify,
}

/// Runs a command and is its session until it has ended or the controller has gone.
pub(super) async fn exec(
    shim: &Rc<Shim>,
    plan: ExecPlan,
    mut reader: FrameReader<ReadHalf<Connection>>,
    write: WriteHalf<Connection>,
) -> io::Result<()> {
    let number = shim.commands.get();
    shim.commands.set(number + 1);
    let child = format!("exec-{number}");
    let mark = format!("{}.{}.{number}", shim.plan.socket, shim.plan.incarnation);
    let write: Write = Rc::new(Mutex::new(write));
    let spawned = match start(shim, &plan, &child, &mark) {
        Ok(spawned) => spawned,
        Err(refused) => {
            let mut write = write.lock().await;
            let text = format!("{}\n", refused.message);
            send_output(&mut *write, OutputStream::Stderr, text.as_bytes()).await?;
            return say(&mut *write, &Tell::ExecEnded(ExitStatus::code(refused.code, now()))).await;
        }
    };
    let Spawned { pid, stdin, stdout, stderr, terminal } = spawned;
    let terminal = terminal.map(Rc::new);
    let mut status = shim.reaper.end_of(pid);
    let pending = Rc::new(Pending::default());

    let feeding = tokio::task::spawn_local(feed(pending.clone(), stdin, terminal.clone(), write.clone()));
    let reading: Vec<_> = [
        terminal.clone().map(|terminal| tokio::task::spawn_local(show_terminal(terminal, write.clone()))),
        stdout.map(|pipe| tokio::task::spawn_local(show(pipe, OutputStream::Stdout, write.clone()))),
        stderr.map(|pipe| tokio::task::spawn_local(show(pipe, OutputStream::Stderr, write.clone()))),
    ]
    .into_iter()
    .flatten()
    .collect();

    let mut ended = None;
    let gone = loop {
        tokio::select! {
            status = &mut status, if ended.is_none() => {
                ended = Some(status.unwrap_or_else(|_| ExitStatus::unknown(now())));
                break false;
            }
            frame = reader.next::<Ask>() => match frame {
                Ok(Some(Frame::Input(bytes))) if pending.held.get() + bytes.len() <= INPUT_WINDOW => {
                    pending.held.set(pending.held.get() + bytes.len());
                    pending.bytes.borrow_mut().push_back(bytes);
                    pending.more.notify_one();
                }
                Ok(Some(Frame::Words(Ask::InputEnd))) => {
                    pending.ended.set(true);
                    pending.more.notify_one();
                }
                Ok(Some(Frame::Words(Ask::Resize(size)))) => {
                    // A terminal that has just closed needs no size.
                    let _ = terminal.as_ref().map(|terminal| terminal.resize(size));
                }
                Ok(Some(Frame::Words(Ask::Terminate))) => {
                    tree::kill_command(&shim.plan.cgroups, &child, pid, &mark).await;
                }
                // Gone, or out of its mind.
                _ => break true,
            },
        }
    };
    feeding.abort();
    // What the command has started ends with it, as what a program has started does. Then nobody is left who could write, and
    // what was written goes out as fast as the controller takes it.
    tree::kill_command(&shim.plan.cgroups, &child, pid, &mark).await;
    if let Some(unified) = &shim.plan.cgroups.unified {
        let _ = std::fs::remove_dir(unified.join(&child));
    }
    let last = async {
        for task in reading {
            if gone {
                task.abort();
            }
            let _ = task.await;
        }
    };
    let gone = tokio::select! {
        () = last => gone,
        () = closed(&mut reader) => true,
    };
    match ended {
        Some(status) if !gone => say(&mut *write.lock().await, &Tell::ExecEnded(status)).await,
        _ => Ok(()),
    }
}

/// Waits until the controller closes its side.
async fn closed(reader: &mut FrameReader<ReadHalf<Connection>>) {
    while let Ok(Some(_)) = reader.next::<Ask>().await {}
}

fn start(
    shim: &Shim,
    plan: &ExecPlan,
    child: &str,
    mark: &str,
) -> Result<Spawned, crate::process::sys::spawn::NotStarted> {
    let mut env = shim.plan.env.clone();
    env.extend(plan.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    env.insert(tree::COMMAND_MARK.to_owned(), mark.to_owned());
    if plan.tty.is_some() {
        env.entry("TERM".to_owned()).or_insert_with(|| "xterm-256color".to_owned());
    }
    if let Some(unified) = &shim.plan.cgroups.unified {
        // A group that can't be made is found out when it is joined.
        let _ = std::fs::create_dir(unified.join(child));
    }
    let workdir = PathBuf::from(plan.workdir.as_ref().unwrap_or(&shim.plan.workdir));
    let input = match plan.tty {
        Some(size) => Input::Terminal(size),
        None if plan.stdin => Input::Pipe,
        None => Input::Closed,
    };
    spawn(Program {
        command: &plan.command,
        env: &env,
        workdir: &workdir,
        user: plan.user.as_ref().or(shim.plan.user.as_ref()),
        ulimits: &shim.plan.ulimits,
        no_new_privileges: shim.plan.no_new_privileges,
        joins: shim.plan.cgroups.joins(child),
        input,
    })
}

/// Gives the command its input, as fast as it reads.
async fn feed(
    pending: Rc<Pending>,
    mut pipe: Option<impl tokio::io::AsyncWrite + Unpin>,
    terminal: Option<Rc<Terminal>>,
    write: Write,
) {
    loop {
        let next = pending.bytes.borrow_mut().pop_front();
        let Some(bytes) = next else {
            if pending.ended.get() {
                // The end of a pipe; a terminal's input has none, its program is told by the terminal's own ways.
                drop(pipe.take());
            }
            pending.more.notified().await;
            continue;
        };
        let taken = bytes.len();
        let given = match (&mut pipe, &terminal) {
            (Some(pipe), _) => pipe.write_all(&bytes).await,
            (None, Some(terminal)) => type_in(terminal, &bytes).await,
            (None, None) => Ok(()),
        };
        if given.is_err() {
            // The command reads no more: what comes is thrown away, as a broken pipe does.
            pipe = None;
        }
        pending.held.set(pending.held.get().saturating_sub(taken));
        if say(&mut *write.lock().await, &Tell::Taken { bytes: taken }).await.is_err() {
            return;
        }
    }
}

async fn type_in(terminal: &Terminal, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = terminal.write(rest).await?;
        rest = rest.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// Sends what the command writes.
async fn show(mut pipe: impl AsyncRead + Unpin, stream: OutputStream, write: Write) {
    let mut buffer = vec![0; MOST_BYTES];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        if send_output(&mut *write.lock().await, stream, buffer.get(..count).unwrap_or_default())
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn show_terminal(terminal: Rc<Terminal>, write: Write) {
    let mut buffer = vec![0; MOST_BYTES];
    while let Ok(count @ 1..) = terminal.read(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default();
        if send_output(&mut *write.lock().await, OutputStream::Stdout, bytes).await.is_err() {
            return;
        }
    }
}
