//! Metrics that say of each version what a test told them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use ews_core::metrics::{
    Answer, Coverage, Measured, MetricInfo, MetricQuery, Metrics, Reading, Series, TimeRange, Unavailable,
};
use ews_core::{CapabilitySet, Error, ErrorKind, Labels, Result, Timestamp};

/// What is said of a revision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Say {
    Number(f64),
    Nothing,
    Away,
}

#[derive(Default)]
pub(crate) struct Sayings {
    /// By revision, the first characters of its id: `r2`.
    said: Mutex<BTreeMap<String, Say>>,
    asked: Mutex<u32>,
}

impl Sayings {
    pub(crate) fn say(&self, revision: &str, say: Say) {
        self.said.lock().unwrap().insert(revision.to_owned(), say);
    }

    /// Says this of whatever is not about a revision.
    pub(crate) fn say_of_all(&self, say: Say) {
        self.say("", say);
    }

    /// How often it was asked about anything.
    pub(crate) fn asked(&self) -> u32 {
        *self.asked.lock().unwrap()
    }
}

#[async_trait]
impl Metrics for Sayings {
    fn capabilities(&self) -> CapabilitySet {
        CapabilitySet::none()
    }

    async fn describe(&self, _: Option<String>, _: usize) -> Result<Vec<MetricInfo>> {
        Ok(Vec::new())
    }

    async fn instant(&self, query: &MetricQuery, _: Option<Timestamp>) -> Result<Answer<Reading>> {
        *self.asked.lock().unwrap() += 1;
        let text = query.matching.to_string();
        let said = self.said.lock().unwrap();
        let is_asked = |revision: &&String| match revision.as_str() {
            "" => !text.contains("revision"),
            revision => text.contains(&format!("revision={revision}-")),
        };
        let say = said.keys().find(is_asked).and_then(|revision| said.get(revision)).copied();
        assert!(text.contains("service=web"), "{text}");
        let value = match say.unwrap_or(Say::Nothing) {
            Say::Number(value) => Reading::Number(Measured::new(value, Timestamp::EPOCH, 1)),
            Say::Nothing => Reading::Unavailable(Unavailable::Missing),
            Say::Away => return Err(Error::new(ErrorKind::Unavailable, "the metrics are away")),
        };
        let labels = Labels::default().iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Ok(Answer::new(vec![Series::new(labels, value)], Coverage::new(1, 0, 0)))
    }

    async fn range(&self, _: &MetricQuery, _: &TimeRange) -> Result<Answer<Vec<Reading>>> {
        Err(Error::new(ErrorKind::Unsupported, "not here"))
    }
}
