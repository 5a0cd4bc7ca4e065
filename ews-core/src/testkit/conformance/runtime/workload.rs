//! The programs that the suite runs: what each must do, and how to get it from a POSIX shell.
//!
//! A harness turns a [`Workload`] into a spec of its runtime. Where the runtime has a shell at hand (any busybox image, any
//! Linux machine) [`Workload::over`] does it in one line. The scripts use no more than POSIX sh and what busybox has; only
//! `Serve` looks for one of several servers, since a shell can't listen.

use std::time::Duration;

use crate::spec::InstanceSpec;
use crate::spec::platform::Arch;
use crate::spec::source::{ImageSource, PullPolicy, Source};

/// A program that the suite runs, as an instance or with exec.
///
/// Every program that the suite stops ends soon at SIGTERM, unless its description says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Workload {
    /// Does nothing until it is stopped.
    Sleep,
    /// Writes `out` to standard output and `err` to standard error, then exits with this code after this time.
    Exit {
        /// The exit code.
        code: u8,
        /// How long it runs.
        after: Duration,
    },
    /// Writes the line `ready`; at SIGTERM it works for this time and exits with this code.
    ExitOnTerm {
        /// The exit code.
        code: u8,
        /// How long it takes to end.
        after: Duration,
    },
    /// Writes the line `ready` and ignores SIGTERM.
    IgnoreTerm,
    /// Writes `out 1` to standard output, `err 1` to standard error, pauses, `out 2`, …; then exits with 0.
    Lines {
        /// How many lines on each output.
        count: u32,
        /// The pause after each pair.
        every: Duration,
    },
    /// Writes the line `whole` and then `part` without an end of line; exits with 0.
    PartialLine,
    /// Writes the line `中` in two writes that split the character, at least 300 ms apart; exits with 0.
    SplitUtf8,
    /// Writes one line of so many `x`; exits with 0.
    LongLine {
        /// How many.
        bytes: usize,
    },
    /// Writes so many numbered lines of 100 digits, from 1, zero-padded; exits with 0.
    Flood {
        /// How many lines.
        lines: u32,
    },
    /// Writes `arg=<hex>` for each argument, `env <name>=<hex>` for each of [`Workload::ENV`] that is set, `cwd=<hex>` of its
    /// working directory and `uid=<decimal>` of its user; exits with 0.
    Describe,
    /// Answers HTTP on the port in `PORT` or else on this one.
    Serve {
        /// The port to listen on where `PORT` is not set.
        port: u16,
    },
    /// Starts a daemon that leaves its session and process group, writes the line `ready` and sleeps. Both carry the
    /// environment's `EWS_MARK`.
    Tree,
    /// Uses one CPU and writes now and then what it has used, as the shell's `times` does: `0m1.230s 0m0.010s`.
    Burn,
    /// Takes and touches so much memory, writes the line `ate` and sleeps.
    EatMemory {
        /// How much, in MiB.
        mib: u32,
    },
    /// Starts so many child processes that sleep, then writes the line `started` and sleeps. Where one can't be started it
    /// never writes that line.
    Fork {
        /// How many.
        children: u32,
    },
    /// Copies standard input to standard output and exits with 0 at its end.
    Cat,
    /// On a terminal: makes it raw, writes `R`, copies so many bytes from it back to it, exits with 0.
    RawTty {
        /// How many.
        bytes: usize,
    },
    /// On a terminal: writes its size as `<rows> <columns>` several times a second.
    TermSize,
    /// Writes so many zero bytes; exits with 0.
    Zeros {
        /// How many.
        bytes: u64,
    },
    /// Writes how many processes that it can see have `EWS_MARK` set to this in their environment; exits with 0.
    CountMarked {
        /// Their mark.
        mark: String,
    },
    /// Writes what the file `ews` in this directory holds, or `none`; then tries to write `mark` into it and says `write=ok`
    /// or `write=refused`; exits with 0.
    Touch {
        /// The directory.
        path: String,
    },
    /// A program that does not exist.
    MissingProgram,
    /// An image that does not exist, for runtimes that run images.
    MissingImage,
    /// An image whose platform is not the nodes', for runtimes that run images.
    WrongPlatform,
}

