//! A webhook's rule: which provider, which events it is about, what becomes the source, and what is deployed.

use std::collections::BTreeMap;
use std::time::Duration;

use ews_core::time::duration;
use ews_core::{Error, Result, SecretRef, ServiceName, ServiceSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::check_secrets;
use super::glob::Glob;
use super::heard::{Heard, HeardKind};
use super::template::Template;
use crate::request::{Bounds, Concurrency, DeployRequest, Traffic};
use crate::strategy::Strategy;

/// Who sends a webhook, and so how it is signed and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Provider {
    /// GitHub: `X-Hub-Signature-256`.
    Github,
    /// GitLab: `X-Gitlab-Token`.
    Gitlab,
    /// Gitea and Forgejo: `X-Gitea-Signature`.
    Gitea,
    /// Anybody else: `X-EWS-Signature` and `X-EWS-Timestamp`, and pointers that say where what is.
    Generic,
    /// A registry's notifications, `application/vnd.docker.distribution.events.v1+json`: a bearer token.
    Registry,
    /// Harbor: its `Authorization` header.
    Harbor,
    /// Docker Hub, which signs nothing: a token in the query.
    Dockerhub,
}

impl Provider {
    /// The name that is in the path.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Gitea => "gitea",
            Self::Generic => "generic",
            Self::Registry => "registry",
            Self::Harbor => "harbor",
            Self::Dockerhub => "dockerhub",
        }
    }
}

/// A rule of webhooks: `POST /hooks/{provider}/{rule}`.
///
/// Filters all have to hold; an empty one lets everything pass, except that a rule with `branches` and no `tags` is not about
/// tags, and the other way round. `paths` holds where one of the changed files matches, and where the sender does not say which
/// files changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rule {
    /// Who sends it.
    pub provider: Provider,
    /// By which it is signed, or the token that it carries; 1 to 4. The bytes as they are stored: a line end belongs to them.
    pub secrets: Vec<SecretRef>,
    /// What it is about. Default: pushes, of commits and of images.
    #[serde(default = "pushes")]
    pub events: Vec<HeardKind>,
    /// Of these repositories; of each filter at most 100 patterns. Default: all, since the secret says whose it is.
    #[serde(default)]
    pub repositories: Vec<Glob>,
    /// Of these branches. Default: all, unless `tags` are said.
    #[serde(default)]
    pub branches: Vec<Glob>,
    /// Of these tags. Default: all, unless `branches` are said; of images: all.
    #[serde(default)]
    pub tags: Vec<Glob>,
    /// Where one of these files changed. Default: whatever changed.
    #[serde(default)]
    pub paths: Vec<Glob>,
    /// How long it is waited for a later one, which then takes its place; each later one begins it anew, at most ten times. At
    /// most an hour. Default none.
    #[serde(default, with = "duration")]
    pub debounce: Duration,
    /// What becomes the source.
    pub source: RuleSource,
    /// What is deployed: a service's spec without its source.
    pub spec: Value,
    /// How. Default [`Strategy::default`].
    #[serde(default)]
    pub strategy: Strategy,
    /// Which traffic it gets. Default: as before.
    #[serde(default)]
    pub traffic: Option<Traffic>,
    /// The least and the most instances. Default: as before.
    #[serde(default)]
    pub bounds: Option<Bounds>,
    /// What happens when a rollout is under way. Default: it waits its turn.
    #[serde(default = "queue")]
    pub concurrency: Concurrency,
    /// Where what is in the body of a generic webhook, as JSON pointers (RFC 6901).
    #[serde(default)]
    pub pointers: BTreeMap<Pointed, String>,
    /// How far the clock of a generic webhook's sender may be off, which is how long a recorded request could be sent again if its
    /// id was forgotten. Above zero, at most an hour. Default 5 min (Stripe's and Slack's).
    #[serde(default = "tolerance", with = "duration")]
    pub tolerance: Duration,
}

fn pushes() -> Vec<HeardKind> {
    vec![HeardKind::Push, HeardKind::Image]
}
fn queue() -> Concurrency {
    Concurrency::Queue
}
fn tolerance() -> Duration {
    Duration::from_secs(300)
}

/// What a pointer of a generic webhook leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Pointed {
    /// The repository's full name.
    Repository,
    /// The branch.
    Branch,
    /// The tag.
    Tag,
    /// `refs/heads/…` or `refs/tags/…`, in place of both.
    Ref,
    /// The commit.
    Sha,
    /// The image's name.
    Image,
    /// A digest, of the image or of an upload.
    Digest,
    /// Who did it.
    By,
    /// The id of the delivery, where there is no `X-EWS-Delivery`.
    Id,
}

