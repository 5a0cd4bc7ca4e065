//! What a gateway may be told, each with a default that holds for the open internet.

use std::net::SocketAddr;
use std::time::Duration;

use ews_core::balancer::{DomainName, Limits, Network};
use ews_core::id::GatewayId;
use ews_core::time::duration;
use ews_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

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
    /// Its name in views, events and labels. Default `gateway`.
    pub name: String,
    /// Where it listens for HTTP/1.1, and for HTTP/2 without TLS where the feature `http2` is on; port 0 takes a free one. At most 64. Default: nowhere.
    pub listen: Vec<SocketAddr>,
    /// Where it listens for HTTP within TLS; port 0 takes a free one. At most 64. It takes the feature `tls`. Default: nowhere.
    pub listen_tls: Vec<SocketAddr>,
    /// Where it listens for TCP, and which domain decides what becomes of it. At most 64. Default: nowhere.
    pub listen_tcp: Vec<TcpListen>,
    /// How many data threads. Default: one per core that this process may use (nginx' `worker_processes auto`).
    pub threads: Option<usize>,
    /// How new connections reach the threads.
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
    /// Where those proxies say it. A header that they do not set themselves must not be read: clients would.
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

/// Bounds of requests and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RequestLimits {
    /// The largest request head, in bytes, 1 KiB to 256 KiB. Beyond: 431. Default 32 KiB (nginx: 4 × 8 KiB; HAProxy 16 KiB;
    /// Envoy 60 KiB).
    pub head_bytes: usize,
    /// The most headers of a request, 1 to 100. Beyond: 431. Default 100 (Envoy's; HAProxy 101).
    pub headers: usize,
    /// The largest request body, in bytes; beyond: 413. Default unlimited (as HAProxy and Envoy; nginx 1 MiB).
    pub body_bytes: Option<u64>,
    /// The most client connections of one thread; beyond, new ones wait in the kernel's queue. Default 16,384. Each may have
    /// one upstream connection, so it bounds these too: both together must stay below the process's limit of open files.
    pub connections: usize,
    /// The most connections of one client, over all threads: one IPv4 address, or the first 64 bits of an IPv6 one. Beyond, new
    /// ones are closed. Proxies that are [believed](Forwarding::trusted) have as many as they want. 1 and more. Default:
    /// unlimited.
    pub connections_per_client: Option<u32>,
    /// The most handshakes of TLS per second of one client, for as many at once. Beyond, connections are closed before they
    /// cost anything. Not for proxies that are believed. 1 to 1,000,000. Default: unlimited.
    pub handshakes_per_client: Option<u32>,
    /// The least bytes per second at which a client may send a request's body, over 10 seconds of waiting for it. Slower ones
    /// are closed. 0 for none, at most 1,000,000. Default 240 (Kestrel's `MinRequestBodyDataRate`; Apache 500). Over HTTP/2 only
    /// until the answer begins, and not for gRPC, whose streams may be silent.
    pub body_rate: u32,
    /// The least bytes per second at which a client must take answers, as far as it is waited for. Slower ones are closed, once
    /// they owe 10 seconds' worth and as much as may lie in the buffers between. 0 for none, at most 1,000,000. Default 240
    /// (Kestrel's `MinResponseDataRate`; Windows' `http.sys` 150). Not after an upgrade.
    pub response_rate: u32,
    /// The most certificates that are kept in memory; of more, those that were not used for longest are loaded anew when they
    /// are asked for. 1 to 1,000,000. Default 10,000, at some 10 kB each.
    pub certificates: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            head_bytes: 32 * 1024,
            headers: 100,
            body_bytes: None,
            connections: 16_384,
            connections_per_client: None,
            handshakes_per_client: None,
            body_rate: 240,
            response_rate: 240,
            certificates: 10_000,
        }
    }
}

/// How long what may take. Each is above zero and at most a day; they are checked in steps of 100 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Timeouts {
    /// From a connection's begin to the end of its TLS handshake. Default 10 s (Go's and HAProxy's order; slow handshakes hold
    /// what fast ones free).
    #[serde(with = "duration")]
    pub handshake: Duration,
    /// From a head's first byte to its last. Then 408. Default 10 s (Caddy 1 min; nginx 60 s; slow-header attacks live by it).
    #[serde(with = "duration")]
    pub head: Duration,
    /// How long a connection may wait for its next request. Default 75 s (nginx' `keepalive_timeout`).
    #[serde(with = "duration")]
    pub idle: Duration,
    /// Until an upstream has accepted a connection. Default 1 s: it is in the same place (Envoy 5 s; nginx 60 s).
    #[serde(with = "duration")]
    pub connect: Duration,
    /// From the last byte of a request until its response begins. Then 504. Default 60 s (nginx' `proxy_read_timeout`).
    #[serde(with = "duration")]
    pub response: Duration,
    /// How long a body may make no progress at all, up or down. Default 60 s (nginx' `client_body_timeout`, `send_timeout`).
    #[serde(with = "duration")]
    pub stall: Duration,
    /// How long nothing may move after an upgrade, such as on a WebSocket. Default 1 hour (HAProxy's documentation for
    /// `timeout tunnel`; nginx closes after 60 s unless the two ping each other).
    #[serde(with = "duration")]
    pub tunnel: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            handshake: seconds(10),
            head: seconds(10),
            idle: seconds(75),
            connect: seconds(1),
            response: seconds(60),
            stall: seconds(60),
            tunnel: seconds(3600),
        }
    }
}

