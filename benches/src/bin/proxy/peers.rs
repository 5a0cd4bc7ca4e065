//! Starts the proxies, each with one thread and the same upstream, and reads their processor time.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::configs::{self, Names};
use super::load::Addresses;

/// A running process; it ends with this value.
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
    pub(crate) addresses: Addresses,
    child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that was started.
pub(crate) struct Proxies {
    /// Ours first.
    pub(crate) all: Vec<Process>,
    pub(crate) missing: Vec<String>,
    /// What they stand on.
    pub(crate) upstream: Process,
}

/// The processor time of all threads of a process.
pub(crate) fn cpu(pid: u32) -> Duration {
    let mut nanos = 0_u64;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let text = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
        nanos += text.split(' ').next().unwrap().parse::<u64>().unwrap();
    }
    Duration::from_nanos(nanos)
}

/// The resident memory of a process, in MB.
pub(crate) fn resident_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<f64>().unwrap() * 1024.0 / 1e6
}

/// Every proxy that is there, with so many domains in ours.
pub(crate) async fn start_all(folder: &Path, domains: usize) -> Proxies {
    configs::write_certificate(folder);
    let upstream = own("upstream", &["upstream"], 1);
    let target = upstream.addresses.plain;
    let arguments = ["gateway", &target.to_string(), &domains.to_string(), &folder.display().to_string()];
    let (mut all, mut missing) = (vec![own("ews", &arguments, 0)], Vec::new());
    for name in ["nginx", "haproxy", "haproxy (tcp)"] {
        let program = if name == "nginx" { "/usr/sbin/nginx" } else { "/usr/sbin/haproxy" };
        if !Path::new(program).exists() {
            missing.push(name.to_owned());
            continue;
        }
        let addresses = Addresses { plain: free(), tls: free(), h2c: free() };
        let file = folder.join(name);
        let file_name = file.display().to_string();
        let names = Names { folder, addresses, upstream: target };
        let mut command = match name {
            "nginx" => {
                std::fs::write(&file, configs::nginx(&names)).unwrap();
                pinned(program, 0, &["-c", &file_name, "-p", &folder.display().to_string()])
            }
            "haproxy" => {
                std::fs::write(&file, configs::haproxy(&names)).unwrap();
                pinned(program, 0, &["-db", "-f", &file_name])
            }
            _ => {
                std::fs::write(&file, configs::relay(&names)).unwrap();
                pinned(program, 0, &["-db", "-f", &file_name])
            }
        };
        let log = std::fs::File::create(folder.join(format!("{name}.log"))).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut process = Process { name, pid: child.id(), addresses, child };
        while tokio::net::TcpStream::connect(addresses.plain).await.is_err() {
            if let Some(status) = process.child.try_wait().unwrap() {
                let log = std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap();
                panic!("{name} ended at once: {status}\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        all.push(process);
    }
    Proxies { all, missing, upstream }
}

/// An address that nobody has.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// This program in another role. It says its addresses in its first line.
fn own(name: &'static str, args: &[&str], core: usize) -> Process {
    let program = std::env::current_exe().unwrap();
    let mut child =
        pinned(&program.display().to_string(), core, args).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut addresses = line.split_whitespace().map(|address| address.parse().unwrap());
    let plain = addresses.next().unwrap();
    // Ours takes both forms of HTTP at one address.
    let addresses = Addresses { plain, tls: addresses.next().unwrap_or(plain), h2c: plain };
    Process { name, pid: child.id(), addresses, child }
}

/// The proxies share one core, upstream and load have the other, where there are two and `taskset` is there. It becomes the
/// program, so that the process id is the program's.
fn pinned(program: &str, core: usize, args: &[&str]) -> Command {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut command = if cores > 1 && Path::new("/usr/bin/taskset").exists() {
        let mut command = Command::new("/usr/bin/taskset");
        command.args(["-c", &core.to_string(), program]);
        command
    } else {
        Command::new(program)
    };
    command.args(args);
    command
}
