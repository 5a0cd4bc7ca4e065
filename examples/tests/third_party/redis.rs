//! redis by a TCP route. A hotfix replaces the file of its users, which it reads again when a client says so.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::balancer::PoolProtocol;
use ews_core::spec::probe::{Check, TcpCheck};
use ews_deploy::Reload;

use crate::program::{Found, Program, installed};
use crate::{ask, journey};

const USERS: &str = "/etc/redis/users.acl";

struct Redis {
    server: PathBuf,
    client: PathBuf,
}

fn found() -> Found<Arc<dyn Program>> {
    let server = installed("/usr/bin/redis-server", "redis-server")?;
    let client = installed("/usr/bin/redis-cli", "redis-tools")?;
    Ok(Arc::new(Redis { server, client }))
}

#[async_trait]
impl Program for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn start(&self) -> String {
        format!("exec {} etc/redis/redis.conf --bind $BIND --port $PORT", self.server.display())
    }

    fn files(&self, version: &str) -> Vec<(&'static str, Vec<u8>)> {
        // Without a password it would answer to its own machine only.
        let configuration = "protected-mode no\nsave \"\"\naclfile etc/redis/users.acl\n";
        let users = format!("user default on nopass ~* &* +@all\nuser {version} on nopass ~* &* +@read\n");
        vec![("/etc/redis/redis.conf", configuration.into()), (USERS, users.into_bytes())]
    }

    fn fixed(&self) -> &'static str {
        USERS
    }

    fn reload(&self) -> Reload {
        let command = format!("{} -e -p $PORT acl load", self.client.display());
        Reload::Exec(vec!["/bin/sh".to_owned(), "-c".to_owned(), command])
    }

    fn parts(&self) -> Vec<PathBuf> {
        vec![self.server.clone(), self.client.clone()]
    }

    fn check(&self) -> Check {
        Check::Tcp(TcpCheck::default())
    }

    fn protocol(&self) -> PoolProtocol {
        PoolProtocol::Tcp
    }

    /// The user beside the one that everybody is: `*2`, then the length and the name of each.
    async fn version(&self, address: SocketAddr) -> io::Result<String> {
        let lines = |answer: &[u8]| answer.iter().filter(|byte| **byte == b'\n').count();
        let answer = ask::exchange(address, b"ACL USERS\r\n", |answer| lines(answer) == 5).await?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let names: Vec<_> = text.lines().skip(1).filter(|line| !line.starts_with('$')).collect();
        match names.iter().find(|name| **name != "default") {
            Some(name) if names.len() == 2 => Ok((*name).to_owned()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("redis answers {text:?}"))),
        }
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
