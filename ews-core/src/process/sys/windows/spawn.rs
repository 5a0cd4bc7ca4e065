//! Starting programs, and steering them.
//!
//! A program is started suspended, taken into its jobs, and let go: nothing that it starts escapes them. It leads a process
//! group of its own on the shim's console, which no window shows, so that it can be asked to end by CTRL_BREAK.

use std::fs::File;
use std::io;
use std::os::windows::io::{AsHandle as _, OwnedHandle};
use std::os::windows::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::net::windows::named_pipe::NamedPipeServer;
use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_BAD_EXE_FORMAT, ERROR_INTERNAL_ERROR};
use windows_sys::Win32::System::Threading::{
    CREATE_BREAKAWAY_FROM_JOB, CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW, CREATE_SUSPENDED,
};

use super::{ipc, programs, raw};
use crate::capability::Capability;
use crate::runtime::TtySize;
use crate::spec::lifecycle::Signal;

pub(in crate::process) use crate::process::sys::program::{Input, NotStarted, Program};

/// What programs can do on this system beyond what they can everywhere: no terminals, no other users, no limits per process.
pub(in crate::process) const FEATURES: &[Capability] = &[];

/// The signals that can be sent: TERM and INT are CTRL_BREAK, which a program may take as it likes; KILL ends it.
pub(in crate::process) fn signals() -> Vec<Signal> {
    vec![Signal::TERM, Signal::INT, Signal::KILL]
}

/// A program that was started.
#[derive(Debug)]
pub(in crate::process) struct Spawned {
    pub(in crate::process) pid: u32,
    pub(in crate::process) stdin: Option<NamedPipeServer>,
    pub(in crate::process) stdout: Option<NamedPipeServer>,
    pub(in crate::process) stderr: Option<NamedPipeServer>,
    pub(in crate::process) terminal: Option<Terminal>,
}

/// Starts a program in a process group and a job of its own. It dies with this process, should that be killed.
pub(in crate::process) fn spawn(program: Program<'_>) -> Result<Spawned, NotStarted> {
    let (name, args) = program.words()?;
    let refused = |error: io::Error| NotStarted::new(126, format!("no pipe for the program: {error}"));
    let mut command = Command::new(located(name, program.workdir));
    command.args(args).env_clear().envs(program.env).current_dir(program.workdir);
    command.creation_flags(CREATE_SUSPENDED | CREATE_NEW_PROCESS_GROUP);
    let stdin = match program.input {
        Input::Terminal(_) => return Err(NotStarted::new(126, "there are no terminals on this system")),
        Input::Pipe => {
            let (ours, theirs) = ipc::input().map_err(refused)?;
            command.stdin(theirs);
            Some(ours)
        }
        Input::Closed => {
            command.stdin(Stdio::null());
            None
        }
    };
    let (stdout, theirs) = ipc::output().map_err(refused)?;
    command.stdout(theirs);
    let (stderr, theirs) = ipc::output().map_err(refused)?;
    command.stderr(theirs);
    let mut child = begin(&mut command).map_err(|error| not_started(name, &error))?;
    // With it go our copies of the program's ends of the pipes, so that we see it close them.
    drop(command);
    let pid = child.id();
    let held = child.as_handle().try_clone_to_owned().and_then(|process| programs::add(pid, process));
    if let Err(error) = held.and_then(|()| raw::resume(pid)) {
        let _ = child.kill();
        programs::kill_tree(pid);
        return Err(NotStarted::new(126, format!("`{name}` can't be held in a job: {error}")));
    }
    Ok(Spawned { pid, stdin, stdout: Some(stdout), stderr: Some(stderr), terminal: None })
}

/// How often a process is started that the system loses before its first instruction.
const ATTEMPTS: u32 = 4;

/// Starts a process, once more where the system lost it before its first instruction: nothing of it ran. Wine says so now
/// and then on a loaded machine.
fn begin(command: &mut Command) -> io::Result<Child> {
    let lost = |error: &io::Error| error.raw_os_error() == Some(ERROR_INTERNAL_ERROR.cast_signed());
    for _ in 1..ATTEMPTS {
        match command.spawn() {
            Err(error) if lost(&error) => {}
            started => return started,
        }
    }
    command.spawn()
}

/// Where a program is: a relative path is looked for in the work directory, a name without folders where the system looks.
fn located(name: &str, workdir: &Path) -> PathBuf {
    let path = Path::new(name);
    if name.contains(['/', '\\']) && path.is_relative() { workdir.join(path) } else { path.to_owned() }
}

