//! Rules of ports, networks and names of hosts.

use std::net::IpAddr;

use super::{Rules, field};
use crate::document::Path;
use crate::spec::InstanceSpec;
use crate::spec::network::Publish;
use crate::time::Shown;

/// The most ports, networks, and aliases in one network.
const MAX_PORTS: usize = 128;
const MAX_NETWORKS: usize = 32;
const MAX_ALIASES: usize = 32;

impl Rules {
    pub(super) fn network(&mut self, spec: &InstanceSpec) {
        if self.at_most(field("ports"), spec.ports.len(), MAX_PORTS) {
            self.ports(spec);
        }
        if self.at_most(field("networks"), spec.networks.len(), MAX_NETWORKS) {
            for (index, network) in spec.networks.iter().enumerate() {
                let at = field("networks").index(index).key("aliases");
                if self.at_most(at.clone(), network.aliases.len(), MAX_ALIASES) {
                    for (alias, name) in network.aliases.iter().enumerate() {
                        self.host_name(at.index(alias), name);
                    }
                    let aliases = network.aliases.iter().enumerate();
                    let items = aliases
                        .map(|(n, a)| (at.index(n), a.to_ascii_lowercase(), format!("\"{}\"", Shown(a))));
                    self.distinct("alias", items);
                }
            }
            let names = spec.networks.iter().enumerate().map(|(index, network)| {
                let shown = format!("\"{}\"", network.name);
                (field("networks").index(index).key("name"), network.name.clone(), shown)
            });
            self.distinct("network", names);
        }
        if let Some(name) = &spec.hostname {
            self.host_name(field("hostname"), name);
        }
    }

    fn ports(&mut self, spec: &InstanceSpec) {
        let at = |index: usize| field("ports").index(index);
        let names = spec.ports.iter().enumerate();
        self.distinct(
            "port name",
            names.map(|(n, port)| (at(n).key("name"), port.name.clone(), format!("\"{}\"", port.name))),
        );
        let numbers = spec.ports.iter().enumerate().filter_map(|(n, port)| {
            let number = port.number?;
            Some((at(n).key("number"), (number, port.protocol), format!("{number}/{}", port.protocol)))
        });
        self.distinct("port number", numbers);
        for (index, port) in spec.ports.iter().enumerate() {
            if port.number == Some(0) {
                let message = "found the number 0; accepted: a whole number from 1 to 65535; leave the field out for a port that \
                               the runtime allots";
                self.find(at(index).key("number"), message);
            }
            let Some(publish) = &port.publish else { continue };
            let here = at(index).key("publish");
            if publish.port == Some(0) {
                let message = "found the number 0; accepted: a whole number from 1 to 65535; leave the field out for any free port";
                self.find(here.key("port"), message);
            }
            if self.windows() && publish.address.is_some_and(|address| !address.is_unspecified()) {
                let message = "Windows publishes on all addresses of the node only; accepted: no address, or \"0.0.0.0\"";
                self.find_with(here.key("address"), &[field("platform")], message);
            }
            let earlier = spec.ports.iter().take(index).position(|other| {
                other.protocol == port.protocol
                    && other.publish.as_ref().is_some_and(|other| collide(other, publish))
            });
            if let (Some(first), Some(number)) = (earlier, publish.port) {
                let message = format!(
                    "the node's port {number}/{} is published already for the port \"{}\"; accepted: each port of the node once",
                    port.protocol,
                    spec.ports.get(first).map_or("", |port| port.name.as_str())
                );
                self.find_with(here.key("port"), &[at(first).key("publish")], message);
            }
        }
    }

    /// RFC 1123: labels of letters, digits and `-`, joined by dots.
    pub(super) fn host_name(&mut self, at: Path, name: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.starts_with(plain)
                && label.ends_with(plain)
                && label.chars().all(|c| plain(c) || c == '-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            let hint = if name.contains('_') { ", and `_` is none of them" } else { "" };
            let dashed = name.replace(['_', ' '], "-");
            let meant = match dashed.len() <= 63 && dashed.split('.').all(label) {
                true => format!(", did you mean \"{dashed}\"?"),
                false => String::new(),
            };
            let message = format!(
                "\"{}\" is not a host name{meant}; accepted: labels of 1 to 63 letters, digits and `-`{hint}, joined by dots, starting \
                 and ending with a letter or digit",
                Shown(name)
            );
            self.find(at, message);
        }
    }
}

/// Whether both listen on the same port of the node. An address that is not given may turn out to be the other's.
fn collide(a: &Publish, b: &Publish) -> bool {
    let any = |address: Option<IpAddr>| address.is_none_or(|address| address.is_unspecified());
    a.port.is_some() && a.port == b.port && (any(a.address) || any(b.address) || a.address == b.address)
}
