//! Starting programs, and steering them.
//!
//! This file is excepted from the ban on `unsafe` for two calls: a signal by its number, since the safe list has no real-time
//! ones; and the registration of a terminal's descriptor.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::process::{Pid, Resource, Rlimit, Signal as Raw};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use super::vfork;
use crate::capability::Capability;
use crate::process::protocol::User;
use crate::runtime::TtySize;
use crate::spec::lifecycle::Signal;

pub(in crate::process) use crate::process::sys::program::{Input, NotStarted, Program};

/// What programs can do on this system beyond what they can everywhere.
pub(in crate::process) const FEATURES: &[Capability] = &[
    Capability::ExecTty,
    Capability::ExecResize,
    Capability::Init,
    Capability::Ulimits,
    Capability::NoNewPrivileges,
];

/// The signals that can be sent: all.
pub(in crate::process) fn signals() -> Vec<Signal> {
    Vec::new()
}

/// A program that was started.
#[derive(Debug)]
pub(in crate::process) struct Spawned {
    pub(in crate::process) pid: u32,
    pub(in crate::process) stdin: Option<pipe::Sender>,
    pub(in crate::process) stdout: Option<pipe::Receiver>,
    pub(in crate::process) stderr: Option<pipe::Receiver>,
    pub(in crate::process) terminal: Option<Terminal>,
}

/// Starts a program in a session of its own. It dies with this process, should that be killed.
pub(in crate::process) fn spawn(program: Program<'_>) -> Result<Spawned, NotStarted> {
    let refused = |what: &str, error: io::Error| NotStarted::new(126, format!("{what}: {error}"));
    let (name, args) = program.words()?;
    let image = vfork::Image::new(name, args, program.env.iter(), program.workdir.as_os_str().as_bytes())
        .map_err(|error| not_started(name, &error))?;
    let (standard, ours) =
        streams(program.input, program.user).map_err(|error| refused("no standard streams", error))?;
    let join = |path: &PathBuf| File::options().write(true).open(path);
    let joins = program.joins.iter().map(join).collect::<io::Result<Vec<_>>>();
    let joins = joins.map_err(|error| refused("its control group can't be joined", error))?;
    let limits = program.ulimits.iter().filter_map(|limit| {
        let to = Rlimit { current: limit.soft, maximum: limit.hard };
        resource(&limit.name).map(|resource| (resource, to))
    });
    let limits: Vec<_> = limits.collect();
    let groups = program.user.map(|user| {
        let groups = user.groups.iter().map(|group| rustix::process::Gid::from_raw(*group));
        let (uid, gid) = (rustix::process::Uid::from_raw(user.uid), rustix::process::Gid::from_raw(user.gid));
        (uid, gid, groups.collect::<Vec<_>>())
    });
    let parent = rustix::process::getpid();
    let (privileges, has_terminal) = (program.no_new_privileges, ours.terminal.is_some());
    let mut between = move || -> io::Result<()> {
        rustix::process::setsid()?;
        if has_terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        for file in &joins {
            rustix::io::write(file, b"0")?;
        }
        for (resource, limit) in &limits {
            rustix::process::setrlimit(*resource, *limit)?;
        }
        if let Some((uid, gid, groups)) = &groups {
            rustix::thread::set_thread_groups(groups)?;
            rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
            rustix::thread::set_thread_res_uid(*uid, *uid, *uid)?;
        }
        if privileges {
            rustix::thread::set_no_new_privs(true)?;
        }
        // After the change of user, which would undo it. Should the parent have gone before, nobody will tell.
        rustix::process::set_parent_process_death_signal(Some(Raw::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(rustix::io::Errno::PIPE.into());
        }
        Ok(())
    };
    let pid = vfork::start(&image, standard, &mut between).map_err(|error| not_started(name, &error))?;
    ours.register(pid).map_err(|error| {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Raw::KILL);
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
        refused("its streams can't be used", error)
    })
}

/// Our ends of a program's standard streams.
#[derive(Default)]
struct Ours {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<Terminal>,
}

impl Ours {
    fn register(self, pid: u32) -> io::Result<Spawned> {
        Ok(Spawned {
            pid,
            stdin: self.stdin.map(pipe::Sender::from_owned_fd).transpose()?,
            stdout: self.stdout.map(pipe::Receiver::from_owned_fd).transpose()?,
            stderr: self.stderr.map(pipe::Receiver::from_owned_fd).transpose()?,
            terminal: self.terminal,
        })
    }
}

