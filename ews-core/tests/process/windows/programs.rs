//! The programs that the suite runs, as this very program with other words. What each must do, [`Workload`] says.

use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::os::windows::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ews_core::testkit::conformance::runtime::Workload;
use tokio::signal::windows::{ctrl_break, ctrl_c};
use windows_sys::Win32::System::Threading::{CREATE_NEW_PROCESS_GROUP, DETACHED_PROCESS};

use super::{WORKLOAD, marks, raw};

/// The words by which [`run`] knows a workload; `None` for those that this runtime has no use for.
pub(super) fn words(workload: &Workload) -> Option<Vec<String>> {
    match workload {
        // No terminals, no mounts; and marks are counted by the harness.
        Workload::RawTty { .. }
        | Workload::TermSize
        | Workload::Touch { .. }
        | Workload::CountMarked { .. } => None,
        Workload::MissingProgram => Some(vec!["/no/such/program".to_owned()]),
        workload => Some(workload.fake_command()?.split_off(1)),
    }
}

/// Is the workload of these words.
pub(super) fn run(words: &[String]) -> ExitCode {
    let _mark = marks::carry();
    raw::hear_ctrl_c();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["sleep" | "daemon"] => idle(),
        ["exit", code, "after", after] => {
            println!("out");
            eprintln!("err");
            sleep(duration(after));
            return ExitCode::from(code.parse::<u8>().unwrap());
        }
        ["on-term", code, after] => return on_term(code.parse().unwrap(), duration(after)),
        ["ignore-term"] => ignore_term(),
        ["lines", count, every] => {
            for line in 1..=number(count) {
                println!("out {line}");
                eprintln!("err {line}");
                sleep(duration(every));
            }
        }
        ["partial"] => write(b"whole\npart"),
        ["split-utf8"] => {
            write(b"\xe4\xb8");
            sleep(Duration::from_millis(300));
            write(b"\xad\n");
        }
        ["long-line", bytes] => {
            let mut line = vec![b'x'; usize::try_from(number(bytes)).unwrap()];
            line.push(b'\n');
            write(&line);
        }
        ["flood", lines] => {
            let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
            for line in 1..=number(lines) {
                writeln!(out, "{line:0100}").unwrap();
            }
            out.flush().unwrap();
        }
        ["describe", arguments @ ..] => describe(arguments),
        ["serve", port] => serve(port),
        ["tree"] => {
            let daemon = child("daemon", DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP);
            if let Ok(mark) = std::env::var("EWS_MARK") {
                // Both carry it from the beginning, as far as the suite can see.
                while marks::count(&mark) < 2 {
                    sleep(Duration::from_millis(10));
                }
            }
            println!("ready");
            idle();
            drop(daemon);
        }
        ["burn"] => burn(),
        ["eat", mib] => {
            let eaten = vec![1_u8; usize::try_from(number(mib)).unwrap() << 20];
            println!("ate");
            idle();
            drop(eaten);
        }
        ["fork", count] => {
            let children: Vec<_> = (0..number(count)).map(|_| child("sleep", 0)).collect();
            println!("started");
            idle();
            drop(children);
        }
        ["cat"] => {
            io::copy(&mut io::stdin().lock(), &mut io::stdout().lock()).unwrap();
        }
        ["zeros", bytes] => {
            io::copy(&mut io::repeat(0).take(number(bytes)), &mut io::stdout()).unwrap();
        }
        other => panic!("no such workload: {other:?}"),
    }
    ExitCode::SUCCESS
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

fn duration(text: &str) -> Duration {
    Duration::from_millis(number(text.strip_suffix("ms").unwrap()))
}

/// Writes at once, where standard output would wait for the end of a line.
fn write(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    out.write_all(bytes).unwrap();
    out.flush().unwrap();
}

/// What nobody handles ends the program, so it need do nothing about a console's event.
fn idle() {
    loop {
        sleep(Duration::from_secs(3600));
    }
}

/// Writes `ready` when this program hears events, and gives them away one after the other.
fn on_events(mut heard: impl FnMut() -> bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // A runtime on Windows sends the one, under Wine the other.
        let (mut breaks, mut interrupts) = (ctrl_break().unwrap(), ctrl_c().unwrap());
        println!("ready");
        loop {
            tokio::select! {
                event = breaks.recv() => event.unwrap(),
                event = interrupts.recv() => event.unwrap(),
            }
            if heard() {
                return;
            }
        }
    });
}

fn on_term(code: u8, after: Duration) -> ExitCode {
    on_events(|| true);
    sleep(after);
    ExitCode::from(code)
}

fn ignore_term() {
    on_events(|| false);
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn describe(arguments: &[&str]) {
    for argument in arguments {
        println!("arg={}", hex(argument));
    }
    for &name in Workload::ENV {
        if let Ok(value) = std::env::var(name) {
            println!("env {name}={}", hex(&value));
        }
    }
    // The suite's paths have no drive and `/` between their names.
    let directory = std::env::current_dir().unwrap().to_str().unwrap().replace('\\', "/");
    println!("cwd={}", hex(directory.get(2..).unwrap()));
}

fn serve(port: &str) {
    let port = std::env::var("PORT").unwrap_or_else(|_| port.to_owned());
    let listener = TcpListener::bind(("0.0.0.0", u16::try_from(number(&port)).unwrap())).unwrap();
    for connection in listener.incoming() {
        let Ok(mut connection) = connection else { continue };
        // Who breaks off wants no answer.
        let _ = connection.read(&mut [0; 4096]);
        let _ = connection.write_all(b"HTTP/1.0 200 OK\r\n\r\nok");
    }
}

/// This program as another workload that no one waits for.
fn child(workload: &str, flags: u32) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([WORKLOAD, workload]).creation_flags(flags);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Uses one CPU, and says ten times a second how much it has used.
fn burn() {
    let mut said = Instant::now();
    let mut sum = 0_u64;
    loop {
        for number in 0..100_000 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
        }
        if said.elapsed() >= Duration::from_millis(100) {
            let (user, kernel) = raw::own_times();
            println!("0m{:.3}s 0m{:.3}s", user.as_secs_f64(), kernel.as_secs_f64());
            said = Instant::now();
        }
    }
}
