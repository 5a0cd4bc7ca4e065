//! From a spec to what an engine is asked to create: pure, for Linux and for Windows, tried on every host.
//!
//! What an engine would ignore in silence is never sent half: a published port is exposed too, an unlimited log is never the default,
//! and what a platform lacks was refused by the capabilities before.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use bollard::models::{
    ContainerCreateBody, DeviceMapping, EndpointSettings, HealthConfig, HostConfig, HostConfigIsolationEnum,
    HostConfigLogConfig, Mount, MountTmpfsOptions, MountType, NetworkingConfig, PortBinding, PortMap,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use ews_core::spec::lifecycle::EngineRestart;
use ews_core::spec::network::Port;
use ews_core::spec::platform::{Isolation, Os};
use ews_core::spec::probe::{Check, Probe};
use ews_core::spec::resources::Ulimit;
use ews_core::spec::storage::MountKind;
use ews_core::{Error, InstanceSpec, Result};

/// What a spec becomes needs to know beyond the spec.
pub(crate) struct Request<'a> {
    pub(crate) spec: &'a InstanceSpec,
    /// What the engine runs.
    pub(crate) os: Os,
    /// The image's id.
    pub(crate) image: &'a str,
    pub(crate) labels: HashMap<String, String>,
    /// `NAME=value`, secrets resolved. Never shown.
    pub(crate) env: Vec<String>,
    /// Files in memory: source on the node, target in the instance.
    pub(crate) files: Vec<(String, String)>,
    /// Whether the kernel counts swap, so that a limit on memory can cover it.
    pub(crate) swap_limit: bool,
}

/// The body of a create call.
pub(crate) fn create_body(request: Request<'_>) -> Result<ContainerCreateBody> {
    let spec = request.spec;
    let network = networking(spec);
    let mut body = ContainerCreateBody {
        image: Some(request.image.to_owned()),
        hostname: spec.hostname.clone(),
        user: spec.user.clone(),
        working_dir: spec.workdir.clone(),
        env: Some(request.env),
        // An entrypoint that is given clears the image's default arguments too, which is what `command` promises.
        entrypoint: (!spec.command.is_empty()).then(|| spec.command.clone()),
        cmd: (!spec.args.is_empty()).then(|| spec.args.clone()),
        labels: Some(request.labels),
        exposed_ports: Some(exposed(spec)).filter(|ports| !ports.is_empty()),
        stop_signal: Some(spec.stop.signal.to_string()),
        stop_timeout: i64::try_from(whole_seconds(spec.stop.grace)).ok(),
        healthcheck: health(spec)?,
        networking_config: network.1,
        ..ContainerCreateBody::default()
    };
    let mut host = HostConfig {
        network_mode: network.0,
        port_bindings: Some(bindings(spec, request.os)).filter(|ports| !ports.is_empty()),
        mounts: Some(mounts(spec, &request.files)?).filter(|mounts| !mounts.is_empty()),
        log_config: Some(log(spec)),
        restart_policy: Some(restart(spec.engine_restart)),
        memory: spec.resources.memory.map(|memory| i64::try_from(memory.bytes()).unwrap_or(i64::MAX)),
        nano_cpus: spec.resources.cpu.map(|cpu| i64::from(cpu.millis()) * 1_000_000),
        // What a caller did not ask for stays the engine's own default.
        init: spec.init.then_some(true),
        ..HostConfig::default()
    };
    match request.os {
        Os::Windows => windows(spec, &mut host),
        _ => linux(spec, &mut host, request.swap_limit)?,
    }
    body.host_config = Some(host);
    Ok(body)
}

