//! What an intake writes down before it says that it accepted something, and how two of them don't get in each other's way.
//!
//! | Key under `intake/{owner}/` | What |
//! |---|---|
//! | `seen/{rule}` | the last delivery ids of a rule |
//! | `job/{rule}` | what is to be deployed next for a rule; a later delivery takes its place |
//! | `followed/{time}-{id}` | a deployment whose begin and end are told |
//! | `answers/{token}` | the last answers to requests of the API with a key |
//!
//! A job is claimed by who works on it, for a minute that is renewed, so that a second intake on the same store goes on when the
//! first is gone. Doing one twice does no harm: the deployment has the delivery's key.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ews_core::store::{
    Expect, Key, Prefix, Schema, StoreRevision, Transaction, Typed, TypedExt as _, decode_typed, encode_typed,
};
use ews_core::{Digest, ErrorKind, OwnerId, Result, Store, StoreExt as _, Timestamp};
use serde::{Deserialize, Serialize};

use super::heard::Heard;
use super::make::Wish;
use super::rule::Rule;

/// How long a claim holds without being renewed.
const CLAIM: Duration = Duration::from_secs(60);
/// How often a write that collides with another is made anew.
const ATTEMPTS: usize = 20;
/// The most times that a later delivery begins the wait anew.
const WAITS: u32 = 10;

/// What is to be deployed next for a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    /// The delivery's id, as it is kept.
    pub(super) id: String,
    pub(super) heard: Heard,
    pub(super) wish: Wish,
    /// When the first of those came that this one took the place of.
    pub(super) first_at: Timestamp,
    pub(super) due_at: Timestamp,
    /// How many times it was tried.
    pub(super) attempts: u32,
    pub(super) claim: Option<Claim>,
}

/// Who works on a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claim {
    pub(super) by: String,
    pub(super) until: Timestamp,
}

impl Schema for Job {
    const NAME: &'static str = "intake-job";
    const VERSION: u32 = 1;
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    ids: VecDeque<String>,
}

impl Schema for Seen {
    const NAME: &'static str = "intake-seen";
    const VERSION: u32 = 1;
}

/// A deployment whose begin and end are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Followed {
    pub(super) rule: String,
    pub(super) id: String,
    pub(super) heard: Heard,
    pub(super) service: String,
    /// `None` where it never became a rollout.
    pub(super) rollout: Option<u64>,
    pub(super) stage: Stage,
    pub(super) attempts: u32,
    pub(super) due_at: Timestamp,
}

/// How far following is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// That it began is to be told.
    Begun,
    /// It is under way.
    Running,
    /// How it ended is to be told.
    Ended { ok: bool, description: String },
}

impl Schema for Followed {
    const NAME: &'static str = "intake-followed";
    const VERSION: u32 = 1;
}

/// An answer that was given to a request with a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer {
    pub(super) key: String,
    pub(super) status: u16,
    pub(super) body: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answers {
    kept: VecDeque<Answer>,
}

impl Answers {
    /// The most answers of one token that are kept.
    const KEPT: usize = 256;
}

impl Schema for Answers {
    const NAME: &'static str = "intake-answers";
    const VERSION: u32 = 1;
}

/// What became of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// It is written down, and begun then.
    Due(Timestamp),
    /// It was delivered before.
    Repeated,
}

/// Makes a write anew that collides with another. The block may leave itself by `?` and by `return`.
macro_rules! colliding {
    ($attempt:block) => {{
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            let done: Result<_> = Box::pin(async $attempt).await;
            match done {
                Err(error) if left > 0 && matches!(error.kind(), ErrorKind::Stale | ErrorKind::AlreadyExists) => {}
                result => break result,
            }
        }
    }};
}

pub(super) struct Records {
    store: Arc<dyn Store>,
    base: String,
    /// This intake, among those on the same store.
    holder: String,
}

impl Records {
    pub(super) fn new(store: Arc<dyn Store>, owner: &OwnerId, holder: String) -> Self {
        Self { store, base: format!("intake/{owner}"), holder }
    }

    fn key(&self, rest: &str) -> Result<Key> {
        Key::new(format!("{}/{rest}", self.base))
    }

