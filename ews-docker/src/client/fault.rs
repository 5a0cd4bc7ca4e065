//! What an engine's refusals mean, in the one place that says so.
//!
//! An engine's status alone says little: 500 is a port that is taken, a full disk or a defect; 409 is a name that is taken or a
//! container that does not run. So the text is looked at too. The words below are Docker's of 20.10 to 29 and podman's; what none of
//! them fits falls back to the status. The engine's own words always travel along as the error's detail.

use ews_core::{Error, ErrorKind};

/// What a call was about, for the status 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Container,
    Image,
    Exec,
    Network,
    Volume,
    Path,
    Engine,
}

impl Subject {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "instance",
            Self::Image => "image",
            Self::Exec => "exec session",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Path => "path in the instance",
            Self::Engine => "object of the engine",
        }
    }
}

/// What the words say, where they say anything. Lower case; the first that is found counts, so the particular stands before the general.
const WORDS: [(&str, ErrorKind); 64] = [
    ("is already in use by container", ErrorKind::AlreadyExists),
    ("name is already in use", ErrorKind::AlreadyExists),
    ("is already in progress", ErrorKind::Busy),
    ("cannot remove a running container", ErrorKind::Busy),
    ("you cannot remove a running", ErrorKind::Busy),
    ("cannot remove container", ErrorKind::Busy),
    ("container is running", ErrorKind::Busy),
    ("does not support commit of a running container", ErrorKind::Busy),
    ("is marked for removal", ErrorKind::Busy),
    ("is being removed", ErrorKind::Busy),
    ("is not running", ErrorKind::Busy),
    ("is restarting, wait until", ErrorKind::Busy),
    ("is paused", ErrorKind::Busy),
    ("has active endpoints", ErrorKind::Busy),
    ("volume is in use", ErrorKind::Busy),
    ("image is being used", ErrorKind::Busy),
    ("image is in use", ErrorKind::Busy),
    ("must be forced", ErrorKind::Busy),
    ("can only create exec sessions on running", ErrorKind::Busy),
    ("container state improper", ErrorKind::Busy),
    ("no space left on device", ErrorKind::OutOfResources),
    ("not enough space on the disk", ErrorKind::OutOfResources),
    ("disk quota exceeded", ErrorKind::OutOfResources),
    ("cannot allocate memory", ErrorKind::OutOfResources),
    ("too many open files", ErrorKind::OutOfResources),
    ("port is already allocated", ErrorKind::PortInUse),
    ("ports are not available", ErrorKind::PortInUse),
    ("address already in use", ErrorKind::PortInUse),
    ("only one usage of each socket address", ErrorKind::PortInUse),
    ("toomanyrequests", ErrorKind::Unavailable),
    ("too many requests", ErrorKind::Unavailable),
    ("pull access denied", ErrorKind::ImageDenied),
    ("requested access to the resource is denied", ErrorKind::ImageDenied),
    ("no basic auth credentials", ErrorKind::ImageDenied),
    ("authentication required", ErrorKind::ImageDenied),
    ("unauthorized: ", ErrorKind::ImageDenied),
    ("incorrect username or password", ErrorKind::ImageDenied),
    ("denied: ", ErrorKind::ImageDenied),
    ("manifest unknown", ErrorKind::ImageMissing),
    ("name unknown", ErrorKind::ImageMissing),
    ("manifest not found", ErrorKind::ImageMissing),
    ("failed to resolve reference", ErrorKind::ImageMissing),
    ("no such image", ErrorKind::ImageMissing),
    ("image not known", ErrorKind::ImageMissing),
    ("no matching manifest for", ErrorKind::ImageIncompatible),
    ("no match for platform in", ErrorKind::ImageIncompatible),
    ("was found but does not", ErrorKind::ImageIncompatible),
    ("was found but its platform", ErrorKind::ImageIncompatible),
    ("does not match the specified platform", ErrorKind::ImageIncompatible),
    ("does not match the detected host platform", ErrorKind::ImageIncompatible),
    ("image operating system", ErrorKind::ImageIncompatible),
    ("cannot be used on this platform", ErrorKind::ImageIncompatible),
    ("0xc0370101", ErrorKind::ImageIncompatible),
    ("container operating system does not match", ErrorKind::ImageIncompatible),
    ("update out of sequence", ErrorKind::Stale),
    ("client.timeout exceeded", ErrorKind::Unavailable),
    ("net/http: request canceled", ErrorKind::Unavailable),
    ("i/o timeout", ErrorKind::Unavailable),
    ("connection refused", ErrorKind::Unavailable),
    ("connection reset by peer", ErrorKind::Unavailable),
    ("no such host", ErrorKind::Unavailable),
    ("server misbehaving", ErrorKind::Unavailable),
    ("tls handshake timeout", ErrorKind::Unavailable),
    ("context deadline exceeded", ErrorKind::Timeout),
];

