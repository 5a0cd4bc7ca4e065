//! Programs of others, which know nothing of us: nginx, redis-server and caddy from Debian's packages.
//!
//! A machine without them skips these tests and says so; `EWS_TEST_SERVERS=required`, as CI sets it, makes that a failure.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use ews_core::process::Cgroups;
use ews_core::runtime::{ExecSpec, LogOptions, RemoveOptions, Runtime, StopOptions, WaitOptions};
use ews_core::spec::content::{ConfigFile, FileContent};
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::network::Port;
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::{Incarnation, InstanceSpec, InstanceState, PortName};
use futures_util::StreamExt as _;

use super::{Place, kill, launch, shim_of, until};

/// A text for a port.
type Text = fn(u16) -> String;

/// A server, how it is asked, and what it answers.
struct Server {
    program: &'static str,
    args: fn(u16) -> Vec<String>,
    file: Option<(&'static str, Text)>,
    question: &'static [u8],
    answer: &'static str,
    /// Run inside: it prints something and succeeds.
    inside: &'static [&'static str],
}

const SERVERS: [Server; 3] = [
    Server {
        program: "/usr/sbin/nginx",
        args: |_| ["-e", "stderr", "-p", ".", "-c", "nginx.conf"].map(str::to_owned).to_vec(),
        file: Some(("/nginx.conf", |port| {
            format!(
                "daemon off; pid nginx.pid; error_log stderr notice; worker_processes 2; events {{}}\n\
                 http {{ access_log /dev/stdout; client_body_temp_path tmp/a; proxy_temp_path tmp/b; fastcgi_temp_path tmp/c; \
                 uwsgi_temp_path tmp/d; scgi_temp_path tmp/e;\n\
                 server {{ listen 127.0.0.1:{port}; location / {{ return 200 'this is nginx'; }} }} }}\n"
            )
        })),
        question: b"GET / HTTP/1.0\r\n\r\n",
        answer: "this is nginx",
        inside: &["cat", "nginx.pid"],
    },
    Server {
        program: "/usr/bin/redis-server",
        args: |port| {
            let port = port.to_string();
            ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir", "."].map(str::to_owned).to_vec()
        },
        file: None,
        question: b"PING\r\n",
        answer: "+PONG",
        inside: &["pwd"],
    },
    Server {
        program: "/usr/bin/caddy",
        args: |port| {
            let listen = format!("127.0.0.1:{port}");
            ["respond", "--listen", &listen, "this is caddy"].map(str::to_owned).to_vec()
        },
        file: None,
        question: b"GET / HTTP/1.0\r\n\r\n",
        answer: "this is caddy",
        inside: &["pwd"],
    },
];

fn asked(address: SocketAddr, server: &Server) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(server.question)?;
        let (mut answer, mut piece) = (String::new(), [0; 4096]);
        while !answer.contains(server.answer) {
            let count = stream.read(&mut piece)?;
            if count == 0 {
                break;
            }
            answer.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(server.answer))
}

/// How many processes have this as their current directory: nothing else tells a program that knows nothing of us.
fn at(work: &Path) -> usize {
    let processes = super::names(Path::new("/proc"));
    let directories = processes.iter().filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).ok());
    directories.filter(|directory| directory == work).count()
}

#[tokio::test]
async fn servers_of_others_run_are_seen_and_end_without_a_trace() {
    let required = std::env::var("EWS_TEST_SERVERS").is_ok_and(|value| value == "required");
    for server in SERVERS {
        if !Path::new(server.program).exists() {
            assert!(!required, "{} is required and not there", server.program);
            println!("skipped: {} is not installed", server.program);
            continue;
        }
        lives(&server).await;
    }
}

async fn lives(server: &Server) {
    let place = Place::new(Cgroups::Auto);
    let name = server.program;
    let number =
        (place.ports..).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    let mut spec = InstanceSpec::new(Source::Artifact(ArtifactSource::new(server.program)));
    spec.args = (server.args)(number);
    spec.ports = vec![Port::new(PortName::new("main").unwrap(), Some(number))];
    if let Some((path, content)) = server.file {
        spec.files = vec![ConfigFile::new(path, FileContent::Content(content(number)))];
    }
    let runtime = place.open().await;
    let first = launch(&runtime, &spec, 0).await;
    let (id, address) = (first.id.clone(), first.endpoints[0].address);
    until(&format!("{name} to answer"), async || asked(address, server)).await;

    let usage = runtime.usage(std::slice::from_ref(&id)).await.unwrap();
    assert!(usage[0].memory > Some(100_000) && usage[0].pids >= Some(1), "{name}: {usage:?}");
    let session = runtime.exec(&id, &ExecSpec::new(server.inside.iter().copied())).await.unwrap();
    let output = session.output.collect::<Vec<_>>().await;
    assert!(!output.is_empty(), "{name}: exec printed nothing");
    assert!(session.control.wait().await.unwrap().is_success(), "{name}: {output:?}");
    let lines = runtime.logs(&id, &LogOptions::default()).await.unwrap().collect::<Vec<_>>().await;
    assert!(!lines.is_empty(), "{name} has logged nothing");

    // Another controller takes over; the server has noticed nothing.
    drop(runtime);
    until(&format!("{name} to answer without a controller"), async || asked(address, server)).await;
    let runtime = place.open().await;
    let adopted = runtime.get(&id).await.unwrap();
    assert_eq!((&adopted.state, adopted.incarnation), (&InstanceState::Running, Incarnation(1)), "{name}");
    assert_eq!(adopted.endpoints, first.endpoints);

    // Its shim is killed from outside: all of it goes, and it can be started again at the same port.
    let work = runtime.work_directory(&id).unwrap();
    assert!(at(&work) > 0);
    kill(shim_of(&place.root(), id.as_str()).unwrap(), "KILL");
    runtime.wait(&id, &WaitOptions::default()).await.unwrap();
    until(&format!("{name} to be gone"), async || at(&work) == 0).await;
    let again = runtime.start(&id).await.unwrap();
    assert_eq!((&again.state, again.incarnation), (&InstanceState::Running, Incarnation(2)), "{name}");
    until(&format!("{name} to answer again"), async || asked(address, server)).await;

    // It is asked to end and does so by itself.
    let status = runtime.stop(&id, &StopOptions::grace(Duration::from_secs(60))).await.unwrap();
    assert_ne!(status.signal, Some(Signal::KILL), "{name}");
    assert!(!asked(address, server));
    assert_eq!(at(&work), 0, "{name} left processes");
    runtime.remove(&id, &RemoveOptions::default()).await.unwrap();
    assert!(!work.exists() && place.hidden().is_empty(), "{name} left files");
}
