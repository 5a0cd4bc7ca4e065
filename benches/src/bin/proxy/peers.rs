//! Starts the proxies, each with one thread and the same upstream, and reads their processor time.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running process; it ends with this value.
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
    pub(crate) address: SocketAddr,
    child: Child,
    /// What it stands on.
    _upstream: Option<Box<Process>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

/// Every proxy that is there, ours first, and the names of those that are not.
pub(crate) async fn start_all(folder: &Path) -> (Vec<Process>, Vec<String>) {
    let upstream = own("upstream", &["upstream"], 1);
    let target = upstream.address;
    let mut ews = own("ews", &["gateway", &target.to_string()], 0);
    ews._upstream = Some(Box::new(upstream));
    let (mut proxies, mut missing) = (vec![ews], Vec::new());
    for (name, program) in [("nginx", "/usr/sbin/nginx"), ("haproxy", "/usr/sbin/haproxy")] {
        if !PathBuf::from(program).exists() {
            missing.push(name.to_owned());
            continue;
        }
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = folder.join(name);
        let mut command = if name == "nginx" {
            std::fs::write(&file, nginx(folder, address, target)).unwrap();
            pinned(program, 0, &["-c", &file.display().to_string(), "-p", &folder.display().to_string()])
        } else {
            std::fs::write(&file, haproxy(address, target)).unwrap();
            pinned(program, 0, &["-db", "-f", &file.display().to_string()])
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let process = Process { name, pid: child.id(), address, child, _upstream: None };
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        proxies.push(process);
    }
    (proxies, missing)
}

/// This program in another role. It says its address in its first line.
fn own(name: &'static str, args: &[&str], core: usize) -> Process {
    let program = std::env::current_exe().unwrap();
    let mut child =
        pinned(&program.display().to_string(), core, args).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Process { name, pid: child.id(), address: line.trim().parse().unwrap(), child, _upstream: None }
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

fn nginx(folder: &Path, address: SocketAddr, upstream: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  upstream up {{ server {upstream}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen {address}; server_name bench.example;
    location / {{
      proxy_pass http://up; proxy_http_version 1.1;
      proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto http;
      proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Request-Id $request_id;
    }}
  }}
}}
"
    )
}

fn haproxy(address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  bind {address}
  unique-id-format %rt-%Ts
  unique-id-header X-Request-Id
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-For %[src]
  default_backend up
backend up
  server one {upstream}
"
    )
}
