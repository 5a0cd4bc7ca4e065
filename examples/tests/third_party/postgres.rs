//! PostgreSQL by a TCP route, one instance on data that outlives it: a new one starts when the old one has ended. A hotfix replaces its
//! configuration, which it reads again on SIGHUP.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ews_core::InstanceSpec;
use ews_core::balancer::PoolProtocol;
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::probe::{Check, ExecCheck};
use ews_deploy::Reload;

use crate::program::{Found, Program, installed};
use crate::{ask, journey};

const CONFIGURATION: &str = "/etc/postgresql/postgresql.conf";
const ACCESS: &str = "/etc/postgresql/pg_hba.conf";

struct Postgres {
    programs: PathBuf,
    parts: Vec<PathBuf>,
}

fn found() -> Found<Arc<dyn Program>> {
    let top = installed("/usr/lib/postgresql", "postgresql")?;
    let versions = std::fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path());
    let newest = versions.filter(|version| version.join("bin/postgres").exists()).max();
    let newest = newest.ok_or_else(|| "a server of Debian's `postgresql`".to_owned())?;
    let share = Path::new("/usr/share/postgresql").join(newest.file_name().unwrap());
    let own = ["bin/postgres", "bin/initdb", "bin/pg_isready", "lib/plpgsql.so", "lib/dict_snowball.so"];
    let parts = own.iter().map(|part| newest.join(part)).chain([share]).collect();
    Ok(Arc::new(Postgres { programs: newest.join("bin"), parts }))
}

#[async_trait]
impl Program for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn start(&self) -> String {
        let programs = self.programs.display();
        format!(
            "[ -s \"$DATA/PG_VERSION\" ] || {programs}/initdb -D \"$DATA\" -U postgres -A trust --locale=C -E UTF8 --no-sync || exit\n\
             exec {programs}/postgres -D \"$DATA\" -h $BIND -p $PORT -c config_file=\"$PWD{CONFIGURATION}\" -c hba_file=\"$PWD{ACCESS}\""
        )
    }

    fn files(&self, version: &str) -> Vec<(&'static str, Vec<u8>)> {
        let configuration = format!(
            "ews.version = '{version}'\nunix_socket_directories = ''\nmax_connections = 20\nshared_buffers = 16MB\njit = off\n\
             timezone = 'GMT'\nlog_timezone = 'GMT'\n"
        );
        vec![(CONFIGURATION, configuration.into_bytes()), (ACCESS, "host all all all trust\n".into())]
    }

    fn fixed(&self) -> &'static str {
        CONFIGURATION
    }

    fn reload(&self) -> Reload {
        Reload::Signal(Signal::HUP)
    }

    fn parts(&self) -> Vec<PathBuf> {
        self.parts.clone()
    }

    fn check(&self) -> Check {
        let command = format!("exec {}/pg_isready -q -h 127.0.0.1 -p $PORT", self.programs.display());
        Check::Exec(ExecCheck::new(["/bin/sh", "-c", &command]))
    }

    fn protocol(&self) -> PoolProtocol {
        PoolProtocol::Tcp
    }

    fn keeps_data(&self) -> bool {
        true
    }

    fn refine(&self, instance: &mut InstanceSpec) {
        // On SIGTERM it waits for its clients to leave, which may be never; on this one it ends their sessions.
        instance.stop.signal = Signal::INT;
        // What it has in memory is written down before it ends.
        instance.stop.grace = Duration::from_secs(20);
    }

    async fn version(&self, address: SocketAddr) -> io::Result<String> {
        let rows = query(address, "show ews.version").await?;
        rows.into_iter().next().ok_or_else(|| ErrorKind::InvalidData.into())
    }

    async fn remember(&self, address: SocketAddr, word: &str) -> io::Result<()> {
        let sql = format!(
            "create table if not exists words (id serial, word text); insert into words (word) values ('{word}')"
        );
        query(address, &sql).await.map(drop)
    }

    async fn remembered(&self, address: SocketAddr) -> io::Result<Vec<String>> {
        query(address, "select word from words order by id").await
    }
}

/// What a query gives: rows of one column.
async fn query(address: SocketAddr, sql: &str) -> io::Result<Vec<String>> {
    let mut question = 196_608_u32.to_be_bytes().to_vec();
    question.extend(b"user\0postgres\0database\0postgres\0\0");
    question.splice(0..0, (question.len() as u32 + 4).to_be_bytes());
    question.push(b'Q');
    question.extend((sql.len() as u32 + 5).to_be_bytes());
    question.extend(sql.as_bytes());
    question.push(0);
    // It is ready for a query twice: for this one, and for the next.
    let ready = |answer: &[u8]| messages(answer).iter().filter(|(kind, _)| *kind == b'Z').count() == 2;
    let answer = ask::exchange(address, &question, |answer| {
        ready(answer) || messages(answer).iter().any(|(kind, _)| *kind == b'E')
    })
    .await?;
    if !ready(&answer) {
        let text = String::from_utf8_lossy(&answer).into_owned();
        return Err(io::Error::new(ErrorKind::InvalidData, format!("PostgreSQL answers {text:?}")));
    }
    // A row is the number of its columns, and the length and the text of each.
    let rows = messages(&answer).into_iter().filter(|(kind, _)| *kind == b'D');
    Ok(rows.map(|(_, row)| String::from_utf8_lossy(&row[6..]).into_owned()).collect())
}

/// The whole messages of an answer: a letter, and what follows the length.
fn messages(answer: &[u8]) -> Vec<(u8, &[u8])> {
    let (mut messages, mut left) = (Vec::new(), answer);
    while let Some((head, rest)) = left.split_first_chunk::<5>() {
        let [kind, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize - 4;
        if rest.len() < length {
            break;
        }
        messages.push((kind, &rest[..length]));
        left = &rest[length..];
    }
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_processes() {
    journey::on_processes(found()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_docker() {
    journey::on_docker(found()).await;
}