fn linux(spec: &InstanceSpec, host: &mut HostConfig, swap_limit: bool) -> Result<()> {
    // Equal limits mean no swap on top; without it the engine would add as much swap again.
    host.memory_swap = host.memory.filter(|_| swap_limit);
    host.pids_limit = spec.resources.pids.map(i64::from);
    let security = &spec.security;
    host.privileged = security.privileged.then_some(true);
    host.readonly_rootfs = security.read_only_root.then_some(true);
    host.security_opt = security.no_new_privileges.then(|| vec!["no-new-privileges".to_owned()]);
    host.cap_add = Some(security.add_capabilities.clone()).filter(|list| !list.is_empty());
    host.cap_drop = Some(security.drop_capabilities.clone()).filter(|list| !list.is_empty());
    let limit = |value: u64| if value == Ulimit::UNLIMITED { Ok(-1) } else { i64::try_from(value) };
    let ulimits = spec.ulimits.iter().map(|ulimit| {
        let out_of_range = |error| Error::invalid("a ulimit is above i64::MAX").with_source(error);
        Ok(ResourcesUlimits {
            name: Some(ulimit.name.clone()),
            soft: Some(limit(ulimit.soft).map_err(out_of_range)?),
            hard: Some(limit(ulimit.hard).map_err(out_of_range)?),
        })
    });
    host.ulimits = Some(ulimits.collect::<Result<Vec<_>>>()?).filter(|list| !list.is_empty());
    let devices = spec.devices.iter().map(|device| DeviceMapping {
        path_on_host: Some(device.path.clone()),
        path_in_container: Some(device.target.clone().unwrap_or_else(|| device.path.clone())),
        cgroup_permissions: Some(device.access.clone()),
    });
    host.devices = Some(devices.collect::<Vec<_>>()).filter(|list| !list.is_empty());
    Ok(())
}

fn windows(spec: &InstanceSpec, host: &mut HostConfig) {
    host.isolation = spec.platform.isolation.map(|isolation| match isolation {
        Isolation::Hyperv => HostConfigIsolationEnum::HYPERV,
        _ => HostConfigIsolationEnum::PROCESS,
    });
    host.security_opt =
        spec.security.credential_spec.as_ref().map(|given| vec![format!("credentialspec={given}")]);
}

/// Engines count a grace in whole seconds: rounded up, so that nothing is killed before its time.
pub(crate) fn whole_seconds(time: std::time::Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// A port as engines write it.
fn wire(port: &Port) -> Option<String> {
    Some(format!("{}/{}", port.number?, port.protocol))
}

fn exposed(spec: &InstanceSpec) -> Vec<String> {
    spec.ports.iter().filter_map(wire).collect()
}

fn bindings(spec: &InstanceSpec, os: Os) -> PortMap {
    let published = spec.ports.iter().filter_map(|port| {
        let publish = port.publish.as_ref()?;
        // Windows publishes on every address and takes no other.
        let address = match (publish.address, os) {
            (_, Os::Windows) => None,
            (None, _) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            (address, _) => address,
        };
        let binding = PortBinding {
            host_ip: address.map(|address| address.to_string()),
            // An empty one is the engine's choice; it reads `0` the same way, but podman does not.
            host_port: Some(
                publish.port.filter(|port| *port != 0).map(|port| port.to_string()).unwrap_or_default(),
            ),
        };
        Some((wire(port)?, Some(vec![binding])))
    });
    published.collect()
}

fn mounts(spec: &InstanceSpec, files: &[(String, String)]) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for mount in &spec.mounts {
        let mut made = Mount {
            target: Some(mount.target.clone()),
            read_only: mount.read_only.then_some(true),
            ..Mount::default()
        };
        match &mount.kind {
            MountKind::Bind(path) => {
                made.typ = Some(MountType::BIND);
                made.source = Some(path.clone());
            }
            MountKind::Volume(volume) => {
                made.typ = Some(MountType::VOLUME);
                made.source = Some(volume.to_string());
            }
            MountKind::Tmpfs(size) => {
                made.typ = Some(MountType::TMPFS);
                made.tmpfs_options = Some(MountTmpfsOptions {
                    size_bytes: Some(i64::try_from(size.bytes()).unwrap_or(i64::MAX)),
                    mode: Some(0o1777),
                    options: None,
                });
            }
            MountKind::NamedPipe(pipe) => {
                made.typ = Some(MountType::NPIPE);
                made.source = Some(pipe.clone());
            }
            _ => {
                return Err(
                    Error::invalid("this kind of mount is not known").with_context("target", &mount.target)
                );
            }
        }
        mounts.push(made);
    }
    mounts.extend(files.iter().map(|(source, target)| Mount {
        typ: Some(MountType::BIND),
        source: Some(source.clone()),
        target: Some(target.clone()),
        read_only: Some(true),
        ..Mount::default()
    }));
    Ok(mounts)
}

