//! What a driver can do, said by the driver and held by one layer.
//!
//! A capability that a driver lacks is refused with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), never passed
//! over in silence: [`CapabilityCheck`](crate::layer::CapabilityCheck) does it in front of any driver, and the conformance suites hold a
//! driver to what it declares. [`RuntimeCapabilities::check`] tells before an engine is asked whether a spec can run.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::InstanceSpec;
use crate::spec::lifecycle::{EngineRestart, Signal};
use crate::spec::platform::Isolation;
use crate::spec::probe::Check;
use crate::spec::source::Source;
use crate::spec::storage::MountKind;

macro_rules! capabilities {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// One thing that a driver can do or not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Capability {
            $($(#[$doc])* #[serde(rename = $text)] $name,)+
        }

        impl Capability {
            /// Every capability there is, in the order of this list.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The name used in messages, logs and JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

capabilities! {
    /// Runtime: runs images.
    ImageSource = "image_source",
    /// Runtime: runs artifacts without an image.
    ArtifactSource = "artifact_source",
    /// Runtime: has an [`ImageStore`](crate::image::ImageStore).
    ImageStore = "image_store",
    /// Runtime: instances outlive the controller, and a successor finds them.
    SurvivesController = "survives_controller",
    /// Runtime: instances outlive a restart of the engine.
    SurvivesEngine = "survives_engine",
    /// Runtime: sends signals other than the one that stops.
    Signals = "signals",
    /// Runtime: runs commands inside an instance.
    Exec = "exec",
    /// Runtime: exec with a terminal, raw bytes both ways.
    ExecTty = "exec_tty",
    /// Runtime: a terminal's size can change.
    ExecResize = "exec_resize",
    /// Runtime: the end of standard input reaches the program while its output stays open.
    ExecHalfClose = "exec_half_close",
    /// Runtime: ending a session ends everything the command started.
    ExecTerminate = "exec_terminate",
    /// Runtime: keeps output and gives it back.
    Logs = "logs",
    /// Runtime: tells standard output from standard error.
    LogsSplit = "logs_split",
    /// Runtime: gives logs from a moment on.
    LogsSince = "logs_since",
    /// Runtime: measures usage.
    Usage = "usage",
    /// Runtime: takes archives into an instance.
    PutArchive = "put_archive",
    /// Runtime: gives archives out of an instance.
    GetArchive = "get_archive",
    /// Runtime: allots ports that a spec leaves open.
    AllotPorts = "allot_ports",
    /// Runtime: publishes ports on the node.
    PublishPorts = "publish_ports",
    /// Runtime: publishes on a chosen address of the node.
    PublishAddress = "publish_address",
    /// Runtime: UDP ports.
    Udp = "udp",
    /// Runtime: mounts paths of the node.
    BindMounts = "bind_mounts",
    /// Runtime: mounts volumes.
    Volumes = "volumes",
    /// Runtime: mounts memory.
    Tmpfs = "tmpfs",
    /// Runtime: mounts named pipes.
    NamedPipes = "named_pipes",
    /// Runtime: read-only mounts are really read-only.
    ReadOnlyMounts = "read_only_mounts",
    /// Runtime: joins networks.
    Networks = "networks",
    /// Runtime: places config files and secrets.
    Files = "files",
    /// Runtime: runs as another user.
    User = "user",
    /// Runtime: sets the working directory.
    Workdir = "workdir",
    /// Runtime: sets the host name.
    Hostname = "hostname",
    /// Runtime: an init inside the instance.
    Init = "init",
    /// Runtime: per-process limits.
    Ulimits = "ulimits",
    /// Runtime: devices of the node.
    Devices = "devices",
    /// Runtime: a read-only file system.
    ReadOnlyRoot = "read_only_root",
    /// Runtime: no rights through set-id programs.
    NoNewPrivileges = "no_new_privileges",
    /// Runtime: adds and drops Linux capabilities.
    LinuxCapabilities = "linux_capabilities",
    /// Runtime: every right on the node.
    Privileged = "privileged",
    /// Runtime: Windows credential specs.
    CredentialSpec = "credential_spec",
    /// Runtime: the engine itself checks health.
    EngineHealth = "engine_health",
    /// Runtime: the engine itself restarts.
    EngineRestart = "engine_restart",
    /// Runtime: stopping ends the whole tree of processes, daemons that left it included.
    TreeKill = "tree_kill",
    /// Runtime: tells a kill for memory from another kill.
    OomDetection = "oom_detection",
    /// Runtime: reports what node an instance can be placed on, and places it there.
    NodeChoice = "node_choice",

    /// Image store: builds from a context.
    ImageBuild = "image_build",
    /// Image store: makes an image from an instance.
    ImageCommit = "image_commit",
    /// Image store: writes and reads image archives.
    ImageArchive = "image_archive",
    /// Image store: gives an image another name.
    ImageTag = "image_tag",
    /// Image store: pushes to a registry.
    ImagePush = "image_push",

    /// Registry: deletes manifests and tags.
    RegistryDelete = "registry_delete",
    /// Registry: takes blobs and manifests.
    RegistryPush = "registry_push",
    /// Registry: mounts a blob from another repository.
    RegistryMount = "registry_mount",

    /// Balancer: routes by host name.
    RouteHost = "route_host",
    /// Balancer: host names with a leading wildcard.
    RouteWildcard = "route_wildcard",
    /// Balancer: routes by path prefix and exact path.
    RoutePath = "route_path",
    /// Balancer: routes by regular expression on the path.
    RouteRegex = "route_regex",
    /// Balancer: routes by method, header, cookie or query.
    RouteAttributes = "route_attributes",
    /// Balancer: edits headers, rewrites host and path, redirects to a part of what was asked for.
    RouteFilters = "route_filters",
    /// Balancer: splits traffic by weight.
    Weights = "weights",
    /// Balancer: chooses endpoints by peak EWMA of latency.
    BalancePeakEwma = "balance_peak_ewma",
    /// Balancer: chooses endpoints by requests in flight.
    BalanceLeastRequest = "balance_least_request",
    /// Balancer: chooses endpoints by a hash of the request.
    BalanceHash = "balance_hash",
    /// Balancer: brings clients back to their endpoint by a cookie.
    Sticky = "sticky",
    /// Balancer: gives new endpoints their share little by little.
    SlowStart = "slow_start",
    /// Balancer: tries endpoints at regular times.
    ActiveChecks = "active_checks",
    /// Balancer: asks another service whether a request may pass.
    ForwardAuth = "forward_auth",
    /// Balancer: speaks HTTP/2 to clients, and to the endpoints of pools that want it.
    Http2 = "http2",
    /// Balancer: forwards TCP connections.
    TcpRoutes = "tcp_routes",
    /// Balancer: counts requests in flight per endpoint, so that a drain is proven.
    InFlight = "in_flight",
    /// Balancer: closes what is left at a drain's deadline.
    ForceClose = "force_close",
    /// Balancer: keeps certificates and ends TLS.
    Tls = "tls",
    /// Balancer: speaks TLS to endpoints.
    UpstreamTls = "upstream_tls",
    /// Balancer: traffic policies (timeouts, retries, limits).
    TrafficPolicies = "traffic_policies",
    /// Balancer: drops sources or domains.
    Blackhole = "blackhole",
    /// Balancer: says per endpoint what it sees.
    EndpointHealth = "endpoint_health",
    /// Balancer: finds out what the names of endpoints stand for, again and again.
    EndpointNames = "endpoint_names",

    /// Metrics: rates, increases and other functions of a window.
    MetricWindows = "metric_windows",
    /// Metrics: range queries.
    MetricRanges = "metric_ranges",
    /// Metrics: histograms that merge.
    MetricHistograms = "metric_histograms",

    /// Scale target: the caller chooses the victims of a scale-in.
    ChooseVictims = "choose_victims",
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a driver declares. It never changes during the life of a driver value except when its engine is replaced by
/// another version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CapabilitySet(BTreeSet<Capability>);

impl CapabilitySet {
    /// Nothing at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every capability that there is.
    pub fn all() -> Self {
        Capability::ALL.iter().copied().collect()
    }

    /// Whether this one is declared.
    pub fn has(&self, capability: Capability) -> bool {
        self.0.contains(&capability)
    }

    /// Adds one.
    #[must_use]
    pub fn with(mut self, capability: Capability) -> Self {
        self.0.insert(capability);
        self
    }

    /// Takes one away.
    #[must_use]
    pub fn without(mut self, capability: Capability) -> Self {
        self.0.remove(&capability);
        self
    }

    /// What both declare: what a pool of drivers may promise.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Refuses what is not declared.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming the capability.
    pub fn require(&self, capability: Capability) -> Result<()> {
        if self.has(capability) { Ok(()) } else { Err(Error::unsupported(capability)) }
    }

    /// All of them, ordered.
    pub fn iter(&self) -> impl Iterator<Item = Capability> {
        self.0.iter().copied()
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        Self(capabilities.into_iter().collect())
    }
}

/// How far a runtime holds an instance to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// Not at all: a spec with such a limit is refused.
    #[default]
    None,
    /// As well as it goes; the instance may exceed it. Plans say so.
    BestEffort,
    /// The kernel holds it.
    Hard,
}

/// What a runtime can do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuntimeCapabilities {
    /// What it can do, yes or no.
    pub features: CapabilitySet,
    /// How CPU limits are held.
    pub cpu: Enforcement,
    /// How memory limits are held.
    pub memory: Enforcement,
    /// How limits on the number of processes are held.
    pub pids: Enforcement,
    /// The ways it can isolate; the first is its default.
    pub isolation: Vec<Isolation>,
    /// The signals it can send. Empty with the capability `signals`: all.
    pub signals: Vec<Signal>,
}

impl RuntimeCapabilities {
    /// These features and no enforced limits.
    pub fn new(features: CapabilitySet) -> Self {
        Self { features, ..Self::default() }
    }

    /// Whether this signal can be sent.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming what can be sent.
    pub fn check_signal(&self, signal: Signal) -> Result<()> {
        self.features.require(Capability::Signals)?;
        if self.signals.is_empty() || self.signals.contains(&signal) {
            return Ok(());
        }
        Err(Error::unsupported(Capability::Signals)
            .with_context("signal", signal)
            .with_context("accepted", format_args!("{:?}", self.signals)))
    }

    /// Whether an instance of this spec can be created; the first thing that can't is the error.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming the capability and the field that needs it.
    pub fn check(&self, spec: &InstanceSpec) -> Result<()> {
        self.needs(spec)
            .into_iter()
            .find(|(capability, _)| !self.features.has(*capability))
            .map_or(Ok(()), |(capability, field)| {
                Err(Error::unsupported(capability).with_context("field", field))
            })?;
        for (asked, enforcement, field) in [
            (spec.resources.cpu.is_some(), self.cpu, "resources.cpu"),
            (spec.resources.memory.is_some(), self.memory, "resources.memory"),
            (spec.resources.pids.is_some(), self.pids, "resources.pids"),
        ] {
            if asked && enforcement == Enforcement::None {
                return Err(Error::new(
                    crate::ErrorKind::Unsupported,
                    "this driver can't hold an instance to this limit; leave it out or choose another runtime",
                )
                .with_context("field", field));
            }
        }
        if let Some(wanted) = spec.platform.isolation
            && !self.isolation.contains(&wanted)
        {
            let message = format!(
                "this driver can't isolate by {wanted:?}; accepted: one of {:?}, or none named",
                self.isolation
            );
            return Err(Error::new(crate::ErrorKind::Unsupported, message)
                .with_context("field", "platform.isolation"));
        }
        Ok(())
    }

    /// What a spec needs, each with the field that needs it.
    fn needs(&self, spec: &InstanceSpec) -> Vec<(Capability, &'static str)> {
        let mut needs = Vec::new();
        let mut need = |asked: bool, capability: Capability, field: &'static str| {
            if asked {
                needs.push((capability, field));
            }
        };
        need(matches!(spec.source, Source::Image(_)), Capability::ImageSource, "image");
        need(matches!(spec.source, Source::Artifact(_)), Capability::ArtifactSource, "artifact");
        need(!spec.files.is_empty(), Capability::Files, "files");
        need(spec.ports.iter().any(|p| p.number.is_none()), Capability::AllotPorts, "ports");
        need(
            spec.ports.iter().any(|p| p.protocol == crate::spec::network::Protocol::Udp),
            Capability::Udp,
            "ports.protocol",
        );
        need(spec.ports.iter().any(|p| p.publish.is_some()), Capability::PublishPorts, "ports.publish");
        need(
            spec.ports.iter().any(|p| p.publish.as_ref().is_some_and(|publish| publish.address.is_some())),
            Capability::PublishAddress,
            "ports.publish.address",
        );
        for mount in &spec.mounts {
            let (capability, field) = match mount.kind {
                MountKind::Bind(_) => (Capability::BindMounts, "mounts.bind"),
                MountKind::Volume(_) => (Capability::Volumes, "mounts.volume"),
                MountKind::Tmpfs(_) => (Capability::Tmpfs, "mounts.tmpfs"),
                MountKind::NamedPipe(_) => (Capability::NamedPipes, "mounts.named_pipe"),
            };
            need(true, capability, field);
            need(mount.read_only, Capability::ReadOnlyMounts, "mounts.read_only");
        }
        need(!spec.networks.is_empty(), Capability::Networks, "networks");
        need(spec.user.is_some(), Capability::User, "user");
        need(spec.workdir.is_some(), Capability::Workdir, "workdir");
        need(spec.hostname.is_some(), Capability::Hostname, "hostname");
        need(spec.init, Capability::Init, "init");
        need(!spec.ulimits.is_empty(), Capability::Ulimits, "ulimits");
        need(!spec.devices.is_empty(), Capability::Devices, "devices");
        let security = &spec.security;
        need(security.read_only_root, Capability::ReadOnlyRoot, "security.read_only_root");
        need(security.no_new_privileges, Capability::NoNewPrivileges, "security.no_new_privileges");
        need(
            !security.add_capabilities.is_empty() || !security.drop_capabilities.is_empty(),
            Capability::LinuxCapabilities,
            "security.add_capabilities",
        );
        need(security.privileged, Capability::Privileged, "security.privileged");
        need(security.credential_spec.is_some(), Capability::CredentialSpec, "security.credential_spec");
        need(spec.engine_restart != EngineRestart::Never, Capability::EngineRestart, "engine_restart");
        let probes = [&spec.probes.startup, &spec.probes.readiness, &spec.probes.liveness];
        for probe in probes.into_iter().flatten() {
            need(matches!(probe.check, Check::Engine(_)), Capability::EngineHealth, "probes.engine");
            need(matches!(probe.check, Check::Exec(_)), Capability::Exec, "probes.exec");
        }
        needs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::spec::resources::ByteSize;
    use crate::spec::source::{ArtifactSource, ImageSource};

    #[test]
    fn a_spec_beyond_the_capabilities_is_refused_with_its_field() {
        let mut spec = InstanceSpec::new(Source::Artifact(ArtifactSource::new("/srv/app")));
        let mut runtime = RuntimeCapabilities::new(CapabilitySet::none().with(Capability::ArtifactSource));
        runtime.check(&spec).unwrap();

        spec.resources.memory = Some(ByteSize::from_mib(64));
        let error = runtime.check(&spec).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("field=resources.memory"), "{error}");
        runtime.memory = Enforcement::BestEffort;
        runtime.check(&spec).unwrap();

        spec.source = Source::Image(ImageSource::new("nginx".parse().unwrap()));
        assert!(runtime.check(&spec).unwrap_err().to_string().contains("`image_source` (field=image)"));
    }

    #[test]
    fn names_are_distinct_and_round_trip() {
        let names: BTreeSet<_> = Capability::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), Capability::ALL.len());
        let all = CapabilitySet::all();
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<CapabilitySet>(&text).unwrap(), all);
    }
}
