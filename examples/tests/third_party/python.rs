//! A web application in Python, on the server of the standard library. It is read when it starts, so a hotfix starts it again.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::InstanceSpec;
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::probe::{Check, HttpCheck};
use ews_deploy::Reload;

use crate::program::{Found, Program, installed};
use crate::{ask, journey};

/// The application, as a framework would have it.
const APPLICATION: &str = "/srv/app/application.py";

/// What serves it.
const SERVER: &str = "\
import os
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from application import application


class Server(ThreadingMixIn, WSGIServer):
    pass


with make_server(os.environ['BIND'], int(os.environ['PORT']), application, Server) as server:
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print('it was asked to end', flush=True)
";

struct Python {
    program: PathBuf,
    library: PathBuf,
}

fn found() -> Found<Arc<dyn Program>> {
    // Its own name is `python3.11` or the like, and its library's too.
    let program = installed("/usr/bin/python3", "python3")?.canonicalize().unwrap();
    let name = program.file_name().unwrap().to_str().unwrap();
    let library = installed(&format!("/usr/lib/{name}"), "python3")?;
    Ok(Arc::new(Python { program, library }))
}

#[async_trait]
impl Program for Python {
    fn name(&self) -> &'static str {
        "python"
    }

    fn start(&self) -> String {
        format!("exec {} -B srv/app/serve.py", self.program.display())
    }

    fn files(&self, version: &str) -> Vec<(&'static str, Vec<u8>)> {
        let application = format!(
            "def application(environ, start_response):\n    body = b'{version}'\n    \
             start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))])\n    return [body]\n"
        );
        vec![("/srv/app/serve.py", SERVER.into()), (APPLICATION, application.into_bytes())]
    }

    fn fixed(&self) -> &'static str {
        APPLICATION
    }

    fn reload(&self) -> Reload {
        Reload::Restart
    }

    fn parts(&self) -> Vec<PathBuf> {
        vec![self.program.clone(), self.library.clone()]
    }

    fn check(&self) -> Check {
        Check::Http(HttpCheck::new("/"))
    }

    fn refine(&self, instance: &mut InstanceSpec) {
        // It has nothing for SIGTERM, which a container's first process then does not hear; this one it knows as Ctrl-C.
        instance.stop.signal = Signal::INT;
    }

    async fn version(&self, address: SocketAddr) -> io::Result<String> {
        ask::http(address, "python.test").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_processes() {
    journey::on_processes(found()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_docker() {
    journey::on_docker(found()).await;
}
