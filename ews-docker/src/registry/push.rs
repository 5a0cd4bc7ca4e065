//! Writing: blobs, mounts, manifests, deletion.
//!
//! A blob that fits into one chunk is kept, checked, and sent at once. A larger one is sent in chunks, each kept until the registry has it, so
//! that a cut costs one question (how much is there?) and the rest of that chunk. Digest and size are checked before the upload is
//! committed, so a registry never holds under our name what we were not given. Some registries take no second chunk, or no chunks at
//! all; they refuse the first, and get the blob as one stream, whose last piece is held back until the digest is known to
//! be right.
//!
//! A registry drops an upload that nobody committed after a while; we take it back at once where we can.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use ews_core::registry::{BlobInfo, Manifest};
use ews_core::runtime::ByteStream;
use ews_core::{Digest, Error, ErrorKind, ImageRef, Result};
use futures_util::StreamExt as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use tokio::time::Instant;

use super::config::MAX_CHUNK;
use super::fault::Fault;
use super::read::{MAX_MANIFEST, reference, told_digest};
use super::session::Session;
use super::wire::{Answer, Question};

/// The bytes that are pushed, counted and hashed as they are taken.
struct Source {
    stream: ByteStream,
    hash: hmac_sha256::Hash,
    taken: u64,
    info: BlobInfo,
    /// What was read and not yet taken.
    rest: Bytes,
    idle: std::time::Duration,
}

impl Source {
    /// The next piece of at least one byte; `None` at the end, which is then the right one.
    async fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        loop {
            let next = tokio::time::timeout(self.idle, self.stream.next()).await;
            let next = next.map_err(|_| {
                let message = format!("the stream that is pushed gave nothing for {:?}", self.idle);
                Fault::Given(Error::new(ErrorKind::Timeout, message))
            })?;
            let Some(bytes) = next else { return self.end().map(|()| None) };
            let bytes = bytes.map_err(Fault::Given)?;
            if bytes.is_empty() {
                continue;
            }
            self.taken += bytes.len() as u64;
            if self.taken > self.info.size {
                let message = format!("more than the {} bytes that were announced", self.info.size);
                return Err(Fault::Given(Error::invalid(message)));
            }
            self.hash.update(&bytes);
            return Ok(Some(bytes));
        }
    }

    fn end(&self) -> Result<(), Fault> {
        let digest = Digest::from_sha256(self.hash.finalize());
        if self.taken == self.info.size && digest == self.info.digest {
            return Ok(());
        }
        let message = format!(
            "{} bytes with the digest {digest}; {} bytes with {} were announced",
            self.taken, self.info.size, self.info.digest
        );
        Err(Fault::Given(Error::invalid(message)))
    }

    /// As much as fits into a chunk, less only at the end.
    async fn chunk(&mut self, size: u64) -> Result<Bytes, Fault> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let mut chunk = BytesMut::new();
        while chunk.len() < size {
            let Some(mut piece) = self.piece().await? else { break };
            let taken = piece.split_to((size - chunk.len()).min(piece.len()));
            self.rest = piece;
            if chunk.is_empty() && taken.len() == size {
                return Ok(taken);
            }
            chunk.extend_from_slice(&taken);
        }
        Ok(chunk.freeze())
    }
}

impl Session {
    /// Whether a blob is here already.
    pub(super) async fn has_blob(&mut self, digest: &Digest) -> Result<bool, Fault> {
        Ok(self.read_blob_size(digest).await?.is_some())
    }

    pub(super) async fn push_blob(&mut self, info: &BlobInfo, bytes: ByteStream) -> Result<()> {
        let pushed = Box::pin(self.try_push_blob(info, bytes)).await;
        pushed.map_err(|fault| self.error(fault, ErrorKind::ImageMissing).with_context("blob", info.digest))
    }