/// How upstream connections are kept and attempts repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct UpstreamConfig {
    /// The most idle connections to one endpoint that a thread keeps. Default 256.
    pub idle_connections: usize,
    /// How long an idle connection is kept. Default 60 s (nginx' upstream `keepalive_timeout`).
    #[serde(with = "duration")]
    pub idle: Duration,
    /// How many endpoints are tried for a request that was not sent, or may be sent again. 1 to 10. Default 3 (HAProxy's
    /// `retries`).
    pub attempts: u32,
    /// The share of requests that may be sent a second time, in percent, 0 to 100, beside a floor of 10 per second and
    /// thread. Default 20 (linkerd's and Envoy's budgets). Requests that were never sent are not counted.
    pub retry_percent: u32,
    /// How long an endpoint that can't be connected to gets nothing, the first time; it doubles up to 30 s. The last one of a
    /// pool is never taken out. Default 1 s.
    #[serde(with = "duration")]
    pub eject: Duration,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            idle_connections: 256,
            idle: Duration::from_secs(60),
            attempts: 3,
            retry_percent: 20,
            eject: Duration::from_secs(1),
        }
    }
}

/// How names of endpoints are looked up.
///
/// The last good answer holds until there is another one. A system's resolver says nothing of how long an answer holds, so that
/// it is asked at regular times; most answer from a cache that knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NamesConfig {
    /// From an answer to the next look, a tenth more or less; 10 ms to a day. One that failed is repeated after 0.5 s, then after
    /// twice as long each time up to this. Default 5 s (Envoy's `dns_refresh_rate`; HAProxy's `timeout resolve` 1 s).
    #[serde(with = "duration")]
    pub refresh: Duration,
    /// How long an answer is waited for; 10 ms to a day. At most 16 are waited for at once. Default 5 s (`timeout` in
    /// `resolv.conf`; HAProxy 1 s, three times).
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// The most names, each with a port; a change that brings more is refused. What goes in the same change is still counted.
    /// 1 to 100,000. Default 1,000 (Envoy's cache: 1,024). Of each name 64 addresses are used.
    pub most: usize,
}

impl Default for NamesConfig {
    fn default() -> Self {
        Self { refresh: Duration::from_secs(5), timeout: Duration::from_secs(5), most: 1_000 }
    }
}

impl NamesConfig {
    /// Looking again after so much time.
    #[must_use]
    pub fn with_refresh(mut self, refresh: Duration) -> Self {
        self.refresh = refresh;
        self
    }

    /// Waiting for an answer so long.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With so many names at most.
    #[must_use]
    pub fn with_most(mut self, most: usize) -> Self {
        self.most = most;
        self
    }
}

/// How signals are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SampleConfig {
    /// From one sample to the next; 10 ms to 1 min. Default 1 s.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// How many samples of a series are kept, 2 to 100,000. Default 900: 15 minutes.
    pub samples: usize,
    /// Of histograms, only every so many-th sample is taken, since one is 50 times as large as a number. 1 to 1,000. Default 5.
    pub histogram_every: usize,
    /// The most series. What is beyond is not sampled, and answers say how many series that was. Default 10,000.
    pub series: usize,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), samples: 900, histogram_every: 5, series: 10_000 }
    }
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
        between("listen (how many)", self.listen.len(), 0, 64)?;
        between("listen_tls (how many)", self.listen_tls.len(), 0, 64)?;
        between("listen_tcp (how many)", self.listen_tcp.len(), 0, 64)?;
        let has_tls = !self.listen_tls.is_empty() || self.listen_tcp.iter().any(|listener| listener.tls);
        if !cfg!(feature = "tls") && has_tls {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "an address for TLS, and this gateway is built without it (ews-route's feature `tls`)",
            )
            .with_context("field", "listen_tls, listen_tcp"));
        }
        between("forwarding.trusted (how many)", self.forwarding.trusted.len(), 0, 1_000)?;
        between("forwarding.proxy_protocol (how many)", self.forwarding.proxy_protocol.len(), 0, 1_000)?;
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
                return Err(Error::invalid(format!("{value:?}; accepted: {least:?} to {most:?}"))
                    .with_context("field", field));
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
    Err(Error::invalid(format!("{value}; accepted: {least} to {most}")).with_context("field", field))
}
