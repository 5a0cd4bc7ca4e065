//! What is told of endpoints, made from their records: environment, JSON and a hosts file. All of it is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ews_core::spec::network::Protocol;
use ews_core::store::Schema;
use ews_core::{
    Endpoint, Incarnation, Instance, InstanceId, PortName, ReleaseName, Scope, ServiceName, ServiceSpec,
};
use serde::{Deserialize, Serialize};

/// The addresses of one service that passed their gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Addresses {
    pub(crate) service: ServiceName,
    /// The name under which the gateway serves it.
    pub(crate) domain: Option<String>,
    /// At most [`Addresses::MOST`], those of the lowest slots.
    pub(crate) endpoints: Vec<Told>,
}

impl Addresses {
    /// The most endpoints of one service that are told of.
    pub(crate) const MOST: usize = 1_000;
    /// The most endpoints that one file holds: with more, the lowest slots of each member.
    pub(crate) const IN_A_FILE: usize = 2_000;
    /// The most addresses in one variable.
    const IN_A_VARIABLE: usize = 20;
}

impl Schema for Addresses {
    const NAME: &'static str = "deploy-addresses";
    const VERSION: u32 = 1;
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Told {
    pub(crate) slot: u32,
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: Incarnation,
    pub(crate) port: PortName,
    /// The number on which the program listens, where the spec says it: what belongs to a name that resolves.
    pub(crate) number: Option<u16>,
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    pub(crate) scope: Scope,
}

/// The endpoints of an instance in the order of its spec's ports.
pub(crate) fn endpoints(instance: &Instance, spec: &ServiceSpec) -> Vec<Told> {
    let told = |endpoint: &Endpoint, number| Told {
        slot: instance.key.slot,
        instance: instance.id.clone(),
        incarnation: instance.incarnation,
        port: endpoint.key.port.clone(),
        number,
        protocol: endpoint.protocol,
        address: endpoint.address,
        scope: endpoint.scope,
    };
    let ports = spec.instance.ports.iter();
    ports
        .filter_map(|port| {
            let found = instance.endpoints.iter().find(|endpoint| endpoint.key.port == port.name)?;
            Some(told(found, port.number))
        })
        .collect()
}

/// The variables for an instance in this slot. With `named`, names of members resolve.
pub(crate) fn environment(members: &[Addresses], slot: u32, named: bool) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for member in members {
        let name = variable(member.service.as_str());
        if let Some(domain) = &member.domain {
            env.insert(format!("{name}_DOMAIN"), domain.clone());
        }
        // Each slot is told of another one first, so that not all of them call the same.
        let Some(first) = member.endpoints.first() else { continue };
        let of = |port: &PortName| -> Vec<&Told> {
            member.endpoints.iter().filter(|told| told.port == *port).collect()
        };
        let mine = of(&first.port);
        let Some(chosen) = mine.get(slot as usize % mine.len().max(1)) else { continue };
        let (host, port) = match chosen.number.filter(|_| named) {
            Some(number) => (member.service.to_string(), number),
            None => (chosen.address.ip().to_string(), chosen.address.port()),
        };
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let scheme = match first.port.as_str() {
            name if name.starts_with("https") => "https",
            name if name.starts_with("http") => "http",
            _ if first.protocol == Protocol::Udp => "udp",
            _ => "tcp",
        };
        env.insert(format!("{name}_HOST"), host);
        env.insert(format!("{name}_PORT"), port.to_string());
        env.insert(format!("{name}_URL"), format!("{scheme}://{authority}"));
        env.insert(format!("{name}_ADDRESSES"), joined(&mine));
        let ports: BTreeSet<&PortName> = member.endpoints.iter().map(|told| &told.port).collect();
        for port in ports {
            env.insert(format!("{name}_{}_ADDRESSES", variable(port.as_str())), joined(&of(port)));
        }
    }
    env
}

fn joined(told: &[&Told]) -> String {
    let few: Vec<_> =
        told.iter().take(Addresses::IN_A_VARIABLE).map(|told| told.address.to_string()).collect();
    few.join(",")
}

/// A name as the beginning of a variable: capitals, and `_` for what is no letter or digit; never a digit first.
fn variable(name: &str) -> String {
    let upper = name.to_ascii_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    if upper.starts_with(|c: char| c.is_ascii_digit()) { format!("_{upper}") } else { upper }
}

#[derive(Serialize)]
struct Peers<'a> {
    release: &'a ReleaseName,
    members: BTreeMap<&'a ServiceName, Peer<'a>>,
}

#[derive(Serialize)]
struct Peer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
    endpoints: Vec<Listed<'a>>,
}

#[derive(Serialize)]
struct Listed<'a> {
    instance: &'a InstanceId,
    port: &'a PortName,
    protocol: Protocol,
    address: SocketAddr,
    /// What belongs to the member's name, where that resolves.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u16>,
    scope: Scope,
}

