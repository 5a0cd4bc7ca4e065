//! What can be known of every node before the first change.
//!
//! A rollout that finds on its third node that the image can't run there has changed two. So each node is asked first, and nothing is
//! changed by asking. What is found is a snapshot: a port that is free now may be taken when it is wanted.

use std::collections::BTreeMap;
use std::fmt;

use ews_core::image::{ImageQuery, ImageStore};
use ews_core::spec::network::Port;
use ews_core::spec::platform::Platform;
use ews_core::spec::source::{ImagePin, ImageSource, PullPolicy};
use ews_core::{
    Error, ErrorKind, Instance, Node, NodeId, NodeState, OwnerId, Result, Runtime, Scope, Selector,
    ServiceSpec, Source,
};
use serde::{Deserialize, Serialize};

/// How many nodes a line names.
const NAMED: usize = 8;

/// What was found of every node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Preflight {
    /// In the runtime's order.
    pub nodes: Vec<NodeReport>,
}

impl Preflight {
    /// Whether at least one node can run the spec, as far as can be told.
    pub fn can_run(&self) -> bool {
        self.nodes.iter().any(NodeReport::can_run)
    }

    /// What was found, each finding once with the nodes that it is about.
    pub fn summary(&self) -> Vec<String> {
        let mut found: BTreeMap<&str, Vec<&NodeId>> = BTreeMap::new();
        for report in &self.nodes {
            for finding in &report.findings {
                found.entry(&finding.message).or_default().push(&report.node);
            }
        }
        let line = |(message, nodes): (&str, Vec<&NodeId>)| {
            if nodes.len() == self.nodes.len() && nodes.len() > 1 {
                return format!("every node: {message}");
            }
            let named: Vec<String> = nodes.iter().take(NAMED).map(ToString::to_string).collect();
            match nodes.len() - named.len() {
                0 => format!("{}: {message}", named.join(", ")),
                more => format!("{} and {more} more: {message}", named.join(", ")),
            }
        };
        found.into_iter().map(line).collect()
    }

    /// Refuses what no node will run however long one waits. A node that does not answer or takes nothing new may do so later.
    pub(crate) fn refuse(&self) -> Result<()> {
        let lasting = |finding: &&Finding| finding.stops && finding.about != FindingAbout::State;
        let mut first = None;
        for report in &self.nodes {
            match report.findings.iter().find(lasting) {
                Some(finding) => first = first.or(Some(finding)),
                None => return Ok(()),
            }
        }
        let Some(first) = first else { return Ok(()) };
        let kind = match first.about {
            FindingAbout::Platform => ErrorKind::ImageIncompatible,
            FindingAbout::Source => ErrorKind::ImageMissing,
            FindingAbout::Port => ErrorKind::PortInUse,
            FindingAbout::Resources => ErrorKind::OutOfResources,
            _ => ErrorKind::Unsupported,
        };
        Err(Error::new(kind, format!("no node can run it: {}", self.summary().join("; "))))
    }
}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary().join("\n"))
    }
}

/// What was found of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeReport {
    /// The node.
    pub node: NodeId,
    /// How the image comes there.
    pub image: ImageThere,
    /// What stands against it, and what can't be told. Empty: nothing.
    pub findings: Vec<Finding>,
}

impl NodeReport {
    /// Whether nothing that was found stops it.
    pub fn can_run(&self) -> bool {
        self.findings.iter().all(|finding| !finding.stops)
    }
}

/// How an image comes to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ImageThere {
    /// It is there. A runtime of several nodes may mean one of them.
    Present,
    /// It can be pulled.
    Pullable {
        /// Bytes of its layers, packed: the most that is moved. Unpacked it takes two to four times as much.
        bytes: u64,
    },
    /// It can't be told, or it won't come; a finding says which.
    Unknown,
    /// The spec has no image.
    None,
}

/// Something that was found of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about.
    pub about: FindingAbout,
    /// Whether an instance can't run there because of it.
    pub stops: bool,
    /// In whole words.
    pub message: String,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FindingAbout {
    /// The node's state.
    State,
    /// The system and the architecture.
    Platform,
    /// What the driver can do.
    Capability,
    /// The image or the artifact.
    Source,
    /// A port of the node.
    Port,
    /// Memory and CPU in all. Free space on a disk no runtime tells.
    Resources,
}

/// Asks every node of a runtime whether it can run a spec, of whose image this is known. `owner` is whose installation it is: its own
/// instances of the service hold no port against it.
pub(crate) async fn nodes(
    spec: &ServiceSpec,
    runtime: &dyn Runtime,
    owner: &OwnerId,
    source: Option<&OfImage>,
) -> Result<Preflight> {
    let nodes = runtime.nodes().await?;
    let fixed = |port: &&Port| port.publish.as_ref().is_some_and(|publish| publish.port.is_some());
    let fixed: Vec<&Port> = spec.instance.ports.iter().filter(fixed).collect();
    let listed = if fixed.is_empty() { Vec::new() } else { runtime.list(&Selector::everything()).await? };
    let capability = runtime.capabilities().check(&spec.instance).err();
    let nodes = nodes.into_iter().map(|node| {
        let mut findings = Vec::new();
        of_node(spec, &node, &mut findings);
        if let Some(error) = &capability {
            findings.push(Finding::new(FindingAbout::Capability, true, error.to_string()));
        }
        for port in &fixed {
            findings.extend(taken(port, spec, &node, &listed, owner));
        }
        let image = match source {
            None => ImageThere::None,
            Some(source) => {
                findings.extend(source.finding.clone());
                let of_it = |all: &Vec<Platform>| !all.iter().any(|image| runs(&node.platform, image));
                if let Some(all) = source.platforms.as_ref().filter(|all| of_it(all)) {
                    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
                    let message =
                        format!("the node is {}, and the image is for {}", node.platform, all.join(", "));
                    findings.push(Finding::new(FindingAbout::Platform, true, message));
                }
                source.there
            }
        };
        NodeReport { node: node.id, image, findings }
    });
    Ok(Preflight { nodes: nodes.collect() })
}

