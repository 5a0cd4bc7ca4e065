//! A host in a directory of its own, and an operator who speaks to it: what the tests of this package share.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests, each of which uses a part of it"
)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_ews")
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// It ended with this code; what it wrote, for the message.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.out.trim()).unwrap_or_else(|error| unreachable!("{error}: {self:?}"))
    }

    /// What it wrote as a document a line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    pub(crate) fn says(self, wanted: &[&str]) -> Self {
        let all = format!("{}{}", self.out, self.err);
        for wanted in wanted {
            assert!(all.contains(wanted), "`{wanted}` is not in:\n{all}");
        }
        self
    }
}

/// Runs the program, with nothing of the environment that it reads.
pub(crate) fn ews(arguments: &[&str]) -> Ran {
    let mut command = Command::new(program());
    for name in ["EWS_DATA", "EWS_API", "EWS_TOKEN_FILE"] {
        command.env_remove(name);
    }
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Ports that no other host of these tests has: on a machine each host has its own.
pub(crate) fn ports() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let first = 11_000 + u64::from(std::process::id() % 20) * 400 + NEXT.fetch_add(1, Ordering::SeqCst) * 40;
    format!("[{first}, {}]", first + 39)
}

/// A host, its directory and its log.
pub(crate) struct Stage {
    pub(crate) top: tempfile::TempDir,
    host: Option<Child>,
    pub(crate) listening: Value,
}

impl Stage {
    /// A host that runs, with this beside the addresses in its configuration.
    pub(crate) fn new(more: &str) -> Self {
        Self::with("", more)
    }

    /// The same, with this at the head of its configuration too.
    pub(crate) fn with(head: &str, more: &str) -> Self {
        let top = tempfile::Builder::new().prefix("ews-host-").tempdir().unwrap();
        let mut stage = Self { top, host: None, listening: Value::Null };
        let config = format!(
            "{head}drain = \"5s\"\nlog = \"debug\"\n[gateway]\nhttp = [\"127.0.0.1:0\"]\nthreads = 1\n{more}\n[process]\nports = {}\n",
            ports()
        );
        std::fs::write(stage.at("ews.toml"), config).unwrap();
        stage.start();
        stage
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.at("data")
    }

