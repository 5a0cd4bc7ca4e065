//! The programs of the fake engine: small behaviours chosen by the words of a command that starts with `fake`.
//!
//! Durations are written as in documents (`2s`, `300ms`). A command that does not start with `fake` stands for a server
//! that runs until it is stopped, so that engines can be tested with the specs of real services; one that starts with
//! `/no/such/` can't be started.
//!
//! | Words | What it does |
//! |---|---|
//! | `serve [port]` | answers on the ports of its spec (see [`FakeEngine::dial`](super::FakeEngine::dial)) |
//! | `sleep` | nothing, until a signal ends it |
//! | `exit CODE [after D]` | writes `out` and `err`, exits after D |
//! | `on-term CODE D` | writes `ready`; at SIGTERM it exits with CODE after D |
//! | `ignore-term` | writes `ready` and ignores every signal but SIGKILL |
//! | `print WORD…` | writes each word as a line, exits with 0 |
//! | `lines N D` | writes `out i` and `err i`, N times, D apart |
//! | `partial`, `split-utf8`, `long-line N`, `flood N` | special output, see the suite's `Workload` |
//! | `describe` | writes its arguments, environment, directory and user |
//! | `echo-env NAME…` | writes `NAME=value` for each |
//! | `burn` | uses one CPU |
//! | `eat MIB` | takes memory |
//! | `fork N`, `tree` | starts children; a daemon that left its session |
//! | `cat`, `raw-tty N`, `term-size`, `zeros N` | for exec |
//! | `count-marked MARK`, `touch DIR` | look at processes and files |

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::time::sleep;

use super::process::{Context, End};
use crate::spec::lifecycle::Signal;
use crate::testkit::conformance::runtime::Workload;
use crate::time::parse_duration;

/// What is written or read in one piece.
const PIECE: usize = 64 * 1024;

/// Why a command can't be started: the words of a kernel, and the exit code that engines give it.
pub(super) fn missing(command: &[String]) -> Option<(String, i32)> {
    let program = command.first()?;
    let gone = program.starts_with("/no/such/")
        || (program == "fake" && !command.get(1).is_some_and(|word| WORDS.contains(&word.as_str())));
    gone.then(|| (format!("exec: \"{program}\": no such file or directory"), 127))
}

const WORDS: [&str; 23] = [
    "serve",
    "sleep",
    "exit",
    "on-term",
    "ignore-term",
    "print",
    "lines",
    "partial",
    "split-utf8",
    "long-line",
    "flood",
    "describe",
    "echo-env",
    "burn",
    "eat",
    "fork",
    "tree",
    "cat",
    "raw-tty",
    "term-size",
    "zeros",
    "count-marked",
    "touch",
];

/// Runs a command to its end. SIGTERM and the like end it, unless it says otherwise itself.
pub(super) async fn run(command: &[String], cx: &mut Context) -> End {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["fake", "ignore-term", ..] => {
            cx.out("ready\n").await;
            while cx.signals.recv().await.is_some() {}
            std::future::pending().await
        }
        ["fake", "on-term", code, after, ..] => {
            let (code, after) = (number(code), duration(after));
            cx.out("ready\n").await;
            while let Some(signal) = cx.signals.recv().await {
                if signal == Signal::TERM {
                    sleep(after).await;
                    return End::Code(code);
                }
            }
            std::future::pending().await
        }
        words => {
            // The receiver is taken out, so that the program can use the rest while signals are waited for.
            let mut signals = std::mem::replace(&mut cx.signals, tokio::sync::mpsc::channel(1).1);
            let fatal = async {
                while let Some(signal) = signals.recv().await {
                    // SIGCHLD, SIGCONT, SIGURG and SIGWINCH do nothing to a program that does not ask for them.
                    if ![17, 18, 23, 28].contains(&signal.number()) {
                        return End::Signal(signal);
                    }
                }
                std::future::pending().await
            };
            tokio::select! {
                biased;
                end = fatal => end,
                end = obedient(words, cx) => end,
            }
        }
    }
}

