//! What an engine can do, from what it says of itself.

use ews_core::capability::Enforcement;
use ews_core::spec::lifecycle::Signal;
use ews_core::{Capability, CapabilitySet, RuntimeCapabilities};

use crate::client::Facts;

/// What holds on Linux and Windows alike.
const COMMON: [Capability; 27] = [
    Capability::ImageSource,
    Capability::ImageStore,
    Capability::SurvivesController,
    Capability::Signals,
    Capability::Exec,
    Capability::ExecTty,
    Capability::ExecResize,
    Capability::Logs,
    Capability::LogsSplit,
    Capability::LogsSince,
    Capability::Usage,
    Capability::PutArchive,
    Capability::GetArchive,
    Capability::PublishPorts,
    Capability::Udp,
    Capability::BindMounts,
    Capability::Volumes,
    Capability::ReadOnlyMounts,
    Capability::Networks,
    Capability::Files,
    Capability::User,
    Capability::Workdir,
    Capability::Hostname,
    Capability::EngineHealth,
    Capability::EngineRestart,
    Capability::TreeKill,
    Capability::NodeChoice,
];

const LINUX: [Capability; 12] = [
    Capability::ExecHalfClose,
    Capability::ExecTerminate,
    Capability::PublishAddress,
    Capability::Tmpfs,
    Capability::Init,
    Capability::Ulimits,
    Capability::Devices,
    Capability::ReadOnlyRoot,
    Capability::NoNewPrivileges,
    Capability::LinuxCapabilities,
    Capability::Privileged,
    Capability::OomDetection,
];

const WINDOWS: [Capability; 2] = [Capability::NamedPipes, Capability::CredentialSpec];

/// What the runtime declares on this engine.
pub(crate) fn of(facts: &Facts) -> RuntimeCapabilities {
    let info = &facts.info;
    let mut features: CapabilitySet = COMMON.into_iter().collect();
    let own: &[Capability] = if facts.is_windows() { &WINDOWS } else { &LINUX };
    for capability in own {
        features = features.with(*capability);
    }
    // Containers of Windows are ended by their engine's restart whatever it is told.
    if info.live_restore && !facts.is_windows() {
        features = features.with(Capability::SurvivesEngine);
    }
    let mut capabilities = RuntimeCapabilities::new(features);
    let held = |said: Option<bool>| if said == Some(false) { Enforcement::None } else { Enforcement::Hard };
    if facts.is_windows() {
        (capabilities.cpu, capabilities.memory) = (Enforcement::Hard, Enforcement::Hard);
        // Any other signal is a shutdown there, which would be a lie.
        capabilities.signals = vec![Signal::KILL, Signal::TERM];
    } else {
        capabilities.cpu = held(info.cpu_quota);
        capabilities.memory = held(info.memory_limit);
        capabilities.pids = held(info.pids_limit);
    }
    capabilities.isolation = facts.isolation();
    capabilities
}