/// The kind of an error that an engine gave in words alone, such as within a stream of progress; `None` where the words say nothing.
pub(crate) fn kind_of(words: &str) -> Option<ErrorKind> {
    let words = words.to_ascii_lowercase();
    WORDS.iter().find(|(word, _)| words.contains(word)).map(|(_, kind)| *kind)
}

/// The error of an answer with this status and these words, to a call that may have changed something or not.
pub(crate) fn refused(status: u16, words: &str, subject: Subject, mutates: bool) -> Error {
    let words = words.trim();
    // Go's server to whoever talks plainly to a port of TLS: no engine has seen the request.
    if status == 400 && words.contains("HTTP request to an HTTPS server") {
        return Error::invalid(
            "this port wants TLS: give certificates (`DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH`, a context, or `TlsFiles`)",
        )
        .with_context("status", status)
        .with_detail(words);
    }
    use ErrorKind as K;
    let missing = || if subject == Subject::Image { ErrorKind::ImageMissing } else { ErrorKind::NotFound };
    let kind = match (status, kind_of(words)) {
        // "No such container" must stay not-found, whatever else is quoted.
        (404, Some(kind @ (K::ImageMissing | K::ImageDenied | K::ImageIncompatible)))
            if subject == Subject::Image =>
        {
            kind
        }
        // A creation of a newer engine finds out at once that a network is gone; it is the image that such a call asks for else.
        (404, _) if words.starts_with("network ") || words.contains("No such network") => K::NotFound,
        (404, _) => missing(),
        (_, Some(kind)) => kind,
        (304, None) => ErrorKind::Busy,
        (400, None) => ErrorKind::Invalid,
        (401 | 403, None) => ErrorKind::Unauthorized,
        (405 | 501, None) => ErrorKind::Unsupported,
        (409, None) => ErrorKind::Busy,
        (429 | 502 | 503, None) => ErrorKind::Unavailable,
        (408 | 504, None) => ErrorKind::Timeout,
        _ => ErrorKind::Internal,
    };
    let message = match kind {
        ErrorKind::NotFound | ErrorKind::ImageMissing => format!("the engine has no such {}", subject.as_str()),
        ErrorKind::AlreadyExists => "an object of this name exists already".to_owned(),
        ErrorKind::Busy => format!("the state of the {} forbids it now", subject.as_str()),
        ErrorKind::Invalid => "the engine refuses the request as wrong".to_owned(),
        ErrorKind::PortInUse => "a port that is to be published is taken".to_owned(),
        ErrorKind::OutOfResources => "the engine has run out of space, memory or files".to_owned(),
        ErrorKind::ImageDenied => {
            "the registry refuses the image to these credentials, or has no such repository; `docker login` or give credentials"
                .to_owned()
        }
        ErrorKind::ImageIncompatible => "the image is not for this node's platform".to_owned(),
        ErrorKind::Unavailable => "the engine, or the registry it asked, can't serve now".to_owned(),
        ErrorKind::Timeout => "the engine ran into a deadline of its own".to_owned(),
        ErrorKind::Unauthorized => "the engine refuses us".to_owned(),
        _ => format!("the engine answers with status {status}"),
    };
    let error = Error::new(kind, message).with_context("status", status);
    // An engine that failed midway says nothing of how far it came; one that says what was wrong has stopped there.
    let error = if mutates && midway(status, kind) { error.with_maybe_applied() } else { error };
    if words.is_empty() { error } else { error.with_detail(words) }
}