/// What becomes the source of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RuleSource {
    /// An image by this name, such as `registry.example/acme/web:{sha}`.
    Image(Template),
    /// The upload of the digest that the webhook says.
    Upload(MadeBy),
    /// The commit that the webhook says, which the embedder's [`Fetch`](super::Fetch) turns into a tree.
    Commit(MadeBy),
}

/// What is made of an upload or a tree.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MadeBy {
    /// Which kind of source. Default: an artifact on an official image.
    pub kind: MadeKind,
    /// The entry of the catalogue, `id` or `id:line`. Needed but for a Dockerfile and a process.
    pub on: Option<String>,
    /// The name of the image that is made. Needed but for a process.
    pub name: Option<Template>,
    /// The directory within it. Default: its top.
    pub root: Option<String>,
    /// What stands for `{main}` in the entry's command.
    pub main: Option<String>,
}

impl MadeBy {
    /// An artifact that runs without an image.
    pub fn process() -> Self {
        Self { kind: MadeKind::Process, ..Self::default() }
    }

    /// An artifact on this entry of the catalogue, as an image of this name.
    pub fn artifact(on: impl Into<String>, name: Template) -> Self {
        Self { on: Some(on.into()), name: Some(name), ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        let needs = |field: &'static str| {
            Err(Error::invalid(format!(
                "a source of kind `{}` without `{field}`; accepted: one with it",
                self.kind
            ))
            .with_context("field", field))
        };
        match self.kind {
            MadeKind::Artifact | MadeKind::Compiled if self.on.is_none() => needs("on"),
            MadeKind::Artifact | MadeKind::Compiled | MadeKind::Dockerfile if self.name.is_none() => {
                needs("name")
            }
            _ => Ok(()),
        }
    }
}

/// Which kind of source is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MadeKind {
    /// An artifact on an official image.
    #[default]
    Artifact,
    /// A source tree, compiled in the entry's builder image.
    Compiled,
    /// A Dockerfile and its context.
    Dockerfile,
    /// An artifact that runs without an image.
    Process,
}

impl std::fmt::Display for MadeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Artifact => "artifact",
            Self::Compiled => "compiled",
            Self::Dockerfile => "dockerfile",
            Self::Process => "process",
        })
    }
}

impl Rule {
    /// A rule with these, everything else at its default.
    pub fn new(provider: Provider, secret: SecretRef, source: RuleSource, spec: Value) -> Self {
        Self {
            provider,
            secrets: vec![secret],
            events: pushes(),
            repositories: Vec::new(),
            branches: Vec::new(),
            tags: Vec::new(),
            paths: Vec::new(),
            debounce: Duration::ZERO,
            source,
            spec,
            strategy: Strategy::default(),
            traffic: None,
            bounds: None,
            concurrency: queue(),
            pointers: BTreeMap::new(),
            tolerance: tolerance(),
        }
    }

    /// About these events.
    #[must_use]
    pub fn with_events(mut self, events: impl IntoIterator<Item = HeardKind>) -> Self {
        self.events = events.into_iter().collect();
        self
    }

    /// Of these repositories.
    #[must_use]
    pub fn with_repositories(mut self, repositories: impl IntoIterator<Item = Glob>) -> Self {
        self.repositories = repositories.into_iter().collect();
        self
    }

    /// Of these branches.
    #[must_use]
    pub fn with_branches(mut self, branches: impl IntoIterator<Item = Glob>) -> Self {
        self.branches = branches.into_iter().collect();
        self
    }

    /// Of these tags.
    #[must_use]
    pub fn with_tags(mut self, tags: impl IntoIterator<Item = Glob>) -> Self {
        self.tags = tags.into_iter().collect();
        self
    }

    /// Where one of these files changed.
    #[must_use]
    pub fn with_paths(mut self, paths: impl IntoIterator<Item = Glob>) -> Self {
        self.paths = paths.into_iter().collect();
        self
    }

    /// Waiting for a later one for so long.
    #[must_use]
    pub fn with_debounce(mut self, debounce: Duration) -> Self {
        self.debounce = debounce;
        self
    }

    /// Proceeding like this.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Getting this traffic.
    #[must_use]
    pub fn with_traffic(mut self, traffic: Traffic) -> Self {
        self.traffic = Some(traffic);
        self
    }

    /// Scaled within these bounds.
    #[must_use]
    pub fn with_bounds(mut self, bounds: impl Into<Bounds>) -> Self {
        self.bounds = Some(bounds.into());
        self
    }

    /// With this answer to a rollout that is under way.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: Concurrency) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// With this of a generic webhook's body at this JSON pointer.
    #[must_use]
    pub fn with_pointer(mut self, what: Pointed, pointer: impl Into<String>) -> Self {
        self.pointers.insert(what, pointer.into());
        self
    }

