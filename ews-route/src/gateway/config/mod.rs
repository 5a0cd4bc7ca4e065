//! What a gateway may be told, each with a default that holds for the open internet.

mod bounds;

use std::net::SocketAddr;
use std::time::Duration;

use ews_core::balancer::{DomainName, Limits, Network};
use ews_core::id::GatewayId;
use ews_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

pub use bounds::{NamesConfig, RequestLimits, SampleConfig, Timeouts, UpstreamConfig};

/// The configuration of a [`Gateway`](crate::Gateway).
///
/// ```
/// use ews_route::GatewayConfig;
///
/// let config = GatewayConfig::default().with_listen(["127.0.0.1:0".parse()?]).with_threads(1);
/// assert!(config.check().is_ok());
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GatewayConfig {
    /// Its name in views, events and labels, and in its store. Gateways that one controller moves traffic at have names of their own.
    /// Default `gateway`.
    pub name: String,
    /// Where it listens for HTTP/1.1, and for HTTP/2 without TLS where the feature `http2` is on; port 0 takes a free one, and one that
    /// another process or gateway has is refused. At most 64. Default: nowhere.
    pub listen: Vec<SocketAddr>,
    /// Where it listens for HTTP within TLS; port 0 takes a free one. At most 64. It takes the feature `tls`. Default: nowhere.
    pub listen_tls: Vec<SocketAddr>,
    /// Where it listens for TCP, and which domain decides what becomes of it. At most 64. Default: nowhere.
    pub listen_tcp: Vec<TcpListen>,
    /// How many data threads; 1 to [`GatewayConfig::MAX_THREADS`]. Default: one per core that this process may use (nginx' `worker_processes auto`).
    pub threads: Option<usize>,
    /// How new connections reach the threads. Default: as is best on this system.
    pub accept: Accept,
    /// Bounds of requests.
    pub limits: RequestLimits,
    /// How long what may take.
    pub timeouts: Timeouts,
    /// How upstream connections are kept and attempts repeated.
    pub upstream: UpstreamConfig,
    /// How names of endpoints are looked up.
    pub names: NamesConfig,
    /// How signals are sampled.
    pub metrics: SampleConfig,
    /// Who is believed about whom a request is from, and what endpoints are told.
    pub forwarding: Forwarding,
}

/// An address where TCP connections are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TcpListen {
    /// Where; port 0 takes a free one.
    pub address: SocketAddr,
    /// The domain whose routes and policy hold for its connections. The rule for `/` says which pools get them; these speak
    /// `tcp`.
    pub host: DomainName,
    /// Whether TLS ends here, with the certificate that the client's SNI asks for. It takes the feature `tls`. Default false:
    /// what comes is passed on as it is.
    #[serde(default)]
    pub tls: bool,
}

impl TcpListen {
    /// Connections at this address go where this domain says.
    pub fn new(address: SocketAddr, host: DomainName) -> Self {
        Self { address, host, tls: false }
    }

    /// With TLS ending here, or not.
    #[must_use]
    pub fn with_tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }
}

/// Who is believed about whom a request is from, and what endpoints are told.
///
/// Endpoints get `X-Forwarded-For`, `-Proto` and `-Host` in any case. Where a client is not believed, as by default, what it
/// says there is replaced, as Caddy and Traefik do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Forwarding {
    /// Proxies before this gateway. What they say of their clients is believed and passed on; the client is the last of their
    /// list that is none of them, and rates, lists of networks, hashes and the access log go by it. At most 1,000. Default:
    /// none.
    pub trusted: Vec<Network>,
    /// Where those proxies say it. A header that they do not set themselves must not be read: clients would. Default:
    /// `X-Forwarded-For` and `X-Forwarded-Proto`, which nearly all of them set.
    pub read: ForwardedBy,
    /// Peers whose connections begin with the PROXY protocol, version 1 or 2. They must; from others it is refused as the bad
    /// request that it is. At most 1,000. Default: none.
    pub proxy_protocol: Vec<Network>,
    /// Whether endpoints also get `Forwarded` (RFC 7239). Default false: few read it.
    pub send_forwarded: bool,
    /// Whether requests without a `traceparent` (W3C trace context) get a new one. One that is there is passed on in any case,
    /// and stands in the access log as `trace_id`. Default false.
    pub trace_context: bool,
}