fn not_started(name: &str, error: &io::Error) -> NotStarted {
    match error.kind() {
        io::ErrorKind::NotFound => {
            NotStarted::new(127, format!("`{name}` can't be started: it does not exist ({error})"))
        }
        _ if error.raw_os_error() == Some(ERROR_BAD_EXE_FORMAT.cast_signed()) => NotStarted::new(
            126,
            format!("`{name}` can't be started: it is no program of this system ({error})"),
        ),
        _ => NotStarted::new(126, format!("`{name}` can't be started: {error}")),
    }
}

/// Sends a signal to a program of this shim.
pub(in crate::process) fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    match signal {
        Signal::KILL => programs::kill(pid),
        Signal::TERM | Signal::INT if programs::lives(pid) => raw::send_break(pid),
        Signal::TERM | Signal::INT => Err(io::ErrorKind::NotFound.into()),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, format!("there is no {signal} on this system"))),
    }
}

/// Asks a program to end. What is no console program does not hear it, and is killed when its grace is over.
pub(in crate::process) fn ask_to_end(pid: u32, with: Signal) -> io::Result<()> {
    signal(pid, with)
}

/// Our side of a terminal: there is none.
#[derive(Debug)]
pub(in crate::process) enum Terminal {}

impl Terminal {
    pub(in crate::process) async fn read(&self, _: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }

    pub(in crate::process) async fn write(&self, _: &[u8]) -> io::Result<usize> {
        match *self {}
    }

    pub(in crate::process) fn resize(&self, _: TtySize) -> io::Result<()> {
        match *self {}
    }
}

/// Whether a shim may be begun before its instance's directory has its name: none is renamed in which something is open.
pub(in crate::process) const EARLY: bool = false;

/// What a new shim is given.
pub(in crate::process) struct ShimStart<'a> {
    pub(in crate::process) program: &'a Path,
    /// For who looks at a list of processes.
    pub(in crate::process) name: &'a str,
    /// Its side of the first connection.
    pub(in crate::process) connection: OwnedHandle,
    /// The lock that says that it lives. It is kept by the file that is open, whoever has it.
    pub(in crate::process) lock: File,
    /// Where its last words go.
    pub(in crate::process) log: File,
}

/// What a program needs of its environment to start at all: where the system is, and where libraries are looked for.
const NEEDED: [&str; 4] = ["SystemRoot", "SystemDrive", "windir", "PATH"];

/// Starts a shim, on a console of its own that no window shows: this program's would take it along when it closes.
pub(in crate::process) fn spawn_shim(start: ShimStart<'_>) -> io::Result<Child> {
    let mut command = Command::new(start.program);
    command.arg(crate::process::shim::MARKER).arg(start.name).env_clear().current_dir("/");
    command.envs(NEEDED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.stdin(start.connection).stdout(start.lock).stderr(start.log);
    let flags = CREATE_NO_WINDOW | CREATE_NEW_PROCESS_GROUP;
    // A shim outlives its controller, also where that is in a job which ends with it, if the job lets it go.
    match begin(command.creation_flags(flags | CREATE_BREAKAWAY_FROM_JOB)) {
        Err(error) if error.raw_os_error() == Some(ERROR_ACCESS_DENIED.cast_signed()) => {
            begin(command.creation_flags(flags))
        }
        started => started,
    }
}

/// This program.
pub(in crate::process) fn own_program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_lies_in_the_work_directory() {
        let at = |name: &str| located(name, Path::new(r"C:\work")).to_str().unwrap().to_owned();
        assert_eq!(at("cmd"), "cmd");
        assert_eq!(at(r"bin\server.exe"), r"C:\work\bin\server.exe");
        assert_eq!(at("./server"), r"C:\work\./server");
        assert_eq!(at(r"D:\x.exe"), r"D:\x.exe");
    }

    #[test]
    fn what_can_not_be_started_is_told_in_a_shells_codes() {
        let code = |error: u32| not_started("x", &io::Error::from_raw_os_error(error.cast_signed())).code;
        assert_eq!((code(2), code(3)), (127, 127), "no file, no folder");
        assert_eq!((code(ERROR_BAD_EXE_FORMAT), code(ERROR_ACCESS_DENIED)), (126, 126));
    }
}
