//! From what an engine says of a container to what the contract says of an instance.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ews_core::endpoint::{Endpoint, EndpointKey, Scope};
use ews_core::instance::{ExitStatus, Failure, Health, Incarnation, Instance, InstanceState};
use ews_core::{NodeId, Timestamp};

use super::labels::{Known, NamedPort};
use crate::client::models::{Inspected, State};

/// Where the containers that are looked at are.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    /// What is published on every address is reached here.
    pub(crate) address: Option<IpAddr>,
}

/// A container that is ours.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) instance: Instance,
    pub(crate) known: Known,
    pub(crate) container: String,
    pub(crate) pid: u32,
}

/// The instance that a container is; `None` where it is not ours, or only borrows our labels.
pub(crate) fn instance(place: &Place, one: &Inspected) -> Option<Seen> {
    let known = Known::read(&one.config.labels)?;
    let id = known.key.to_id().ok()?;
    if one.name.strip_prefix('/').unwrap_or(&one.name) != id.as_str() {
        return None;
    }
    let created = moment(&one.created).unwrap_or(Timestamp::EPOCH);
    let mut instance = Instance::new(id, known.key.clone(), place.node.clone(), known.spec_hash, created);
    instance.labels = known.labels.clone();
    instance.started_at = moment(&one.state.started_at);
    instance.incarnation = incarnation(&one.state);
    instance.state = state(&one.state, created);
    instance.health = one.state.health.as_ref().map_or(Health::None, |health| health_of(&health.status));
    if instance.state.is_running() {
        instance.endpoints =
            known.ports.iter().filter_map(|port| endpoint(place, one, &instance, port)).collect();
    }
    let pid = u32::try_from(one.state.pid).unwrap_or_default();
    Some(Seen { instance, known, container: one.id.clone(), pid })
}

/// The moment of the last start, in microseconds; 0 before the first.
pub(crate) fn incarnation(state: &State) -> Incarnation {
    Incarnation(moment(&state.started_at).map_or(0, Timestamp::as_micros))
}

fn state(state: &State, created: Timestamp) -> InstanceState {
    let ended = || exit(state);
    let failed = |error: &str| {
        let at = moment(&state.finished_at).or_else(|| moment(&state.started_at)).unwrap_or(created);
        let code = (state.exit_code != 0).then(|| code(state.exit_code));
        InstanceState::Failed(Failure::new(error, code, at))
    };
    match state.status.as_str() {
        // Docker leaves what could not be started as it was, with its words.
        "created" | "configured" | "initialized" if state.error.is_empty() && state.exit_code == 0 => {
            InstanceState::Created
        }
        "created" | "configured" | "initialized" if state.error.is_empty() => {
            failed("the engine gave no reason")
        }
        "created" | "configured" | "initialized" => failed(&state.error),
        "running" => InstanceState::Running,
        "paused" => InstanceState::Paused,
        // Docker's word for the pause before its own restart.
        "restarting" => InstanceState::Starting,
        "stopping" => InstanceState::Stopping,
        "removing" => InstanceState::Removing,
        "exited" | "stopped" if !state.error.is_empty() => failed(&state.error),
        "exited" | "stopped" | "dead" => InstanceState::Exited(ended()),
        // A word that nobody has heard of: what is known besides decides, and never "ended".
        _ if state.running => InstanceState::Running,
        _ => InstanceState::Unknown { since: moment(&state.finished_at).unwrap_or(created) },
    }
}

/// How the last run ended.
pub(crate) fn exit(state: &State) -> ExitStatus {
    let at = moment(&state.finished_at).unwrap_or(Timestamp::EPOCH);
    let mut status = ExitStatus::code(code(state.exit_code), at);
    status.oom_killed = state.oom_killed;
    status
}

/// Windows' codes are unsigned; what has no place in `i32` keeps its bits.
pub(crate) fn code(code: i64) -> i32 {
    i32::try_from(code).unwrap_or(code as u32 as i32)
}

pub(crate) fn health_of(text: &str) -> Health {
    match text {
        "starting" => Health::Starting,
        "healthy" => Health::Healthy,
        "unhealthy" => Health::Unhealthy,
        _ => Health::None,
    }
}

