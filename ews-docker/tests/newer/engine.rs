//! An engine of a newer API with one container in it, as far as the runtime asks.

use std::sync::{Arc, Mutex};

use ews_docker::DockerConfig;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::rig::standin::{Asked, Reply, Standin};

/// The image's index, which is its id on the containerd image store.
pub(super) const INDEX: &str = "sha256:5d7043a4ffe02b9ed1b6e0bab057546981af5ca0a79107e9c461e49bc44c0a7b";
/// The manifest of the platform.
const MANIFEST: &str = "sha256:949d53a1e0f0f26c8545a9c589474b0ba3be4ca9209c89713c684078665d78d6";
/// The container's id.
pub(super) const ID: &str = "c30620ffe479c4df6502fe8a3962d9fc0ca2a9293a918095b4a910bb8d57a90a";

/// `GET /version` of an engine that takes these versions.
pub(super) fn version(newest: &str, oldest: &str) -> String {
    json!({
        "Platform": {"Name": "Docker Engine - Community"}, "Version": "29.0.0", "ApiVersion": newest,
        "MinAPIVersion": oldest, "Os": "linux", "Arch": "amd64",
        "Components": [{"Name": "Engine", "Version": "29.0.0", "Details": {"ApiVersion": newest}}],
    })
    .to_string()
}

/// `GET /info`: what 1.46 to 1.50 added is there, what they dropped is not.
const INFO: &str = r#"{"ID":"6d1c0a1e-5f0e-4d3b-9f1d-000000000000","Name":"newer","NCPU":4,"MemTotal":8000000000,"OSType":"linux",
    "Architecture":"x86_64","OSVersion":"24.04","KernelVersion":"6.8.0","Driver":"overlayfs",
    "DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]],
    "Containerd":{"Address":"/run/containerd/containerd.sock","Namespaces":{"Containers":"moby","Plugins":"plugins.moby"}},
    "FirewallBackend":{"Driver":"iptables"},"DiscoveredDevices":null,"CDISpecDirs":[],"MemoryLimit":true,"SwapLimit":true,
    "CpuCfsQuota":true,"PidsLimit":true,"LiveRestoreEnabled":false,"Isolation":"","Warnings":null}"#;

/// Which container there is.
#[derive(Default)]
pub(super) struct State {
    name: String,
    body: Value,
    status: &'static str,
    /// What is said of it beside, laid over the rest.
    over: Value,
    networks: Vec<String>,
    volumes: Vec<String>,
    listeners: Vec<mpsc::UnboundedSender<String>>,
    happened: u64,
    stale: bool,
}

pub(super) struct Engine {
    engine: Standin,
    state: Arc<Mutex<State>>,
}

impl Engine {
    pub(super) fn new(version: &str) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let engine = Standin::saying(version, INFO, move |asked| answer(asked, &shared));
        Self { engine, state }
    }

    pub(super) fn config(&self) -> DockerConfig {
        self.engine.config()
    }

    /// The calls so far with their versions.
    pub(super) fn asked(&self) -> Vec<(String, String)> {
        self.engine.calls()
    }

    /// What the container was made from.
    pub(super) fn body(&self) -> Value {
        self.state.lock().unwrap().body.clone()
    }

    /// It is shown as it was before its start, until it is started again.
    pub(super) fn forget_that_it_runs(&self) {
        self.state.lock().unwrap().stale = true;
    }

    /// Lays this over what is said of the container.
    pub(super) fn say(&self, over: Value) {
        self.state.lock().unwrap().over = over;
    }
}

fn whole(status: u16, body: &Value) -> Reply {
    Reply::Whole(status, body.to_string())
}

fn refused(status: u16, words: &str) -> Reply {
    whole(status, &json!({ "message": words }))
}

