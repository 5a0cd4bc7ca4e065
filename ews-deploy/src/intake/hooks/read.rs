//! What each provider's documents mean.

use axum::http::HeaderMap;
use ews_core::Digest;
use serde_json::Value;

use super::verify::once;
use crate::intake::heard::{Heard, HeardKind, changed, digest, owned, sha, text};
use crate::intake::rule::{Pointed, Provider, Rule};

/// What a request comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// That it is set up.
    Ping,
    /// Nothing that is of use here.
    Ignored(String),
    /// This, each under an id by which a second delivery of it is known.
    Heard(Vec<(String, Heard)>),
}

/// The most events of one request, which a registry sends in batches.
const EVENTS: usize = 100;

fn ignored(why: impl Into<String>) -> Said {
    Said::Ignored(why.into())
}

/// Reads a body. Unknown events and documents are ignored with why, never refused: a sender would try for ever.
pub(super) fn read(rule: &Rule, headers: &HeaderMap, body: &Value, raw: &[u8]) -> Said {
    let of_body = || Digest::of(raw).to_string();
    let id = |names: &[&str]| {
        let named = names.iter().find_map(|name| once(headers, name));
        named.filter(|id| !id.is_empty()).map_or_else(of_body, str::to_owned)
    };
    let one = |id: String, heard: Heard| Said::Heard(vec![(id, heard)]);
    match rule.provider {
        Provider::Github => {
            let event = once(headers, "x-github-event").unwrap_or_default();
            github(event, body).map_or_else(|said| said, |heard| one(id(&["x-github-delivery"]), heard))
        }
        Provider::Gitea => {
            let event = ["x-gitea-event", "x-forgejo-event"].iter().find_map(|name| once(headers, name));
            let id = id(&["x-gitea-delivery", "x-forgejo-delivery"]);
            github(event.unwrap_or_default(), body).map_or_else(|said| said, |heard| one(id, heard))
        }
        Provider::Gitlab => {
            let id = id(&["x-gitlab-event-uuid", "idempotency-key"]);
            gitlab(body).map_or_else(|said| said, |heard| one(id, heard))
        }
        Provider::Generic => {
            let named = once(headers, "x-ews-delivery").map(str::to_owned);
            let pointed = rule.pointers.get(&Pointed::Id).and_then(|pointer| owned(body, pointer));
            one(named.or(pointed).unwrap_or_else(of_body), generic(rule, body))
        }
        Provider::Registry => registry(body, &of_body()),
        Provider::Harbor => harbor(body, &of_body()),
        Provider::Dockerhub => dockerhub(body).map_or_else(|said| said, |heard| one(of_body(), heard)),
    }
}

/// GitHub's documents, which Gitea's and Forgejo's are like.
fn github(event: &str, body: &Value) -> Result<Heard, Said> {
    let repository = owned(body, "/repository/full_name");
    match event {
        "ping" => Err(Said::Ping),
        "push" => {
            let mut heard = Heard::new(HeardKind::Push, repository).at_ref(text(body, "/ref"));
            heard.sha = sha(body, "/after");
            if body.get("deleted").and_then(Value::as_bool) == Some(true) || heard.sha.is_none() {
                return Err(ignored("a branch or tag was deleted"));
            }
            heard.by =
                owned(body, "/sender/login").or_else(|| owned(body, "/pusher/name")).unwrap_or_default();
            heard.paths = changed(body.get("commits"));
            Ok(heard)
        }
        "release" => {
            if !matches!(text(body, "/action"), Some("published")) {
                return Err(ignored("a release that is not published"));
            }
            let mut heard = Heard::new(HeardKind::Release, repository);
            heard.tag = owned(body, "/release/tag_name");
            heard.sha = sha(body, "/release/target_commitish");
            heard.by = owned(body, "/sender/login").unwrap_or_default();
            Ok(heard)
        }
        "package" | "registry_package" => {
            let package = body.get(event).unwrap_or(&Value::Null);
            let kind = text(package, "/package_type").unwrap_or_default();
            if !kind.eq_ignore_ascii_case("container")
                || !matches!(text(body, "/action"), Some("published" | "updated" | "created"))
            {
                return Err(ignored("a package that is no published container"));
            }
            let mut heard = Heard::new(HeardKind::Image, repository);
            heard.tag = owned(package, "/package_version/container_metadata/tag/name");
            heard.digest = digest(package, "/package_version/container_metadata/tag/digest")
                .or_else(|| digest(package, "/package_version/container_metadata/manifest/digest"));
            let (namespace, name) = (text(package, "/namespace"), text(package, "/name"));
            if let (Some(namespace), Some(name)) = (namespace, name) {
                heard.image = Some(format!("ghcr.io/{namespace}/{name}").to_ascii_lowercase());
            }
            heard.sha = sha(package, "/package_version/target_oid");
            heard.by = owned(body, "/sender/login").unwrap_or_default();
            Ok(heard)
        }
        _ => Err(ignored("an event that no rule is about")),
    }
}