impl Workload {
    /// The variables that [`Workload::Describe`] writes.
    pub const ENV: &'static [&'static str] =
        &["EWS_T_PLAIN", "EWS_T_QUOTES", "EWS_T_UNICODE", "EWS_T_EMPTY", "EWS_T_SECRET"];

    /// The spec of this workload over one that runs a shell: `base` names the image or the artifact.
    pub fn over(&self, base: InstanceSpec) -> Option<InstanceSpec> {
        let mut spec = base;
        match self {
            Self::MissingProgram => spec.command = vec!["/no/such/program".to_owned()],
            Self::MissingImage => {
                let mut image = ImageSource::new("missing.invalid/ews/no-such-image:1".parse().ok()?);
                // Asking a registry that does not exist would test the network instead.
                image.pull = PullPolicy::Never;
                spec.source = Source::Image(image);
            }
            Self::WrongPlatform => {
                if !matches!(spec.source, Source::Image(_)) {
                    return None;
                }
                spec.platform.arch = Some(Arch::S390x);
            }
            program => spec.command = program.shell_command()?,
        }
        Some(spec)
    }

    /// The command that runs this workload in a shell, for a spec's `command` and for exec. Arguments may follow it.
    pub fn shell_command(&self) -> Option<Vec<String>> {
        if *self == Self::MissingProgram {
            return Some(vec!["/no/such/program".to_owned()]);
        }
        Some(vec!["sh".to_owned(), "-c".to_owned(), self.shell_script()?, "sh".to_owned()])
    }

    /// What a POSIX shell must run; `None` for what is no program.
    pub fn shell_script(&self) -> Option<String> {
        // As the first process of a container a shell has no default action for SIGTERM, so each script sets one. A trap runs
        // only between commands, so sleeps are waited for.
        const IDLE: &str = "trap 'exit 0' TERM INT; while :; do sleep 1 & wait $!; done";
        Some(match self {
            Self::Sleep => IDLE.to_owned(),
            Self::Exit { code, after } => {
                format!("echo out; echo err >&2; {}exit {code}", pause(*after))
            }
            Self::ExitOnTerm { code, after } => format!(
                "trap '{}exit {code}' TERM; echo ready; while :; do sleep 1 & wait $!; done",
                pause(*after)
            ),
            Self::IgnoreTerm => "trap '' TERM; echo ready; while :; do sleep 1; done".to_owned(),
            Self::Lines { count, every } => format!(
                "i=1; while [ $i -le {count} ]; do echo out $i; echo err $i >&2; i=$((i+1)); {}done",
                pause(*every)
            ),
            Self::PartialLine => "echo whole; printf part".to_owned(),
            Self::SplitUtf8 => r"printf '\344\270'; sleep 0.3; printf '\255\n'".to_owned(),
            Self::LongLine { bytes } => format!("head -c {bytes} /dev/zero | tr '\\0' x; echo"),
            Self::Flood { lines } => {
                format!("i=1; while [ $i -le {lines} ]; do printf '%0100d\\n' $i; i=$((i+1)); done")
            }
            Self::Describe => {
                let names = Self::ENV.join(" ");
                format!(
                    "hex() {{ printf '%s' \"$1\" | od -An -v -tx1 | tr -d ' \\n'; echo; }}; \
                     for a in \"$@\"; do printf 'arg='; hex \"$a\"; done; \
                     for n in {names}; do if eval \"[ \\\"\\${{$n+x}}\\\" ]\"; then printf 'env %s=' $n; \
                     eval \"hex \\\"\\$$n\\\"\"; fi; done; \
                     printf 'cwd='; hex \"$(pwd)\"; echo uid=$(id -u)"
                )
            }
            Self::Serve { port } => format!(
                "p=${{PORT:-{port}}}; if command -v busybox >/dev/null && busybox --list | grep -qx httpd; then \
                 exec busybox httpd -f -p $p -h /tmp; elif command -v python3 >/dev/null; then \
                 exec python3 -c 'import sys,http.server as h; \
                 h.ThreadingHTTPServer((\"\",int(sys.argv[1])),h.SimpleHTTPRequestHandler).serve_forever()' $p; else \
                 exec perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(LocalPort=>shift,Listen=>9,ReuseAddr=>1) or die; \
                 while($c=$s->accept){{sysread $c,$b,4096;print $c \"HTTP/1.0 200 OK\\r\\n\\r\\nok\";close $c}}' $p; fi"
            ),
            Self::Tree => format!(
                "(setsid sh -c 'while :; do sleep 1; done' </dev/null >/dev/null 2>&1 &); echo ready; {IDLE}"
            ),
            Self::Burn => {
                "while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; times; done".to_owned()
            }
            Self::EatMemory { mib } => {
                format!("x=$(head -c {} /dev/zero | tr '\\0' x); echo ate; {IDLE}", u64::from(*mib) << 20)
            }
            Self::Fork { children } => format!(
                "i=0; while [ $i -lt {children} ]; do sleep 600 & i=$((i+1)); done && echo started; {IDLE}"
            ),
            Self::Cat => "exec cat".to_owned(),
            // Not `head`, which on a terminal keeps what it has until a line ends.
            Self::RawTty { bytes } => {
                format!("stty raw -echo; printf R; exec dd bs=1 count={bytes} 2>/dev/null")
            }
            Self::TermSize => "while :; do stty size; sleep 0.2; done".to_owned(),
            Self::Zeros { bytes } => format!("exec head -c {bytes} /dev/zero"),
            Self::CountMarked { mark } => format!(
                "n=0; for f in /proc/[0-9]*/environ; do if tr '\\0' '\\n' <$f 2>/dev/null | grep -qx EWS_MARK={mark}; \
                 then n=$((n+1)); fi; done 2>/dev/null; echo $n"
            ),
            Self::Touch { path } => format!(
                "cat {path}/ews 2>/dev/null || echo none; \
                 if (echo mark >{path}/ews) 2>/dev/null; then echo write=ok; else echo write=refused; fi"
            ),
            Self::MissingProgram | Self::MissingImage | Self::WrongPlatform => return None,
        })
    }

    /// The words by which [`crate::testkit::fake`] knows this workload.
    pub fn fake_command(&self) -> Option<Vec<String>> {
        let millis = |duration: &Duration| format!("{}ms", duration.as_millis());
        let words = match self {
            Self::Sleep => vec!["sleep".to_owned()],
            Self::Exit { code, after } => {
                vec!["exit".into(), code.to_string(), "after".into(), millis(after)]
            }
            Self::ExitOnTerm { code, after } => vec!["on-term".into(), code.to_string(), millis(after)],
            Self::IgnoreTerm => vec!["ignore-term".into()],
            Self::Lines { count, every } => vec!["lines".into(), count.to_string(), millis(every)],
            Self::PartialLine => vec!["partial".into()],
            Self::SplitUtf8 => vec!["split-utf8".into()],
            Self::LongLine { bytes } => vec!["long-line".into(), bytes.to_string()],
            Self::Flood { lines } => vec!["flood".into(), lines.to_string()],
            Self::Describe => vec!["describe".into()],
            Self::Serve { port } => vec!["serve".into(), port.to_string()],
            Self::Tree => vec!["tree".into()],
            Self::Burn => vec!["burn".into()],
            Self::EatMemory { mib } => vec!["eat".into(), mib.to_string()],
            Self::Fork { children } => vec!["fork".into(), children.to_string()],
            Self::Cat => vec!["cat".into()],
            Self::RawTty { bytes } => vec!["raw-tty".into(), bytes.to_string()],
            Self::TermSize => vec!["term-size".into()],
            Self::Zeros { bytes } => vec!["zeros".into(), bytes.to_string()],
            Self::CountMarked { mark } => vec!["count-marked".into(), mark.clone()],
            Self::Touch { path } => vec!["touch".into(), path.clone()],
            Self::MissingProgram => return Some(vec!["/no/such/program".to_owned()]),
            Self::MissingImage | Self::WrongPlatform => return None,
        };
        Some(std::iter::once("fake".to_owned()).chain(words).collect())
    }
}