fn answer(asked: &Asked, state: &Mutex<State>) -> Reply {
    let mut state = state.lock().unwrap();
    let (method, target) = asked.line.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let body = || serde_json::from_slice::<Value>(&asked.body).unwrap();
    let minor: u32 = asked.version[2..].parse().unwrap();
    match (method, &parts[..]) {
        ("GET", ["images", .., "json"]) => whole(200, &image(minor)),
        ("GET", ["events"]) => {
            let (sender, told) = mpsc::unbounded_channel();
            state.listeners.push(sender);
            Reply::Told(told)
        }
        ("GET", ["containers", "json"]) if state.name.is_empty() => whole(200, &json!([])),
        ("GET", ["containers", "json"]) => whole(200, &json!([listed(&state)])),
        ("POST", ["containers", "create"]) => {
            state.name = query.split('&').find_map(|pair| pair.strip_prefix("name=")).unwrap().to_owned();
            (state.body, state.status) = (body(), "created");
            happened(&mut state, "create", &json!({}));
            whole(201, &json!({"Id": ID, "Warnings": null}))
        }
        (_, ["containers", ..]) if state.name.is_empty() => refused(404, "No such container"),
        ("GET", ["containers", _, "json"]) => whole(200, &inspected(&state, minor)),
        ("POST", ["containers", _, "start"]) if state.status == "running" => {
            state.stale = false;
            Reply::Whole(304, String::new())
        }
        ("POST", ["containers", _, "start"]) => {
            state.status = "running";
            happened(&mut state, "start", &json!({}));
            happened(&mut state, "health_status: healthy", &json!({}));
            Reply::Whole(204, String::new())
        }
        ("POST", ["containers", _, "stop"]) => {
            state.status = "exited";
            happened(&mut state, "kill", &json!({"signal": "15"}));
            happened(&mut state, "die", &json!({"exitCode": "0", "execDuration": "2"}));
            happened(&mut state, "sublimated", &json!({}));
            Reply::Whole(204, String::new())
        }
        ("DELETE", ["containers", _]) => {
            happened(&mut state, "destroy", &json!({}));
            state.name.clear();
            Reply::Whole(204, String::new())
        }
        ("GET", ["containers", _, "stats"]) => whole(200, &stats(minor)),
        ("HEAD", ["containers", _, "archive"]) => Reply::Whole(200, String::new()),
        // By the owner's label, which somebody else's network has not.
        ("GET", ["networks"]) => whole(200, &Value::Null),
        ("GET", ["volumes"]) => {
            let volumes: Value =
                state.volumes.iter().map(|name| json!({"Name": name, "Labels": null})).collect();
            whole(200, &json!({"Volumes": volumes, "Warnings": null}))
        }
        ("GET", ["networks", name]) if state.networks.iter().any(|one| one == name) => whole(
            200,
            &json!({"Name": name, "Id": "aa", "Scope": "local", "EnableIPv4": true, "Labels": null, "Status": {}}),
        ),
        // Somebody is faster each time: since 1.44 there is never a second of the name.
        ("POST", ["networks", "create"]) => {
            let name = body()["Name"].as_str().unwrap().to_owned();
            let words = format!("network with name {name} already exists");
            state.networks.push(name);
            refused(409, &words)
        }
        ("GET", ["volumes", name]) if state.volumes.iter().any(|one| one == name) => whole(
            200,
            &json!({"Name": name, "Driver": "local", "Scope": "local", "Labels": {"ews.owner": "newer"}}),
        ),
        ("POST", ["volumes", "create"]) => {
            let name = body()["Name"].as_str().unwrap().to_owned();
            state.volumes.push(name.clone());
            // A scope that nobody has heard of.
            whole(
                201,
                &json!({"Name": name, "Driver": "local", "Scope": "cluster-wide", "ClusterVolume": {"ID": "x"}}),
            )
        }
        ("DELETE", ["volumes", name]) => {
            state.volumes.retain(|one| one != name);
            Reply::Whole(204, String::new())
        }
        ("GET", ["networks" | "volumes", _]) => refused(404, "not found"),
        _ => panic!("nobody should ask for {}", asked.line),
    }
}

/// `GET /images/{name}/json` on the containerd image store.
fn image(minor: u32) -> Value {
    let mut image = json!({
        "Id": INDEX, "RepoTags": ["r.example/web:1"], "RepoDigests": [format!("r.example/web@{INDEX}")],
        "Created": "2026-09-16T03:25:48Z", "Architecture": "amd64", "Os": "linux", "Size": 2476,
        "GraphDriver": {"Data": null, "Name": "overlayfs"},
        "RootFS": {"Type": "layers", "Layers": ["sha256:aa"]}, "Metadata": {"LastTagTime": "2026-09-30T21:17:10Z"},
        "Config": {"Cmd": ["mongod"], "Entrypoint": ["docker-entrypoint.sh"]},
    });
    let object = image.as_object_mut().unwrap();
    if minor < 45 {
        object.insert("Container".into(), "".into());
        object.insert("ContainerConfig".into(), Value::Null);
    }
    if minor >= 48 {
        let descriptor =
            json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": INDEX, "size": 6000});
        object.insert("Descriptor".into(), descriptor);
    }
    if minor < 50 {
        for field in ["Hostname", "Domainname", "Image"] {
            object["Config"][field] = "".into();
        }
    }
    if minor < 52 {
        for field in ["Parent", "Comment", "DockerVersion", "Author"] {
            object.insert(field.into(), "".into());
        }
    }
    image
}

/// What is added to an empty address by engines that still say it beside the networks.
fn legacy() -> Map<String, Value> {
    json!({
        "Bridge": "", "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null, "EndpointID": "", "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "MacAddress": "",
    })
    .as_object()
    .unwrap()
    .clone()
}

