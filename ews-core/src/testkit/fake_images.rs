//! An image store in memory: images that can be pulled, merged pulls, builds, commits, archives and pruning.
//!
//! There are no layers. An image is its [`Image`] record; a build reads a context that must hold the word `FROM`, and an
//! archive is JSON. What engines get wrong is in it: one pull for many callers, a pull that goes on when its caller leaves,
//! and what pruning must not touch.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::call_fault::{CallFault, FaultQueue};
use super::fake_registry::{in_pieces, read_all};
use crate::capability::{Capability, CapabilitySet};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{InstanceId, NodeId};
use crate::image::{
    BuildSpec, CommitSpec, EnsureOptions, Image, ImageQuery, ImageStore, Progress, ProgressStream,
    PruneOptions,
};
use crate::label::Lookup;
use crate::runtime::ByteStream;
use crate::selector::Selector;
use crate::spec::platform::Platform;
use crate::spec::source::{Digest, ImagePin, ImageRef, ImageSource, PullPolicy};

/// The calls that a [`CallFault`] can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageCall {
    /// The pull of an image.
    Pull,
    /// [`ImageStore::build`].
    Build,
    /// [`ImageStore::commit`].
    Commit,
    /// [`ImageStore::prune`].
    Prune,
}

/// An image store in memory. See the [module](self). Clones are the same store.
#[derive(Clone)]
pub struct FakeImages {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for FakeImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeImages").finish_non_exhaustive()
    }
}

struct Shared {
    state: Mutex<State>,
    faults: FaultQueue<ImageCall>,
    capabilities: CapabilitySet,
    platform: Platform,
    node: NodeId,
}

#[derive(Default)]
struct State {
    images: BTreeMap<Digest, Image>,
    /// What can be pulled, by name.
    offered: BTreeMap<ImageRef, Image>,
    denied: BTreeSet<ImageRef>,
    instances: BTreeMap<InstanceId, Digest>,
    pulling: BTreeMap<String, watch::Receiver<Pull>>,
    pull_time: Duration,
    pulls: BTreeMap<ImageRef, u64>,
}

/// How a pull ended; errors are kept as what all who wait are told.
type Pull = Option<std::result::Result<Digest, (ErrorKind, String)>>;

struct ByName<'a>(&'a BTreeMap<String, String>);

impl Lookup for ByName<'_> {
    fn lookup(&self, key: &str) -> Option<Cow<'_, str>> {
        self.0.get(key).map(|value| value.as_str().into())
    }
}

impl FakeImages {
    /// The longest build context and archive, in bytes.
    pub const MAX_BYTES: usize = 64 * 1024 * 1024;

    /// An empty store of this node and platform that can do everything.
    pub fn new(node: NodeId, platform: Platform) -> Self {
        Self::with(CapabilitySet::all(), node, platform)
    }

    /// An empty store with these capabilities.
    pub fn with(capabilities: CapabilitySet, node: NodeId, platform: Platform) -> Self {
        let (state, faults) = (Mutex::default(), FaultQueue::default());
        Self { shared: Arc::new(Shared { state, faults, capabilities, platform, node }) }
    }

    /// Lets an image be pulled under this name.
    pub fn offer(&self, name: &ImageRef, image: Image) {
        self.shared.state().offered.insert(name.clone(), image);
    }

    /// Lets pulls of this name be denied.
    pub fn deny(&self, name: &ImageRef) {
        self.shared.state().denied.insert(name.clone());
    }

    /// How long pulls take, by tokio's clock. Default: no time.
    pub fn set_pull_time(&self, time: Duration) {
        self.shared.state().pull_time = time;
    }

    /// How often an image was pulled.
    pub fn pulls(&self, name: &ImageRef) -> u64 {
        self.shared.state().pulls.get(name).copied().unwrap_or(0)
    }

    /// An instance that uses an image.
    pub fn add_instance(&self, instance: InstanceId, image: Digest) {
        self.shared.state().instances.insert(instance, image);
    }

    /// Lets the next such call go wrong.
    pub fn inject(&self, call: ImageCall, fault: CallFault) {
        self.shared.faults.push(call, fault);
    }
}

impl State {
    fn find(&self, query: &ImageQuery) -> Result<&Image> {
        let found = match query {
            ImageQuery::Id(id) => self.images.get(id),
            ImageQuery::Name(name) => self.images.values().find(|image| {
                image.names.contains(name)
                    || name.digest().is_some_and(|digest| image.manifests.contains(&digest))
            }),
        };
        found.ok_or_else(|| {
            Error::new(ErrorKind::ImageMissing, format!("the store has no such image: {query:?}"))
        })
    }

    /// Adds an image; a name that another had is its from now on.
    fn keep(&mut self, image: Image) -> Image {
        for other in self.images.values_mut().filter(|other| other.id != image.id) {
            other.names.retain(|name| !image.names.contains(name));
        }
        let kept = self.images.entry(image.id).or_insert_with(|| image.clone());
        kept.names.extend(image.names);
        kept.names.sort();
        kept.names.dedup();
        kept.clone()
    }