/// A pause in a script; none where it is zero, since not every `sleep` likes `0.000`.
fn pause(duration: Duration) -> String {
    if duration.is_zero() { String::new() } else { format!("sleep {:.3}; ", duration.as_secs_f64()) }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::{Child, Command, Stdio};

    use super::super::{SuiteLimits, processes_with};
    use super::*;

    fn spawn(workload: &Workload, mark: &str) -> Child {
        let command = workload.shell_command().unwrap();
        Command::new(&command[0])
            .args(&command[1..])
            .env("EWS_MARK", mark)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The scripts that the fake's words stand for do on a real shell what their descriptions say. Those that only exec,
    /// limits and usage need are tried here, since the example driver has none of these.
    #[test]
    fn scripts_do_what_they_say() {
        let output = |workload: &Workload, input: &[u8]| {
            let mut child = spawn(workload, "none");
            child.stdin.take().unwrap().write_all(input).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{workload:?}: {output:?}");
            output.stdout
        };
        assert_eq!(output(&Workload::Cat, b"in\0out"), b"in\0out");
        assert_eq!(output(&Workload::Zeros { bytes: 100_000 }, b""), vec![0; 100_000]);
        let directory = tempfile::tempdir().unwrap();
        let touch = Workload::Touch { path: directory.path().to_str().unwrap().to_owned() };
        assert_eq!(output(&touch, b""), b"none\nwrite=ok\n");
        assert_eq!(output(&touch, b""), b"mark\nwrite=ok\n");
        let missing = Workload::Touch { path: "/no/such/directory".to_owned() };
        assert_eq!(output(&missing, b""), b"none\nwrite=refused\n");
    }

    /// Reads until the output holds this, then ends the program and everything it started.
    fn until(workload: &Workload, wanted: &str) -> String {
        let mark = format!("scripts-{}-{:?}", std::process::id(), std::mem::discriminant(workload));
        let mark = mark.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let mut child = spawn(workload, &mark);
        let mut stdout = child.stdout.take().unwrap();
        let mut text = String::new();
        let mut piece = [0; 4096];
        while !text.contains(wanted) {
            let count = stdout.read(&mut piece).unwrap();
            assert!(count > 0, "{workload:?} ended after {text:?}");
            text.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        if matches!(workload, Workload::Tree) {
            // The shell, its sleep, the daemon, and its sleep; the daemon may not be up yet.
            while processes_with(&mark).unwrap() < 4 {
                std::thread::yield_now();
            }
            // Both sleeps are others each second, and a slow count may miss them.
            let began = std::time::Instant::now();
            loop {
                let counter =
                    spawn(&Workload::CountMarked { mark: mark.clone() }, "none").wait_with_output().unwrap();
                let count: usize = String::from_utf8(counter.stdout).unwrap().trim().parse().unwrap();
                if count >= 3 {
                    break;
                }
                let patience = SuiteLimits::default().patience;
                assert!(began.elapsed() < patience, "the script counts {count}");
            }
        }
        let script = "for f in /proc/[0-9]*; do if tr '\\0' '\\n' <$f/environ | grep -qx EWS_MARK=$0; then \
                      kill -9 ${f#/proc/}; fi; done 2>/dev/null";
        while processes_with(&mark).unwrap() > 0 {
            Command::new("sh").args(["-c", script, &mark]).stderr(Stdio::null()).status().unwrap();
        }
        child.wait().unwrap();
        text
    }

    #[test]
    fn scripts_that_run_on_say_so() {
        until(&Workload::Tree, "ready\n");
        until(&Workload::Fork { children: 5 }, "started\n");
        until(&Workload::EatMemory { mib: 2 }, "ate\n");
        let burnt = until(&Workload::Burn, "s\n");
        let first = burnt.lines().next().unwrap();
        assert!(first.starts_with("0m0.") && first.split(' ').count() == 2, "{burnt}");
    }
}
