//! Reading names: what a tag stands for, manifests, tags, the size of a blob.

use ews_core::registry::{Descriptor, Manifest};
use ews_core::{Digest, Error, ErrorKind, ImageRef, Result};
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderValue, RANGE};

use super::document;
use super::fault::Fault;
use super::session::Session;
use super::wire::{Answer, Question};

/// The largest manifest, in bytes: the contract's, and what registries take at most.
pub(super) const MAX_MANIFEST: usize = 4 * 1024 * 1024;
/// The largest page of tags, in bytes.
const MAX_PAGE: usize = 4 * 1024 * 1024;
/// The most tags that a repository may have.
const MAX_TAGS: usize = 100_000;
/// How many tags are asked for at once: what most registries give at most.
const PAGE: usize = 1000;

/// The digest or the tag that a name means.
pub(super) fn reference(name: &ImageRef) -> String {
    match name.digest() {
        Some(digest) => digest.to_string(),
        None => name.tag().unwrap_or("latest").to_owned(),
    }
}

impl Session {
    pub(super) fn manifest_question(&self, method: Method) -> Result<Question, Fault> {
        let url = self.url(&format!("manifests/{}", reference(&self.name)))?;
        Ok(Question::new(method, url).with_header(ACCEPT, HeaderValue::from_static(document::ACCEPT)))
    }

    pub(super) async fn resolve(&mut self) -> Result<Descriptor> {
        let question = self
            .manifest_question(Method::HEAD)
            .map_err(|fault| self.error(fault, ErrorKind::ImageMissing))?;
        match self.call(&question).await {
            Ok(answer) => {
                if let Some(found) =
                    self.described(&answer).map_err(|fault| self.error(fault, ErrorKind::ImageMissing))?
                {
                    return Ok(found);
                }
            }
            Err(fault) if matches!(fault.status().map(|s| s.as_u16()), Some(400 | 405 | 406 | 501)) => {}
            Err(fault) => return Err(self.error(fault, ErrorKind::ImageMissing)),
        }
        // A registry without HEAD, or one that tells too little by it.
        let manifest = self.manifest().await?;
        let (digest, size) = (manifest.digest(), manifest.bytes.len() as u64);
        Ok(Descriptor::new(digest, manifest.media_type, size))
    }

    /// What the head of an answer tells of a manifest; `None` where that is not all.
    fn described(&self, answer: &Answer) -> Result<Option<Descriptor>, Fault> {
        let (digest, media_type, size) = (told_digest(answer)?, media_type(answer), answer.length());
        let (Some(digest), Some(media_type), Some(size)) = (digest, media_type, size) else {
            return Ok(None);
        };
        if self.name.digest().is_some_and(|wanted| wanted != digest) {
            return Err(Fault::Misbehaved(
                "the registry says that what was asked for by digest has another one".into(),
            ));
        }
        if size > MAX_MANIFEST as u64 {
            return Err(Fault::Misbehaved(
                format!("a manifest of {size} bytes; accepted: at most {MAX_MANIFEST}").into(),
            ));
        }
        Ok(Some(Descriptor::new(digest, media_type, size)))
    }

    pub(super) async fn manifest(&mut self) -> Result<Manifest> {
        let read = async {
            let answer = self.call(&self.manifest_question(Method::GET)?).await?;
            let (told, media_type) = (told_digest(&answer)?, media_type(&answer));
            let bytes = answer.read("a manifest", MAX_MANIFEST).await?;
            let digest = Digest::of(&bytes);
            if self.name.digest().or(told).is_some_and(|wanted| wanted != digest) {
                return Err(Fault::Misbehaved("the manifest's bytes don't have its digest".into()));
            }
            let own = document::own_media_type(&bytes);
            let media_type = match (media_type, own) {
                (Some(told), Some(own)) if told != own => {
                    return Err(Fault::Misbehaved(
                        "the manifest says that it is of another kind than the registry says".into(),
                    ));
                }
                (Some(told), _) => told,
                (None, Some(own)) => own,
                (None, None) => {
                    return Err(Fault::Misbehaved(
                        "neither the registry nor the manifest says of what kind it is".into(),
                    ));
                }
            };
            Ok(Manifest::new(media_type, bytes))
        };
        let read = Box::pin(read).await;
        read.map_err(|fault| self.error(fault, ErrorKind::ImageMissing))
    }

    /// All tags, ordered. Pages are no help here: registries disagree on their order and some give no pages at all, so what follows
    /// `after` is known only once all have been read.
    pub(super) async fn all_tags(&mut self) -> Result<Vec<String>> {
        let tags = Box::pin(self.read_tags()).await;
        tags.map_err(|fault| self.error(fault, ErrorKind::ImageMissing))
    }

