//! An engine of a test's own, which it may kill.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct OwnEngine {
    folder: tempfile::TempDir,
    bridge: String,
    process: Option<Child>,
}

impl OwnEngine {
    /// Starts one; `None`, and a line that says why, where this machine can't.
    pub(crate) fn start() -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        let dockerd =
            Command::new("dockerd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !root || !dockerd.is_ok_and(|status| status.success()) {
            // Whoever runs CI without root has the engine that was started for it, and none to kill.
            println!("skipped: an engine of our own takes root and dockerd");
            return None;
        }
        let bridge = format!("ewsd{}", std::process::id());
        let address = format!("10.223.{}.1/24", std::process::id() % 250);
        run("ip", &["link", "add", &bridge, "type", "bridge"]);
        run("ip", &["addr", "add", &address, "dev", &bridge]);
        run("ip", &["link", "set", &bridge, "up"]);
        let mut engine = Self { folder: tempfile::tempdir().unwrap(), bridge, process: None };
        engine.up();
        Some(engine)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Starts it and waits until it answers.
    pub(crate) fn up(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.at("log")).unwrap();
        let socket = format!("unix://{}", self.socket().display());
        let process = Command::new("dockerd")
            .args(["--data-root", &self.at("data"), "--exec-root", &self.at("exec")])
            .args(["--pidfile", &self.at("pid"), "--bridge", &self.bridge, "--iptables=false"])
            .args(["--group", "root", "-H", &socket])
            .env_remove("DOCKER_HOST")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let began = Instant::now();
        let answers = || {
            let mut command = Command::new("docker");
            command.args(["-H", &socket, "version"]).stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        while !answers() {
            let log = std::fs::read_to_string(self.at("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            assert!(began.elapsed() < Duration::from_secs(60), "the engine does not answer: {last:?}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// SIGKILL, to it and to what holds its containers.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        self.end_containerd();
    }

    /// It dies with its engine, as a rule; one that is half dead keeps the next engine waiting.
    fn end_containerd(&self) {
        let Ok(pid) = std::fs::read_to_string(self.at("exec/containerd/containerd.pid")) else { return };
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", pid.trim())).unwrap_or_default();
        if comm.trim() == "containerd" {
            run("kill", &["-KILL", pid.trim()]);
        }
        for name in ["containerd.sock", "containerd.sock.ttrpc", "containerd-debug.sock", "containerd.pid"] {
            let _ = std::fs::remove_file(self.folder.path().join("exec/containerd").join(name));
        }
    }

    /// An engine that is killed between the two steps of a start leaves a shim that runs nothing, which no engine knows of any more.
    fn end_shims(&self) {
        let own = self.at("exec/containerd/containerd.sock");
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            let mut words = line.split('\0');
            let is_shim = words.next().is_some_and(|program| program.contains("/containerd-shim"));
            if is_shim && words.any(|word| word == own) {
                run("kill", &["-KILL", process.file_name().to_str().unwrap()]);
            }
        }
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            run("kill", &["-TERM", &process.id().to_string()]);
            let _ = process.wait();
        }
        self.end_containerd();
        self.end_shims();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let inside: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        for mount in inside.iter().rev().filter(|mount| mount.starts_with(&self.at(""))) {
            run("umount", &["-l", mount]);
        }
        run("ip", &["link", "del", &self.bridge]);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    if !output.status.success() {
        println!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
