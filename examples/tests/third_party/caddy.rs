//! caddy, with a port for its administration. A hotfix replaces its configuration, which a command of its own has it load.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::InstanceSpec;
use ews_core::PortName;
use ews_core::spec::content::EnvValue;
use ews_core::spec::probe::{Check, HttpCheck};
use ews_deploy::Reload;

use crate::program::{Found, Program, installed};
use crate::{ask, journey};

const CONFIGURATION: &str = "/etc/caddy/Caddyfile";

struct Caddy {
    program: PathBuf,
}

fn found() -> Found<Arc<dyn Program>> {
    Ok(Arc::new(Caddy { program: installed("/usr/bin/caddy", "caddy")? }))
}

#[async_trait]
impl Program for Caddy {
    fn name(&self) -> &'static str {
        "caddy"
    }

    fn start(&self) -> String {
        format!("exec {} run --config etc/caddy/Caddyfile --adapter caddyfile", self.program.display())
    }

    fn files(&self, version: &str) -> Vec<(&'static str, Vec<u8>)> {
        // Two on one machine would have the same port for their administration, were it not told.
        let configuration = format!(
            "{{\n\tadmin 127.0.0.1:{{$PORT_ADMIN}}\n\tauto_https off\n}}\nhttp://:{{$PORT}} {{\n\tbind {{$BIND}}\n\t\
             respond \"{version}\"\n}}\n"
        );
        vec![(CONFIGURATION, configuration.into_bytes())]
    }

    fn fixed(&self) -> &'static str {
        CONFIGURATION
    }

    fn reload(&self) -> Reload {
        // Not by way of a shell: what it needs of the environment it reads itself, and the path is that of the place it runs in.
        let program = self.program.to_str().unwrap();
        let words = [program, "reload", "--config", "etc/caddy/Caddyfile", "--adapter", "caddyfile"];
        Reload::Exec(words.map(str::to_owned).to_vec())
    }

    fn parts(&self) -> Vec<PathBuf> {
        vec![self.program.clone()]
    }

    fn check(&self) -> Check {
        let mut check = HttpCheck::new("/");
        check.port = Some(PortName::new("main").unwrap());
        Check::Http(check)
    }

    fn more_ports(&self) -> &'static [&'static str] {
        &["admin"]
    }

    fn refine(&self, instance: &mut InstanceSpec) {
        // It keeps data and its last configuration at home, and has none in its container.
        for home in ["XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            instance.env.insert(home.to_owned(), EnvValue::Plain("tmp/home".to_owned()));
        }
    }

    async fn version(&self, address: SocketAddr) -> io::Result<String> {
        ask::http(address, "caddy.test").await
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