fn inspected(state: &State, minor: u32) -> Value {
    let status = if state.stale { "created" } else { state.status };
    let running = status == "running";
    let published =
        state.body["HostConfig"]["PortBindings"].as_object().is_some_and(|ports| !ports.is_empty());
    let ports = match (running, published) {
        (true, true) => json!({"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "32768"}]}),
        (true, false) => json!({"8080/tcp": null}),
        _ => json!({}),
    };
    let mut network = json!({
        "SandboxID": "40b3c5554c7f", "SandboxKey": "/var/run/docker/netns/40b3c5554c7f", "Ports": ports,
        "Networks": {"bridge": {
            "IPAMConfig": null, "Links": null, "Aliases": null, "DriverOpts": null, "GwPriority": 0, "NetworkID": "aa",
            "EndpointID": "", "Gateway": "", "IPAddress": if running { "172.18.0.2" } else { "" }, "MacAddress": "",
            "IPPrefixLen": 16, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
            "DNSNames": ["web", "c30620ffe479"],
        }},
    });
    if minor < 52 {
        network.as_object_mut().unwrap().extend(legacy());
    }
    let mut one = json!({
        "Id": ID, "Created": "2026-09-30T21:17:10.148338663Z", "Path": "docker-entrypoint.sh", "Args": ["mongod"],
        "State": {
            "Status": status, "Running": running, "Paused": false, "Restarting": false, "OOMKilled": false, "Dead": false,
            "Pid": 0, "ExitCode": 0, "Error": "",
            "StartedAt": if status == "created" { "0001-01-01T00:00:00Z" } else { "2026-09-30T21:17:10.30650717Z" },
            "FinishedAt": if status == "exited" { "2026-09-30T21:18:00.1Z" } else { "0001-01-01T00:00:00Z" },
            "Health": {"Status": if running { "starting" } else { "none" }, "FailingStreak": 0, "Log": null},
        },
        "Image": INDEX, "Name": format!("/{}", state.name), "RestartCount": 0, "Driver": "overlayfs", "Platform": "linux",
        "ExecIDs": null, "Storage": {"RootFS": {"Snapshot": {"Name": "overlayfs"}}}, "Mounts": [],
        "HostConfig": {"NetworkMode": "bridge", "Binds": null, "Memory": 0, "RestartPolicy": {"Name": "no"}, "ConsoleSize": [38, 229]},
        "Config": {"User": "", "Labels": state.body["Labels"], "Image": INDEX, "Env": null, "Volumes": null},
        "NetworkSettings": network,
    });
    if minor >= 48 {
        one["ImageManifestDescriptor"] = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": MANIFEST, "size": 2476, "platform": {"architecture": "amd64", "os": "linux"}});
    }
    lay(&mut one, &state.over);
    one
}

/// Lays one value over another, field by field.
fn lay(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                lay(under.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (under, over) => *under = over.clone(),
    }
}

fn listed(state: &State) -> Value {
    json!({
        "Id": ID, "Names": [format!("/{}", state.name)], "Image": "r.example/web:1", "ImageID": INDEX, "Command": "x",
        "Created": 1_790_000_000, "Ports": [], "Labels": state.body["Labels"], "State": state.status, "Status": "Up 12 seconds",
        "HostConfig": {"NetworkMode": "bridge", "Annotations": {"a": "b"}}, "Health": {"Status": "starting", "FailingStreak": 0},
        "ImageManifestDescriptor": {"digest": MANIFEST}, "NetworkSettings": {"Networks": {"bridge": {"GwPriority": 0}}}, "Mounts": null,
    })
}

/// On the second version of cgroups; `os_type` is 1.52's.
fn stats(minor: u32) -> Value {
    let mut stats = json!({
        "id": ID, "name": "/web", "read": "2026-09-30T21:17:40Z", "preread": "0001-01-01T00:00:00Z", "num_procs": 0,
        "pids_stats": {"current": 3, "limit": 18_446_744_073_709_551_615_u64},
        "cpu_stats": {"cpu_usage": {"total_usage": 41_000_000, "usage_in_kernelmode": 1, "usage_in_usermode": 2}, "online_cpus": 4},
        "precpu_stats": {"cpu_usage": {"total_usage": 0}},
        "memory_stats": {"usage": 4_000_000, "limit": 8_000_000_000_u64, "stats": {"inactive_file": 1_000_000, "anon": 7}},
        "blkio_stats": {"io_service_bytes_recursive": null, "io_serviced_recursive": null},
        "storage_stats": {}, "networks": {"eth0": {"rx_bytes": 1_130, "tx_bytes": 126}},
    });
    if minor >= 52 {
        stats["os_type"] = "linux".into();
    }
    stats
}

/// Tells whoever listens that something happened.
fn happened(state: &mut State, action: &str, more: &Value) {
    let mut attributes = json!({"image": "r.example/web:1", "name": state.name});
    lay(&mut attributes, &state.body["Labels"]);
    lay(&mut attributes, more);
    state.happened += 1;
    // As 29.8 writes it: without `status`, `id` and `from`, which whoever listens must not need.
    let event = json!({
        "Type": "container", "Action": action, "Actor": {"ID": ID, "Attributes": attributes}, "scope": "local",
        "time": 1_900_000_000, "timeNano": 1_900_000_000_000_000_000_u64 + state.happened,
    });
    state.listeners.retain(|listener| listener.send(format!("{event}\n")).is_ok());
}