/// The network mode, and what is said of each network. All of them are joined at creation; engines before 1.44 take only one
/// there, so the others are joined before the start.
fn networking(spec: &InstanceSpec) -> (Option<String>, Option<NetworkingConfig>) {
    let Some(first) = spec.networks.first() else { return (None, None) };
    let settings = EndpointSettings {
        aliases: Some(first.aliases.clone()).filter(|list| !list.is_empty()),
        ..EndpointSettings::default()
    };
    let endpoints = HashMap::from([(first.name.to_string(), settings)]);
    (Some(first.name.to_string()), Some(NetworkingConfig { endpoints_config: Some(endpoints) }))
}

fn log(spec: &InstanceSpec) -> HostConfigLogConfig {
    let config = HashMap::from([
        ("max-size".to_owned(), spec.log.max_size.bytes().to_string()),
        ("max-file".to_owned(), spec.log.max_files.to_string()),
    ]);
    // The one driver that every engine can read back from; what the daemon's default would be is somebody else's wish.
    HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(config) }
}

fn restart(policy: EngineRestart) -> RestartPolicy {
    let name = match policy {
        EngineRestart::OnFailure => RestartPolicyNameEnum::ON_FAILURE,
        EngineRestart::UnlessStopped => RestartPolicyNameEnum::UNLESS_STOPPED,
        _ => RestartPolicyNameEnum::NO,
    };
    RestartPolicy { name: Some(name), maximum_retry_count: None }
}