/// Where a proxy says whom it speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ForwardedBy {
    /// In `X-Forwarded-For` and `X-Forwarded-Proto`.
    #[default]
    XForwardedFor,
    /// In `Forwarded` (RFC 7239).
    Forwarded,
}

impl Forwarding {
    /// Believing proxies of these networks.
    #[must_use]
    pub fn with_trusted(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.trusted = networks.into_iter().collect();
        self
    }

    /// With what they say read there.
    #[must_use]
    pub fn with_read(mut self, read: ForwardedBy) -> Self {
        self.read = read;
        self
    }

    /// With the PROXY protocol before all that peers of these networks send.
    #[must_use]
    pub fn with_proxy_protocol(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.proxy_protocol = networks.into_iter().collect();
        self
    }

    /// Sending `Forwarded` too, or not.
    #[must_use]
    pub fn with_send_forwarded(mut self, sends: bool) -> Self {
        self.send_forwarded = sends;
        self
    }

    /// Giving requests a trace context, or not.
    #[must_use]
    pub fn with_trace_context(mut self, gives: bool) -> Self {
        self.trace_context = gives;
        self
    }
}

/// How new connections reach the data threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Accept {
    /// A listener for each thread on Linux, else dealt out.
    #[default]
    Auto,
    /// One listener, whose connections are dealt out to the thread that has the fewest.
    Deal,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            name: "gateway".to_owned(),
            listen: Vec::new(),
            listen_tls: Vec::new(),
            listen_tcp: Vec::new(),
            threads: None,
            accept: Accept::default(),
            limits: RequestLimits::default(),
            timeouts: Timeouts::default(),
            upstream: UpstreamConfig::default(),
            names: NamesConfig::default(),
            metrics: SampleConfig::default(),
            forwarding: Forwarding::default(),
        }
    }
}

impl GatewayConfig {
    /// The most data threads.
    pub const MAX_THREADS: usize = 1024;

    /// Under this name.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Listening at these addresses.
    #[must_use]
    pub fn with_listen(mut self, listen: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.listen = listen.into_iter().collect();
        self
    }

    /// Listening for TLS at these addresses.
    #[must_use]
    pub fn with_listen_tls(mut self, listen: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.listen_tls = listen.into_iter().collect();
        self
    }

    /// Listening for TCP so.
    #[must_use]
    pub fn with_listen_tcp(mut self, listen: impl IntoIterator<Item = TcpListen>) -> Self {
        self.listen_tcp = listen.into_iter().collect();
        self
    }

    /// With so many data threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// With new connections reaching the threads so.
    #[must_use]
    pub fn with_accept(mut self, accept: Accept) -> Self {
        self.accept = accept;
        self
    }

    /// With these bounds.
    #[must_use]
    pub fn with_limits(mut self, limits: RequestLimits) -> Self {
        self.limits = limits;
        self
    }

    /// With these times.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// With upstream connections and attempts so.
    #[must_use]
    pub fn with_upstream(mut self, upstream: UpstreamConfig) -> Self {
        self.upstream = upstream;
        self
    }

    /// With names of endpoints looked up so.
    #[must_use]
    pub fn with_names(mut self, names: NamesConfig) -> Self {
        self.names = names;
        self
    }

    /// Sampled so.
    #[must_use]
    pub fn with_metrics(mut self, metrics: SampleConfig) -> Self {
        self.metrics = metrics;
        self
    }

    /// Believing and telling so.
    #[must_use]
    pub fn with_forwarding(mut self, forwarding: Forwarding) -> Self {
        self.forwarding = forwarding;
        self
    }

