//! An engine of a test's own, which it may stop, hang and restart.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) struct PrivateEngine {
    folder: tempfile::TempDir,
    bridge: String,
    process: Option<Child>,
    /// What it is started with beside.
    more: Vec<String>,
}

impl PrivateEngine {
    /// Starts one; `None`, and a line that says why, where this machine can't.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts one whose disk has room for so many mebibytes.
    pub(crate) fn start_on(mebibytes: u32) -> Option<Self> {
        Self::made(&[], Some(mebibytes))
    }

    /// Starts one with these arguments of its own.
    pub(crate) fn start_with(more: &[String]) -> Option<Self> {
        Self::made(more, None)
    }

    fn made(more: &[String], disk: Option<u32>) -> Option<Self> {
        // Several of one test program stand beside each other.
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let required = std::env::var("EWS_TEST_DOCKER").is_ok_and(|value| value == "required");
        let root = rustix::process::geteuid().is_root();
        let dockerd =
            Command::new("dockerd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !root || !dockerd.is_ok_and(|status| status.success()) {
            assert!(
                !required,
                "EWS_TEST_DOCKER=required, and an engine of our own can't be started: it takes root and dockerd"
            );
            println!("skipped: an engine of our own takes root and dockerd");
            return None;
        }
        let started = STARTED.fetch_add(1, Ordering::Relaxed);
        let number = (std::process::id() + started * 83) % 250;
        let bridge = format!("ewst{}{}", std::process::id(), ["", "b", "c"][started as usize % 3]);
        let address = format!("{}/24", Ipv4Addr::new(10, 222, u8::try_from(number).unwrap(), 1));
        run("ip", &["link", "add", &bridge, "type", "bridge"]);
        run("ip", &["addr", "add", &address, "dev", &bridge]);
        run("ip", &["link", "set", &bridge, "up"]);
        let mut engine =
            Self { folder: tempfile::tempdir().unwrap(), bridge, process: None, more: more.to_vec() };
        if let Some(mebibytes) = disk {
            std::fs::create_dir(engine.folder.path().join("data")).unwrap();
            let size = format!("size={mebibytes}m");
            run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &engine.at("data")]);
        }
        engine.up();
        Some(engine)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Starts the engine and waits until it answers.
    pub(crate) fn up(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let socket = format!("unix://{}", self.socket().display());
        let process = Command::new("dockerd")
            .args([
                "--data-root",
                &self.at("data"),
                "--exec-root",
                &self.at("exec"),
                "--pidfile",
                &self.at("pid"),
            ])
            .args(["--bridge", &self.bridge, "--iptables=false", "--group", "root", "-H", &socket])
            .args(&self.more)
            .env_remove("DOCKER_HOST")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let began = Instant::now();
        while !self.docker_ok(&["version"]) {
            assert!(began.elapsed() < Duration::from_secs(60), "the engine does not answer: {}", self.log());
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }

    /// Stops the engine as a service manager does.
    pub(crate) fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            signal(&process, rustix::process::Signal::TERM);
            let _ = process.wait();
        }
    }

    /// Kills the engine and starts it again.
    pub(crate) fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            signal(&process, rustix::process::Signal::KILL);
            let _ = process.wait();
        }
        self.end_containerd();
        self.up();
    }

    /// It dies with its engine, as a rule; one that is half dead keeps the next engine waiting.
    fn end_containerd(&self) {
        let Ok(pid) = std::fs::read_to_string(self.folder.path().join("exec/containerd/containerd.pid"))
        else {
            return;
        };
        let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw) else { return };
        let comm =
            std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
        if comm.trim() == "containerd" {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        for name in ["containerd.sock", "containerd.sock.ttrpc", "containerd-debug.sock", "containerd.pid"] {
            let _ = std::fs::remove_file(self.folder.path().join("exec/containerd").join(name));
        }
    }

    /// An engine that is killed between the two steps of a start leaves a shim that runs nothing, which no engine knows of any more.
    fn end_shims(&self) {
        let own = self.at("exec/containerd/containerd.sock");
        let names = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
        for pid in
            names.filter_map(|name| name.to_str()?.parse().ok().and_then(rustix::process::Pid::from_raw))
        {
            let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            let is_shim = words.next().is_some_and(|program| {
                program
                    .rsplit(|byte| *byte == b'/')
                    .next()
                    .is_some_and(|name| name.starts_with(b"containerd-shim"))
            });
            if is_shim && words.any(|word| word == own.as_bytes()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }

    pub(crate) fn hang(&self) {
        signal(self.process.as_ref().unwrap(), rustix::process::Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        if let Some(process) = &self.process {
            signal(process, rustix::process::Signal::CONT);
        }
    }

    pub(crate) fn docker_ok(&self, arguments: &[&str]) -> bool {
        let host = format!("unix://{}", self.socket().display());
        let mut command = Command::new("docker");
        command
            .args(["-H", &host])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Brings an image over from the engine that other tests use.
    pub(crate) fn load(&self, image: &str) {
        let archive = self.folder.path().join("image.tar");
        run("docker", &["save", "-o", archive.to_str().unwrap(), image]);
        assert!(self.docker_ok(&["load", "-i", archive.to_str().unwrap()]));
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        self.go_on();
        self.down();
        self.end_containerd();
        self.end_shims();
        // Containers that still run keep what they mount.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let inside: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        for mount in inside.iter().rev().filter(|mount| Path::new(mount).starts_with(self.folder.path())) {
            run("umount", &["-l", mount]);
        }
        run("ip", &["link", "del", &self.bridge]);
    }
}

fn signal(process: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    if !output.status.success() {
        println!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
