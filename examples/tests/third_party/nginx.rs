//! nginx with a static site. A hotfix replaces the page, which nginx reads whenever it is asked for.

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

const PAGE: &str = "/srv/www/index.html";

struct Nginx {
    program: PathBuf,
}

fn found() -> Found<Arc<dyn Program>> {
    Ok(Arc::new(Nginx { program: installed("/usr/sbin/nginx", "nginx-light")? }))
}

#[async_trait]
impl Program for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn start(&self) -> String {
        // Its configuration knows no variables of the environment; the one line that needs them is written here.
        let program = self.program.display();
        format!(
            "echo \"listen $BIND:$PORT;\" >tmp/listen.conf && exec {program} -e stderr -p \"$PWD/\" -c etc/nginx/nginx.conf"
        )
    }

    fn files(&self, version: &str) -> Vec<(&'static str, Vec<u8>)> {
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path tmp/{kind};\n"))
            .collect();
        // Included files are looked for beside the configuration, all others below the prefix.
        let configuration = format!(
            "daemon off;\nworker_processes 1;\nerror_log stderr notice;\npid tmp/nginx.pid;\nevents {{ }}\nhttp {{\naccess_log off;\n\
             {temporary}server {{\ninclude ../../tmp/listen.conf;\nroot srv/www;\n}}\n}}\n"
        );
        vec![
            ("/etc/nginx/nginx.conf", configuration.into_bytes()),
            (PAGE, format!("{version}\n").into_bytes()),
        ]
    }

    fn fixed(&self) -> &'static str {
        PAGE
    }

    fn reload(&self) -> Reload {
        Reload::None
    }

    fn parts(&self) -> Vec<PathBuf> {
        vec![self.program.clone()]
    }

    fn check(&self) -> Check {
        Check::Http(HttpCheck::new("/"))
    }

    fn refine(&self, instance: &mut InstanceSpec) {
        // What nginx takes as "finish what you have begun".
        instance.stop.signal = Signal::QUIT;
    }

    async fn version(&self, address: SocketAddr) -> io::Result<String> {
        ask::http(address, "nginx.test").await
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