/// The engine's own check: the only one, since an engine has one place for it. None asked for leaves the image's.
fn health(spec: &InstanceSpec) -> Result<Option<HealthConfig>> {
    let probes = [&spec.probes.startup, &spec.probes.readiness, &spec.probes.liveness];
    let mut asked: Option<(&Probe, &Vec<String>)> = None;
    for probe in probes.into_iter().flatten() {
        let Check::Engine(check) = &probe.check else { continue };
        match asked {
            Some((_, command)) if *command != check.command => {
                return Err(Error::invalid(
                    "two probes ask for different checks of the engine, and it has one place for one; accepted: the same command in each",
                )
                .with_context("field", "probes"));
            }
            Some(_) => {}
            None => asked = Some((probe, &check.command)),
        }
    }
    let Some((probe, command)) = asked else { return Ok(None) };
    let nanos = |time: std::time::Duration| i64::try_from(time.as_nanos()).ok().filter(|nanos| *nanos > 0);
    let test = (!command.is_empty()).then(|| {
        let words = command.iter().cloned();
        std::iter::once("CMD".to_owned()).chain(words).collect()
    });
    Ok(Some(HealthConfig {
        test,
        interval: nanos(probe.interval),
        timeout: nanos(probe.timeout),
        retries: Some(i64::from(probe.failure)),
        start_period: nanos(probe.initial_delay),
        start_interval: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ews_core::spec::network::{NetworkAttachment, Publish};
    use ews_core::spec::probe::EngineCheck;
    use ews_core::spec::resources::{ByteSize, Cpu};
    use ews_core::spec::source::{ImageSource, Source};
    use ews_core::spec::storage::Mount as SpecMount;
    use ews_core::{NetworkName, PortName, VolumeName};
    use serde_json::{Value, json};

    fn spec() -> InstanceSpec {
        InstanceSpec::new(Source::Image(ImageSource::new("shop/web:1".parse().unwrap())))
    }

    fn mapped(spec: &InstanceSpec, os: Os) -> Value {
        let request = Request {
            spec,
            os,
            image: "sha256:1",
            labels: HashMap::new(),
            env: vec!["A=b".to_owned()],
            files: vec![("/run/x/0".to_owned(), "/etc/key".to_owned())],
            swap_limit: true,
        };
        serde_json::to_value(create_body(request).unwrap()).unwrap()
    }

    #[test]
    fn everything_on_linux() {
        let mut spec = spec();
        spec.command = vec!["serve".into()];
        spec.args = vec!["--port".into(), String::new()];
        let mut port = Port::new(PortName::new("web").unwrap(), Some(8080));
        port.publish = Some(Publish::default());
        spec.ports = vec![port, Port::new(PortName::new("admin").unwrap(), Some(9000))];
        spec.resources.cpu = Some(Cpu::from_millis(250));
        spec.resources.memory = Some(ByteSize::from_mib(64));
        spec.resources.pids = Some(7);
        spec.networks = vec![NetworkAttachment::new(NetworkName::new("shop").unwrap())];
        spec.mounts = vec![
            SpecMount::new("/data", MountKind::Volume(VolumeName::new("data").unwrap())),
            SpecMount::new("/tmp", MountKind::Tmpfs(ByteSize::from_mib(1))),
        ];
        spec.ulimits = vec![Ulimit::new("nofile", 10, Ulimit::UNLIMITED)];
        spec.security.drop_capabilities = vec!["ALL".into()];
        spec.security.no_new_privileges = true;
        spec.stop.grace = std::time::Duration::from_millis(1_200);
        spec.probes.readiness = Some(Probe::new(Check::Engine(EngineCheck::default())));
        let body = mapped(&spec, Os::Linux);
        assert_eq!(body["Entrypoint"], json!(["serve"]));
        assert_eq!(body["Cmd"], json!(["--port", ""]));
        assert_eq!(body["ExposedPorts"], json!({"8080/tcp": {}, "9000/tcp": {}}));
        assert_eq!(body["StopTimeout"], 2);
        assert_eq!(body["Healthcheck"]["Test"], Value::Null);
        let host = &body["HostConfig"];
        assert_eq!(host["PortBindings"], json!({"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}));
        assert_eq!(
            (&host["NanoCpus"], &host["Memory"], &host["MemorySwap"]),
            (&json!(250_000_000), &json!(64 << 20), &json!(64 << 20))
        );
        assert_eq!(host["PidsLimit"], 7);
        assert_eq!(host["NetworkMode"], "shop");
        assert_eq!(host["Ulimits"], json!([{"Name": "nofile", "Soft": 10, "Hard": -1}]));
        assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
        assert_eq!(host["LogConfig"]["Type"], "json-file");
        let kinds: Vec<_> =
            host["Mounts"].as_array().unwrap().iter().map(|mount| mount["Type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["volume", "tmpfs", "bind"]);
        assert_eq!(host["Mounts"][2]["ReadOnly"], true);
    }

    #[test]
    fn windows_gets_nothing_that_its_engine_refuses_or_ignores() {
        let mut spec = spec();
        let mut port = Port::new(PortName::new("web").unwrap(), Some(80));
        let mut publish = Publish::default();
        publish.port = Some(8080);
        port.publish = Some(publish);
        spec.ports = vec![port];
        spec.platform.isolation = Some(Isolation::Hyperv);
        spec.security.credential_spec = Some("file://web.json".into());
        spec.resources.memory = Some(ByteSize::from_mib(512));
        let body = mapped(&spec, Os::Windows);
        let host = body["HostConfig"].as_object().unwrap();
        assert_eq!(host["Isolation"], "hyperv");
        assert_eq!(host["SecurityOpt"], json!(["credentialspec=file://web.json"]));
        assert_eq!(host["PortBindings"], json!({"80/tcp": [{"HostPort": "8080"}]}));
        for refused in [
            "Privileged",
            "ReadonlyRootfs",
            "Ulimits",
            "PidsLimit",
            "MemorySwap",
            "CapAdd",
            "CapDrop",
            "Devices",
            "Init",
        ] {
            assert!(!host.contains_key(refused), "{refused}");
        }
    }

    #[test]
    fn two_checks_in_one_place_are_refused() {
        let mut spec = spec();
        let check = |word: &str| {
            let mut check = EngineCheck::default();
            check.command = vec![word.to_owned()];
            Probe::new(Check::Engine(check))
        };
        spec.probes.readiness = Some(check("a"));
        spec.probes.liveness = Some(check("b"));
        assert!(health(&spec).unwrap_err().message().contains("two probes"));
        spec.probes.liveness = Some(check("a"));
        assert_eq!(health(&spec).unwrap().unwrap().test.unwrap(), ["CMD", "a"]);
    }
}
