//! Starting a program without a copy of this process.
//!
//! `fork` copies the tables of all memory and makes both sides pay for each page that they write afterwards, for a child that
//! throws it all away at once. Here the child borrows the memory while its parent waits, as `vfork` and `posix_spawn` have it;
//! the one does not do for a language whose functions must not return twice, the other has no place for what is to be done
//! before the program: a session, a terminal, groups, limits, another user.
//!
//! This file is excepted from the ban on `unsafe` for that: `clone` with a stack of its own, signals, and `execve`. What the
//! child does is system calls on what was made before. It allocates nothing, takes no lock and can't panic.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

/// The child's stack, in words of 16 bytes: a few frames are needed, and the kernel has its own.
const STACK: usize = 4096;

/// The highest number of a signal.
const SIGNALS: c_int = 64;

/// Where programs are looked for without a `PATH`, as the C library has it.
const PATH: &str = "/bin:/usr/bin";

/// A program as the kernel wants it.
pub(super) struct Image {
    /// The files that may be it, in the order of trial.
    files: Vec<CString>,
    words: Vec<CString>,
    env: Vec<CString>,
    directory: CString,
}

impl Image {
    /// # Errors
    /// `InvalidInput` where a text holds NUL.
    pub(super) fn new<'a>(
        name: &str,
        args: &[String],
        env: impl Iterator<Item = (&'a String, &'a String)>,
        directory: &[u8],
    ) -> io::Result<Self> {
        let mut path = PATH;
        let mut variables = Vec::new();
        for (name, value) in env {
            if name == "PATH" {
                path = value;
            }
            variables.push(CString::new(format!("{name}={value}"))?);
        }
        let files = if name.is_empty() || name.contains('/') {
            vec![CString::new(name)?]
        } else {
            let place = |folder: &str| match folder {
                "" => CString::new(name),
                folder => CString::new(format!("{folder}/{name}")),
            };
            path.split(':').map(place).collect::<Result<_, _>>()?
        };
        let words = std::iter::once(name).chain(args.iter().map(String::as_str)).map(CString::new);
        Ok(Self {
            files,
            words: words.collect::<Result<_, _>>()?,
            env: variables,
            directory: CString::new(directory)?,
        })
    }
}

/// All that the child needs, made by its parent.
struct Child<'a> {
    standard: [RawFd; 3],
    directory: &'a CStr,
    files: &'a [CString],
    /// The shell, for a script that names no interpreter; then the program's words, then a null.
    words: *mut *const c_char,
    env: *const *const c_char,
    mask: libc::sigset_t,
    between: &'a mut dyn FnMut() -> io::Result<()>,
    /// What went wrong, in the system's numbers.
    failed: c_int,
}

/// Starts a program with these as its standard streams; `between` is called in the child, last before the program.
///
/// `between` must make system calls only: it runs in this process's memory, while this thread waits and others go on.
pub(super) fn start(
    image: &Image,
    standard: [OwnedFd; 3],
    between: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<u32> {
    let numbers = standard.each_ref().map(AsRawFd::as_raw_fd);
    // Else one could be overwritten by another on its way to its place.
    if numbers.iter().any(|number| *number < 3) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a standard stream of this process is closed",
        ));
    }
    let shell = c"/bin/sh";
    let words = image.words.iter().map(|word| word.as_ptr());
    let mut words: Vec<_> = std::iter::once(shell.as_ptr()).chain(words).chain([ptr::null()]).collect();
    let env: Vec<_> = image.env.iter().map(|variable| variable.as_ptr()).chain([ptr::null()]).collect();
    let mut stack = vec![0_u128; STACK];
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: both sets are written by the calls before they are read.
    let mask = unsafe {
        let (mut all, mut mask) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        // So that no handler of this process runs in the child, in memory that is not its own.
        match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut mask) {
            0 => mask,
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    };
    let mut child = Child {
        standard: numbers,
        directory: &image.directory,
        files: &image.files,
        words: words.as_mut_ptr(),
        env: env.as_ptr(),
        mask: empty(),
        between,
        failed: 0,
    };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack and all that `child` leads to outlive the call, which returns when the child has become the program or
    // has ended. Meanwhile this thread touches none of it, and no other thread knows of it.
    let made = unsafe { libc::clone(run, top.cast(), flags, (&raw mut child).cast()) };
    let error = io::Error::last_os_error();
    // SAFETY: it is the mask that was there before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut()) };
    // SAFETY: it lives; the child has written it, which the compiler can't see.
    let failed = unsafe { ptr::read_volatile(&raw const child.failed) };
    drop((words, env, stack, standard));
    let pid = u32::try_from(made).map_err(|_| error)?;
    if failed == 0 {
        return Ok(pid);
    }
    // It has ended, and nobody else knows its number.
    let _ =
        rustix::process::waitpid(rustix::process::Pid::from_raw(made), rustix::process::WaitOptions::empty());
    Err(io::Error::from_raw_os_error(failed))
}

