//! One try of one endpoint.
//!
//! An endpoint at a name is well where one of its addresses is: they are tried in turn within the check's time, which they
//! share, and one that fails comes last for connections too. Where a pool speaks TLS, a request is made within that, by the
//! same rules as traffic's; a check that is a connection is no more than that.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::id::InstanceId;
use ews_core::probe::{Checker, Outcome, StandardChecker, Target, Verdict};
use ews_core::spec::probe::Probe;

use crate::gateway::endpoint::EndpointState;
use crate::gateway::pool::PoolView;
use crate::gateway::thread::Shared;

/// What is tried, and how its pool speaks.
#[derive(Clone)]
struct Tried {
    endpoint: Arc<EndpointState>,
    pool: Arc<PoolView>,
}

/// Tries endpoints as the prober asks for it.
pub(super) struct Tries {
    standard: StandardChecker,
    shared: Arc<Shared>,
    known: Mutex<HashMap<InstanceId, Tried>>,
}

impl Tries {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { standard: StandardChecker::network(), shared, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<InstanceId, Tried>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these may be tried, and no others.
    pub(super) fn set<'a>(
        &self,
        all: impl Iterator<Item = (&'a InstanceId, &'a Arc<EndpointState>, &'a Arc<PoolView>)>,
    ) {
        let tried = |endpoint: &Arc<EndpointState>, pool: &Arc<PoolView>| Tried {
            endpoint: endpoint.clone(),
            pool: pool.clone(),
        };
        *self.known() = all.map(|(id, endpoint, pool)| (id.clone(), tried(endpoint, pool))).collect();
    }

    /// One try at one address, within this time.
    async fn at(&self, tried: &Tried, address: SocketAddr, target: &Target, probe: &Probe) -> Outcome {
        #[cfg(feature = "tls")]
        if let (Some(tls), ews_core::spec::probe::Check::Http(check)) = (&tried.pool.tls, &probe.check) {
            let asking = self.within_tls(tls, tried, address, check);
            let late = |_| Outcome::fail(format!("no answer within {:?}", probe.timeout));
            return tokio::time::timeout(probe.timeout, asking).await.unwrap_or_else(late);
        }
        #[cfg(not(feature = "tls"))]
        let _ = &tried.pool;
        if tried.endpoint.named.is_none() {
            return self.standard.check(target, probe).await;
        }
        let mut target = target.clone();
        target.instance.endpoints.iter_mut().for_each(|endpoint| endpoint.address = address);
        self.standard.check(&target, probe).await
    }

    #[cfg(feature = "tls")]
    async fn within_tls(
        &self,
        tls: &Arc<crate::gateway::tls::Upstream>,
        tried: &Tried,
        address: SocketAddr,
        check: &ews_core::spec::probe::HttpCheck,
    ) -> Outcome {
        let address_of = &tried.endpoint.address;
        let stream = match tokio::net::TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => return Outcome::fail(error.kind().to_string()),
        };
        // What the other side says of itself goes into no reason: it may be hostile.
        match crate::gateway::tls::connect(&self.shared, tls, address_of, stream).await {
            Ok(stream) => ews_core::probe::http_over(stream, &address_of.to_string(), check).await,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                Outcome::fail("the handshake took too long")
            }
            Err(_) => Outcome::fail("the handshake of TLS failed"),
        }
    }
}

#[async_trait]
impl Checker for Tries {
    async fn check(&self, target: &Target, probe: &Probe) -> Outcome {
        let tried = self.known().get(&target.instance.id).cloned();
        let Some(tried) = tried else { return Outcome::unknown("the endpoint is gone") };
        let began = std::time::Instant::now();
        let mut outcome = self.tries(&tried, target, probe).await;
        outcome.latency = began.elapsed();
        outcome
    }
}

impl Tries {
    async fn tries(&self, tried: &Tried, target: &Target, probe: &Probe) -> Outcome {
        let Some(named) = &tried.endpoint.named else {
            let Some(address) = tried.endpoint.address.socket() else {
                return Outcome::unknown("the endpoint has no address");
            };
            return self.at(tried, address, target, probe).await;
        };
        let tries = named.tries(self.shared.now());
        let mut outcome = Outcome::fail("nobody knows its address");
        let mut probe = probe.clone();
        probe.timeout = share(probe.timeout, tries.len());
        for one in tries {
            outcome = self.at(tried, one.address, target, &probe).await;
            if outcome.verdict == Verdict::Pass {
                one.reached();
                break;
            }
            one.failed(self.shared.now());
        }
        outcome
    }
}

/// The time of each of so many tries.
fn share(time: Duration, tries: usize) -> Duration {
    time / u32::try_from(tries).unwrap_or(1).max(1)
}
