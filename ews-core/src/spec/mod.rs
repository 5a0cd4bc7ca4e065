//! What a service is: [`ServiceSpec`], and the part of it that a runtime needs to run one instance, [`InstanceSpec`].
//!
//! People write a spec as TOML, JSON or YAML ([`crate::document`]), flat; programs build it with [`ServiceSpec::new`] and set
//! fields. Both go through the same checks: a spec that was read or passed [`ServiceSpec::check`] holds no problem that
//! could be known before an engine is asked. Secrets are references, never values.
//!
//! Each file beside this one holds one idea: [`source`] (image, artifact), [`content`] (environment, files, secrets),
//! [`network`] (ports, networks), [`storage`] (mounts), [`resources`], [`platform`], [`probe`], [`lifecycle`] (stop, restart,
//! jobs, logs), [`security`], [`placement`].

pub mod content;
pub mod lifecycle;
pub mod network;
pub mod placement;
pub mod platform;
pub mod probe;
mod read;
pub mod resources;
mod rules;
pub mod security;
pub mod source;
pub mod storage;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::id::ServiceName;
use crate::label::Labels;

use content::{ConfigFile, EnvValue};
use lifecycle::{EngineRestart, Job, LogLimits, Restart, RestartCondition, Stop};
use network::{NetworkAttachment, Port};
use placement::Placement;
use platform::PlatformSpec;
use probe::Probes;
use resources::{Resources, Ulimit};
use security::{Device, Security};
use source::{Digest, Source};
use storage::Mount;

/// A service: a number of equal instances, and how to keep them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ServiceSpec {
    /// Its name.
    pub name: ServiceName,
    /// How many instances are wanted. Default 1; 0 keeps the service known with nothing running.
    pub replicas: u32,
    /// What each instance is; its fields stand beside these in a document.
    #[serde(flatten)]
    pub instance: InstanceSpec,
    /// What supervision does when an instance ends. Default: always restart, with back-off.
    #[serde(skip_serializing_if = "is_default")]
    pub restart: Restart,
    /// Where instances may run and how they spread. Default: anywhere, spread over nodes.
    #[serde(skip_serializing_if = "is_default")]
    pub placement: Placement,
    /// Makes it a run-once job instead of a long-running service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
}

impl ServiceSpec {
    /// The most instances one service may ask for.
    pub const MAX_REPLICAS: u32 = 100_000;

    /// A job that runs `source` once, everything else at its default; what fails is tried again by [`Job::retries`].
    pub fn job(name: ServiceName, source: Source, job: Job) -> Self {
        let mut spec = Self::new(name, source);
        spec.restart.condition = RestartCondition::Never;
        spec.job = Some(job);
        spec
    }

    /// One instance of `source`, everything else at its default.
    pub fn new(name: ServiceName, source: Source) -> Self {
        Self {
            name,
            replicas: 1,
            instance: InstanceSpec::new(source),
            restart: Restart::default(),
            placement: Placement::default(),
            job: None,
        }
    }
}

/// What a runtime needs to create one instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct InstanceSpec {
    /// What runs.
    #[serde(flatten)]
    pub source: Source,
    /// The program and its first arguments; replaces an image's entrypoint. Empty: the image's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments after `command`; replace an image's default arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The environment, on top of an image's own. Names are not empty and hold neither `=` nor NUL.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, EnvValue>,
    /// Files placed before the program starts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ConfigFile>,
    /// Ports that the program listens on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Directories and volumes seen by the program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Networks to join, created where they are missing. Empty: the runtime's default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkAttachment>,
    /// What it may use.
    #[serde(skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// Per-process limits of the operating system.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    /// Which platform it needs. Default: the image's.
    #[serde(skip_serializing_if = "is_default")]
    pub platform: PlatformSpec,
    /// How its health is known.
    #[serde(skip_serializing_if = "is_default")]
    pub probes: Probes,
    /// How it is asked to stop. Default: SIGTERM, 10 s.
    #[serde(skip_serializing_if = "is_default")]
    pub stop: Stop,
    /// How much of its output is kept. Default: 3 files of 10 MiB.
    #[serde(skip_serializing_if = "is_default")]
    pub log: LogLimits,
    /// What it may do beyond an ordinary process, and less.
    #[serde(skip_serializing_if = "is_default")]
    pub security: Security,
    /// Devices of the node that it sees.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Who it runs as: `user`, `uid`, `user:group` or `uid:gid`. Default: the image's, or the runtime's own user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its working directory, absolute. Default: the image's, or one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Its host name. Default: the runtime's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Whether a tiny init reaps its orphans and forwards signals. Default false.
    #[serde(skip_serializing_if = "is_default")]
    pub init: bool,
    /// What the engine itself does when the program ends while no controller lives. Default: nothing.
    #[serde(skip_serializing_if = "is_default")]
    pub engine_restart: EngineRestart,
    /// Labels of the service and of each instance. Keys under `ews/` are refused.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

impl InstanceSpec {
    /// `source`, everything else at its default.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            command: Vec::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            files: Vec::new(),
            ports: Vec::new(),
            mounts: Vec::new(),
            networks: Vec::new(),
            resources: Resources::default(),
            ulimits: Vec::new(),
            platform: PlatformSpec::default(),
            probes: Probes::default(),
            stop: Stop::default(),
            log: LogLimits::default(),
            security: Security::default(),
            devices: Vec::new(),
            user: None,
            workdir: None,
            hostname: None,
            init: false,
            engine_restart: EngineRestart::default(),
            labels: Labels::default(),
        }
    }

    /// A digest of everything in this spec: equal specs, and only those, have equal hashes. Drivers store it beside the
    /// instance to tell "created already" from "created differently".
    pub fn hash(&self) -> Digest {
        // Field order is fixed and maps are sorted, so the JSON text is canonical. Writing JSON into memory fails only for
        // map keys that are no text, and these are.
        let text = serde_json::to_vec(self).unwrap_or_default();
        Digest::of(&text)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Serde through `Display` and `FromStr`, for values that people write as one word.
macro_rules! text_serde {
    ($($name:ty),+) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(|error: crate::Error| serde::de::Error::custom(error.message()))
            }
        }
    )+};
}
pub(crate) use text_serde;
