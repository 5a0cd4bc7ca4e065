//! Reading blobs: a stream that is taken up again where it was cut, and is never short, long or wrong without saying so.
//!
//! Whole blobs are hashed as they pass and the stream ends with an error where the digest is another. From an offset on there is
//! nothing to compare, but the count still has to be right. After a cut the rest is asked for by range, as often as the
//! configured attempts without a byte in between; a registry that ignores ranges sends all again, and what is known is
//! skipped.

use bytes::{Buf as _, Bytes};
use ews_core::runtime::ByteStream;
use ews_core::{Digest, Error, ErrorKind, Result};
use reqwest::Method;
use reqwest::header::{HeaderValue, RANGE};
use tokio::time::Instant;

use super::fault::Fault;
use super::pace::Pace;
use super::read::content_range;
use super::session::Session;
use super::wire::{Answer, Question};

/// A blob that is being read.
struct Reader {
    session: Session,
    digest: Digest,
    /// The next byte to hand out.
    position: u64,
    /// How many there are, once that is known.
    length: Option<u64>,
    /// Present while the blob is read whole.
    hash: Option<hmac_sha256::Hash>,
    answer: Option<Answer>,
    /// How much of the answer comes before `position`.
    skip: u64,
    pace: Pace,
}

/// Opens a blob from `offset` on.
pub(super) async fn open(session: Session, digest: &Digest, offset: u64) -> Result<ByteStream> {
    let pace = session.pace().map_err(|fault| session.error(fault, ErrorKind::NotFound))?;
    let hash = (offset == 0).then(hmac_sha256::Hash::new);
    let mut reader = Reader {
        session,
        digest: *digest,
        position: offset,
        length: None,
        hash,
        answer: None,
        skip: 0,
        pace,
    };
    let opened = match Box::pin(reader.reopen()).await {
        // Nothing begins at the end, but the end is no error.
        Err(fault) if fault.status().map(|s| s.as_u16()) == Some(416) => {
            match reader.session.read_blob_size(digest).await {
                Ok(Some(size)) if size == offset => return Ok(Box::pin(futures_util::stream::empty())),
                Ok(size) => {
                    let size = size.unwrap_or_default();
                    Err(Fault::Given(Error::invalid(format!(
                        "an offset of {offset} in a blob of {size} bytes"
                    ))))
                }
                Err(fault) => Err(fault),
            }
        }
        opened => opened,
    };
    if let Err(fault) = opened {
        return Err(reader.error(fault));
    }
    let stream = futures_util::stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match Box::pin(reader.next()).await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
            Ok(None) => None,
            Err(fault) => Some((Err(reader.error(fault)), None)),
        }
    });
    Ok(Box::pin(stream))
}

impl Reader {
    fn error(&self, fault: Fault) -> Error {
        self.session
            .error(fault, ErrorKind::NotFound)
            .with_operation("registry.open_blob")
            .with_context("blob", self.digest)
    }

    /// Asks for what is left.
    async fn reopen(&mut self) -> Result<(), Fault> {
        let mut question = Question::new(Method::GET, self.session.url(&format!("blobs/{}", self.digest))?);
        if self.position > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", self.position));
            let range = range.map_err(|_| Fault::Given(Error::internal("a range can't be written")))?;
            question = question.with_header(RANGE, range);
        }
        let answer = self.session.call(&question).await?;
        let (first, length) = match answer.status().as_u16() {
            206 => {
                let range = answer.header("content-range").and_then(content_range);
                let (first, length) = range
                    .ok_or_else(|| Fault::Misbehaved("a part of a blob that does not say which".into()))?;
                let length = length.or_else(|| first.checked_add(answer.length()?));
                (first, length)
            }
            200 => (0, answer.length()),
            _ => {
                return Err(Fault::Misbehaved(
                    "a blob was asked for, and the answer's status has no meaning here".into(),
                ));
            }
        };
        if first > self.position || first != 0 && first != self.position {
            return Err(Fault::Misbehaved("a part of a blob that was not asked for".into()));
        }
        if self.length.is_some() && length.is_some() && self.length != length {
            return Err(Fault::Misbehaved("the blob's length is another than before".into()));
        }
        self.length = self.length.or(length);
        if let Some(length) = self.length {
            self.check_length(length)?;
            if self.position > length {
                let message = format!("an offset of {} in a blob of {length} bytes", self.position);
                return Err(Fault::Given(Error::invalid(message)));
            }
        }
        self.skip = self.position - first;
        self.answer = Some(answer);
        Ok(())
    }

    fn check_length(&self, length: u64) -> Result<(), Fault> {
        let limit = self.session.wire().config.max_blob;
        if length <= limit {
            return Ok(());
        }
        let message = format!("a blob of more than {limit} bytes; `max_blob` sets how much is accepted");
        Err(Fault::Given(Error::new(ErrorKind::OutOfResources, message)))
    }

    /// The next bytes; `None` at the end, which is then the right one.
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if self.answer.is_none() && self.length != Some(self.position) {
                // It tries again by itself.
                self.reopen().await?;
            }
            let fault = match self.piece().await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => return self.end().map(|()| None),
                Err(fault) => fault,
            };
            self.answer = None;
            let Some(pause) = self.pace.pause(&fault, Instant::now()) else { return Err(fault) };
            tracing::debug!(blob = %self.digest, position = self.position, pause_ms = pause.as_millis() as u64, "a blob was cut");
            tokio::time::sleep(pause).await;
        }
    }

    /// What the registry sends next; `None` where it says that this is the end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let Some(answer) = self.answer.as_mut() else { return Ok(None) };
            let Some(mut bytes) = answer.piece().await? else {
                return match self.length {
                    // Without a length from the registry the digest has to tell.
                    Some(length) if self.position < length || self.skip > 0 => Err(Fault::Short),
                    _ => Ok(None),
                };
            };
            let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            bytes.advance(known);
            self.skip -= known as u64;
            if bytes.is_empty() {
                continue;
            }
            self.position += bytes.len() as u64;
            if self.length.is_some_and(|length| self.position > length) {
                return Err(Fault::Misbehaved("more of a blob than it was said to have".into()));
            }
            self.check_length(self.position)?;
            if let Some(hash) = &mut self.hash {
                hash.update(&bytes);
            }
            // It moves, so a later cut is another one.
            self.pace = self.session.pace()?;
            return Ok(Some(bytes));
        }
    }

    fn end(&mut self) -> Result<(), Fault> {
        match self.hash.take() {
            Some(hash) if Digest::from_sha256(hash.finalize()) != self.digest => {
                Err(Fault::Misbehaved("the blob's bytes don't have its digest".into()))
            }
            _ => Ok(()),
        }
    }
}
