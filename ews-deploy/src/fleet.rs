//! Acting on many instances at once, chosen by their labels.
//!
//! What is chosen is what matches now, with the labels that were laid over. Changes go the way that they always go: a restart is a
//! rollout of each service, a hotfix too, so that batches, gates and journals hold for thousands as for one. What only looks
//! (a command, its output) is done directly, so many at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ews_core::overlay::{instance_key, service_key};
use ews_core::runtime::{ExecOutput, ExecSpec, OutputStream};
use ews_core::store::{ListRequest, Prefix, Schema, Transaction, decode_typed, encode_typed};
use ews_core::{
    Error, ErrorKind, ExitStatus, Instance, InstanceId, LabelOverlay, Labels, Result, Selector, ServiceName,
};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::deployer::Deployer;
use crate::hotfix::Hotfix;
use crate::rollout::RolloutId;
use crate::strategy::Strategy;

/// How many services or instances are acted on at once.
const AT_ONCE: usize = 32;
/// How many overlays one transaction writes; a store takes 128 operations.
const OVERLAYS: usize = 100;

/// Instances that were chosen by their labels, by service.
///
/// ```no_run
/// use ews_core::Selector;
/// use ews_core::runtime::ExecSpec;
/// use ews_deploy::{Deployer, Strategy};
/// use futures_util::StreamExt as _;
///
/// # async fn run(deployer: Deployer) -> ews_core::Result<()> {
/// let fleet = deployer.fleet(&Selector::equal("zone", "north")?).await?;
/// println!("{} instances of {} services", fleet.len(), fleet.services().count());
/// let mut answers = fleet.exec(ExecSpec::new(["uptime"]), std::time::Duration::from_secs(10));
/// while let Some((instance, answer)) = answers.next().await {
///     println!("{instance}: {answer:?}");
/// }
/// for (service, rollout) in fleet.restart(&Strategy::default()).await {
///     println!("{service}: {rollout:?}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Fleet {
    deployer: Deployer,
    chosen: BTreeMap<ServiceName, Vec<Instance>>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("services", &self.chosen.len()).field("instances", &self.len()).finish()
    }
}

/// What a command said in one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output, at most [`Ran::BYTES`].
    pub output: Vec<u8>,
    /// What it wrote to its standard error, at most as much.
    pub errors: Vec<u8>,
    /// Whether something was left out.
    pub cut: bool,
}

impl Ran {
    /// The most that is kept of each stream.
    pub const BYTES: usize = 64 << 10;
}

/// How an overlay is kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Laid(LabelOverlay);

impl Schema for Laid {
    const NAME: &'static str = "label-overlay";
    const VERSION: u32 = 1;
}

impl Deployer {
    /// The instances of the installation whose labels match: their own, those of EWS such as `ews/service`, and those that were
    /// laid over their service and them.
    ///
    /// # Errors
    /// `Invalid` for a selector that says nothing: everything is never meant by accident; `NotFound` where nothing matches; those
    /// of the runtime and the store.
    pub async fn fleet(&self, selector: &Selector) -> Result<Fleet> {
        if selector.is_everything() {
            return Err(Error::invalid(
                "a selector that takes everything; accepted: at least one requirement",
            )
            .with_context("field", "selector"));
        }
        let owner = &self.workshop().config.owner;
        let ours = Selector::equal("ews/owner", owner.as_str())?;
        let instances = self.workshop().runtime.list(&ours).await?;
        let overlays = self.overlays().await?;
        let mut chosen: BTreeMap<ServiceName, Vec<Instance>> = BTreeMap::new();
        for mut instance in instances {
            let keys = [service_key(&instance.key.service)?, instance_key(&instance.id)?];
            for overlay in keys.iter().filter_map(|key| overlays.get(key.as_str())) {
                instance.labels = overlay.apply(&instance.labels)?;
            }
            if selector.matches(&instance) {
                chosen.entry(instance.key.service.clone()).or_default().push(instance);
            }
        }
        if chosen.is_empty() {
            return Err(
                Error::new(ErrorKind::NotFound, "no instance matches").with_context("selector", selector)
            );
        }
        Ok(Fleet { deployer: self.clone(), chosen })
    }

    /// Every overlay of services and instances, by its key.
    async fn overlays(&self) -> Result<BTreeMap<String, LabelOverlay>> {
        let store = &self.workshop().store;
        let mut overlays = BTreeMap::new();
        for prefix in ["overlay/service/", "overlay/instance/"] {
            let mut request = ListRequest::new(Prefix::new(prefix)?);
            loop {
                let page = store.list(&request).await?;
                let last = page.records.last().map(|record| record.key.clone());
                for record in page.records {
                    let key = record.key.as_str().to_owned();
                    overlays.insert(key, decode_typed::<Laid>(record)?.value.0);
                }
                match last {
                    Some(last) if page.more => request = request.after(last),
                    _ => break,
                }
            }
        }
        Ok(overlays)
    }
}

