//! What bounds a gateway: sizes, numbers and times, each with a default that holds for the open internet.

use std::time::Duration;

use ews_core::time::duration;
use serde::{Deserialize, Serialize};

/// Bounds of requests and connections.
///
/// ```
/// use ews_route::{GatewayConfig, RequestLimits};
///
/// let limits = RequestLimits::default().with_body_bytes(10 << 20).with_connections_per_client(200);
/// GatewayConfig::default().with_limits(limits).check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RequestLimits {
    /// The largest request head, in bytes, 1 KiB to 256 KiB. Beyond: 431. Default 32 KiB (nginx: 4 × 8 KiB; HAProxy 16 KiB;
    /// Envoy 60 KiB).
    pub head_bytes: usize,
    /// The most headers of a request, 1 to 100. Beyond: 431. Default 100 (Envoy's; HAProxy 101).
    pub headers: usize,
    /// The largest request body, in bytes, from 0; beyond: 413. Default unlimited (as HAProxy and Envoy; nginx 1 MiB).
    pub body_bytes: Option<u64>,
    /// The most client connections of one thread, 1 to 10,000,000; beyond, new ones wait in the kernel's queue. Default 16,384 (HAProxy
    /// derives it from the limit of open files; nginx 512). Each may have
    /// one upstream connection, so it bounds these too: both together must stay below the process's limit of open files.
    pub connections: usize,
    /// The most connections of one client, over all threads: one IPv4 address, or the first 64 bits of an IPv6 one. Beyond, new
    /// ones are closed. Proxies that are [believed](crate::Forwarding::trusted) have as many as they want. 1 to 10,000,000. Default:
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

impl RequestLimits {
    /// With heads of so many bytes at most.
    #[must_use]
    pub fn with_head_bytes(mut self, head_bytes: usize) -> Self {
        self.head_bytes = head_bytes;
        self
    }

    /// With so many headers at most.
    #[must_use]
    pub fn with_headers(mut self, headers: usize) -> Self {
        self.headers = headers;
        self
    }

    /// With bodies of so many bytes at most.
    #[must_use]
    pub fn with_body_bytes(mut self, body_bytes: u64) -> Self {
        self.body_bytes = Some(body_bytes);
        self
    }

    /// With so many client connections of one thread at most.
    #[must_use]
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// With so many connections of one client at most.
    #[must_use]
    pub fn with_connections_per_client(mut self, connections_per_client: u32) -> Self {
        self.connections_per_client = Some(connections_per_client);
        self
    }

    /// With so many handshakes of TLS per second of one client at most.
    #[must_use]
    pub fn with_handshakes_per_client(mut self, handshakes_per_client: u32) -> Self {
        self.handshakes_per_client = Some(handshakes_per_client);
        self
    }

    /// With bodies that come at so many bytes per second at least.
    #[must_use]
    pub fn with_body_rate(mut self, body_rate: u32) -> Self {
        self.body_rate = body_rate;
        self
    }

    /// With answers that are taken at so many bytes per second at least.
    #[must_use]
    pub fn with_response_rate(mut self, response_rate: u32) -> Self {
        self.response_rate = response_rate;
        self
    }

    /// With so many certificates in memory at most.
    #[must_use]
    pub fn with_certificates(mut self, certificates: usize) -> Self {
        self.certificates = certificates;
        self
    }
}

/// How long what may take. Each is 1 ms to a day; they are checked in steps of 100 ms.
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

impl Timeouts {
    /// With so much time for a TLS handshake.
    #[must_use]
    pub fn with_handshake(mut self, handshake: Duration) -> Self {
        self.handshake = handshake;
        self
    }

    /// With so much time from a head's first byte to its last.
    #[must_use]
    pub fn with_head(mut self, head: Duration) -> Self {
        self.head = head;
        self
    }

    /// Waiting so long for the next request of a connection.
    #[must_use]
    pub fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// With so much time for a connection to an endpoint.
    #[must_use]
    pub fn with_connect(mut self, connect: Duration) -> Self {
        self.connect = connect;
        self
    }

    /// Waiting so long for a response to begin.
    #[must_use]
    pub fn with_response(mut self, response: Duration) -> Self {
        self.response = response;
        self
    }

    /// With so much time in which a body may make no progress.
    #[must_use]
    pub fn with_stall(mut self, stall: Duration) -> Self {
        self.stall = stall;
        self
    }

    /// With so much time in which nothing may move after an upgrade.
    #[must_use]
    pub fn with_tunnel(mut self, tunnel: Duration) -> Self {
        self.tunnel = tunnel;
        self
    }
}

/// How upstream connections are kept and attempts repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct UpstreamConfig {
    /// The most idle connections to one endpoint that a thread keeps, 0 to 65,536. Default 256, a choice of ours (nginx keeps none unless
    /// told, and 32 for each worker in its examples).
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
    /// pool is never taken out. 1 ms to 30 s. Default 1 s, a choice of ours.
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

impl UpstreamConfig {
    /// Keeping so many idle connections to one endpoint in each thread.
    #[must_use]
    pub fn with_idle_connections(mut self, idle_connections: usize) -> Self {
        self.idle_connections = idle_connections;
        self
    }

    /// Keeping an idle connection so long.
    #[must_use]
    pub fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Trying so many endpoints.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sending at most this share of requests a second time.
    #[must_use]
    pub fn with_retry_percent(mut self, retry_percent: u32) -> Self {
        self.retry_percent = retry_percent;
        self
    }

    /// With an endpoint that can't be connected to getting nothing so long.
    #[must_use]
    pub fn with_eject(mut self, eject: Duration) -> Self {
        self.eject = eject;
        self
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
    /// From one sample to the next; 10 ms to 1 min. Default 1 s, a choice of ours: a canary of a minute has sixty.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// How many samples of a series are kept, 2 to 100,000. Default 900: 15 minutes.
    pub samples: usize,
    /// Of histograms, only every so many-th sample is taken, since one is 50 times as large as a number. 1 to 1,000. Default 5.
    pub histogram_every: usize,
    /// The most series, 1 to 1,000,000. What is beyond is not sampled, and answers say how many series that was. Default 10,000.
    pub series: usize,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), samples: 900, histogram_every: 5, series: 10_000 }
    }
}

impl SampleConfig {
    /// With so much time from one sample to the next.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Keeping so many samples of a series.
    #[must_use]
    pub fn with_samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// With every so many-th sample of histograms.
    #[must_use]
    pub fn with_histogram_every(mut self, histogram_every: usize) -> Self {
        self.histogram_every = histogram_every;
        self
    }

    /// With so many series at most.
    #[must_use]
    pub fn with_series(mut self, series: usize) -> Self {
        self.series = series;
        self
    }
}