fn endpoint(place: &Place, one: &Inspected, instance: &Instance, port: &NamedPort) -> Option<Endpoint> {
    let wire = format!("{}/{}", port.number, port.protocol);
    let published = one.network.ports.get(&wire).and_then(Option::as_ref).and_then(|bindings| {
        let read = |binding: &crate::client::models::Binding| {
            let ip: IpAddr =
                if binding.ip.is_empty() { Ipv4Addr::UNSPECIFIED.into() } else { binding.ip.parse().ok()? };
            Some((ip, binding.port.parse::<u16>().ok().filter(|port| *port != 0)?))
        };
        // The engine lists an IPv4 and an IPv6 address for one port; who connects prefers the first.
        bindings.iter().filter_map(read).min_by_key(|(ip, _)| ip.is_ipv6())
    });
    let (address, scope) = match published {
        Some((ip, number)) if ip.is_loopback() => (SocketAddr::new(ip, number), Scope::Loopback),
        Some((ip, number)) if ip.is_unspecified() => match place.address {
            Some(address) => (SocketAddr::new(address, number), Scope::Host),
            None => (SocketAddr::new(Ipv4Addr::LOCALHOST.into(), number), Scope::Loopback),
        },
        Some((ip, number)) => (SocketAddr::new(ip, number), Scope::Host),
        None if one.host.network_mode == "host" => {
            let ip = place.address.unwrap_or(Ipv4Addr::LOCALHOST.into());
            (SocketAddr::new(ip, port.number), if ip.is_loopback() { Scope::Loopback } else { Scope::Host })
        }
        None => {
            let ips = one.network.networks.values();
            let ip = ips.filter_map(|at| at.ip.parse().or_else(|_| at.ipv6.parse()).ok()).next()?;
            (SocketAddr::new(ip, port.number), Scope::Bridge)
        }
    };
    let key = EndpointKey {
        instance: instance.id.clone(),
        incarnation: instance.incarnation,
        port: port.name.clone(),
    };
    Some(Endpoint { key, address, protocol: port.protocol, scope })
}

/// A moment as engines write it: RFC 3339, with an offset where podman or a Windows engine writes its own. The year 1 means never.
pub(crate) fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_of(text: &str) -> InstanceState {
        state(&serde_json::from_str(text).unwrap(), Timestamp::EPOCH)
    }

    #[test]
    fn moments_are_read_as_engines_write_them() {
        let utc = moment("2026-11-25T23:22:26.928623486Z").unwrap();
        assert_eq!(moment("2026-11-26T00:22:26.928623486+01:00").unwrap(), utc);
        assert_eq!(moment("2026-11-25T18:52:26.928623486-04:30").unwrap(), utc);
        for text in ["", "0001-01-01T00:00:00Z", "nonsense", "中中中中中"] {
            assert_eq!(moment(text), None, "{text}");
        }
    }

    #[test]
    fn states_are_what_the_engine_means() {
        assert_eq!(state_of(r#"{"Status":"created"}"#), InstanceState::Created);
        let failed = state_of(r#"{"Status":"created","ExitCode":127,"Error":"exec: \"x\": not found"}"#);
        assert!(
            matches!(&failed, InstanceState::Failed(f) if f.code == Some(127) && f.message.contains("not found"))
        );
        let ended = state_of(
            r#"{"Status":"exited","ExitCode":137,"OOMKilled":true,"FinishedAt":"2026-01-01T00:00:00Z"}"#,
        );
        assert!(
            matches!(&ended, InstanceState::Exited(status) if status.oom_killed && status.code == Some(137))
        );
        let windows = state_of(r#"{"Status":"exited","ExitCode":3221225786}"#);
        assert!(matches!(&windows, InstanceState::Exited(status) if status.code == Some(-1073741510)));
        // A start that failed after an earlier run.
        assert!(matches!(
            state_of(r#"{"Status":"exited","ExitCode":128,"Error":"port is taken"}"#),
            InstanceState::Failed(_)
        ));
        assert!(matches!(
            state_of(r#"{"Status":"sublimating","Running":false}"#),
            InstanceState::Unknown { .. }
        ));
        assert_eq!(state_of(r#"{"Status":"sublimating","Running":true}"#), InstanceState::Running);
    }
}
