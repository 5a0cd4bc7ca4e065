//! The ports of the fake engine: who holds which, and where a program is reached.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::state::State;
use crate::endpoint::{Endpoint, EndpointKey, Scope};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{InstanceId, NodeId};
use crate::spec::network::{Port, Protocol};

/// The first port that is allotted on each node.
const FIRST_ALLOTTED: u16 = 20_000;

/// Takes the ports of an instance and says where they are reached.
pub(super) fn bind(state: &mut State, id: &InstanceId) -> Result<()> {
    let Some(record) = state.records.get(id) else { return Ok(()) };
    let node = record.instance.node.clone();
    let node_address = state.nodes.get(&node).and_then(|node| node.addresses.first().copied());
    let node_address = node_address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut taken: Vec<(NodeId, Protocol, u16)> = Vec::new();
    let mut endpoints = Vec::new();
    for port in &record.spec.ports {
        let wanted = match &port.publish {
            Some(publish) => publish.port,
            None => port.number,
        };
        let free = |number: u16| {
            let slot = (node.clone(), port.protocol, number);
            !taken.contains(&slot) && state.ports.get(&slot).is_none_or(|holder| holder.as_ref() == Some(id))
        };
        let number = match wanted {
            // Unpublished ports lie on the instance's own address, where nobody else is.
            Some(number) if port.publish.is_none() || free(number) => number,
            Some(number) => {
                return Err(Error::new(ErrorKind::PortInUse, "the port is taken")
                    .with_context("node", &node)
                    .with_context("port", number));
            }
            None => (FIRST_ALLOTTED..=u16::MAX).find(|number| free(*number)).ok_or_else(|| {
                Error::new(ErrorKind::OutOfResources, "no port is free on the node")
                    .with_context("node", &node)
            })?,
        };
        let published = port.publish.as_ref();
        if published.is_some() || port.number.is_none() {
            taken.push((node.clone(), port.protocol, number));
        }
        let (address, scope) = match published {
            Some(publish) => (publish.address.unwrap_or(node_address), Scope::Host),
            None if port.number.is_none() => (node_address, Scope::Host),
            None => (own_address(id), Scope::Bridge),
        };
        endpoints.push(Endpoint {
            key: EndpointKey {
                instance: id.clone(),
                incarnation: record.instance.incarnation,
                port: port.name.clone(),
            },
            address: SocketAddr::new(address, number),
            protocol: port.protocol,
            scope,
        });
    }
    for slot in taken {
        state.ports.insert(slot, Some(id.clone()));
    }
    if let Some(record) = state.records.get_mut(id) {
        record.instance.endpoints = endpoints;
    }
    Ok(())
}

/// An address of its own, the same in every run.
fn own_address(id: &InstanceId) -> IpAddr {
    let [a, b, ..] = *crate::spec::source::Digest::of(id.as_str().as_bytes()).as_bytes();
    IpAddr::V4(Ipv4Addr::new(172, 17, a, b))
}

pub(super) fn release(state: &mut State, id: &InstanceId) {
    state.ports.retain(|_, holder| holder.as_ref() != Some(id));
    if let Some(record) = state.records.get_mut(id) {
        record.instance.endpoints.clear();
    }
}

/// Tells the program its ports: `PORT_<NAME>` for each, `PORT` for the first.
pub(super) fn name_ports(env: &mut BTreeMap<String, String>, ports: &[Port], endpoints: &[Endpoint]) {
    for (index, (port, endpoint)) in ports.iter().zip(endpoints).enumerate() {
        let number = port.number.unwrap_or(endpoint.address.port()).to_string();
        if index == 0 {
            env.entry("PORT".to_owned()).or_insert_with(|| number.clone());
        }
        env.insert(format!("PORT_{}", port.name.as_str().to_ascii_uppercase().replace('-', "_")), number);
    }
}
