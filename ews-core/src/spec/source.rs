//! What runs: an image or an artifact, and the digests that pin it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::text_serde;
use crate::error::{Error, Result};
use crate::time::Shown;

/// What an instance is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// A container image.
    Image(ImageSource),
    /// A directory, an archive or a binary, run without an image.
    Artifact(ArtifactSource),
}

/// An image and how it is brought to the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ImageSource {
    /// Which image.
    pub reference: ImageRef,
    /// The exact content, once resolved. A revision always has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<ImagePin>,
    /// When it is pulled. Default: if missing.
    #[serde(default)]
    pub pull: PullPolicy,
}

impl ImageSource {
    /// This image, pulled if missing. A reference with a digest is pinned by it.
    pub fn new(reference: ImageRef) -> Self {
        let pin = reference.digest().map(ImagePin::Manifest);
        Self { reference, pin, pull: PullPolicy::default() }
    }

    /// Pulled in this way.
    #[must_use]
    pub fn with_pull(mut self, pull: PullPolicy) -> Self {
        self.pull = pull;
        self
    }
}

/// The exact content of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ImagePin {
    /// A manifest or an index in a registry.
    Manifest(Digest),
    /// An image that was built or committed on one engine and never pushed: only that engine has it.
    Local {
        /// The engine's own id.
        engine: String,
        /// The image's id there: the digest of its config.
        image_id: Digest,
    },
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PullPolicy {
    /// Only where the node lacks it.
    #[default]
    IfMissing,
    /// Always ask the registry whether the tag moved.
    Always,
    /// Never: it must be there.
    Never,
}

/// A directory, an archive or a binary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ArtifactSource {
    /// Where it is: a path on the node, or an `https://` address.
    pub location: String,
    /// Its content, checked before use. Required for an address; a directory has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl ArtifactSource {
    /// The artifact at this place.
    pub fn new(location: impl Into<String>) -> Self {
        Self { location: location.into(), digest: None }
    }

    /// With this content.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }
}

/// A content digest: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The SHA-256 digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hmac_sha256::Hash::hash(bytes))
    }

    /// From the raw 32 bytes of a SHA-256.
    pub const fn from_sha256(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first twelve hexadecimal digits, for people and names.
    pub fn short(&self) -> String {
        self.to_string().get(7..19).unwrap_or_default().to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let digits = text.strip_prefix("sha256:").unwrap_or(text);
            let hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let fault = match digits.len() {
                64 if hex && digits == text => ": `sha256:` in front is missing".to_owned(),
                count if hex && count != 64 => format!(": {count} digits are given"),
                _ => String::new(),
            };
            Error::invalid(format!(
                "`{}` is not a digest{fault}; accepted: `sha256:` and 64 lower-case hexadecimal digits, as `sha256sum` prints \
                 them",
                Shown(text)
            ))
        };
        let hex = text.strip_prefix("sha256:").ok_or_else(wrong)?;
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// The name of an image: `registry.example:5000/shop/web:1.2@sha256:…`.
///
/// It is read by Docker's rule: the first component is a registry if it holds a `.` or a `:` or is `localhost`; else the
/// registry is `docker.io`, and a name of one component lies under `library/` there. Without tag and digest, the tag is
/// `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageRef {
    /// The registry's host and port, such as `docker.io`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry, such as `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, where one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one was given.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same name pinned to this content.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// The same repository under another tag, without a digest.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for what is not a tag.
    pub fn with_tag(mut self, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            return Err(Error::invalid(format!(
                "`{}` is not an image tag; accepted: 1 to 128 letters, digits, `_`, `.`, `-`, not starting with `.` or `-`",
                Shown(tag)
            )));
        }
        self.tag = Some(tag.to_owned());
        self.digest = None;
        Ok(self)
    }
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&text.len())
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn is_component(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase();
    text.starts_with(plain)
        && text.ends_with(plain)
        && !text.contains("..")
        && !text.contains("___")
        && text.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-'))
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 host stands in brackets.
        Some((host, port)) if !host.contains(':') || host.starts_with('[') => (host, Some(port)),
        _ => (text, None),
    };
    let host_good = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.len() <= 253
                && host.split('.').all(|part| {
                    let plain = |c: char| c.is_ascii_alphanumeric();
                    part.starts_with(plain)
                        && part.ends_with(plain)
                        && part.chars().all(|c| plain(c) || c == '-')
                })
        }
    };
    host_good
        && port.is_none_or(|p| {
            !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok()
        })
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.contains("://") {
            // It is not repeated: an address may hold a user and a password.
            return Err(Error::invalid(
                "this is an address (not shown, it may hold a password), and an image name has no `…://` in front; accepted: \
                 `[registry/]repository[:tag][@sha256:…]`, such as `registry.example:5000/shop/web:1.2`",
            ));
        }
        let wrong = |fault: &str| {
            Error::invalid(format!(
                "`{}` is not an image name: {fault}; accepted: `[registry/]repository[:tag][@sha256:…]`, such as \
                 `registry.example:5000/shop/web:1.2`",
                Shown(text)
            ))
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(digest.parse().map_err(|_| wrong("the digest after `@` is wrong"))?))
            }
            None => (text, None),
        };
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(wrong("the tag after `:` is wrong"));
        }
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest.to_owned())
            }
            Some(_) => ("docker.io", path.to_owned()),
            None => ("docker.io", format!("library/{path}")),
        };
        if !is_registry(registry) {
            return Err(wrong("the registry is not `host` or `host:port`"));
        }
        if path.is_empty() || repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(wrong(
                "the repository is not made of lower-case letters, digits and single `.`, `_`, `-` between them",
            ));
        }
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

text_serde!(Digest, ImageRef);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_read_by_dockers_rule() {
        let digest = Digest::of(b"x");
        for (text, registry, repository, tag) in [
            ("nginx", "docker.io", "library/nginx", None),
            ("shop/web:1.2", "docker.io", "shop/web", Some("1.2")),
            ("localhost/web", "localhost", "web", None),
            ("localhost:5000/web:a", "localhost:5000", "web", Some("a")),
            ("registry.example:5000/a/b/c", "registry.example:5000", "a/b/c", None),
            ("[::1]:5000/a", "[::1]:5000", "a", None),
        ] {
            let image: ImageRef = text.parse().unwrap();
            assert_eq!(
                (image.registry(), image.repository(), image.tag()),
                (registry, repository, tag),
                "{text}"
            );
            assert_eq!(image.to_string().parse::<ImageRef>().unwrap(), image, "{text}");
            let pinned = image.with_digest(digest);
            assert_eq!(pinned.to_string().parse::<ImageRef>().unwrap().digest(), Some(digest));
        }
    }

    #[test]
    fn wrong_image_names_are_refused() {
        for text in [
            "",
            "Nginx",
            "a//b",
            "../x",
            "a/../b",
            "a:",
            "a:b:c",
            "a@sha256:12",
            "a b",
            "-a",
            "host:99999/x",
            "a/",
            "a\n",
            "http://x.example/y",
            "a:.x",
        ] {
            assert!(text.parse::<ImageRef>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_address_is_refused_without_repeating_its_password() {
        let error = "https://user:hunter2@registry.example/x".parse::<ImageRef>().unwrap_err();
        assert!(error.message().contains("an address") && !error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn a_known_digest() {
        assert_eq!(
            Digest::of(b"abc").to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(
            "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"
                .parse::<Digest>()
                .is_err()
        );
    }
}