    /// Writes a delivery down, unless it was before.
    pub(super) async fn accept(
        &self,
        (name, rule): (&str, &Rule),
        delivery: &str,
        (heard, wish): (Heard, Wish),
        now: Timestamp,
        keep: usize,
    ) -> Result<Accepted> {
        // Hashed, so that a stranger's id has a length and an alphabet.
        let id = Digest::of(delivery.as_bytes()).to_string().split_off(7);
        let (seen_key, job_key) = (self.key(&format!("seen/{name}"))?, self.key(&format!("job/{name}"))?);
        colliding!({
            let seen = self.store.get_typed::<Seen>(&seen_key).await?;
            let found = self.store.get_typed::<Job>(&job_key).await?;
            let (expect_seen, expect_job) = (expected(seen.as_ref()), expected(found.as_ref()));
            let mut seen = seen.map(|seen| seen.value).unwrap_or_default();
            if seen.ids.contains(&id) {
                return Ok(Accepted::Repeated);
            }
            seen.ids.push_back(id.clone());
            while seen.ids.len() > keep {
                seen.ids.pop_front();
            }
            let before = found.map(|found| found.value);
            // One that waits is the first of a row; one that is worked on is not.
            let waiting = before.as_ref().filter(|job| job.claim.is_none() && job.attempts == 0);
            let first_at = waiting.map_or(now, |job| job.first_at.min(now));
            let due_at = (now + rule.debounce).min(first_at + rule.debounce * WAITS);
            let claim = before.and_then(|job| job.claim);
            let job = Job {
                id: id.clone(),
                heard: heard.clone(),
                wish: wish.clone(),
                first_at,
                due_at,
                attempts: 0,
                claim,
            };
            let transaction = Transaction::new()
                .expect(&seen_key, expect_seen)
                .expect(&job_key, expect_job)
                .put(&seen_key, encode_typed(&seen)?)
                .put(&job_key, encode_typed(&job)?);
            self.store.commit(&transaction).await?;
            Ok(Accepted::Due(due_at))
        })
    }

    /// The jobs, by their rules' names.
    pub(super) async fn jobs(&self) -> Result<Vec<(String, Job)>> {
        let prefix = Prefix::new(format!("{}/job/", self.base))?;
        let page = self.store.list_all(&prefix, 10_000).await?;
        let named = page.records.into_iter().map(|record| {
            let name = record.key.as_str().strip_prefix(prefix.as_str()).unwrap_or_default().to_owned();
            Ok((name, decode_typed::<Job>(record)?.value))
        });
        named.collect()
    }

    /// When a job can be claimed by this intake: when it is due and no other works on it.
    pub(super) fn ready_at(&self, job: &Job, now: Timestamp) -> Timestamp {
        let taken = job.claim.as_ref().filter(|claim| claim.by != self.holder && claim.until > now);
        taken.map_or(job.due_at, |claim| claim.until.max(job.due_at))
    }

    /// Claims a job for this intake; `None` where it is not due, or another works on it.
    pub(super) async fn claim(&self, rule: &str, now: Timestamp) -> Result<Option<Job>> {
        self.change(rule, |job| {
            if self.ready_at(job, now) > now {
                return false;
            }
            job.claim = Some(Claim { by: self.holder.clone(), until: now + CLAIM });
            true
        })
        .await
    }

    /// Holds a claim for another minute.
    pub(super) async fn renew(&self, rule: &str, now: Timestamp) -> Result<()> {
        let renewed = self.change(rule, |job| match &mut job.claim {
            Some(claim) if claim.by == self.holder => {
                claim.until = now + CLAIM;
                true
            }
            _ => false,
        });
        renewed.await.map(drop)
    }

    /// How often a claim is renewed.
    pub(super) const RENEW: Duration = Duration::from_secs(20);

    /// Puts a job off, unless a later one took its place: then that one goes on.
    pub(super) async fn put_off(&self, rule: &str, id: &str, until: Timestamp) -> Result<()> {
        let put_off = self.change(rule, |job| {
            if job.id == id {
                job.attempts += 1;
                job.due_at = until;
            }
            release(job, &self.holder)
        });
        put_off.await.map(drop)
    }