impl Fleet {
    /// How many instances there are.
    pub fn len(&self) -> usize {
        self.chosen.values().map(Vec::len).sum()
    }

    /// Whether there are none; a fleet that was found has some.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// The services.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.chosen.keys()
    }

    /// The instances, with the labels by which they were chosen.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.chosen.values().flatten()
    }

    /// Restarts what was chosen: of each service a rollout over the slots of the chosen instances, in which a new instance of the
    /// same revision takes the place of each. One that fails ends its rollout there.
    pub async fn restart(&self, strategy: &Strategy) -> Vec<(ServiceName, Result<RolloutId>)> {
        self.each(|deployer, service, instances| async move {
            let slots: BTreeSet<u32> = instances.iter().map(|instance| instance.key.slot).collect();
            deployer.restart_slots(&service, strategy, Some(slots)).await
        })
        .await
    }

    /// Asks for a hotfix of every service of which an instance was chosen: all its instances get it, since which files a service
    /// has is a matter of its revision. `fix` is asked for it by service.
    pub async fn hotfix(
        &self,
        fix: impl Fn(&ServiceName) -> Hotfix,
    ) -> Vec<(ServiceName, Result<RolloutId>)> {
        let fix = &fix;
        self.each(|deployer, service, _| async move { deployer.hotfix(&fix(&service)).await }).await
    }

    /// Sets the count of every service of which an instance was chosen. `count` is asked for it by service.
    pub async fn scale(
        &self,
        count: impl Fn(&ServiceName) -> ews_core::ScaleChange,
    ) -> Vec<(ServiceName, Result<ews_core::Scale>)> {
        use ews_core::ScaleTarget as _;
        let count = &count;
        self.each(|deployer, service, _| async move { deployer.set(&service, &count(&service)).await }).await
    }

    async fn each<T, F: Future<Output = Result<T>>>(
        &self,
        act: impl Fn(Deployer, ServiceName, Vec<Instance>) -> F,
    ) -> Vec<(ServiceName, Result<T>)> {
        let acts = self.chosen.iter().map(|(service, instances)| {
            let work = act(self.deployer.clone(), service.clone(), instances.clone());
            async move { (service.clone(), work.await) }
        });
        stream::iter(acts).buffered(AT_ONCE).collect().await
    }

    /// Runs a command in every instance, so many at a time, each for `limit` at most, and gives what it said as it comes. Dropping
    /// the stream ends what is under way.
    pub fn exec(&self, spec: ExecSpec, limit: Duration) -> BoxStream<'static, (InstanceId, Result<Ran>)> {
        let runtime = Arc::clone(&self.deployer.workshop().runtime);
        let ids: Vec<InstanceId> = self.instances().map(|instance| instance.id.clone()).collect();
        let runs = ids.into_iter().map(move |id| {
            let (runtime, spec) = (Arc::clone(&runtime), spec.clone());
            async move {
                let ran = timeout(limit, ran(&*runtime, &id, &spec)).await;
                let ran = ran.unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Timeout, format!("the command did not end within {limit:?}")))
                });
                (id, ran)
            }
        });
        stream::iter(runs).buffer_unordered(AT_ONCE).boxed()
    }

    /// Lays these labels over every instance, after what was laid over it before.
    ///
    /// # Errors
    /// `Invalid` where an instance would have too many labels, with nothing written; those of the store, with some of it
    /// written, which may be done again.
    pub async fn relabel(&self, overlay: &LabelOverlay) -> Result<()> {
        let store = &self.deployer.workshop().store;
        let before = self.deployer.overlays().await?;
        let mut writes = Vec::new();
        for instance in self.instances() {
            let key = instance_key(&instance.id)?;
            let merged = match before.get(key.as_str()) {
                Some(before) => before.merge(overlay)?,
                None => overlay.clone(),
            };
            let _: Labels = overlay.apply(&instance.labels)?;
            writes.push((key, Laid(merged)));
        }
        for part in writes.chunks(OVERLAYS) {
            let mut transaction = Transaction::new();
            for (key, laid) in part {
                transaction = transaction.put(key, encode_typed(laid)?);
            }
            store.commit(&transaction).await?;
        }
        Ok(())
    }
}

async fn ran(runtime: &dyn ews_core::Runtime, id: &InstanceId, spec: &ExecSpec) -> Result<Ran> {
    let mut session = runtime.exec(id, spec).await?;
    let (mut output, mut errors, mut cut) = (Vec::new(), Vec::new(), false);
    while let Some(piece) = session.output.next().await {
        let ExecOutput { stream, bytes } = piece?;
        let kept = if stream == OutputStream::Stderr { &mut errors } else { &mut output };
        let room = Ran::BYTES.saturating_sub(kept.len());
        cut |= bytes.len() > room;
        kept.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
    }
    Ok(Ran { status: session.control.wait().await?, output, errors, cut })
}