    async fn read_tags(&mut self) -> Result<Vec<String>, Fault> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let first = self.url(&format!("tags/list?n={PAGE}"))?;
        let origin = super::origin::Origin::of(&first);
        let mut next = Some(first);
        let mut found = std::collections::BTreeSet::new();
        while let Some(url) = next.take() {
            let answer = self.call(&Question::new(Method::GET, url.clone())).await?;
            let link = answer.header("link").and_then(next_link).map(str::to_owned);
            let page = answer.read("a page of tags", MAX_PAGE).await?;
            let page: Page = serde_json::from_slice(&page)
                .map_err(|_| Fault::Misbehaved("a list of tags that is not the JSON of one".into()))?;
            let before = found.len();
            found.extend(page.tags.unwrap_or_default());
            if found.len() > MAX_TAGS {
                let message =
                    format!("the repository has more than {MAX_TAGS} tags; delete some, or split it");
                return Err(Fault::Given(Error::new(ErrorKind::OutOfResources, message)));
            }
            // A page that brings nothing new leads round in a circle, or nowhere.
            if let Some(link) = link
                && found.len() > before
            {
                let url = url.join(&link).ok().filter(|url| super::origin::Origin::of(url) == origin);
                next = Some(url.ok_or_else(|| {
                    Fault::Misbehaved("the next page of tags is said to be on another host".into())
                })?);
            }
        }
        Ok(found.into_iter().collect())
    }

    pub(super) async fn blob_size(&mut self, digest: &Digest) -> Result<Option<u64>> {
        let size = Box::pin(self.read_blob_size(digest)).await;
        size.map_err(|fault| self.error(fault, ErrorKind::NotFound))
    }

    pub(super) async fn read_blob_size(&mut self, digest: &Digest) -> Result<Option<u64>, Fault> {
        let url = self.url(&format!("blobs/{digest}"))?;
        match self.call(&Question::new(Method::HEAD, url.clone())).await {
            Ok(answer) => {
                if let Some(length) = answer.length() {
                    return Ok(Some(length));
                }
            }
            Err(fault) if fault.is_missing() => return Ok(None),
            Err(fault) if matches!(fault.status().map(|s| s.as_u16()), Some(400 | 405 | 501)) => {}
            Err(fault) => return Err(fault),
        }
        // A registry without HEAD, or one that tells no length by it: the first byte comes with the whole length.
        let question =
            Question::new(Method::GET, url).with_header(RANGE, HeaderValue::from_static("bytes=0-0"));
        match self.call(&question).await {
            Ok(answer) if answer.status().as_u16() == 206 => {
                let range = answer.header("content-range").and_then(content_range);
                let length = range.and_then(|(_, length)| length);
                length
                    .map(Some)
                    .ok_or_else(|| Fault::Misbehaved("a part of a blob without its length".into()))
            }
            Ok(answer) => answer
                .length()
                .map(Some)
                .ok_or_else(|| Fault::Misbehaved("the registry tells no length of a blob in any way".into())),
            Err(fault) if fault.is_missing() => Ok(None),
            // Nothing has no first byte.
            Err(fault) if fault.status().map(|s| s.as_u16()) == Some(416) => Ok(Some(0)),
            Err(fault) => Err(fault),
        }
    }
}

/// The digest that a registry tells; `None` where it tells none, or one that is no SHA-256.
pub(super) fn told_digest(answer: &Answer) -> Result<Option<Digest>, Fault> {
    match answer.header("docker-content-digest") {
        Some(text) if text.starts_with("sha256:") => match text.trim().parse() {
            Ok(digest) => Ok(Some(digest)),
            Err(_) => Err(Fault::Misbehaved("the registry tells a digest that is none".into())),
        },
        _ => Ok(None),
    }
}

/// The media type that a registry tells, without parameters; none for those that say nothing.
fn media_type(answer: &Answer) -> Option<String> {
    let text = answer.header("content-type")?.split(';').next()?.trim();
    let says_something = !matches!(text, "" | "application/json" | "text/plain" | "application/octet-stream");
    says_something.then(|| text.to_ascii_lowercase())
}

/// The target of the link to the next page (RFC 8288).
fn next_link(text: &str) -> Option<&str> {
    text.split(',').find_map(|link| {
        let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = rest.split(';').any(|part| {
            let part = part.trim();
            part.eq_ignore_ascii_case("rel=\"next\"") || part.eq_ignore_ascii_case("rel=next")
        });
        is_next.then_some(target)
    })
}

/// The first byte and the whole length of `bytes 5-9/10`; the length may be `*`.
pub(super) fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, length) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let length = if length == "*" { None } else { Some(length.parse().ok()?) };
    Some((first.trim().parse().ok()?, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_ranges_are_read() {
        assert_eq!(
            next_link(r#"</v2/a/tags/list?last=b&n=2>; rel="next""#),
            Some("/v2/a/tags/list?last=b&n=2")
        );
        assert_eq!(next_link(r#"<a>; rel=prev, <b>; title="x"; rel=next"#), Some("b"));
        for none in ["", "<a>", "a; rel=next", "<a; rel=next", "<a>; rel=\"prev\""] {
            assert_eq!(next_link(none), None, "{none}");
        }
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for none in [
            "",
            "bytes */10",
            "bytes 5-9",
            "bytes -9/10",
            "items 1-2/3",
            "bytes 5-9/x",
            "bytes 99999999999999999999-1/2",
        ] {
            assert_eq!(content_range(none), None, "{none}");
        }
    }

    #[test]
    fn a_digest_comes_before_a_tag_and_the_tag_before_latest() {
        let read = |text: &str| reference(&text.parse().unwrap());
        let digest = Digest::of(b"x");
        assert_eq!(read("a.example/b"), "latest");
        assert_eq!(read("a.example/b:1"), "1");
        assert_eq!(read(&format!("a.example/b:1@{digest}")), digest.to_string());
    }
}