    async fn try_push_blob(&mut self, info: &BlobInfo, stream: ByteStream) -> Result<(), Fault> {
        if self.has_blob(&info.digest).await? {
            return Ok(());
        }
        let (chunk, idle) = (self.wire().config.chunk, self.wire().config.idle_timeout);
        let hash = hmac_sha256::Hash::new();
        // It is looked at once more after its end, to see that there is no more.
        let stream = stream.fuse().boxed();
        let mut source = Source { stream, hash, taken: 0, info: info.clone(), rest: Bytes::new(), idle };
        if info.size <= chunk {
            let bytes = source.chunk(info.size).await?;
            // One more look finds what is too much.
            if let Some(more) = source.piece().await? {
                source.taken += more.len() as u64;
                return Err(source.end().err().unwrap_or(Fault::Short));
            }
            return self.send_whole(info, bytes).await;
        }
        self.send_chunks(info, source, chunk).await
    }

    /// Begins an upload: its place, and the smallest chunk that the registry takes.
    async fn begin(&mut self) -> Result<(Url, u64), Fault> {
        let url = self.url("blobs/uploads/")?;
        let question = Question::new(Method::POST, url.clone()).with_body(Bytes::new());
        let answer = self.call(&question).await?;
        let smallest =
            answer.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Ok((self.location(&answer, &url)?, smallest))
    }

