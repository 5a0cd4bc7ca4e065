//! An artifact's layer on a base, by manifest alone.

use std::collections::BTreeMap;

use ews_core::Result;
use serde_json::{Map, Value, json};

use super::image::{Image, Written, write};
use crate::source::artifact::layer::Layer;

pub(in crate::source) const BASE_NAME: &str = "org.opencontainers.image.base.name";
pub(in crate::source) const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
pub(in crate::source) const CATALOG_ID: &str = "ews.catalog.id";
pub(in crate::source) const CATALOG_LINE: &str = "ews.catalog.line";
pub(in crate::source) const COMPATIBILITY: &str = "ews.catalog.compatibility";
/// Where the application's layers start: how many layers the base has.
pub(in crate::source) const FIRST: &str = "ews.app.layer.first";

/// How many layers after the artifact's are hotfixes.
pub(in crate::source) const HOTFIXES: &str = "ews.app.hotfixes";

/// What an image says beyond its base's config.
#[derive(Debug, Clone, Default)]
pub(in crate::source) struct Settings {
    pub(in crate::source) user: Option<String>,
    pub(in crate::source) workdir: Option<String>,
    pub(in crate::source) command: Vec<String>,
    pub(in crate::source) env: BTreeMap<String, String>,
    pub(in crate::source) port: Option<u16>,
    pub(in crate::source) stop_signal: Option<String>,
    pub(in crate::source) labels: BTreeMap<String, String>,
    /// What made the layer, for the history.
    pub(in crate::source) made_by: String,
}

/// The base with one more layer.
pub(in crate::source) fn append(
    base: &Image,
    base_name: &str,
    layer: &Layer,
    settings: &Settings,
) -> Result<Written> {
    let mut config = base.config.clone();
    // What Docker noted of the container that the base was made in.
    for field in ["container", "container_config"] {
        config.remove(field);
    }
    let mut run = config.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    apply(&mut run, settings);
    object(&mut run, "Labels", |labels| {
        labels.insert(BASE_NAME.to_owned(), json!(base_name));
        labels.insert(BASE_DIGEST.to_owned(), json!(base.digest));
        labels.insert(FIRST.to_owned(), json!(base.layers().len().to_string()));
    });
    config.insert("config".to_owned(), Value::Object(run));

    with_layer(base, config, layer, &settings.made_by)
}

/// An image with one more layer, which is a hotfix, and everything else as it is: what it says of its own base stays true.
pub(in crate::source) fn over(image: &Image, layer: &Layer, made_by: &str) -> Result<Written> {
    let mut config = image.config.clone();
    object(&mut config, "config", |run| {
        object(run, "Labels", |labels| {
            labels.insert(HOTFIXES.to_owned(), json!((hotfixes(image) + 1).to_string()));
        });
    });
    with_layer(image, config, layer, made_by)
}

/// How many layers of an image are hotfixes, as it says.
pub(in crate::source) fn hotfixes(image: &Image) -> usize {
    image.label(HOTFIXES).and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn with_layer(base: &Image, mut config: Map<String, Value>, layer: &Layer, made_by: &str) -> Result<Written> {
    let mut diff_ids: Vec<Value> = base.diff_ids().into_iter().map(Value::from).collect();
    diff_ids.push(json!(layer.diff_id));
    config.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
    let mut history = base.history().to_vec();
    // The base's own time: another would make another image of the same content.
    let created = config.get("created").cloned().unwrap_or_else(|| json!("1970-01-01T00:00:00Z"));
    history.push(json!({"created": created, "created_by": made_by}));
    config.insert("history".to_owned(), Value::Array(history));

    let kind = match (base.is_docker(), layer.compressed) {
        (true, true) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        (true, false) => "application/vnd.docker.image.rootfs.diff.tar",
        (false, true) => "application/vnd.oci.image.layer.v1.tar+gzip",
        (false, false) => "application/vnd.oci.image.layer.v1.tar",
    };
    let mut layers = base.layers().to_vec();
    layers.push(json!({"mediaType": kind, "digest": layer.digest, "size": layer.file.size()}));
    write(base, config, layers)
}

fn apply(run: &mut Map<String, Value>, settings: &Settings) {
    let mut put = |field: &str, value: Value| run.insert(field.to_owned(), value);
    if let Some(user) = &settings.user {
        put("User", json!(user));
    }
    if let Some(workdir) = &settings.workdir {
        put("WorkingDir", json!(workdir));
    }
    if let Some(signal) = &settings.stop_signal {
        put("StopSignal", json!(signal));
    }
    if !settings.command.is_empty() {
        put("Entrypoint", json!(settings.command));
        run.remove("Cmd");
    }
    if !settings.env.is_empty() {
        let mut env = env_of(run.get("Env"));
        for (name, value) in &settings.env {
            match env.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => known.clone_from(value),
                None => env.push((name.clone(), value.clone())),
            }
        }
        run.insert("Env".to_owned(), env_value(env));
    }
    if let Some(port) = settings.port {
        object(run, "ExposedPorts", |ports| drop(ports.insert(format!("{port}/tcp"), json!({}))));
    }
    object(run, "Labels", |labels| {
        labels.extend(settings.labels.iter().map(|(name, value)| (name.clone(), json!(value))));
    });
}

/// Changes a table within a table, which is made where it is missing or null.
pub(super) fn object(of: &mut Map<String, Value>, field: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut table = match of.remove(field) {
        Some(Value::Object(table)) => table,
        _ => Map::new(),
    };
    change(&mut table);
    of.insert(field.to_owned(), Value::Object(table));
}

/// The variables of a config, in their order.
pub(super) fn env_of(env: Option<&Value>) -> Vec<(String, String)> {
    let all = env.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    all.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

pub(super) fn env_value(env: Vec<(String, String)>) -> Value {
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}
