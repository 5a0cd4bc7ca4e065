//! Labels laid over an object's own: how something is re-labelled whose labels can't be changed.
//!
//! Engines fix the labels of a container when it is created. To move an instance into another canary group, or to mark a
//! node as draining, a [`LabelOverlay`] is kept in the [`Store`](crate::store::Store) beside it, and whoever matches selectors
//! applies it first. An overlay never touches keys under `ews/`: they are facts that EWS derives.
//!
//! Where overlays are kept is part of this contract: [`instance_key`], [`service_key`] and [`node_key`].

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::id::{InstanceId, NodeId, ServiceName};
use crate::label::{self, Labels, RESERVED_PREFIX};
use crate::store::Key;
use crate::time::Shown;

/// Labels to set and keys to remove. A key is never in both.
///
/// ```
/// use ews_core::Labels;
/// use ews_core::overlay::LabelOverlay;
///
/// let overlay = LabelOverlay::new(Labels::new([("track", "canary")])?, ["legacy"])?;
/// let labels = overlay.apply(&Labels::new([("app", "shop"), ("track", "stable"), ("legacy", "")])?)?;
/// assert_eq!(labels.to_string(), "app=shop,track=canary");
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct LabelOverlay {
    /// Labels that are set, whatever the object has.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub set: Labels,
    /// Keys that are removed, if the object has them. At most [`Labels::MAX_COUNT`].
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<String>,
}