async fn obedient(words: &[&str], cx: &mut Context) -> End {
    let Some(("fake", words)) = words.split_first().map(|(first, rest)| (*first, rest)) else {
        cx.engine.listen(&cx.process);
        return std::future::pending().await;
    };
    match words {
        ["serve", ..] => {
            cx.engine.listen(&cx.process);
            std::future::pending().await
        }
        ["sleep", ..] => std::future::pending().await,
        ["exit", code, rest @ ..] => {
            cx.out("out\n").await;
            cx.err("err\n").await;
            if let ["after", after] = rest {
                sleep(duration(after)).await;
            }
            End::Code(number(code))
        }
        ["print", lines @ ..] => {
            for line in lines {
                cx.out(format!("{line}\n")).await;
            }
            End::Code(0)
        }
        ["lines", count, every] => {
            for i in 1..=number(count) {
                cx.out(format!("out {i}\n")).await;
                cx.err(format!("err {i}\n")).await;
                if !duration(every).is_zero() {
                    sleep(duration(every)).await;
                }
            }
            End::Code(0)
        }
        ["partial"] => {
            cx.out("whole\npart").await;
            End::Code(0)
        }
        ["split-utf8"] => {
            cx.out(&b"\xe4\xb8"[..]).await;
            sleep(Duration::from_millis(300)).await;
            cx.out(&b"\xad\n"[..]).await;
            End::Code(0)
        }
        ["long-line", bytes] => {
            cx.out(format!("{}\n", "x".repeat(usize::try_from(number(bytes)).unwrap_or(0)))).await;
            End::Code(0)
        }
        ["flood", lines] => {
            for i in 1..=number(lines) {
                cx.out(format!("{i:0100}\n")).await;
            }
            End::Code(0)
        }
        ["describe", args @ ..] => describe(args, cx).await,
        ["echo-env", names @ ..] => {
            for name in names {
                if let Some(value) = cx.env.get(*name) {
                    cx.out(format!("{name}={value}\n")).await;
                }
            }
            End::Code(0)
        }
        ["burn"] => {
            cx.process.burn();
            loop {
                sleep(Duration::from_millis(100)).await;
                let used = cx.process.cpu().as_secs_f64();
                cx.out(format!("{}m{:.3}s 0m0.000s\n", (used / 60.0).floor(), used % 60.0)).await;
            }
        }
        ["eat", mib] => {
            for _ in 0..number(mib) {
                cx.process.allocate(1 << 20);
                cx.engine.check_memory(&cx.process);
                sleep(Duration::from_millis(1)).await;
            }
            cx.out("ate\n").await;
            std::future::pending().await
        }
        ["fork", children] => {
            for _ in 0..number(children) {
                if !cx.engine.fork(&cx.process, &cx.env) {
                    cx.err("can't fork: resource temporarily unavailable\n").await;
                    return End::Code(2);
                }
            }
            cx.out("started\n").await;
            std::future::pending().await
        }
        ["tree"] => {
            cx.engine.fork(&cx.process, &cx.env);
            cx.out("ready\n").await;
            std::future::pending().await
        }
        ["cat"] => copy(usize::MAX, cx).await,
        ["raw-tty", bytes] => {
            cx.out("R").await;
            copy(usize::try_from(number(bytes)).unwrap_or(0), cx).await
        }
        ["term-size"] => loop {
            let Some(size) = cx.tty.as_ref().map(|tty| *tty.borrow()) else {
                cx.err("not a terminal\n").await;
                return End::Code(1);
            };
            cx.out(format!("{} {}\r\n", size.rows, size.columns)).await;
            sleep(Duration::from_millis(200)).await;
        },
        ["zeros", bytes] => {
            let mut left = bytes.parse::<u64>().unwrap_or(0);
            let piece = Bytes::from(vec![0; PIECE]);
            while left > 0 {
                let now = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                cx.out(piece.slice(..now)).await;
                left -= now as u64;
            }
            End::Code(0)
        }
        ["count-marked", mark] => {
            cx.out(format!("{}\n", cx.engine.marked(mark))).await;
            End::Code(0)
        }
        ["touch", directory] => {
            let (before, written) = cx.engine.touch(&cx.process.instance, &format!("{directory}/ews"));
            let before = before.unwrap_or_else(|| b"none\n".to_vec());
            cx.out(before).await;
            cx.out(if written { "write=ok\n" } else { "write=refused\n" }).await;
            End::Code(0)
        }
        _ => End::Code(64),
    }
}

async fn describe(args: &[&str], cx: &Context) -> End {
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    for arg in args {
        cx.out(format!("arg={}\n", hex(arg))).await;
    }
    for &name in Workload::ENV {
        if let Some(value) = cx.env.get(name) {
            cx.out(format!("env {name}={}\n", hex(value))).await;
        }
    }
    cx.out(format!("cwd={}\nuid={}\n", hex(&cx.workdir), cx.uid)).await;
    End::Code(0)
}

async fn copy(limit: usize, cx: &mut Context) -> End {
    let Some(mut stdin) = cx.stdin.take() else { return End::Code(0) };
    let mut left = limit;
    while left > 0 {
        let mut piece = BytesMut::zeroed(PIECE.min(left));
        match stdin.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                piece.truncate(count);
                left -= count;
                cx.out(piece.freeze()).await;
            }
        }
    }
    End::Code(0)
}

fn number(word: &str) -> i32 {
    word.parse().unwrap_or(0)
}

fn duration(word: &str) -> Duration {
    parse_duration(word).unwrap_or_default()
}