    /// Starts the host and waits until it is ready.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same, with these variables in its environment.
    pub(crate) fn start_with(&mut self, variables: &[(&str, &str)]) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.at("host.log")).unwrap();
        let mut host = Command::new(program())
            .args(["serve", "--json", "--config"])
            .arg(self.at("ews.toml"))
            .arg("--data")
            .arg(self.data())
            .env_remove("NOTIFY_SOCKET")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(host.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.host = Some(host);
        assert!(!line.is_empty(), "the host did not start:\n{}", self.log());
        self.listening = serde_json::from_str(&line).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.at("host.log")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.host.as_ref().unwrap().id()
    }

    /// Sends a signal and waits for the end; its exit code.
    pub(crate) fn end(&mut self, signal: &str) -> Option<i32> {
        let mut host = self.host.take().unwrap();
        kill(signal, host.id());
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = host.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "the host does not end");
            pause(20);
        }
    }

    /// Runs a command against this host.
    pub(crate) fn ews(&self, arguments: &[&str]) -> Ran {
        let data = self.data();
        let mut all = vec!["--data", data.to_str().unwrap()];
        all.extend(arguments);
        ews(&all)
    }

    /// Where traffic goes in.
    pub(crate) fn http(&self) -> SocketAddr {
        self.listening["http"][0].as_str().unwrap().parse().unwrap()
    }

    /// The status and the body of `GET /` for a host name.
    pub(crate) fn get(&self, host: &str) -> Option<(u16, String)> {
        get(self.http(), host)
    }

    /// Writes a file of the stage.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The document of the demonstration service in this version.
    pub(crate) fn hello(&self, version: &str, more: &str) -> String {
        self.write("site/message.txt", "hello\n");
        let text = format!(
            "name = \"hello\"\nartifact = \"site\"\ncommand = [{:?}, \"demo\"]\nreplicas = 2\ndomain = \"hello.test\"\n\
             strategy = \"fast\"\nprobe = {{ http = \"/health\", interval = \"200ms\" }}\n\
             {more}\n[env]\nVERSION = \"{version}\"\nDEMO_FAILS = \"{}\"\n",
            program(),
            u8::from(version == "bad")
        );
        self.write(&format!("{version}.toml"), &text)
    }

    /// The processes that were started for instances of this host, by what stands in their environment.
    pub(crate) fn instances(&self) -> BTreeSet<u32> {
        let prefix = format!("EWS_WORKDIR={}/", self.data().display());
        let of = |process: std::fs::DirEntry| {
            let environment = std::fs::read(process.path().join("environ")).ok()?;
            let ours = environment.split(|byte| *byte == 0).any(|v| v.starts_with(prefix.as_bytes()));
            process.file_name().to_str()?.parse().ok().filter(|_| ours)
        };
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
    }

    /// Every process that has this stage's directory among its arguments, or in the environment of an instance.
    pub(crate) fn processes(&self) -> BTreeSet<u32> {
        let shown = self.top.path().display().to_string();
        let named = std::fs::read_dir("/proc").unwrap().flatten().filter(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&shown)
        });
        named
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .chain(self.instances())
            .collect()
    }

    /// The processes that answer, as they say themselves.
    pub(crate) fn answering(&self, host: &str) -> BTreeSet<u32> {
        (0..40)
            .map(|_| {
                let (status, body) = self.get(host).expect("an answer");
                assert_eq!(status, 200, "{body}");
                body.trim().rsplit(' ').next().unwrap().parse().unwrap()
            })
            .collect()
    }

    /// Removes what there is and ends the host; nothing of it is left.
    pub(crate) fn clear(mut self) {
        for service in self.ews(&["status", "--json"]).json()["services"].as_array().unwrap() {
            self.ews(&["rm", service["service"].as_str().unwrap()]).ends(0);
        }
        assert_eq!(self.end("TERM"), Some(0), "{}", self.log());
        let until = Instant::now() + Duration::from_secs(10);
        while !self.processes().is_empty() {
            assert!(Instant::now() < until, "processes are left: {:?}", self.processes());
            pause(50);
        }
        let instances = std::fs::read_dir(self.data().join("runtime/instances")).map_or(0, Iterator::count);
        assert_eq!(instances, 0, "instances are left on disk");
        assert!(!self.data().join("api.sock").exists() && !self.data().join("host.json").exists());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut host) = self.host.take() {
            let _ = host.kill();
            let _ = host.wait();
        }
        if std::thread::panicking() {
            eprintln!(
                "the host's log ends so:\n{}",
                self.log().lines().rev().take(60).collect::<Vec<_>>().join("\n")
            );
        }
        // Shims first: they take their programs along.
        for pid in self.processes() {
            kill("KILL", pid);
        }
    }
}

pub(crate) fn kill(signal: &str, pid: u32) {
    let _ =
        Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).stderr(Stdio::null()).status();
}

pub(crate) fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// Waits until this holds.
#[track_caller]
pub(crate) fn wait(mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "it does not come about");
        pause(100);
    }
}

/// `GET /` over a connection of its own.
pub(crate) fn get(address: SocketAddr, host: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n")?.1.to_owned();
    // A body in chunks is one chunk here.
    let body = if text.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body.lines().nth(1).unwrap_or_default().to_owned()
    } else {
        body
    };
    Some((status, body))
}

/// Requests all the time, and how many were not answered well.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<(AtomicU64, AtomicU64)>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn on(address: SocketAddr, host: &'static str) -> Self {
        let (stop, counts) =
            (Arc::new(AtomicBool::new(false)), Arc::new((AtomicU64::new(0), AtomicU64::new(0))));
        let (stops, counted) = (Arc::clone(&stop), Arc::clone(&counts));
        let thread = std::thread::spawn(move || {
            while !stops.load(Ordering::SeqCst) {
                let good = get(address, host).is_some_and(|(status, _)| status == 200);
                counted.0.fetch_add(1, Ordering::SeqCst);
                counted.1.fetch_add(u64::from(!good), Ordering::SeqCst);
                pause(5);
            }
        });
        Self { stop, counts, thread: Some(thread) }
    }

    /// Ends it: how many were asked, and how many failed.
    pub(crate) fn end(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        (self.counts.0.load(Ordering::SeqCst), self.counts.1.load(Ordering::SeqCst))
    }
}

/// Where a file of this package is.
pub(crate) fn package(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