    /// Refuses what is wrong in itself.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted; what [`DeployRequest::check`] refuses.
    pub fn check(&self) -> Result<()> {
        let wrong = |field: &'static str, message: &str| {
            Err(Error::invalid(message.to_owned()).with_context("field", field))
        };
        check_secrets(&self.secrets)?;
        if self.events.is_empty() {
            return wrong("events", "a rule about nothing; accepted: at least one event");
        }
        let filters = [
            ("repositories", &self.repositories),
            ("branches", &self.branches),
            ("tags", &self.tags),
            ("paths", &self.paths),
        ];
        for (field, filter) in filters {
            if filter.len() > 100 {
                return wrong(field, "a filter of more than 100 patterns; accepted: at most 100");
            }
        }
        if self.debounce > Duration::from_secs(3_600) {
            return wrong("debounce", "a debounce of more than an hour; accepted: at most an hour");
        }
        if self.tolerance.is_zero() || self.tolerance > Duration::from_secs(3_600) {
            return wrong("tolerance", "a tolerance out of bounds; accepted: above zero, at most an hour");
        }
        if self.pointers.values().any(|pointer| !pointer.starts_with('/') || pointer.len() > 256) {
            return wrong("pointers", "not a JSON pointer; accepted: `/` in front, at most 256 bytes");
        }
        if self.provider != Provider::Generic && !self.pointers.is_empty() {
            return wrong("pointers", "pointers of a provider that needs none; accepted: of `generic` only");
        }
        match &self.source {
            RuleSource::Image(_) => {}
            RuleSource::Upload(made) | RuleSource::Commit(made) => made.check()?,
        }
        self.request(self.blank()?)?.check()
    }

    /// The spec with a stand-in for its source.
    pub(super) fn blank(&self) -> Result<ServiceSpec> {
        spec_of(&self.spec, None)
    }

    /// What is asked for, with this spec.
    pub(super) fn request(&self, spec: ServiceSpec) -> Result<DeployRequest> {
        let mut request =
            DeployRequest::new(spec).with_strategy(self.strategy.clone()).with_concurrency(self.concurrency);
        request.traffic.clone_from(&self.traffic);
        request.bounds = self.bounds;
        Ok(request)
    }

    /// Why the rule is not about this; `None`: it is.
    pub(super) fn refuses(&self, heard: &Heard) -> Option<String> {
        let lets = |globs: &[Glob], text: &str| globs.is_empty() || Glob::any(globs, text);
        if !self.events.contains(&heard.kind) {
            return Some(format!("the rule is not about `{}`", heard.kind));
        }
        if !lets(&self.repositories, &heard.repository) {
            return Some("the rule is not about this repository".to_owned());
        }
        let is_image = heard.kind == HeardKind::Image;
        let about = match (&heard.branch, &heard.tag) {
            (Some(branch), _) => {
                if self.branches.is_empty() {
                    self.tags.is_empty()
                } else {
                    Glob::any(&self.branches, branch)
                }
            }
            (None, Some(tag)) if self.tags.is_empty() => {
                is_image || self.branches.is_empty() || tag.is_empty()
            }
            (None, Some(tag)) => Glob::any(&self.tags, tag),
            (None, None) => {
                is_image && self.tags.is_empty() || self.branches.is_empty() && self.tags.is_empty()
            }
        };
        if !about {
            return Some("the rule is not about this branch or tag".to_owned());
        }
        let changed = heard.paths.as_ref().filter(|_| !self.paths.is_empty());
        if changed.is_some_and(|paths| !paths.iter().any(|path| Glob::any(&self.paths, path))) {
            return Some("none of the rule's paths changed".to_owned());
        }
        None
    }
}

/// Reads a spec whose source is said elsewhere; a stand-in takes its place.
pub(super) fn spec_of(value: &Value, name: Option<&ServiceName>) -> Result<ServiceSpec> {
    let field = |error: Error| error.with_context("field", "spec");
    let Some(mut table) = value.as_object().cloned() else {
        return Err(field(Error::invalid("not a service's spec; accepted: a table of its fields")));
    };
    if table.contains_key("image") || table.contains_key("artifact") {
        return Err(field(Error::invalid(
            "a source within the spec; accepted: a spec without `image` and `artifact`, the source beside it",
        )));
    }
    table.insert("image".to_owned(), Value::from("stand.in.invalid/source:none"));
    if let Some(name) = name {
        let said = table.entry("name").or_insert_with(|| Value::from(name.as_str()));
        if said.as_str() != Some(name.as_str()) {
            return Err(field(Error::invalid(
                "the spec is another service's; accepted: the name in the path",
            )));
        }
    }
    let text = serde_json::to_string(&table).map_err(|_| field(Error::invalid("the spec can't be read")))?;
    ServiceSpec::from_json(&text).map_err(|problems| field(problems.into()))
}