fn gitlab(body: &Value) -> Result<Heard, Said> {
    let repository = owned(body, "/project/path_with_namespace");
    let by = owned(body, "/user_username").or_else(|| owned(body, "/user/username"));
    match text(body, "/object_kind").or_else(|| text(body, "/event_name")).unwrap_or_default() {
        "push" | "tag_push" => {
            let mut heard = Heard::new(HeardKind::Push, repository).at_ref(text(body, "/ref"));
            // Of an annotated tag `after` is the tag's own object; what is checked out is the commit.
            heard.sha = sha(body, "/checkout_sha").or_else(|| sha(body, "/after"));
            if heard.sha.is_none() {
                return Err(ignored("a branch or tag was deleted"));
            }
            heard.by = by.unwrap_or_default();
            let all = body.get("commits").and_then(Value::as_array).map_or(0, Vec::len) as u64;
            // It lists 20 commits at most, and says how many there are.
            if body.get("total_commits_count").and_then(Value::as_u64).is_none_or(|total| total <= all) {
                heard.paths = changed(body.get("commits"));
            }
            Ok(heard)
        }
        "release" => {
            if !matches!(text(body, "/action"), Some("create")) {
                return Err(ignored("a release that is not new"));
            }
            let mut heard = Heard::new(HeardKind::Release, repository);
            heard.tag = owned(body, "/tag");
            heard.sha = sha(body, "/commit/id");
            heard.by = by.unwrap_or_default();
            Ok(heard)
        }
        _ => Err(ignored("an event that no rule is about")),
    }
}

fn generic(rule: &Rule, body: &Value) -> Heard {
    let pointer = |what| rule.pointers.get(&what).map_or("\u{0}", String::as_str);
    let mut heard = Heard::new(HeardKind::Push, owned(body, pointer(Pointed::Repository)))
        .at_ref(text(body, pointer(Pointed::Ref)));
    heard.branch = owned(body, pointer(Pointed::Branch)).or(heard.branch);
    heard.tag = owned(body, pointer(Pointed::Tag)).or(heard.tag);
    heard.sha = sha(body, pointer(Pointed::Sha));
    heard.image = owned(body, pointer(Pointed::Image));
    heard.digest = digest(body, pointer(Pointed::Digest));
    heard.by = owned(body, pointer(Pointed::By)).unwrap_or_default();
    heard
}

/// The envelope of distribution's notifications.
fn registry(body: &Value, of_body: &str) -> Said {
    let Some(events) = body.get("events").and_then(Value::as_array) else {
        return ignored("not an envelope of notifications");
    };
    if events.len() > EVENTS {
        return ignored("more than 100 notifications at once");
    }
    let mut all = Vec::new();
    for (index, event) in events.iter().enumerate() {
        // A layer has no tag and a manifest by digest has none either: what is deployed has one.
        let (Some("push"), Some(repository), Some(tag)) =
            (text(event, "/action"), text(event, "/target/repository"), text(event, "/target/tag"))
        else {
            continue;
        };
        let mut heard = Heard::new(HeardKind::Image, Some(repository.to_owned()));
        heard.tag = Some(tag.to_owned());
        heard.digest = digest(event, "/target/digest");
        heard.image = text(event, "/request/host").map(|host| format!("{host}/{repository}"));
        heard.by = owned(event, "/actor/name").unwrap_or_default();
        all.push((owned(event, "/id").unwrap_or_else(|| format!("{of_body}/{index}")), heard));
    }
    if all.is_empty() { ignored("no image was pushed under a tag") } else { Said::Heard(all) }
}

fn harbor(body: &Value, of_body: &str) -> Said {
    if !matches!(text(body, "/type"), Some("PUSH_ARTIFACT" | "pushImage")) {
        return ignored("an event that no rule is about");
    }
    let resources = body.pointer("/event_data/resources").and_then(Value::as_array);
    let mut all = Vec::new();
    for (index, resource) in resources.into_iter().flatten().take(EVENTS).enumerate() {
        let mut heard = Heard::new(HeardKind::Image, owned(body, "/event_data/repository/repo_full_name"));
        heard.tag = owned(resource, "/tag");
        heard.digest = digest(resource, "/digest");
        heard.image = text(resource, "/resource_url").map(without_tag);
        heard.by = owned(body, "/operator").unwrap_or_default();
        all.push((format!("{of_body}/{index}"), heard));
    }
    if all.is_empty() { ignored("no image was pushed") } else { Said::Heard(all) }
}

fn without_tag(name: &str) -> String {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name.to_owned(),
        _ => name.to_owned(),
    }
}

fn dockerhub(body: &Value) -> Result<Heard, Said> {
    let Some(repository) = owned(body, "/repository/repo_name") else {
        return Err(ignored("no repository is named"));
    };
    let mut heard = Heard::new(HeardKind::Image, Some(repository.clone()));
    heard.tag = owned(body, "/push_data/tag");
    heard.image = Some(format!("docker.io/{repository}"));
    heard.by = owned(body, "/push_data/pusher").unwrap_or_default();
    Ok(heard)
}
