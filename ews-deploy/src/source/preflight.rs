//! What can be known of every node before the first change: [`preflight`].
//!
//! A rollout that finds on its third node that the image can't be pulled there has changed two. So each node is asked first, and nothing is
//! changed by asking. What is found is a snapshot: a port that is free now may be taken when it is wanted.

use ews_core::image::ImageQuery;
use ews_core::spec::network::Port;
use ews_core::spec::platform::Platform;
use ews_core::spec::source::{ImagePin, ImageSource, PullPolicy};
use ews_core::{
    Error, ErrorKind, Instance, Node, NodeId, NodeState, OwnerId, Registry, Result, Runtime, Scope, Selector,
    ServiceSpec, Source,
};
use serde::{Deserialize, Serialize};

use super::oci::image::read;

/// What was found of every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// Asks every node of a runtime whether it can run a pinned spec. `owner` is whose installation it is: its own instances of the service
/// hold no port against it.
///
/// # Errors
/// `Invalid` for a spec whose image is not pinned; those of [`Runtime::nodes`] and [`Runtime::list`]. What the registry and the image store
/// fail with is a finding.
pub async fn preflight(
    spec: &ServiceSpec,
    runtime: &dyn Runtime,
    registry: Option<&dyn Registry>,
    owner: &OwnerId,
) -> Result<Preflight> {
    let nodes = runtime.nodes().await.map_err(|error| error.with_operation("sources.preflight"))?;
    let listed = runtime
        .list(&Selector::everything())
        .await
        .map_err(|error| error.with_operation("sources.preflight"))?;
    let capability = runtime.capabilities().check(&spec.instance).err();
    let source = match &spec.instance.source {
        Source::Image(image) => Some(of_image(image, runtime, registry).await?),
        _ => None,
    };
    let nodes = nodes.into_iter().map(|node| {
        let mut findings = Vec::new();
        of_node(spec, &node, &mut findings);
        if let Some(error) = &capability {
            findings.push(Finding::new(FindingAbout::Capability, true, error.to_string()));
        }
        for port in &spec.instance.ports {
            findings.extend(taken(port, spec, &node, &listed, owner));
        }
        let image = match &source {
            None => ImageThere::None,
            Some(source) => {
                findings.extend(source.finding.clone());
                if source
                    .platforms
                    .as_ref()
                    .is_some_and(|all| !all.iter().any(|image| runs(&node.platform, image)))
                {
                    let all: Vec<String> =
                        source.platforms.iter().flatten().map(ToString::to_string).collect();
                    findings.push(Finding::new(
                        FindingAbout::Platform,
                        true,
                        format!("the node is {}, and the image is for {}", node.platform, all.join(", ")),
                    ));
                }
                source.there
            }
        };
        NodeReport { node: node.id, image, findings }
    });
    Ok(Preflight { nodes: nodes.collect() })
}

impl Finding {
    fn new(about: FindingAbout, stops: bool, message: impl Into<String>) -> Self {
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
struct OfImage {
    there: ImageThere,
    platforms: Option<Vec<Platform>>,
    finding: Option<Finding>,
}

impl OfImage {
    fn unknown(stops: bool, message: impl Into<String>) -> Self {
        let finding = Some(Finding::new(FindingAbout::Source, stops, message));
        Self { there: ImageThere::Unknown, platforms: None, finding }
    }
}

async fn of_image(
    image: &ImageSource,
    runtime: &dyn Runtime,
    registry: Option<&dyn Registry>,
) -> Result<OfImage> {
    let (query, digest) = match &image.pin {
        Some(ImagePin::Manifest(digest)) => {
            (ImageQuery::Name(image.reference.clone().with_digest(*digest)), Some(*digest))
        }
        Some(ImagePin::Local { image_id, .. }) => (ImageQuery::Id(*image_id), None),
        _ => {
            return Err(Error::invalid("the image is not pinned: resolve it first")
                .with_operation("sources.preflight")
                .with_context("image", &image.reference));
        }
    };
    let found = match runtime.images() {
        Some(store) => store.inspect(&query).await.map(Some),
        None => Ok(None),
    };
    match found {
        Ok(Some(found)) => {
            return Ok(OfImage {
                there: ImageThere::Present,
                platforms: Some(vec![found.platform]),
                finding: None,
            });
        }
        Ok(None) => {}
        Err(error) if error.kind() == ErrorKind::ImageMissing => {}
        Err(error) => {
            return Ok(OfImage::unknown(false, format!("whether the image is there can't be told: {error}")));
        }
    }
    let Some(digest) = digest else {
        return Ok(OfImage::unknown(true, "the image was built on one engine, and is not there"));
    };
    if image.pull == PullPolicy::Never {
        return Ok(OfImage::unknown(true, "the image is not there, and may not be pulled"));
    }
    let Some(registry) = registry else {
        return Ok(OfImage::unknown(
            false,
            "the image is not there, and nobody says which registry to ask for it",
        ));
    };
    match read(registry, &image.reference.clone().with_digest(digest), &|_| true).await {
        Ok(found) => {
            let size = |layer: &serde_json::Value| {
                layer.get("size").and_then(serde_json::Value::as_u64).unwrap_or(0)
            };
            let sizes = found.images.iter().map(|image| image.layers().iter().map(size).sum());
            let platforms = found.images.iter().map(|image| image.platform.clone()).collect();
            let there = ImageThere::Pullable { bytes: sizes.max().unwrap_or(0) };
            Ok(OfImage { there, platforms: Some(platforms), finding: None })
        }
        Err(error) => {
            let stops = matches!(
                error.kind(),
                ErrorKind::ImageMissing | ErrorKind::ImageDenied | ErrorKind::Unauthorized
            );
            Ok(OfImage::unknown(stops, format!("the image is not there and can't be pulled: {error}")))
        }
    }
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