    fn present(&self, image: &ImageSource) -> Option<Digest> {
        match &image.pin {
            Some(ImagePin::Manifest(digest)) => {
                self.images.values().find(|found| found.manifests.contains(digest)).map(|found| found.id)
            }
            Some(ImagePin::Local { image_id, .. }) => self.images.get(image_id).map(|found| found.id),
            None => self.find(&ImageQuery::Name(image.reference.clone())).ok().map(|found| found.id),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pull(&self, image: &ImageSource, platform: &Platform) -> Result<Digest> {
        let mut state = self.state();
        let name = &image.reference;
        if state.denied.contains(name) {
            return Err(Error::new(ErrorKind::ImageDenied, "the registry refuses the image"));
        }
        *state.pulls.entry(name.clone()).or_default() += 1;
        let pinned = |offered: &Image| match &image.pin {
            Some(ImagePin::Manifest(digest)) => offered.manifests.contains(digest),
            _ => true,
        };
        let offered = state.offered.get(name).filter(|offered| pinned(offered)).cloned();
        let mut offered =
            offered.ok_or_else(|| Error::new(ErrorKind::ImageMissing, "the registry has no such image"))?;
        if (offered.platform.os, offered.platform.arch) != (platform.os, platform.arch) {
            return Err(Error::new(ErrorKind::ImageIncompatible, "the image is for another platform"));
        }
        offered.names = vec![name.clone()];
        Ok(state.keep(offered).id)
    }

    /// The pull of this image that is under way, or a new one, which goes on whoever waits for it.
    fn pulling(self: &Arc<Self>, image: &ImageSource, platform: Platform) -> watch::Receiver<Pull> {
        let key = format!("{} {:?} {platform:?}", image.reference, image.pin);
        let mut state = self.state();
        if let Some(pull) = state.pulling.get(&key) {
            return pull.clone();
        }
        let (done, pull) = watch::channel(None);
        state.pulling.insert(key.clone(), pull.clone());
        let (shared, image, time) = (self.clone(), image.clone(), state.pull_time);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let pulled = shared.faults.run(ImageCall::Pull, || shared.pull(&image, &platform)).await;
            shared.state().pulling.remove(&key);
            let _ = done.send(Some(pulled.map_err(|error| (error.kind(), error.message().to_owned()))));
        });
        pull
    }
}

fn done(image: Digest) -> Progress {
    Progress::Done { image: Some(image), manifest: None }
}

fn at_once(progress: impl IntoIterator<Item = Progress>) -> ProgressStream {
    Box::pin(futures_util::stream::iter(progress.into_iter().map(Ok).collect::<Vec<_>>()))
}

#[async_trait]
impl ImageStore for FakeImages {
    fn capabilities(&self) -> CapabilitySet {
        self.shared.capabilities.clone()
    }

    async fn ensure(&self, image: &ImageSource, options: &EnsureOptions) -> Result<ProgressStream> {
        if let Some(stranger) = options.nodes.iter().find(|node| **node != self.shared.node) {
            return Err(Error::not_found("node", stranger).with_operation("images.ensure"));
        }
        let present = self.shared.state().present(image);
        let local = matches!(image.pin, Some(ImagePin::Local { .. })) || image.pull == PullPolicy::Never;
        let fixed = image.pin.is_some() || image.pull != PullPolicy::Always;
        match present {
            Some(id) if fixed => return Ok(at_once([done(id)])),
            None if local => {
                return Err(Error::new(
                    ErrorKind::ImageMissing,
                    "the image is not here and may not be pulled",
                )
                .with_operation("images.ensure")
                .with_context("image", &image.reference));
            }
            _ => {}
        }
        let platform = options.platform.clone().unwrap_or_else(|| self.shared.platform.clone());
        let mut pull = self.shared.pulling(image, platform);
        let ended = async move {
            let ended = pull.wait_for(Option::is_some).await.map(|ended| ended.clone());
            match ended {
                Ok(Some(Ok(id))) => Ok(done(id)),
                Ok(Some(Err((kind, message)))) => {
                    Err(Error::new(kind, message).with_operation("images.ensure"))
                }
                Ok(None) | Err(_) => {
                    Err(Error::new(ErrorKind::Cancelled, "the pull was given up").with_maybe_applied())
                }
            }
        };
        let start = futures_util::stream::iter([Ok(Progress::Transfer { done: 0, total: None })]);
        Ok(Box::pin(futures_util::StreamExt::chain(start, futures_util::stream::once(ended))))
    }

    async fn inspect(&self, image: &ImageQuery) -> Result<Image> {
        self.shared.state().find(image).cloned().map_err(|error| error.with_operation("images.inspect"))
    }

    async fn list(&self, labels: &Selector) -> Result<Vec<Image>> {
        let state = self.shared.state();
        Ok(state.images.values().filter(|image| labels.matches(&ByName(&image.labels))).cloned().collect())
    }

