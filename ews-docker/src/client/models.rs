//! What we read of an engine's answers: what we know, and nothing that could fail for what we don't.
//!
//! Every field may be absent or null, and every enum is text until somebody asks for it. Podman's `stopping`, a new engine's new state, a
//! health status nobody has heard of: each is one container's oddity and never the end of a list.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// A field that may be null where its default is meant.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The words of a refusal: `{"message": …}`, or the body as it is.
pub(super) fn words_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(alias = "cause")]
        message: String,
    }
    let text = || String::from_utf8_lossy(body).trim().to_owned();
    serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.message).unwrap_or_else(|_| text())
}

macro_rules! models {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = $wire:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, Deserialize)]
        pub(crate) struct $name {
            $(#[serde(rename = $wire, default, deserialize_with = "nullable")] pub(crate) $field: $type,)+
        }
    )+};
}

pub(crate) use models;

models! {
    /// `GET /version`.
    VersionAnswer {
        version: String = "Version",
        api: String = "ApiVersion",
        min_api: String = "MinAPIVersion",
        components: Vec<Component> = "Components",
    }
    Component { name: String = "Name" }
    /// `GET /info`.
    InfoAnswer {
        id: String = "ID",
        name: String = "Name",
        cpus: u64 = "NCPU",
        memory: u64 = "MemTotal",
        os: String = "OSType",
        arch: String = "Architecture",
        os_version: String = "OSVersion",
        kernel: String = "KernelVersion",
        memory_limit: Option<bool> = "MemoryLimit",
        swap_limit: Option<bool> = "SwapLimit",
        cpu_quota: Option<bool> = "CpuCfsQuota",
        pids_limit: Option<bool> = "PidsLimit",
        live_restore: bool = "LiveRestoreEnabled",
        isolation: String = "Isolation",
    }
    /// One of `GET /containers/json`.
    Listed {
        id: String = "Id",
        names: Vec<String> = "Names",
        labels: BTreeMap<String, String> = "Labels",
    }
    /// `GET /containers/{id}/json`.
    Inspected {
        id: String = "Id",
        name: String = "Name",
        created: String = "Created",
        state: State = "State",
        config: Config = "Config",
        host: Host = "HostConfig",
        network: Network = "NetworkSettings",
    }
    State {
        status: String = "Status",
        running: bool = "Running",
        oom_killed: bool = "OOMKilled",
        pid: i64 = "Pid",
        exit_code: i64 = "ExitCode",
        error: String = "Error",
        started_at: String = "StartedAt",
        finished_at: String = "FinishedAt",
        health: Option<HealthState> = "Health",
    }
    HealthState { status: String = "Status" }
    Config {
        labels: BTreeMap<String, String> = "Labels",
        user: String = "User",
    }
    Host {
        network_mode: String = "NetworkMode",
        memory: i64 = "Memory",
    }
    Network {
        ports: BTreeMap<String, Option<Vec<Binding>>> = "Ports",
        networks: BTreeMap<String, Attached> = "Networks",
    }
    Binding {
        ip: String = "HostIp",
        port: String = "HostPort",
    }
    Attached {
        ip: String = "IPAddress",
        ipv6: String = "GlobalIPv6Address",
    }
    /// One of `GET /events`.
    EventAnswer {
        action: String = "Action",
        actor: Actor = "Actor",
        nanos: i64 = "timeNano",
    }
    Actor {
        id: String = "ID",
        attributes: BTreeMap<String, String> = "Attributes",
    }
    /// `GET /images/{name}/json`, as far as a container needs it.
    ImageAnswer {
        id: String = "Id",
        os: String = "Os",
        arch: String = "Architecture",
    }
    /// `GET /exec/{id}/json`.
    ExecAnswer {
        running: bool = "Running",
        exit_code: Option<i64> = "ExitCode",
        pid: i64 = "Pid",
    }
    /// `POST …/exec`, and whatever else answers with an id.
    IdAnswer {
        id: String = "Id",
        warnings: Vec<String> = "Warnings",
    }
    /// `GET /networks/{name}` and `GET /volumes/{name}`, and lists of either.
    Named {
        id: String = "Id",
        name: String = "Name",
        labels: BTreeMap<String, String> = "Labels",
    }
    VolumesAnswer { volumes: Vec<Named> = "Volumes" }
    /// `GET /containers/{id}/stats`.
    StatsAnswer {
        cpu: CpuStats = "cpu_stats",
        memory: MemoryStats = "memory_stats",
        pids: PidsStats = "pids_stats",
        io: IoStats = "blkio_stats",
        networks: BTreeMap<String, NetStats> = "networks",
        storage: StorageStats = "storage_stats",
    }
    CpuStats { usage: CpuUsage = "cpu_usage" }
    CpuUsage { total: u64 = "total_usage" }
    MemoryStats {
        usage: Option<u64> = "usage",
        limit: Option<u64> = "limit",
        stats: BTreeMap<String, serde_json::Value> = "stats",
        private_working_set: Option<u64> = "privateworkingset",
    }
    PidsStats { current: Option<u64> = "current" }
    IoStats { bytes: Vec<IoEntry> = "io_service_bytes_recursive" }
    IoEntry {
        op: String = "op",
        value: u64 = "value",
    }
    NetStats {
        received: u64 = "rx_bytes",
        sent: u64 = "tx_bytes",
    }
    StorageStats {
        read: Option<u64> = "read_size_bytes",
        written: Option<u64> = "write_size_bytes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_heard_of_is_one_containers_oddity() {
        let text = r#"[
            {"Id":"a","Names":null,"Labels":null,"State":"stopping","Surprise":{"deep":[1,2]}},
            {"Id":"b","Names":["/web"],"Labels":{"x":"y"},"State":"running","Ports":[{"Type":"quic"}]}
        ]"#;
        let listed: Vec<Listed> = serde_json::from_str(text).unwrap();
        assert_eq!(listed.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let inspected: Inspected =
            serde_json::from_str(r#"{"Id":"a","State":{"Health":{"Status":"dozing"},"Status":"zombie"},"NetworkSettings":{"Ports":{"80/tcp":null}}}"#).unwrap();
        assert_eq!(inspected.state.health.unwrap().status, "dozing");
    }

    #[test]
    fn refusals_have_words_whoever_writes_them() {
        assert_eq!(words_of(br#"{"message":"no"}"#), "no");
        assert_eq!(words_of(br#"{"cause":"that name is in use","response":500}"#), "that name is in use");
        assert_eq!(words_of(b"404 page not found\n"), "404 page not found");
        assert_eq!(words_of(b"\xff"), "\u{fffd}");
    }
}