/// What is known before a deployment, with the images of the runtime's engine, or these. No registry is asked.
pub(crate) async fn here(
    spec: &ServiceSpec,
    runtime: &dyn Runtime,
    brought: Option<&dyn ImageStore>,
    owner: &OwnerId,
) -> Result<Preflight> {
    let own = runtime.images();
    let source = match &spec.instance.source {
        Source::Image(image) => Some(match looked_up(image, brought.or(own.as_deref())).await? {
            Known::As(found) => found,
            Known::Absent if brought.is_some() => OfImage::unknown(None),
            Known::Absent => OfImage::unknown(Some(Finding::new(
                FindingAbout::Source,
                false,
                "the image is not there yet: it is pulled when an instance is made",
            ))),
        }),
        _ => None,
    };
    nodes(spec, runtime, owner, source.as_ref()).await
}

impl Finding {
    pub(crate) fn new(about: FindingAbout, stops: bool, message: impl Into<String>) -> Self {
        Self { about, stops, message: message.into() }
    }
}

fn of_node(spec: &ServiceSpec, node: &Node, findings: &mut Vec<Finding>) {
    let state = match node.state {
        NodeState::Ready => None,
        NodeState::Cordoned => Some("it takes no new instances"),
        NodeState::Unknown { .. } => Some("it does not answer"),
        _ => Some("it is gone"),
    };
    findings.extend(state.map(|state| Finding::new(FindingAbout::State, true, state)));
    if !node.platform.meets(&spec.instance.platform) {
        findings.push(Finding::new(
            FindingAbout::Platform,
            true,
            format!("the node is {}, and the spec wants another platform", node.platform),
        ));
    }
    // Zero means that the runtime does not know.
    let (wanted, has) = (spec.instance.resources.reserved_memory(), node.capacity.memory);
    if has.bytes() > 0 && wanted > has {
        let message =
            format!("the node has {has} of memory in all, and {wanted} are set aside for an instance");
        findings.push(Finding::new(FindingAbout::Resources, true, message));
    }
}

fn runs(node: &Platform, image: &Platform) -> bool {
    (node.os, node.arch) == (image.os, image.arch)
}

/// What is known of an image, the same for every node.
pub(crate) struct OfImage {
    pub(crate) there: ImageThere,
    pub(crate) platforms: Option<Vec<Platform>>,
    pub(crate) finding: Option<Finding>,
}

impl OfImage {
    pub(crate) fn unknown(finding: Option<Finding>) -> Self {
        Self { there: ImageThere::Unknown, platforms: None, finding }
    }

    fn stopped(message: &str) -> Self {
        Self::unknown(Some(Finding::new(FindingAbout::Source, true, message)))
    }
}

/// Whether an image is there.
pub(crate) enum Known {
    As(OfImage),
    /// It is not there, and a registry may have it.
    Absent,
}

/// Looks for an image where instances are made.
pub(crate) async fn looked_up(image: &ImageSource, store: Option<&dyn ImageStore>) -> Result<Known> {
    let (query, digest) = match &image.pin {
        Some(ImagePin::Manifest(digest)) => {
            (ImageQuery::Name(image.reference.clone().with_digest(*digest)), Some(*digest))
        }
        Some(ImagePin::Local { image_id, .. }) => (ImageQuery::Id(*image_id), None),
        _ => {
            return Err(Error::invalid(
                "the image is not pinned; accepted: one with a digest (`name@sha256:…`), as `ews_deploy::source` makes of a tag",
            )
                .with_context("image", &image.reference));
        }
    };
    let found = match store {
        Some(store) => store.inspect(&query).await.map(Some),
        None => Ok(None),
    };
    Ok(match (found, digest) {
        (Ok(Some(found)), _) => Known::As(OfImage {
            there: ImageThere::Present,
            platforms: Some(vec![found.platform]),
            finding: None,
        }),
        (Err(error), _) if error.kind() != ErrorKind::ImageMissing => {
            let message = format!("whether the image is there can't be told: {error}");
            Known::As(OfImage::unknown(Some(Finding::new(FindingAbout::Source, false, message))))
        }
        (_, None) => Known::As(OfImage::stopped("the image was built on one engine, and is not there")),
        (_, Some(_)) if image.pull == PullPolicy::Never => {
            Known::As(OfImage::stopped("the image is not there, and may not be pulled"))
        }
        (_, Some(_)) => Known::Absent,
    })
}

/// Whether somebody else's instance has a port of the node that the spec fixes.
fn taken(
    port: &Port,
    spec: &ServiceSpec,
    node: &Node,
    listed: &[Instance],
    owner: &OwnerId,
) -> Option<Finding> {
    let number = port.publish.as_ref()?.port?;
    let ours = |instance: &&Instance| instance.key.owner == *owner && instance.key.service == spec.name;
    let others = listed.iter().filter(|instance| instance.node == node.id).filter(|instance| !ours(instance));
    let holder = others.into_iter().find(|instance| {
        instance.endpoints.iter().any(|endpoint| {
            let of_node = matches!(endpoint.scope, Scope::Loopback | Scope::Host | Scope::Routable);
            of_node && (endpoint.address.port(), endpoint.protocol) == (number, port.protocol)
        })
    })?;
    let message = format!("port {number} of the node is taken by `{}`", holder.key);
    Some(Finding::new(FindingAbout::Port, true, message))
}
