//! Listing: one question for all, and one more for each that is selected.
//!
//! An engine's list lacks what the contract wants (when a container was started, how it ended), so each one that the selector takes is
//! asked for by itself. What vanishes in between is left out.

use std::borrow::Cow;
use std::sync::Arc;

use ews_core::label::Lookup;
use ews_core::{Instance, InstanceId, InstanceKey, Labels, NodeId, Result, Selector};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Inner, labels};
use crate::client::models::Listed;
use crate::client::{Call, Subject};

/// How many are asked for at a time.
const AT_ONCE: usize = 16;

/// What a selector looks at, before the instance is known whole.
pub(super) struct Outline {
    pub(super) id: InstanceId,
    pub(super) key: InstanceKey,
    pub(super) node: NodeId,
    pub(super) labels: Labels,
}

impl Outline {
    /// From a container's labels; `None` where they are not ours.
    pub(super) fn of(labels: &std::collections::BTreeMap<String, String>, node: &NodeId) -> Option<Self> {
        let key = labels::key_of(labels)?;
        Some(Self { id: key.to_id().ok()?, key, node: node.clone(), labels: labels::own(labels) })
    }
}

impl Lookup for Outline {
    fn lookup(&self, key: &str) -> Option<Cow<'_, str>> {
        match key.strip_prefix(ews_core::label::RESERVED_PREFIX) {
            None => self.labels.lookup(key),
            Some("owner") => Some(self.key.owner.as_str().into()),
            Some("service") => Some(self.key.service.as_str().into()),
            Some("revision") => Some(self.key.revision.as_str().into()),
            Some("slot") => Some(self.key.slot.to_string().into()),
            Some("generation") => Some(self.key.generation.to_string().into()),
            Some("node") => Some(self.node.as_str().into()),
            Some("instance") => Some(self.id.as_str().into()),
            Some(_) => None,
        }
    }
}

impl Inner {
    /// The containers of ours that a selector takes: engine ids with outlines.
    pub(super) async fn outlines(
        &self,
        selector: &Selector,
        operation: &'static str,
    ) -> Result<Vec<(String, Outline)>> {
        let filters = format!(r#"{{"label":["{}"]}}"#, labels::OWNER);
        let call = Call::get(operation, Subject::Container, &["containers", "json"])
            .flag("all", true)
            .query("filters", &filters);
        let listed: Vec<Listed> = self.engine.list(call).await?;
        let ours = listed.into_iter().filter_map(|one| {
            let outline = Outline::of(&one.labels, &self.place.node)?;
            let named = one.names.iter().any(|name| name.trim_start_matches('/') == outline.id.as_str());
            (named && selector.matches(&outline)).then_some((one.id, outline))
        });
        Ok(ours.collect())
    }

    pub(super) async fn list(self: &Arc<Self>, selector: &Selector) -> Result<Vec<Instance>> {
        let outlines = self.outlines(selector, "runtime.list").await?;
        let looks = stream::iter(outlines).map(|(_, outline)| {
            let inner = Arc::clone(self);
            async move { inner.look(&outline.id, "runtime.list").await }
        });
        let mut seen: Vec<Instance> = looks
            .buffer_unordered(AT_ONCE)
            .try_filter_map(async |found| Ok(found.map(|(seen, _)| seen.instance)))
            .try_collect()
            .await?;
        seen.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(seen)
    }
}