    /// Ends a job, unless a later one took its place, and follows what it became.
    pub(super) async fn finish(&self, followed: &Followed, now: Timestamp, most: usize) -> Result<()> {
        let name = format!("followed/{:020}-{}", now.as_micros(), followed.id);
        let (job_key, followed_key) = (self.key(&format!("job/{}", followed.rule))?, self.key(&name)?);
        colliding!({
            let found = self.store.get_typed::<Job>(&job_key).await?;
            let mut transaction = Transaction::new()
                .expect(&job_key, expected(found.as_ref()))
                .put(&followed_key, encode_typed(followed)?);
            if let Some(mut job) = found.map(|found| found.value) {
                if job.id == followed.id {
                    transaction = transaction.delete(&job_key);
                } else if release(&mut job, &self.holder) {
                    // A later one took its place, and is worked on next.
                    transaction = transaction.put(&job_key, encode_typed(&job)?);
                }
            }
            self.store.commit(&transaction).await.map(drop)
        })?;
        let all = self.followed().await?;
        for (key, _) in all.iter().take(all.len().saturating_sub(most)) {
            tracing::warn!(%key, "the end of a deployment is not told: more are followed than are kept");
            self.store.delete(key, Expect::Any).await?;
        }
        Ok(())
    }

    /// What is followed, the earliest first.
    pub(super) async fn followed(&self) -> Result<Vec<(Key, Typed<Followed>)>> {
        let prefix = Prefix::new(format!("{}/followed/", self.base))?;
        let page = self.store.list_all(&prefix, 200_000).await?;
        page.records.into_iter().map(|record| Ok((record.key.clone(), decode_typed(record)?))).collect()
    }

    /// Goes on following; `None` ends it. Nothing happens where another intake did before.
    pub(super) async fn follow(
        &self,
        key: &Key,
        at: StoreRevision,
        followed: Option<&Followed>,
    ) -> Result<()> {
        let transaction = Transaction::new().expect(key, Expect::Revision(at));
        let transaction = match followed {
            Some(followed) => transaction.put(key, encode_typed(followed)?),
            None => transaction.delete(key),
        };
        match self.store.commit(&transaction).await {
            Err(error) if matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound) => Ok(()),
            result => result.map(drop),
        }
    }

    /// The answer that was given to this key.
    pub(super) async fn answer(&self, token: &str, key: &str) -> Result<Option<Answer>> {
        let found = self.store.get_typed::<Answers>(&self.key(&format!("answers/{token}"))?).await?;
        Ok(found.and_then(|found| found.value.kept.into_iter().find(|answer| answer.key == key)))
    }

    /// Keeps an answer.
    pub(super) async fn keep_answer(&self, token: &str, answer: &Answer) -> Result<()> {
        let key = self.key(&format!("answers/{token}"))?;
        colliding!({
            let found = self.store.get_typed::<Answers>(&key).await?;
            let expect = expected(found.as_ref());
            let mut answers = found.map(|found| found.value).unwrap_or_default();
            answers.kept.push_back(answer.clone());
            while answers.kept.len() > Answers::KEPT {
                answers.kept.pop_front();
            }
            self.store.put_typed(&key, &answers, expect).await.map(drop)
        })
    }

    /// Changes a job; `None` where there is none, or nothing to change.
    async fn change(
        &self,
        rule: &str,
        change: impl Fn(&mut Job) -> bool + Send + Sync,
    ) -> Result<Option<Job>> {
        let key = self.key(&format!("job/{rule}"))?;
        colliding!({
            let Some(found) = self.store.get_typed::<Job>(&key).await? else { return Ok(None) };
            let mut job = found.value;
            if !change(&mut job) {
                return Ok(None);
            }
            self.store.put_typed(&key, &job, Expect::Revision(found.record.modified)).await?;
            Ok(Some(job))
        })
    }
}

fn expected<T>(found: Option<&Typed<T>>) -> Expect {
    found.map_or(Expect::Absent, |found| Expect::Revision(found.record.modified))
}

/// Gives a claim back; whether it was this holder's.
fn release(job: &mut Job, holder: &str) -> bool {
    let own = job.claim.as_ref().is_some_and(|claim| claim.by == holder);
    if own {
        job.claim = None;
    }
    own
}
