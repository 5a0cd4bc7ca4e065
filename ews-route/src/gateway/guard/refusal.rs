//! Why the guard refuses a request.

use hyper::StatusCode;

/// Why a request was refused before it was parsed. The text is a metric's label, so the set is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// A line that ends without CR, or a CR that ends no line.
    BareLineEnd,
    /// The request line is not `method SP target SP HTTP/1.x`.
    RequestLine,
    /// A version other than 1.0 and 1.1.
    Version,
    /// `CONNECT`: this is no forward proxy.
    Connect,
    /// A target with bytes that no URI has, or an absolute one that contradicts `Host`.
    Target,
    /// A header without a name, with a bad byte in it, or with space before its colon.
    HeaderName,
    /// A control character in a value.
    HeaderValue,
    /// A header continued on the next line.
    Folding,
    /// More header bytes than accepted.
    HeadTooLarge,
    /// More headers than accepted.
    TooManyHeaders,
    /// `Host` is missing, repeated, or no host.
    Host,
    /// A length that is no plain number, or given twice.
    ContentLength,
    /// A transfer coding other than `chunked` alone, or one on HTTP/1.0.
    TransferEncoding,
    /// Both a length and a transfer coding.
    BothLengths,
    /// A name that some servers take for `Content-Length`, `Transfer-Encoding` or `Host`.
    Disguised,
    /// A chunk whose size or end is malformed.
    Chunk,
    /// Trailers that are malformed or too large.
    Trailer,
    /// The head did not arrive in time.
    HeadTimeout,
    /// A client has as many connections, or begins as many, as it may.
    Crowded,
    /// A body came too slowly.
    SlowBody,
    /// An answer was taken too slowly.
    SlowRead,
    /// A connection did not begin with the PROXY protocol as it was to.
    ProxyProtocol,
    /// No handshake of TLS came about.
    Handshake,
    /// The source is dropped: counted by connections.
    Blackhole,
}

impl Refusal {
    /// Every reason.
    pub(crate) const ALL: [Self; 24] = [
        Self::BareLineEnd,
        Self::RequestLine,
        Self::Version,
        Self::Connect,
        Self::Target,
        Self::HeaderName,
        Self::HeaderValue,
        Self::Folding,
        Self::HeadTooLarge,
        Self::TooManyHeaders,
        Self::Host,
        Self::ContentLength,
        Self::TransferEncoding,
        Self::BothLengths,
        Self::Disguised,
        Self::Chunk,
        Self::Trailer,
        Self::HeadTimeout,
        Self::Crowded,
        Self::SlowBody,
        Self::SlowRead,
        Self::ProxyProtocol,
        Self::Handshake,
        Self::Blackhole,
    ];

    /// The label's value.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BareLineEnd => "bare_line_end",
            Self::RequestLine => "request_line",
            Self::Version => "version",
            Self::Connect => "connect",
            Self::Target => "target",
            Self::HeaderName => "header_name",
            Self::HeaderValue => "header_value",
            Self::Folding => "folding",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::Host => "host",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::BothLengths => "both_lengths",
            Self::Disguised => "disguised",
            Self::Chunk => "chunk",
            Self::Trailer => "trailer",
            Self::HeadTimeout => "head_timeout",
            Self::Crowded => "crowded",
            Self::SlowBody => "slow_body",
            Self::SlowRead => "slow_read",
            Self::ProxyProtocol => "proxy_protocol",
            Self::Handshake => "handshake",
            Self::Blackhole => "blackhole",
        }
    }

    /// What the client is told.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Connect => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
