//! The config of a committed image: the base's, over the layers of the commit.
//!
//! It is written from what the engine says of both images, since no engine gives a config out without its layers. Only what an image's config
//! may hold by Docker's image specification is taken over; a host name, a container's id and the like are no image's. The history is the
//! base's as far as the engine tells it (times to the second), with one entry of ours at its end instead of the container's command.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ews_core::image::CommitSpec;
use ews_core::{Error, ErrorKind, Result, Timestamp};
use serde_json::{Map, Value, json};

use crate::images::wire::{HistoryEntry, ImageInspected};

/// What an image's config may hold (Docker's image specification 1.3, which includes OCI's).
const FIELDS: [&str; 13] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "Shell",
    "OnBuild",
    "ArgsEscaped",
];

/// What a config is made of.
pub(super) struct Parts<'a> {
    pub(super) base: &'a ImageInspected,
    /// The quarantine: its layers, platform and time are the new image's.
    pub(super) made: &'a ImageInspected,
    /// The quarantine's, the newest first.
    pub(super) history: &'a [HistoryEntry],
    /// Added to the base's. An empty value takes the base's away.
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) spec: &'a CommitSpec,
}

/// Writes the config. The same parts give the same bytes.
pub(super) fn write(parts: &Parts<'_>) -> Result<Bytes> {
    let (base, made) = (&parts.base.root.layers, &parts.made.root.layers);
    if made.is_empty() || !made.starts_with(base) {
        return Err(Error::new(
            ErrorKind::Internal,
            "the committed image does not lie on the layers of the image that the instance was made from",
        ));
    }
    let mut config = Map::new();
    for field in FIELDS {
        match parts.base.config.get(field) {
            None | Some(Value::Null) => {}
            Some(value) => {
                config.insert(field.to_owned(), value.clone());
            }
        }
    }
    let mut labels = crate::images::look::labels(parts.base);
    for (name, value) in parts.labels {
        if value.is_empty() {
            labels.remove(name);
        } else {
            labels.insert(name.clone(), value.clone());
        }
    }
    config.insert("Labels".to_owned(), json!(labels));
    let mut image = json!({
        "architecture": parts.made.arch,
        "os": parts.made.os,
        "created": parts.made.created,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": made},
        "history": history(parts),
    });
    for (name, value) in [("variant", &parts.made.variant), ("os.version", &parts.made.os_version)] {
        if let Some(image) = image.as_object_mut().filter(|_| !value.is_empty()) {
            image.insert(name.to_owned(), json!(value));
        }
    }
    serde_json::to_vec(&image)
        .map(Bytes::from)
        .map_err(|error| Error::internal("an image's config can't be written").with_source(error))
}

/// The entries, the oldest first. Which of them made a layer the engine does not say; those that weigh something did, and of the rest the
/// ones that are no mere instruction (`#(nop)`), from the oldest on, until there are as many as layers.
fn history(parts: &Parts<'_>) -> Vec<Value> {
    let oldest_first: Vec<&HistoryEntry> = parts.history.iter().rev().collect();
    // The last one is the commit itself, whose command is the container's.
    let base = oldest_first.split_last().map_or(&[][..], |(_, base)| base);
    let layers = parts.base.root.layers.len();
    let mut left = layers.saturating_sub(base.iter().filter(|entry| entry.size > 0).count());
    let mut makes: Vec<bool> = base.iter().map(|entry| entry.size > 0).collect();
    let mere = |entry: &HistoryEntry| {
        let by = &entry.created_by;
        by.contains("#(nop)") && !by.contains("#(nop) COPY") && !by.contains("#(nop) ADD")
    };
    for only_mere in [false, true] {
        for (entry, makes) in base.iter().zip(&mut makes) {
            if left > 0 && !*makes && mere(entry) == only_mere {
                *makes = true;
                left -= 1;
            }
        }
    }
    // A base whose history says less than its layers: an engine accepts fewer entries than layers, never more.
    let mut room = layers;
    let mut entries: Vec<Value> = base
        .iter()
        .zip(makes)
        .map(|(entry, makes)| {
            let makes = makes && room > 0;
            room = room.saturating_sub(usize::from(makes));
            let seconds = Duration::from_secs(u64::try_from(entry.created).unwrap_or(0));
            let mut value = json!({
                "created": Timestamp::from(SystemTime::UNIX_EPOCH + seconds).to_string(),
                "created_by": entry.created_by,
            });
            if let Some(value) = value.as_object_mut() {
                if !entry.comment.is_empty() {
                    value.insert("comment".to_owned(), json!(entry.comment));
                }
                if !makes {
                    value.insert("empty_layer".to_owned(), json!(true));
                }
            }
            value
        })
        .collect();
    // A commit of what wrote nothing may have no layer of its own.
    let own = parts.made.root.layers.len() > layers;
    let mut ours = json!({
        "created": parts.made.created,
        "created_by": "ews commit",
        "comment": parts.spec.comment,
    });
    if let Some(ours) = ours.as_object_mut().filter(|_| !own) {
        ours.insert("empty_layer".to_owned(), json!(true));
    }
    entries.push(ours);
    entries
}

