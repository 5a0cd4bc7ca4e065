//! A light load: clients that ask which version answers, again and again, each time on a new connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::program::Program;

/// So many clients there are.
pub(crate) const CLIENTS: usize = 2;
/// From an answer to the next question: two cores have the programs to run, too.
const PAUSE: Duration = Duration::from_millis(25);

/// What became of the questions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// How many got which answer.
    pub(crate) answers: BTreeMap<String, usize>,
    pub(crate) failed: usize,
    /// Why the first ones failed.
    pub(crate) why: Vec<String>,
}

impl Told {
    /// The answers, all of them.
    pub(crate) fn versions(&self) -> Vec<&str> {
        self.answers.keys().map(String::as_str).collect()
    }
}

/// Clients at work.
pub(crate) struct Load {
    told: Arc<Mutex<Told>>,
    end: tokio::sync::watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(program: &Arc<dyn Program>, gateway: SocketAddr) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let (end, ended) = tokio::sync::watch::channel(false);
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (program, told, ended) = (Arc::clone(program), Arc::clone(&told), ended.clone());
            clients.spawn(async move {
                while !*ended.borrow() {
                    let answer = program.version(gateway).await;
                    {
                        let mut told = told.lock().unwrap();
                        match answer {
                            Ok(version) => *told.answers.entry(version).or_default() += 1,
                            Err(error) => {
                                told.failed += 1;
                                if told.why.len() < 5 {
                                    told.why.push(error.to_string());
                                }
                            }
                        }
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        Self { told, end, clients }
    }

    /// What is known once every question has its answer.
    pub(crate) async fn ended(mut self) -> Told {
        let _ = self.end.send(true);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        self.told.lock().unwrap().clone()
    }
}
