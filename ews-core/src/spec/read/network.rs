//! Ports and networks.

use std::net::IpAddr;

use super::foreign;
use crate::document::walk::At;
use crate::document::{Tree, Value};
use crate::id::{NetworkName, PortName};
use crate::spec::network::{NetworkAttachment, Port, Protocol, Publish};
use crate::time::Shown;

const PORTS: &str = "a table of names and numbers such as { http = 8080 }, or a list of tables, each with `name` and `number`";
const PORT: &str = "a number such as 8080, or a table with `number`, `protocol` and `publish`";

pub(super) fn ports(at: &At<'_>) -> Option<Vec<Port>> {
    let mut ports = Vec::new();
    if at.tree.as_table().is_some() {
        for (name, at) in at.entries(PORTS) {
            let name = at.read::<PortName>(name);
            let name = name.or_else(stand_in)?;
            ports.push(match at.tree.value {
                Value::Integer(_) => Port::new(name, port_number(&at)),
                _ => long(&at, Some(name))?,
            });
        }
        return Some(ports);
    }
    for at in at.list(PORTS) {
        ports.push(match long(&at, None) {
            Some(port) => port,
            None => Port::new(stand_in()?, Some(1)),
        });
    }
    Some(ports)
}

/// In place of a name that could not be read.
fn stand_in() -> Option<PortName> {
    PortName::new("unread").ok()
}

fn port_number(at: &At<'_>) -> Option<u16> {
    // A number that can't be read must not look like one that was left out.
    Some(at.integer(1, 65_535).and_then(|n| u16::try_from(n).ok()).unwrap_or(1))
}

fn long(at: &At<'_>, name: Option<PortName>) -> Option<Port> {
    match &at.tree {
        Tree { value: Value::Text(text), .. } => at.fail(compose_port(text, name.is_some())),
        Tree { value: Value::Integer(number), .. } => at.fail(format!(
            "found the number {number} without a name; accepted: a table such as {{ name = \"http\", number = {number} }}, \
             or write the ports as {{ http = {number} }}"
        )),
        _ => {
            let accepted = if name.is_some() { PORT } else { "a table with `name` and `number`" };
            let mut fields = at.table(accepted)?.also_called(&foreign::PORT);
            let name = match name {
                Some(name) => Some(name),
                None => fields
                    .required("name", "a name such as \"http\"")
                    .and_then(|at| at.parsed::<PortName>("a name such as \"http\"")),
            };
            let number = fields.take("number").and_then(|at| port_number(&at));
            let protocol = fields.take("protocol").and_then(|at| {
                at.one_of(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)], foreign::protocol)
            });
            let publish = fields.take_present("publish").and_then(|at| publish(&at));
            fields.finish(foreign::port);
            let mut port = Port::new(name.or_else(stand_in)?, number);
            port.protocol = protocol.unwrap_or_default();
            port.publish = publish;
            return Some(port);
        }
    }
    Some(Port::new(name.or_else(stand_in)?, Some(1)))
}

/// Compose's and Docker's `[address:][node:]port[/protocol]`, said in our words.
fn compose_port(text: &str, named: bool) -> String {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let mut parts = numbers.rsplitn(3, ':').map(|part| part.parse::<u16>().ok());
    let example = match (parts.next().flatten(), parts.next()) {
        (Some(inner), outer) => {
            let mut table = if named { String::from("{ ") } else { String::from("{ name = \"http\", ") };
            table.push_str(&format!("number = {inner}"));
            if protocol == "udp" {
                table.push_str(", protocol = \"udp\"");
            }
            if let Some(Some(outer)) = outer {
                table.push_str(&format!(", publish = {{ port = {outer} }}"));
            }
            table.push_str(" }");
            table
        }
        _ => "{ name = \"http\", number = 8080, publish = { port = 80 } }".to_owned(),
    };
    let accepted = if named { PORT } else { "a table with `name` and `number`" };
    format!("found the text \"{}\"; accepted: {accepted}, such as {example}", Shown(text))
}

fn publish(at: &At<'_>) -> Option<Publish> {
    let mut publish = Publish::default();
    match &at.tree.value {
        Value::Integer(_) => publish.port = port_number(at),
        Value::Table(_) => {
            let mut fields = at.table("a table")?;
            publish.address = fields.take("address").and_then(|at| {
                let text = at.text("an IP address of the node")?;
                let address = text.parse::<IpAddr>().ok();
                if address.is_none() {
                    at.expected("an IP address of the node, such as \"127.0.0.1\"");
                }
                address
            });
            publish.port = fields.take("port").and_then(|at| port_number(&at));
            fields.finish(foreign::publish);
        }
        _ => at.expected(
            "the node's port such as 80, or a table with `port` and `address`, {} for any free port; leave the field out for \
             a port that is not published",
        ),
    }
    Some(publish)
}

pub(super) fn networks(at: &At<'_>) -> Option<Vec<NetworkAttachment>> {
    const ACCEPTED: &str = "a list of names such as [\"front\"], or of tables with `name` and `aliases`";
    let mut networks = Vec::new();
    for at in at.list(ACCEPTED) {
        networks.push(network(&at).or_else(|| NetworkName::new("unread").ok().map(NetworkAttachment::new))?);
    }
    Some(networks)
}

fn network(at: &At<'_>) -> Option<NetworkAttachment> {
    const NAME: &str = "the name of a network";
    if at.tree.as_text().is_some() {
        return at.parsed::<NetworkName>(NAME).map(NetworkAttachment::new);
    }
    let mut fields = at.table("a name, or a table with `name` and `aliases`")?;
    let name = fields.required("name", NAME).and_then(|at| at.parsed::<NetworkName>(NAME));
    let aliases = fields.take("aliases").map(|at| texts(&at, "a list of host names"));
    fields.finish(foreign::network);
    let mut network = NetworkAttachment::new(name?);
    network.aliases = aliases.unwrap_or_default();
    Some(network)
}

/// A list of texts; one that could not be read keeps its place.
pub(super) fn texts(at: &At<'_>, accepted: &str) -> Vec<String> {
    if let Some(text) = at.tree.as_text() {
        at.fail(format!("found a single text; accepted: {accepted}, such as [\"{}\"]", Shown(text)));
        return Vec::new();
    }
    at.list(accepted).iter().map(|item| item.text("a text").unwrap_or_default().to_owned()).collect()
}