/// Whether an image is the one of this config, by what the engine says of it.
pub(super) fn is_of(found: &ImageInspected, wanted: &[u8]) -> bool {
    let Ok(wanted) = serde_json::from_slice::<Value>(wanted) else { return false };
    let layers = wanted.pointer("/rootfs/diff_ids").and_then(Value::as_array);
    let same_layers = layers.is_some_and(|layers| {
        layers.iter().map(Value::as_str).eq(found.root.layers.iter().map(|l| Some(l.as_str())))
    });
    let plain = |value: Option<&Value>| match value {
        None | Some(Value::Null) => Value::Null,
        Some(Value::Array(list)) if list.is_empty() => Value::Null,
        Some(Value::Object(map)) if map.is_empty() => Value::Null,
        Some(Value::String(text)) if text.is_empty() => Value::Null,
        Some(value) => value.clone(),
    };
    let config = wanted.get("config");
    same_layers
        && ["Env", "Labels", "Entrypoint", "Cmd", "User", "WorkingDir"]
            .iter()
            .all(|field| plain(config.and_then(|config| config.get(field))) == plain(found.config.get(field)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(layers: &[&str], config: Value) -> ImageInspected {
        let mut image = ImageInspected::default();
        (image.os, image.arch) = ("linux".to_owned(), "amd64".to_owned());
        image.created = "2026-11-25T00:00:00.5Z".to_owned();
        image.root.layers = layers.iter().map(|layer| (*layer).to_owned()).collect();
        image.config = config;
        image
    }

    fn entry(created_by: &str, size: i64) -> HistoryEntry {
        HistoryEntry { created: 1, created_by: created_by.to_owned(), comment: String::new(), size }
    }

    fn written(base: &ImageInspected, made: &ImageInspected, history: &[HistoryEntry]) -> Value {
        let labels = [("new", "1"), ("stale", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let mut spec = CommitSpec::new("a".parse().unwrap());
        spec.comment = "why".to_owned();
        let bytes = write(&Parts { base, made, history, labels: &labels, spec: &spec }).unwrap();
        assert!(is_of(
            &image(&["a", "b"], serde_json::from_slice::<Value>(&bytes).unwrap()["config"].clone()),
            &bytes
        ));
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn the_config_is_the_bases() {
        let base = image(
            &["a"],
            json!({"Env": ["PATH=/bin"], "Cmd": ["/run"], "Labels": {"own": "x", "stale": "y"}, "Hostname": "h",
                   "Image": "sha256:1", "Entrypoint": null, "ExposedPorts": {"80/tcp": {}}, "Tty": false}),
        );
        let made =
            image(&["a", "b"], json!({"Env": ["PATH=/bin", "PASSWORD=hunter2"], "Hostname": "c0ffee"}));
        let history = [entry("-c echo hunter2", 5), entry("/bin/sh -c #(nop) COPY x", 7)];
        let config = written(&base, &made, &history);
        assert_eq!(
            config["config"],
            json!({"Env": ["PATH=/bin"], "Cmd": ["/run"], "Labels": {"own": "x", "new": "1"}, "ExposedPorts": {"80/tcp": {}}})
        );
        let text = config.to_string();
        assert!(!text.contains("hunter2") && !text.contains("c0ffee"), "{text}");
        assert_eq!(
            config["history"][1],
            json!({"created": made.created, "created_by": "ews commit", "comment": "why"})
        );
    }

    #[test]
    fn as_many_entries_make_a_layer_as_there_are_layers() {
        let base = image(&["a", "b", "c"], json!({}));
        let made = image(&["a", "b", "c", "d"], json!({}));
        let history = [
            entry("the container's", 0),
            entry("/bin/sh -c #(nop)  CMD x", 0),
            entry("/bin/sh -c touch /x", 0),
            entry("/bin/sh -c #(nop) WORKDIR /x", 0),
            entry("/bin/sh -c #(nop) ADD file", 100),
        ];
        let labels = BTreeMap::new();
        let spec = CommitSpec::new("a".parse().unwrap());
        let parts = Parts { base: &base, made: &made, history: &history, labels: &labels, spec: &spec };
        let entries = super::history(&parts);
        let empty: Vec<bool> = entries.iter().map(|entry| entry.get("empty_layer").is_some()).collect();
        assert_eq!(empty, [false, false, false, true, false]);
        // A history that tells more layers than there are.
        let few = image(&["a"], json!({}));
        let many = [entry("c", 0), entry("x", 1), entry("y", 1)];
        let parts = Parts { base: &few, made: &made, history: &many, labels: &labels, spec: &spec };
        let layers = super::history(&parts).iter().filter(|entry| entry.get("empty_layer").is_none()).count();
        assert_eq!(layers, 2);
    }

    #[test]
    fn layers_of_another_image_are_refused() {
        let (base, made) = (image(&["a"], json!({})), image(&["z", "b"], json!({})));
        let (labels, spec) = (BTreeMap::new(), CommitSpec::new("a".parse().unwrap()));
        let parts = Parts { base: &base, made: &made, history: &[], labels: &labels, spec: &spec };
        assert_eq!(write(&parts).unwrap_err().kind(), ErrorKind::Internal);
    }
}
