//! What goes over the operator's API: the bodies of requests and answers, and the lines of streams.
//!
//! Requests refuse unknown fields; answers may get new ones. Reports, plans, instances and events are the SDK's own documents.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ews_core::http::Problem;
use ews_core::{ExitStatus, Instance, InstanceId, RevisionId, ServiceName, ServiceSpec, Timestamp};
use ews_deploy::{
    AuditEntry, Bounds, Concurrency, DeployEvent, RemedyPolicy, RolloutReport, Strategy, Traffic,
};
use ews_monitor::AlertEvent;
use serde::{Deserialize, Serialize};

/// `GET /v1/host`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostView {
    /// The program's version.
    pub(crate) version: String,
    /// The installation.
    pub(crate) name: String,
    /// `process` or `docker`.
    pub(crate) runtime: String,
    /// The host's process.
    pub(crate) pid: u32,
    /// Its data directory.
    pub(crate) data: PathBuf,
    /// Where it listens.
    pub(crate) listening: Listening,
    /// Since when it runs.
    pub(crate) since: Timestamp,
    /// Whether it is about to end: requests under way are finished, and nothing more is brought about.
    #[serde(default)]
    pub(crate) ending: bool,
}

/// Where a host listens.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Listening {
    /// For traffic.
    pub(crate) http: Vec<SocketAddr>,
    /// For traffic within TLS.
    pub(crate) https: Vec<SocketAddr>,
    /// The operator's socket.
    pub(crate) socket: PathBuf,
    /// The operator's API on TCP.
    pub(crate) api: Option<SocketAddr>,
    /// Webhooks and the deploy API.
    pub(crate) intake: Option<SocketAddr>,
    /// The gateway's admin endpoint.
    pub(crate) admin: Option<SocketAddr>,
}

impl Listening {
    /// Where traffic comes in, in words.
    pub(crate) fn traffic(&self) -> String {
        let all: Vec<_> = self.http.iter().chain(&self.https).map(ToString::to_string).collect();
        all.join(", ")
    }
}

/// `POST /v1/services/{name}/deploy` and `/plan`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeployBody {
    /// What shall run.
    pub(crate) spec: ServiceSpec,
    /// How to get there.
    #[serde(default)]
    pub(crate) strategy: Strategy,
    /// Which traffic it gets; as before where it is left out.
    #[serde(default)]
    pub(crate) traffic: Option<Traffic>,
    /// What scaling may set; as before where it is left out.
    #[serde(default)]
    pub(crate) bounds: Option<Bounds>,
    /// How instances are treated that are not well; as before where it is left out.
    #[serde(default)]
    pub(crate) remedy: Option<RemedyPolicy>,
    /// What happens when a rollout is under way.
    #[serde(default)]
    pub(crate) concurrency: Concurrency,
    /// Why.
    #[serde(default)]
    pub(crate) reason: String,
    /// A second request of the same key changes nothing.
    #[serde(default)]
    pub(crate) key: Option<String>,
    /// Whether the artifact is copied and kept by its digest, so that what runs later is what was deployed.
    #[serde(default)]
    pub(crate) keep: bool,
}

/// What was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// Of which service.
    pub(crate) service: ServiceName,
    /// The rollout that it became.
    pub(crate) rollout: u64,
}

/// `GET /v1/services/{name}/rollouts/{number}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RolloutView {
    /// How it stands or ended; nothing while it waits to be begun.
    pub(crate) report: Option<RolloutReport>,
}

/// `GET /v1/services/{name}`, and in a list in `GET /v1/services`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceView {
    /// Which.
    pub(crate) service: ServiceName,
    /// How many instances it should have.
    pub(crate) desired: u32,
    /// How many of them are known to be ready.
    pub(crate) ready: u32,
    /// How many run of which the host does not know yet whether they are, such as right after its start.
    pub(crate) unknown: u32,
    /// What a rollout brought about last.
    pub(crate) stable: Option<RevisionId>,
    /// The rollout under way.
    pub(crate) rollout: Option<RolloutReport>,
    /// Its instances.
    pub(crate) instances: Vec<Instance>,
    /// Whether it is being removed.
    pub(crate) removing: bool,
}

/// `GET /v1/services/{name}/history`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HistoryView {
    /// The rollouts, the latest first.
    pub(crate) rollouts: Vec<RolloutReport>,
    /// Who asked for what, the latest first.
    pub(crate) audit: Vec<AuditEntry>,
}

/// `POST /v1/services/{name}/rollback`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RollbackBody {
    /// Where to; the stable one before where it is left out.
    pub(crate) to: Option<RevisionId>,
}

/// `POST /v1/services/{name}/restart`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RestartBody {
    /// How.
    pub(crate) strategy: Strategy,
}

/// `POST /v1/services/{name}/scale`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScaleBody {
    /// How many instances there should be.
    pub(crate) replicas: u32,
    /// Why.
    #[serde(default)]
    pub(crate) reason: String,
}

/// `POST /v1/services/{name}/exec`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecBody {
    /// The program and its arguments, without a shell.
    pub(crate) command: Vec<String>,
    /// Added to the environment.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// In which instance; the first that runs where it is left out.
    #[serde(default)]
    pub(crate) instance: Option<InstanceId>,
}

/// A line of an exec's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExecLine {
    /// Where it runs; the first line.
    Instance(InstanceId),
    /// A piece of its standard output.
    Stdout(String),
    /// A piece of its standard error.
    Stderr(String),
    /// A piece of its standard output that is no UTF-8.
    StdoutBytes(Vec<u8>),
    /// A piece of its standard error that is no UTF-8.
    StderrBytes(Vec<u8>),
    /// How it ended; the last line.
    Ended(ExitStatus),
    /// Why nobody knows how it ended; the last line.
    Failed(Problem),
}

/// A line of `GET /v1/services/{name}/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogStreamLine {
    /// Something that an instance wrote.
    Line(LogLineView),
    /// An instance's log can't be read on.
    Failed {
        /// Whose.
        instance: InstanceId,
        /// Why.
        why: String,
    },
}

/// Something that an instance wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogLineView {
    /// When.
    pub(crate) at: Timestamp,
    /// Which.
    pub(crate) instance: InstanceId,
    /// Its slot.
    pub(crate) slot: u32,
    /// Of which revision.
    pub(crate) revision: RevisionId,
    /// Whether to standard error.
    pub(crate) stderr: bool,
    /// What, with a mark where it was no UTF-8.
    pub(crate) text: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HostEvent {
    /// When.
    pub(crate) at: Timestamp,
    /// To which service, where it is about one.
    pub(crate) service: Option<ServiceName>,
    /// In words.
    pub(crate) text: String,
    /// What.
    pub(crate) what: Happening,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Happening {
    /// To a service.
    Deploy(Box<DeployEvent>),
    /// To an alert.
    Alert(Box<AlertEvent>),
}

/// A line of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EventLine {
    /// Something happened.
    Event(Box<HostEvent>),
    /// Some may be missing here: look at the status.
    Gap,
    /// Nothing has happened for a while.
    Still,
}