    async fn send_whole(&mut self, info: &BlobInfo, bytes: Bytes) -> Result<(), Fault> {
        let mut pace = self.pace()?.for_body(bytes.len());
        loop {
            // An upload that failed may have taken a part: each attempt is an upload of its own.
            let (place, _) = self.begin().await?;
            let put = commit(&place, info)
                .with_header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
                .with_body(bytes.clone());
            let fault = match self.once(&put, pace.deadline).await {
                Ok(answer) => return committed(&answer, info),
                Err(fault) => fault,
            };
            // The answer may have been lost on its way.
            if fault.is_passing() && self.has_blob(&info.digest).await.unwrap_or(false) {
                return Ok(());
            }
            let Some(pause) = pace.pause(&fault, Instant::now()) else { return Err(fault) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn send_chunks(&mut self, info: &BlobInfo, mut source: Source, size: u64) -> Result<(), Fault> {
        let (mut place, smallest) = self.begin().await?;
        if smallest > MAX_CHUNK {
            return self.send_stream_whole(place, info, Bytes::new(), source).await;
        }
        let size = size.max(smallest);
        let mut start = 0;
        loop {
            let chunk = match source.chunk(size).await {
                Ok(chunk) => chunk,
                Err(fault) => {
                    self.take_back(place).await;
                    return Err(fault);
                }
            };
            if chunk.is_empty() {
                break;
            }
            match self.send_chunk(place.clone(), start, &chunk).await {
                Ok(next) => place = next,
                Err(fault) if start == 0 && refuses_chunks(&fault) => {
                    tracing::debug!(registry = self.name.registry(), "the registry takes no chunks");
                    self.take_back(place).await;
                    let (place, _) = self.begin().await?;
                    return self.send_stream_whole(place, info, chunk, source).await;
                }
                Err(fault) => {
                    self.take_back(place).await;
                    return Err(fault);
                }
            }
            start += chunk.len() as u64;
        }
        // The source has ended, so digest and size are as announced.
        let put = commit(&place, info).with_body(Bytes::new());
        match self.call(&put).await {
            Ok(answer) => committed(&answer, info),
            // A second attempt finds no upload where the first was heard.
            Err(fault) if self.has_blob(&info.digest).await.unwrap_or(false) => {
                drop(fault);
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    /// Sends one chunk and says where the next one goes. After a failure the registry is asked how much it has.
    async fn send_chunk(&mut self, mut place: Url, start: u64, chunk: &Bytes) -> Result<Url, Fault> {
        let mut pace = self.pace()?.for_body(chunk.len());
        let mut sent = 0_usize;
        loop {
            let rest = chunk.slice(sent.min(chunk.len())..);
            let (first, last) = (start + sent as u64, start + (chunk.len() as u64).saturating_sub(1));
            let range = HeaderValue::from_str(&format!("{first}-{last}"));
            let range = range.map_err(|_| Fault::Given(Error::internal("a range can't be written")))?;
            let patch = Question::new(Method::PATCH, place.clone())
                .with_header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
                .with_header(CONTENT_RANGE, range)
                .with_body(rest);
            let fault = match self.once(&patch, pace.deadline).await {
                Ok(answer) => return self.location(&answer, &place),
                Err(fault) => fault,
            };
            let Some(pause) = pace.pause(&fault, Instant::now()) else { return Err(fault) };
            tokio::time::sleep(pause).await;
            let (there, next) = self.progress(&place).await?;
            place = next;
            let end = start + chunk.len() as u64;
            if there == end {
                return Ok(place);
            }
            // `0-0` is told of nothing and of one byte alike.
            let there = if there == 1 && start == 0 { 0 } else { there };
            let Some(within) = there.checked_sub(start).filter(|_| there < end) else {
                return Err(Fault::Misbehaved("the registry lost a part of an upload".into()));
            };
            sent = usize::try_from(within).unwrap_or(0);
        }
    }

    /// How many bytes an upload has, and where it goes on.
    async fn progress(&mut self, place: &Url) -> Result<(u64, Url), Fault> {
        let answer = self.call(&Question::new(Method::GET, place.clone())).await?;
        let range = answer.header("range").map(|text| text.trim().trim_start_matches("bytes=").to_owned());
        let next =
            if answer.header("location").is_some() { self.location(&answer, place)? } else { place.clone() };
        let last = range.as_deref().and_then(|range| range.strip_prefix("0-")?.parse::<u64>().ok());
        match last {
            Some(last) => Ok((last.saturating_add(1), next)),
            None if range.is_none() => Ok((0, next)),
            None => Err(Fault::Misbehaved("the registry does not say how much of an upload it has".into())),
        }
    }

    /// Sends what is left as one stream. It can't be sent again: the caller's bytes are gone with it.
    async fn send_stream_whole(
        &mut self,
        place: Url,
        info: &BlobInfo,
        first: Bytes,
        source: Source,
    ) -> Result<(), Fault> {
        let failed = Arc::new(Mutex::new(None));
        let state = (Some(source), (!first.is_empty()).then_some(first), failed.clone());
        let body = futures_util::stream::unfold(state, |(source, held, failed)| async move {
            let mut source = source?;
            let held = match held {
                Some(held) => Ok(Some(held)),
                None => source.piece().await,
            };
            // Each piece waits for the one after it, and the last for the end: an upload that is wrong stays incomplete.
            let (piece, next) = match held {
                Ok(None) => return None,
                Ok(Some(held)) => match source.piece().await {
                    Ok(next) => (Ok(held), next),
                    Err(fault) => (Err(fault), None),
                },
                Err(fault) => (Err(fault), None),
            };
            match piece {
                Ok(held) if next.is_some() => Some((Ok(held), (Some(source), next, failed))),
                Ok(held) => Some((Ok(held), (None, None, failed))),
                Err(fault) => {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
                    Some((Err(std::io::Error::other("the upload was given up")), (None, None, failed)))
                }
            }
        });
        let put = commit(&place, info)
            .with_header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .with_header(CONTENT_LENGTH, HeaderValue::from(info.size));
        let sent = self.send_stream(&put, reqwest::Body::wrap_stream(body)).await;
        let own = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (own, sent) {
            (Some(fault), _) => {
                self.take_back(place).await;
                Err(fault)
            }
            (None, Ok(answer)) => committed(&answer, info),
            (None, Err(_)) if self.has_blob(&info.digest).await.unwrap_or(false) => Ok(()),
            (None, Err(fault)) => {
                self.take_back(place).await;
                Err(fault)
            }
        }
    }

    /// Gives an upload up. Nobody is worse off where that fails: registries forget uploads.
    async fn take_back(&mut self, place: Url) {
        let question = Question::new(Method::DELETE, place);
        let deadline = Instant::now() + self.wire().config.answer_timeout;
        if let Err(fault) = self.once(&question, deadline).await {
            tracing::debug!(status = fault.status().map(|s| s.as_u16()), "an upload could not be taken back");
        }
    }

    pub(super) async fn mount_blob(&mut self, digest: &Digest, from: &ImageRef) -> Result<bool> {
        let mounted = Box::pin(self.try_mount(digest, from)).await;
        mounted.map_err(|fault| self.error(fault, ErrorKind::ImageMissing).with_context("blob", digest))
    }

    async fn try_mount(&mut self, digest: &Digest, from: &ImageRef) -> Result<bool, Fault> {
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from.repository());
        let question = Question::new(Method::POST, url.clone()).with_body(Bytes::new());
        match self.call(&question).await {
            Ok(answer) if answer.status().as_u16() == 201 => Ok(true),
            Ok(answer) => {
                // It would not, and began an upload instead.
                if let Ok(place) = self.location(&answer, &url) {
                    self.take_back(place).await;
                }
                Ok(false)
            }
            Err(fault) if matches!(fault.status().map(|s| s.as_u16()), Some(400 | 404 | 405 | 501)) => {
                Ok(false)
            }
            Err(fault) => Err(fault),
        }
    }

    pub(super) async fn push_manifest(&mut self, manifest: &Manifest) -> Result<Digest> {
        let pushed = Box::pin(self.try_push_manifest(manifest)).await;
        pushed.map_err(|fault| {
            let error = self.error(fault, ErrorKind::ImageMissing);
            // `MANIFEST_BLOB_UNKNOWN` comes with 404 from some.
            let dangling = error.context().any(|(key, value)| key == "code" && DANGLING.contains(&value));
            if !dangling {
                return error;
            }
            let mut invalid = Error::invalid(
                "the manifest refers to a blob or a manifest that is not in the repository: push that first",
            );
            for (key, value) in error.context() {
                invalid = invalid.with_context(key, value);
            }
            invalid.with_source(error)
        })
    }

    async fn try_push_manifest(&mut self, manifest: &Manifest) -> Result<Digest, Fault> {
        let given = |message: String| Fault::Given(Error::invalid(message));
        if manifest.bytes.len() > MAX_MANIFEST {
            let message =
                format!("a manifest of {} bytes; accepted: at most {MAX_MANIFEST}", manifest.bytes.len());
            return Err(given(message));
        }
        let digest = manifest.digest();
        if self.name.digest().is_some_and(|wanted| wanted != digest) {
            return Err(given(format!("the manifest has the digest {digest}, its name says another")));
        }
        let media_type = HeaderValue::from_str(&manifest.media_type).map_err(|_| {
            given("the manifest's media type can't be sent; accepted: visible ASCII".to_owned())
        })?;
        // A name with both means the tag here; the digest was only to be checked.
        let under = self.name.tag().map_or_else(|| reference(&self.name), str::to_owned);
        let put = Question::new(Method::PUT, self.url(&format!("manifests/{under}"))?)
            .with_header(CONTENT_TYPE, media_type)
            .with_body(manifest.bytes.clone());
        let answer = self.call(&put).await?;
        match told_digest(&answer)? {
            Some(told) if told != digest => {
                let message =
                    "the registry took the manifest under another digest: it does not keep bytes as they are";
                Err(Fault::Given(Error::new(ErrorKind::Decode, message).with_maybe_applied()))
            }
            _ => Ok(digest),
        }
    }

    pub(super) async fn delete(&mut self) -> Result<()> {
        let deleted = Box::pin(self.try_delete()).await;
        deleted.map_err(|fault| self.error(fault, ErrorKind::ImageMissing))
    }

    async fn try_delete(&mut self) -> Result<(), Fault> {
        let Some(digest) = self.name.digest() else {
            let message = "a name without a digest can't be deleted: all that its tag stands for would go; accepted: a name with a digest";
            return Err(Fault::Given(Error::invalid(message)));
        };
        let question = Question::new(Method::DELETE, self.url(&format!("manifests/{digest}"))?);
        match self.call(&question).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_missing() => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}

/// The codes of a manifest that refers to what is not there.
const DANGLING: [&str; 3] = ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"];

fn commit(place: &Url, info: &BlobInfo) -> Question {
    let mut url = place.clone();
    url.query_pairs_mut().append_pair("digest", &info.digest.to_string());
    Question::new(Method::PUT, url)
}

fn committed(answer: &Answer, info: &BlobInfo) -> Result<(), Fault> {
    match told_digest(answer)? {
        Some(told) if told != info.digest => {
            Err(Fault::Misbehaved("the registry took the blob under another digest than it has".into()))
        }
        _ => Ok(()),
    }
}

/// Whether a registry says by this that it takes no chunks.
fn refuses_chunks(fault: &Fault) -> bool {
    matches!(fault.status().map(|status| status.as_u16()), Some(400 | 404 | 405 | 411 | 415 | 416 | 501))
}