fn midway(status: u16, kind: ErrorKind) -> bool {
    status >= 500 && matches!(kind, ErrorKind::Internal | ErrorKind::Unavailable | ErrorKind::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words that real engines gave: Docker 20.10 and later, podman 4, Docker on Windows.
    #[test]
    fn words_of_engines_become_kinds() {
        use ErrorKind as K;
        let golden = [
            (404, Subject::Container, "No such container: web", K::NotFound),
            (404, Subject::Image, "No such image: web:1", K::ImageMissing),
            (
                404,
                Subject::Image,
                "pull access denied for web, repository does not exist or may require 'docker login'",
                K::ImageDenied,
            ),
            (
                404,
                Subject::Image,
                "manifest for web:9 not found: manifest unknown: manifest unknown",
                K::ImageMissing,
            ),
            (404, Subject::Container, "network shop not found", K::NotFound),
            (404, Subject::Image, "network shop not found", K::NotFound),
            // Two engines of the containerd image store, and one before it.
            (404, Subject::Image, "no match for platform in manifest: not found", K::ImageIncompatible),
            (
                404,
                Subject::Image,
                "image with reference web:1 was found but does not provide the specified platform (linux/arm64)",
                K::ImageIncompatible,
            ),
            (
                404,
                Subject::Image,
                "image with reference web:1 was found but does not match the specified OS platform: wanted: windows, actual: linux",
                K::ImageIncompatible,
            ),
            (404, Subject::Path, "Could not find the file /x in container web", K::NotFound),
            (
                409,
                Subject::Container,
                "Conflict. The container name \"/web\" is already in use by container \"0a\". You have to remove (or rename) that container to be able to reuse that name.",
                K::AlreadyExists,
            ),
            (
                500,
                Subject::Container,
                "creating container storage: the container name \"web\" is already in use by 0a. You have to remove that container to be able to reuse that name: that name is already in use",
                K::AlreadyExists,
            ),
            (
                409,
                Subject::Container,
                "You cannot remove a running container 0a. Stop the container before attempting removal or force remove",
                K::Busy,
            ),
            (
                409,
                Subject::Container,
                "cannot remove container \"/web\": container is running: stop the container before removing or force remove",
                K::Busy,
            ),
            (409, Subject::Container, "removal of container 0a is already in progress", K::Busy),
            (500, Subject::Container, "windows does not support commit of a running container", K::Busy),
            (409, Subject::Container, "Container 0a is not running", K::Busy),
            (
                409,
                Subject::Container,
                "Container 0a is restarting, wait until the container is running",
                K::Busy,
            ),
            (
                500,
                Subject::Container,
                "cannot remove container 0a as it is running - running or paused containers cannot be removed without force: container state improper",
                K::Busy,
            ),
            (
                500,
                Subject::Container,
                "driver failed programming external connectivity on endpoint web (0a): Bind for 127.0.0.1:8080 failed: port is already allocated",
                K::PortInUse,
            ),
            (
                500,
                Subject::Container,
                "driver failed programming external connectivity on endpoint web (0a): Error starting userland proxy: listen tcp4 127.0.0.1:8080: bind: address already in use",
                K::PortInUse,
            ),
            (
                500,
                Subject::Container,
                "Ports are not available: exposing port TCP 0.0.0.0:80 -> 0.0.0.0:0: listen tcp 0.0.0.0:80: bind: An attempt was made to access a socket",
                K::PortInUse,
            ),
            (
                500,
                Subject::Container,
                "mkdir /var/lib/docker/overlay2/0a: no space left on device",
                K::OutOfResources,
            ),
            (
                500,
                Subject::Image,
                "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
                K::OutOfResources,
            ),
            (
                500,
                Subject::Image,
                "Get \"https://registry.invalid/v2/\": dial tcp: lookup registry.invalid: no such host",
                K::Unavailable,
            ),
            (
                500,
                Subject::Image,
                "Get \"https://h/v2/\": net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)",
                K::Unavailable,
            ),
            (
                500,
                Subject::Image,
                "Head \"https://h/v2/a/manifests/1\": no basic auth credentials",
                K::ImageDenied,
            ),
            (500, Subject::Image, "toomanyrequests: You have reached your pull rate limit.", K::Unavailable),
            (
                500,
                Subject::Image,
                "no matching manifest for linux/arm64/v8 in the manifest list entries",
                K::ImageIncompatible,
            ),
            (404, Subject::Engine, "page not found", K::NotFound),
            (400, Subject::Container, "invalid reference format", K::Invalid),
            (
                403,
                Subject::Network,
                "error while removing network: network shop id 0a has active endpoints",
                K::Busy,
            ),
            (403, Subject::Engine, "authorization denied by plugin x", K::Unauthorized),
            (500, Subject::Engine, "rpc error: code = Unknown desc = update out of sequence", K::Stale),
            (503, Subject::Engine, "This node is not a swarm manager.", K::Unavailable),
            (
                500,
                Subject::Container,
                "hcsshim::CreateComputeSystem 0a: (extra info: ...) 0xc0370101",
                K::ImageIncompatible,
            ),
            (500, Subject::Container, "something that nobody has seen", K::Internal),
        ];
        for (status, subject, words, kind) in golden {
            assert!(!refused(status, words, subject, false).maybe_applied(), "a question changes nothing");
            let error = refused(status, words, subject, true);
            assert_eq!(error.kind(), kind, "{status} {words}");
            assert_eq!(error.detail(), Some(words));
            assert_eq!(error.maybe_applied(), midway(status, kind), "{words}");
        }
    }
}