fn empty() -> libc::sigset_t {
    // SAFETY: a set of signals is bits, and none of them is one too.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        set
    }
}

/// What the child runs. It returns where the program can't be started.
extern "C" fn run(child: *mut c_void) -> c_int {
    // SAFETY: it is what `start` has given to `clone`, and `start` waits.
    let child = unsafe { &mut *child.cast::<Child<'_>>() };
    // Never 0, which says that all went well.
    child.failed = become_program(child).raw_os_error().unwrap_or(libc::EINVAL);
    127
}

fn become_program(child: &mut Child<'_>) -> io::Error {
    for (source, to) in child.standard.iter().zip(0..) {
        // SAFETY: numbers only; a copy is open in the program, which its source is not.
        if unsafe { libc::dup2(*source, to) } < 0 {
            return io::Error::last_os_error();
        }
    }
    // SAFETY: a text that ends.
    if unsafe { libc::chdir(child.directory.as_ptr()) } < 0 {
        return io::Error::last_os_error();
    }
    for signal in 1..=SIGNALS {
        // What this one ignores would stay so: broken pipes, which is its runtime's own business, and where a shell has it in the
        // background, the interrupt by which many programs are asked to end. As under any init, a program begins with nothing ignored.
        // SAFETY: the child's actions are its own. Numbers that are not for us are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    if let Err(error) = (child.between)() {
        return error;
    }
    // SAFETY: the set was made before.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const child.mask, ptr::null_mut()) };
    execute(child)
}

/// Tries each file in turn, as a shell does.
fn execute(child: &Child<'_>) -> io::Error {
    let mut refused = None;
    let mut last = io::Error::from_raw_os_error(libc::ENOENT);
    for file in child.files {
        // SAFETY: texts that end and lists that end with a null. The first word is the shell's place, the second the program's.
        last = unsafe {
            libc::execve(file.as_ptr(), child.words.add(1).cast_const(), child.env);
            if io::Error::last_os_error().raw_os_error() == Some(libc::ENOEXEC) {
                *child.words.add(1) = file.as_ptr();
                libc::execve(*child.words, child.words.cast_const(), child.env);
                return io::Error::last_os_error();
            }
            io::Error::last_os_error()
        };
        match last.raw_os_error() {
            Some(libc::EACCES) => refused = Some(libc::EACCES),
            Some(libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT) => {}
            _ => return last,
        }
    }
    refused.map_or(last, io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::{self, File, Permissions};
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// What a program writes, or why it did not start.
    fn output(name: &str, args: &[&str], path: &str, between: fn() -> io::Result<()>) -> io::Result<String> {
        let env = BTreeMap::from([("PATH".to_owned(), path.to_owned()), ("A".to_owned(), "b c".to_owned())]);
        let args: Vec<_> = args.iter().map(|word| (*word).to_owned()).collect();
        let image = Image::new(name, &args, env.iter(), b"/usr")?;
        let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
        let (mut read, write) = io::pipe()?;
        let pid = start(&image, [null(), write.into(), null()], &mut { between })?;
        let mut text = String::new();
        read.read_to_string(&mut text)?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
        rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
        Ok(text)
    }

    #[test]
    fn it_is_found_by_its_path_and_gets_its_words_and_its_directory() {
        let told = output("sh", &["-c", "echo $A-$1; pwd", "x", "1 2"], "/none:/bin", || Ok(())).unwrap();
        assert_eq!(told, "b c-1 2\n/usr\n");
    }

    #[test]
    fn nothing_is_ignored_that_this_program_ignores() {
        // SAFETY: nobody in the tests waits for this signal.
        unsafe { libc::signal(libc::SIGURG, libc::SIG_IGN) };
        let told = output("grep", &["SigIgn", "/proc/self/status"], "/bin", || Ok(())).unwrap();
        // SAFETY: as it was.
        unsafe { libc::signal(libc::SIGURG, libc::SIG_DFL) };
        let ignored = u64::from_str_radix(told.trim_start_matches("SigIgn:").trim(), 16).unwrap();
        // The bits are signals from 1 on; 32 and 33 are the C library's own.
        assert_eq!(ignored & !(0b11 << 31), 0, "{told}");
    }

    #[test]
    fn a_script_without_an_interpreter_is_the_shells() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, "echo $1").unwrap();
        let path = format!("/none:{}", folder.path().display());
        assert_eq!(
            output("script", &["x"], &path, || Ok(())).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
        assert_eq!(output("script", &["x"], &path, || Ok(())).unwrap(), "x\n");
    }

    #[test]
    fn what_can_not_be_started_is_said_and_leaves_nothing() {
        for name in ["no-such", "/no/such", ""] {
            let error = output(name, &[], "/bin", || Ok(())).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name}");
        }
        let before = output("true", &[], "/bin", || Err(rustix::io::Errno::PIPE.into())).unwrap_err();
        assert_eq!(before.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(output("a\0b", &[], "/bin", || Ok(())).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