impl LabelOverlay {
    /// Sets these labels and removes these keys.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a bad or reserved key, a key in both, or too many keys.
    pub fn new(set: Labels, remove: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        // One more than is accepted is enough to know.
        let remove = remove.into_iter().map(Into::into).take(Labels::MAX_COUNT + 1).collect();
        let overlay = Self { set, remove };
        overlay.check()?;
        Ok(overlay)
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// These labels with the overlay applied: first the keys are removed, then the labels set.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) where the overlay is wrong (its fields are open to programs) or the
    /// result has more than [`Labels::MAX_COUNT`] labels.
    pub fn apply(&self, labels: &Labels) -> Result<Labels> {
        self.check()?;
        labels.without(|key| self.remove.contains(key)).merged(&self.set)
    }

    /// One overlay that does what this one and then `later` would do.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) where one of the two is wrong or the result has too many keys.
    pub fn merge(&self, later: &Self) -> Result<Self> {
        self.check()?;
        later.check()?;
        let set = self.set.without(|key| later.remove.contains(key)).merged(&later.set)?;
        let mut remove: BTreeSet<String> = self.remove.union(&later.remove).cloned().collect();
        // What is set in the end need not be removed first: setting replaces.
        remove.retain(|key| set.get(key).is_none());
        Self::new(set, remove)
    }

    fn check(&self) -> Result<()> {
        if self.remove.len() > Labels::MAX_COUNT {
            return Err(Error::invalid(format!(
                "the overlay removes more than {0} keys; accepted: at most {0}",
                Labels::MAX_COUNT
            )));
        }
        for key in &self.remove {
            label::check_key(key)?;
            if self.set.get(key).is_some() {
                return Err(Error::invalid(format!(
                    "the overlay sets and removes `{}`; accepted: one of the two",
                    Shown(key)
                )));
            }
        }
        let mut keys = self.set.iter().map(|(key, _)| key).chain(self.remove.iter().map(String::as_str));
        if let Some(key) = keys.find(|key| key.starts_with(RESERVED_PREFIX)) {
            return Err(Error::invalid(format!(
                "the overlay changes `{}`, but labels under `{RESERVED_PREFIX}` are derived by EWS; accepted: other keys",
                Shown(key)
            )));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for LabelOverlay {
    /// Refuses what [`LabelOverlay::new`] refuses, and unknown fields.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            #[serde(default)]
            set: Labels,
            #[serde(default)]
            remove: BTreeSet<String>,
        }
        let Fields { set, remove } = Fields::deserialize(deserializer)?;
        Self::new(set, remove).map_err(|error| serde::de::Error::custom(error.message()))
    }
}

/// Where an instance's overlay is kept: `overlay/instance/<id>`.
///
/// # Errors
/// None today: every id is a segment of a key. The result stays, since [`Key::new`] has it.
pub fn instance_key(id: &InstanceId) -> Result<Key> {
    Key::new(format!("overlay/instance/{id}"))
}

/// Where a service's overlay is kept: `overlay/service/<name>`. It is laid over each of its instances, under theirs.
///
/// # Errors
/// As [`instance_key`].
pub fn service_key(name: &ServiceName) -> Result<Key> {
    Key::new(format!("overlay/service/{name}"))
}

/// Where a node's overlay is kept: `overlay/node/<id>`.
///
/// # Errors
/// As [`instance_key`].
pub fn node_key(id: &NodeId) -> Result<Key> {
    Key::new(format!("overlay/node/{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::new(pairs.iter().copied()).unwrap()
    }

    fn some_labels() -> impl Strategy<Value = Labels> {
        prop::collection::btree_map("[a-d]", "[x-z]", 0..4).prop_map(|map| Labels::new(map).unwrap())
    }

    fn some_overlay() -> impl Strategy<Value = LabelOverlay> {
        (some_labels(), prop::collection::btree_set("[a-d]", 0..4)).prop_map(|(set, mut remove)| {
            remove.retain(|key| set.get(key).is_none());
            LabelOverlay::new(set, remove).unwrap()
        })
    }

    proptest! {
        #[test]
        fn a_merged_overlay_does_what_the_two_do_in_turn(a in some_overlay(), b in some_overlay(), on in some_labels()) {
            let in_turn = b.apply(&a.apply(&on).unwrap()).unwrap();
            prop_assert_eq!(a.merge(&b).unwrap().apply(&on).unwrap(), in_turn);
        }

        #[test]
        fn an_overlay_survives_its_record(overlay in some_overlay()) {
            let text = serde_json::to_string(&overlay).unwrap();
            prop_assert_eq!(serde_json::from_str::<LabelOverlay>(&text).unwrap(), overlay);
        }
    }

    #[test]
    fn reserved_keys_are_refused_in_every_way() {
        let reserved = labels(&[("ews/service", "x")]);
        assert!(LabelOverlay::new(reserved.clone(), [""; 0]).is_err());
        assert!(LabelOverlay::new(Labels::default(), ["ews/service"]).is_err());
        assert!(serde_json::from_str::<LabelOverlay>(r#"{"remove":["ews/node"]}"#).is_err());
        let forged = LabelOverlay { set: reserved, remove: BTreeSet::new() };
        assert!(forged.apply(&Labels::default()).is_err());
        assert!(LabelOverlay::default().merge(&forged).is_err());
        // The object's own reserved labels stay.
        let own = labels(&[("ews/service", "web")]);
        assert_eq!(LabelOverlay::default().apply(&own).unwrap(), own);
    }

    #[test]
    fn a_key_in_both_and_an_unknown_field_are_refused() {
        assert!(LabelOverlay::new(labels(&[("a", "1")]), ["a"]).is_err());
        assert!(LabelOverlay::new(Labels::default(), ["bad key"]).is_err());
        assert!(LabelOverlay::new(Labels::default(), (0..65).map(|n| format!("k{n}"))).is_err());
        assert!(serde_json::from_str::<LabelOverlay>(r#"{"add":{"a":"1"}}"#).is_err());
    }

    #[test]
    fn too_many_labels_after_all_is_an_error() {
        let full = Labels::new((0..64).map(|n| (format!("k{n}"), "v"))).unwrap();
        let one_more = LabelOverlay::new(labels(&[("x", "1")]), [""; 0]).unwrap();
        assert!(one_more.apply(&full).is_err());
        let swap = LabelOverlay::new(labels(&[("x", "1")]), ["k0"]).unwrap();
        assert_eq!(swap.apply(&full).unwrap().len(), 64);
    }

    #[test]
    fn keys_are_where_the_contract_says() {
        assert_eq!(instance_key(&InstanceId::new("a.b").unwrap()).unwrap().as_str(), "overlay/instance/a.b");
        assert_eq!(service_key(&ServiceName::new("web").unwrap()).unwrap().as_str(), "overlay/service/web");
        assert_eq!(node_key(&NodeId::new("n1").unwrap()).unwrap().as_str(), "overlay/node/n1");
    }
}