/// Everything as JSON.
pub(crate) fn json(release: &ReleaseName, members: &[Addresses]) -> String {
    let most = (Addresses::IN_A_FILE / members.len().max(1)).max(1);
    let listed = |told| {
        let Told { instance, port, protocol, address, number, scope, .. }: &Told = told;
        Listed { instance, port, protocol: *protocol, address: *address, number: *number, scope: *scope }
    };
    let members = members
        .iter()
        .map(|member| {
            let endpoints = member.endpoints.iter().take(most).map(listed).collect();
            (&member.service, Peer { domain: member.domain.as_deref(), endpoints })
        })
        .collect();
    // Texts and numbers only: there is nothing in it that JSON can't hold.
    let mut text = serde_json::to_string_pretty(&Peers { release, members }).unwrap_or_default();
    text.push('\n');
    text
}

/// Everything in the format of `/etc/hosts`, ports as remarks.
pub(crate) fn hosts(members: &[Addresses]) -> String {
    let most = (Addresses::IN_A_FILE / members.len().max(1)).max(1);
    let mut text = String::new();
    for member in members {
        let told: Vec<&Told> = member.endpoints.iter().take(most).collect();
        let mut seen = BTreeSet::new();
        for one in told {
            if seen.insert(one.address.ip()) {
                text.push_str(&format!("{}\t{}\n", one.address.ip(), member.service));
            }
            text.push_str(&format!("# {} {} {}/{}\n", member.service, one.port, one.address, one.protocol));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(slot: u32, port: &str, address: &str, number: Option<u16>) -> Told {
        Told {
            slot,
            instance: InstanceId::new(format!("i{slot}")).unwrap(),
            incarnation: Incarnation(1),
            port: PortName::new(port).unwrap(),
            number,
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            scope: Scope::Bridge,
        }
    }

    fn members() -> Vec<Addresses> {
        vec![
            Addresses {
                service: ServiceName::new("order-db").unwrap(),
                domain: None,
                endpoints: vec![
                    told(0, "pg", "[::1]:5432", Some(5432)),
                    told(0, "admin", "[::1]:9000", None),
                ],
            },
            Addresses {
                service: ServiceName::new("web").unwrap(),
                domain: Some("web.test".to_owned()),
                endpoints: vec![
                    told(0, "http", "10.0.0.1:80", Some(80)),
                    told(1, "http", "10.0.0.2:80", Some(80)),
                ],
            },
            Addresses { service: ServiceName::new("none").unwrap(), domain: None, endpoints: Vec::new() },
        ]
    }

    #[test]
    fn variables_name_members_and_spread_over_slots() {
        let env = environment(&members(), 1, false);
        let get = |name: &str| env.get(name).map(String::as_str);
        assert_eq!(get("ORDER_DB_HOST"), Some("::1"));
        assert_eq!(get("ORDER_DB_URL"), Some("tcp://[::1]:5432"));
        assert_eq!(get("ORDER_DB_ADMIN_ADDRESSES"), Some("[::1]:9000"));
        assert_eq!(get("WEB_URL"), Some("http://10.0.0.2:80"));
        assert_eq!(get("WEB_ADDRESSES"), Some("10.0.0.1:80,10.0.0.2:80"));
        assert_eq!(get("WEB_DOMAIN"), Some("web.test"));
        assert!(!env.keys().any(|name| name.starts_with("NONE_")), "{env:?}");
        let first = environment(&members(), 0, false);
        assert_eq!(first.get("WEB_HOST").map(String::as_str), Some("10.0.0.1"));
        let named = environment(&members(), 0, true);
        assert_eq!(named.get("WEB_URL").map(String::as_str), Some("http://web:80"));
        assert_eq!(named.get("ORDER_DB_HOST").map(String::as_str), Some("order-db"));
    }

    #[test]
    fn files_hold_every_endpoint_within_the_bound() {
        let release = ReleaseName::new("shop").unwrap();
        let value: serde_json::Value = serde_json::from_str(&json(&release, &members())).unwrap();
        assert_eq!(value["members"]["web"]["endpoints"][1]["address"], "10.0.0.2:80");
        assert_eq!(value["members"]["none"]["endpoints"].as_array().unwrap().len(), 0);
        let hosts = hosts(&members());
        assert!(hosts.contains("10.0.0.1\tweb\n"), "{hosts}");
        assert_eq!(hosts.matches("\torder-db\n").count(), 1, "{hosts}");
        let mut many = members();
        many[1].endpoints = (0..5_000).map(|slot| told(slot, "http", "10.0.0.1:80", None)).collect();
        let value: serde_json::Value = serde_json::from_str(&json(&release, &many)).unwrap();
        assert_eq!(value["members"]["web"]["endpoints"].as_array().unwrap().len(), Addresses::IN_A_FILE / 3);
    }
}