/// The program's standard streams, and our ends of them.
fn streams(input: Input, user: Option<&User>) -> io::Result<([OwnedFd; 3], Ours)> {
    if let Input::Terminal(size) = input {
        let (terminal, theirs) = open_terminal(size, user)?;
        let standard = [theirs.try_clone()?, theirs.try_clone()?, theirs];
        return Ok((standard, Ours { terminal: Some(terminal), ..Ours::default() }));
    }
    let (stdin, feed) = if input == Input::Pipe {
        let (theirs, ours) = io::pipe()?;
        (theirs.into(), Some(ours.into()))
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let (stdout, stdout_theirs) = io::pipe()?;
    let (stderr, stderr_theirs) = io::pipe()?;
    let ours = Ours { stdin: feed, stdout: Some(stdout.into()), stderr: Some(stderr.into()), terminal: None };
    Ok(([stdin, stdout_theirs.into(), stderr_theirs.into()], ours))
}

fn not_started(name: &str, error: &io::Error) -> NotStarted {
    match error.kind() {
        io::ErrorKind::NotFound => {
            // The kernel says the same of a missing program, a missing interpreter and a missing loader.
            let there = name.contains('/') && Path::new(name).exists();
            let why = if there { "its interpreter or loader is missing" } else { "it does not exist" };
            NotStarted::new(127, format!("`{name}` can't be started: {why} ({error})"))
        }
        io::ErrorKind::BrokenPipe => NotStarted::new(126, "the shim ended while it started the program"),
        _ => NotStarted::new(126, format!("`{name}` can't be started: {error}")),
    }
}

/// Sends a signal to a process of ours that was not waited for yet, so that its number can't be another's.
pub(in crate::process) fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the number is 1 to 64, and the kernel refuses those that it does not have.
    let raw = unsafe { Raw::from_raw_unchecked(i32::from(signal.number())) };
    Ok(rustix::process::kill_process(pid, raw)?)
}

/// Asks a program to end in the spec's way.
pub(in crate::process) fn ask_to_end(pid: u32, with: Signal) -> io::Result<()> {
    signal(pid, with)
}

/// The system's limit of a name; the spec has checked that there is one.
fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// Our side of a terminal.
#[derive(Debug)]
pub(in crate::process) struct Terminal(AsyncFd<OwnedFd>);

fn open_terminal(size: TtySize, user: Option<&User>) -> io::Result<(Terminal, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&ours)?;
    rustix::pty::unlockpt(&ours)?;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
    rustix::termios::tcsetwinsize(&theirs, winsize(size))?;
    if let Some(user) = user {
        rustix::fs::fchown(&theirs, Some(rustix::fs::Uid::from_raw(user.uid)), None)?;
    }
    rustix::io::ioctl_fionbio(&ours, true)?;
    // SAFETY: an `OwnedFd` has one descriptor for as long as it lives.
    let ours = unsafe { AsyncFd::register(ours) }.map_err(io::Error::from)?;
    Ok((Terminal(ours), theirs))
}

fn winsize(size: TtySize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// Reads what the program writes; 0 when nobody has the other side any more.
    pub(in crate::process) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *buffer)?)) {
                // The kernel's word for the end of a terminal.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Ok(0);
                }
                Ok(read) => return read,
                Err(_would_block) => {}
            }
        }
    }

    /// Writes some of what the program is to read.
    pub(in crate::process) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                return written;
            }
        }
    }

    pub(in crate::process) fn resize(&self, size: TtySize) -> io::Result<()> {
        Ok(rustix::termios::tcsetwinsize(self.0.get_ref(), winsize(size))?)
    }
}

/// Whether a shim may be begun before its instance's directory has its name: what is open in it goes along.
pub(in crate::process) const EARLY: bool = true;

/// What a new shim is given.
pub(in crate::process) struct ShimStart<'a> {
    pub(in crate::process) program: &'a Path,
    /// For who looks at a list of processes.
    pub(in crate::process) name: &'a str,
    /// Its side of the first connection.
    pub(in crate::process) connection: OwnedFd,
    /// The lock that says that it lives. It is kept by the file that is open, whoever has it.
    pub(in crate::process) lock: File,
    /// Where its last words go.
    pub(in crate::process) log: File,
}

/// Starts a shim, which leaves this program's session as its first deed.
pub(in crate::process) fn spawn_shim(start: ShimStart<'_>) -> io::Result<Child> {
    let mut command = Command::new(start.program);
    command.arg0("ews-shim").arg(crate::process::shim::MARKER).arg(start.name).env_clear().current_dir("/");
    command.stdin(start.connection).stdout(start.lock).stderr(start.log);
    command.spawn()
}

/// This program, also after its file was replaced.
pub(in crate::process) fn own_program() -> io::Result<PathBuf> {
    let path = PathBuf::from("/proc/self/exe");
    fs::metadata(&path).map(|_| path)
}