    async fn prune(&self, options: &PruneOptions) -> Result<Vec<Digest>> {
        let prune = || {
            let mut state = self.shared.state();
            let used: BTreeSet<Digest> = state.instances.values().copied().collect();
            let kept = |image: &Image| {
                used.contains(&image.id)
                    || options.keep.contains(&image.id)
                    || image.manifests.iter().any(|manifest| options.keep.contains(manifest))
            };
            let meant = |image: &Image| match &options.labels {
                Some(labels) => labels.matches(&ByName(&image.labels)),
                None => image.labels.contains_key("ews/owner"),
            };
            let gone: Vec<Digest> = state
                .images
                .values()
                .filter(|image| meant(image) && !kept(image))
                .map(|image| image.id)
                .collect();
            if !options.dry_run {
                state.images.retain(|id, _| !gone.contains(id));
            }
            Ok(gone)
        };
        self.shared.faults.run(ImageCall::Prune, prune).await
    }

    async fn build(&self, spec: &BuildSpec, context: ByteStream) -> Result<ProgressStream> {
        self.shared.capabilities.require(Capability::ImageBuild)?;
        let context = read_all(context, Self::MAX_BYTES).await?;
        let build = || {
            if !context.windows(4).any(|window| window == b"FROM") {
                return Err(Error::invalid("the builder refuses the context")
                    .with_detail("no FROM in the Dockerfile"));
            }
            let id =
                Digest::of(format!("{:?} {:?} {}", spec.args, spec.labels, Digest::of(&context)).as_bytes());
            let mut image =
                Image::new(id, spec.platform.clone().unwrap_or_else(|| self.shared.platform.clone()));
            image.names.push(spec.name.clone());
            image.labels = spec.labels.clone();
            image.size = context.len() as u64;
            let log = Progress::Log("Step 1/1 : FROM scratch".to_owned());
            Ok(at_once([log, done(self.shared.state().keep(image).id)]))
        };
        self.shared
            .faults
            .run(ImageCall::Build, build)
            .await
            .map_err(|error| error.with_operation("images.build"))
    }

    async fn commit(&self, instance: &InstanceId, spec: &CommitSpec) -> Result<Image> {
        self.shared.capabilities.require(Capability::ImageCommit)?;
        let commit = || {
            let mut state = self.shared.state();
            let base = state.instances.get(instance).ok_or_else(|| Error::not_found("instance", instance))?;
            let id = Digest::of(format!("{base} {} {:?}", spec.comment, spec.labels).as_bytes());
            let mut image = Image::new(id, self.shared.platform.clone());
            image.names.push(spec.name.clone());
            image.labels = spec.labels.clone();
            Ok(state.keep(image))
        };
        self.shared
            .faults
            .run(ImageCall::Commit, commit)
            .await
            .map_err(|error| error.with_operation("images.commit"))
    }

    async fn tag(&self, image: &ImageQuery, name: &ImageRef) -> Result<()> {
        self.shared.capabilities.require(Capability::ImageTag)?;
        let mut state = self.shared.state();
        let mut found = state.find(image)?.clone();
        found.names = vec![name.clone()];
        state.keep(found);
        Ok(())
    }

    async fn push(&self, name: &ImageRef) -> Result<ProgressStream> {
        self.shared.capabilities.require(Capability::ImagePush)?;
        let mut state = self.shared.state();
        if state.denied.contains(name) {
            return Err(Error::new(ErrorKind::ImageDenied, "the registry refuses the image"));
        }
        let mut image = state.find(&ImageQuery::Name(name.clone()))?.clone();
        let manifest = Digest::of(format!("manifest of {}", image.id).as_bytes());
        if !image.manifests.contains(&manifest) {
            image.manifests.push(manifest);
        }
        state.images.insert(image.id, image.clone());
        state.offered.insert(name.clone(), image.clone());
        Ok(at_once([Progress::Done { image: Some(image.id), manifest: Some(manifest) }]))
    }

    async fn save(&self, images: &[ImageQuery]) -> Result<ByteStream> {
        self.shared.capabilities.require(Capability::ImageArchive)?;
        let state = self.shared.state();
        let found = images.iter().map(|image| state.find(image).cloned()).collect::<Result<Vec<Image>>>()?;
        let archive = serde_json::to_vec(&found)
            .map_err(|error| Error::internal("the archive can't be written").with_source(error))?;
        Ok(in_pieces(archive.into(), 1_000))
    }

    async fn load(&self, archive: ByteStream) -> Result<Vec<Image>> {
        self.shared.capabilities.require(Capability::ImageArchive)?;
        let archive = read_all(archive, Self::MAX_BYTES).await?;
        let images: Vec<Image> = serde_json::from_slice(&archive)
            .map_err(|error| Error::invalid("this is no image archive").with_source(error))?;
        let mut state = self.shared.state();
        Ok(images.into_iter().map(|image| state.keep(image)).collect())
    }
}