    /// Whether it can be used.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted.
    pub fn check(&self) -> Result<()> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        GatewayId::new(&self.name).map_err(|error| error.with_context("field", "name"))?;
        at_most("listen", self.listen.len(), 64)?;
        at_most("listen_tls", self.listen_tls.len(), 64)?;
        at_most("listen_tcp", self.listen_tcp.len(), 64)?;
        let ends_tls = self.listen_tcp.iter().any(|listener| listener.tls);
        for (field, is_used) in [("listen_tls", !self.listen_tls.is_empty()), ("listen_tcp", ends_tls)] {
            if !cfg!(feature = "tls") && is_used {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "an address for TLS, and this gateway is built without it; accepted: none, or one with ews-route's feature `tls`",
                )
                .with_context("field", field));
            }
        }
        at_most("forwarding.trusted", self.forwarding.trusted.len(), 1_000)?;
        at_most("forwarding.proxy_protocol", self.forwarding.proxy_protocol.len(), 1_000)?;
        between("limits.certificates", self.limits.certificates, 1, 1_000_000)?;
        between("threads", self.threads.unwrap_or(1), 1, Self::MAX_THREADS)?;
        between("limits.head_bytes", self.limits.head_bytes, 1024, 256 * 1024)?;
        between("limits.headers", self.limits.headers, 1, 100)?;
        between("limits.connections", self.limits.connections, 1, 10_000_000)?;
        let per_client = |limit: Option<u32>| limit.map_or(1, |limit| limit as usize);
        let (at_once, hands) = (self.limits.connections_per_client, self.limits.handshakes_per_client);
        between("limits.connections_per_client", per_client(at_once), 1, 10_000_000)?;
        between("limits.handshakes_per_client", per_client(hands), 1, 1_000_000)?;
        between("limits.body_rate", self.limits.body_rate as usize, 0, 1_000_000)?;
        between("limits.response_rate", self.limits.response_rate as usize, 0, 1_000_000)?;
        between("upstream.idle_connections", self.upstream.idle_connections, 0, 65_536)?;
        between("upstream.attempts", self.upstream.attempts as usize, 1, 10)?;
        between("upstream.retry_percent", self.upstream.retry_percent as usize, 0, 100)?;
        between("names.most", self.names.most, 1, 100_000)?;
        between("metrics.samples", self.metrics.samples, 2, 100_000)?;
        between("metrics.histogram_every", self.metrics.histogram_every, 1, 1_000)?;
        between("metrics.series", self.metrics.series, 1, 1_000_000)?;
        let (t, u, tick) = (&self.timeouts, &self.upstream, Duration::from_millis(1));
        for (field, value, least, most) in [
            ("timeouts.handshake", t.handshake, tick, DAY),
            ("timeouts.head", t.head, tick, DAY),
            ("timeouts.idle", t.idle, tick, DAY),
            ("timeouts.connect", t.connect, tick, DAY),
            ("timeouts.response", t.response, tick, DAY),
            ("timeouts.stall", t.stall, tick, DAY),
            ("timeouts.tunnel", t.tunnel, tick, DAY),
            ("upstream.idle", u.idle, tick, DAY),
            ("upstream.eject", u.eject, tick, Duration::from_secs(30)),
            ("names.refresh", self.names.refresh, tick * 10, DAY),
            ("names.timeout", self.names.timeout, tick * 10, DAY),
            ("metrics.interval", self.metrics.interval, tick * 10, Duration::from_secs(60)),
        ] {
            if value < least || value > most {
                let message = format!("`{field}` is {value:?}; accepted: {least:?} to {most:?}");
                return Err(Error::invalid(message).with_context("field", field));
            }
        }
        Ok(())
    }

    /// How much its table holds; the contract's defaults.
    pub(crate) fn table_limits() -> Limits {
        Limits::default()
    }
}

fn between(field: &'static str, value: usize, least: usize, most: usize) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let message = format!("`{field}` is {value}; accepted: {least} to {most}");
    Err(Error::invalid(message).with_context("field", field))
}

/// How many entries a list may have.
fn at_most(field: &'static str, entries: usize, most: usize) -> Result<()> {
    if entries <= most {
        return Ok(());
    }
    let message = format!("`{field}` has {entries} entries; accepted: at most {most}");
    Err(Error::invalid(message).with_context("field", field))
}
