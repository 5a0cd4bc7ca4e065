//! A patched base under an application's layers, by manifest alone.
//!
//! The server and the distribution are in the base, so a patch of either swaps the base's layers and moves some kilobytes of documents. It
//! is sound only where the application's layers hold nothing that came from the base, which is so for layers that EWS made of artifacts
//! and is not known of any other; and where what they rely on stays, which the compatibility key says. Everything else is refused.
//!
//! Of the config, a field that the application never changed is the new base's, one that it changed is its own, and of lists by name
//! (environment, labels, ports, volumes) each name is treated so by itself.

use ews_core::{Error, Platform, Result};
use serde_json::{Map, Value, json};

use super::append::{BASE_DIGEST, BASE_NAME, COMPATIBILITY, FIRST, env_of, env_value, hotfixes, object};
use super::image::{Image, Written, write};

/// Fields of what runs that are one value each.
const SINGLE: [&str; 9] = [
    "Entrypoint",
    "Cmd",
    "WorkingDir",
    "User",
    "StopSignal",
    "Healthcheck",
    "Shell",
    "OnBuild",
    "ArgsEscaped",
];
/// Fields of what runs that are tables by name.
const NAMED: [&str; 3] = ["Labels", "ExposedPorts", "Volumes"];

/// A new base and what it promises.
pub(in crate::source) struct NewBase<'a> {
    pub(in crate::source) image: &'a Image,
    /// The name by which it was found.
    pub(in crate::source) name: &'a str,
    pub(in crate::source) compatibility: &'a str,
}

/// The application on the new base.
///
/// # Errors
/// `Invalid`, with the condition that does not hold.
pub(in crate::source) fn rebase(app: &Image, old: &Image, new: &NewBase<'_>) -> Result<Written> {
    check(app, old, new)?;
    let first = old.layers().len();
    let mut config = new.image.config.clone();
    for field in ["container", "container_config"] {
        config.remove(field);
    }
    if let Some(author) = app.config.get("author") {
        config.insert("author".to_owned(), author.clone());
    }
    let mut run = merged(app, old, new.image);
    object(&mut run, "Labels", |labels| {
        labels.insert(BASE_NAME.to_owned(), json!(new.name));
        labels.insert(BASE_DIGEST.to_owned(), json!(new.image.digest));
        labels.insert(FIRST.to_owned(), json!(new.image.layers().len().to_string()));
    });
    config.insert("config".to_owned(), Value::Object(run));

    let diff_ids: Vec<&str> =
        new.image.diff_ids().into_iter().chain(app.diff_ids().into_iter().skip(first)).collect();
    config.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
    let mut history = new.image.history().to_vec();
    history.extend(own_history(app, first));
    config.insert("history".to_owned(), Value::Array(history));
    let layers = new.image.layers().iter().chain(app.layers().iter().skip(first)).cloned().collect();
    write(new.image, config, layers)
}

fn check(app: &Image, old: &Image, new: &NewBase<'_>) -> Result<()> {
    let refused = |fault: String| {
        Err(Error::invalid(format!("the image can't be moved to another base: {fault}"))
            .with_operation("sources.rebase")
            .with_context("image", &app.name))
    };
    let first = old.layers().len();
    let Some(said) = app.label(FIRST) else {
        return refused(format!(
            "it does not say (label `{FIRST}`) that its own layers hold nothing from its base, as only images that EWS made of artifacts \
             do; build it again on the new base"
        ));
    };
    if said.parse() != Ok(first) {
        return refused(format!("it says that {said} layers are its base's, and the old base has {first}"));
    }
    let (ours, theirs) = (app.diff_ids(), old.diff_ids());
    if !ours.starts_with(&theirs) {
        let shared = ours.iter().zip(&theirs).take_while(|(one, other)| one == other).count();
        return refused(format!(
            "the old base's {first} layers are not its first ones (only {shared} are): it was made on another base than {}",
            old.name
        ));
    }
    // More came of something that was built on such an image and inherited its labels.
    let hotfixes = hotfixes(app);
    if ours.len() - theirs.len() != hotfixes.saturating_add(1) {
        return refused(format!(
            "it has {} layers of its own, and what EWS makes of an artifact has one, and one for each hotfix ({hotfixes})",
            ours.len() - theirs.len()
        ));
    }
    match app.label(COMPATIBILITY) {
        Some(key) if key == new.compatibility => {}
        key => {
            return refused(format!(
                "it relies on `{}`, and the new base is `{}`; build it again",
                key.unwrap_or("nothing that it says"),
                new.compatibility
            ));
        }
    }
    // The build of Windows may move; the system and the architecture may not.
    let what = |platform: &Platform| (platform.os, platform.arch);
    if what(&app.platform) != what(&new.image.platform) || app.is_docker() != new.image.is_docker() {
        return refused(format!(
            "it is for {} ({}), and the new base for {} ({})",
            app.platform,
            form(app),
            new.image.platform,
            form(new.image)
        ));
    }
    Ok(())
}

fn form(image: &Image) -> &'static str {
    if image.is_docker() { "in Docker's form" } else { "in OCI's form" }
}

/// The history of the application's own layers: what follows the entry of the base's last layer.
fn own_history(app: &Image, first: usize) -> impl Iterator<Item = Value> + '_ {
    let mut seen = 0;
    app.history().iter().cloned().skip_while(move |entry| {
        let empty = entry.get("empty_layer").and_then(Value::as_bool).unwrap_or(false);
        if !empty {
            seen += 1;
        }
        // Entries without a layer that follow the base's last one are the base's too: ours come with a layer.
        empty || seen <= first
    })
}

fn merged(app: &Image, old: &Image, new: &Image) -> Map<String, Value> {
    let mut run = new.config.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    for field in SINGLE {
        let (ours, before) = (app.run(field), old.run(field));
        if ours != before {
            match ours {
                Some(value) => run.insert(field.to_owned(), value.clone()),
                None => run.remove(field),
            };
        }
    }
    for field in NAMED {
        let names = |image: &Image| image.run(field).and_then(Value::as_object).cloned().unwrap_or_default();
        let before = names(old);
        let own: Vec<_> =
            names(app).into_iter().filter(|(name, value)| before.get(name) != Some(value)).collect();
        if !own.is_empty() {
            object(&mut run, field, |table| table.extend(own));
        }
    }
    let before = env_of(old.run("Env"));
    let mut env = env_of(new.run("Env"));
    for (name, value) in env_of(app.run("Env")) {
        if before.contains(&(name.clone(), value.clone())) {
            continue;
        }
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => env.push((name, value)),
        }
    }
    if !env.is_empty() {
        run.insert("Env".to_owned(), env_value(env));
    }
    run
}
