//! The driver itself: the contract's methods, each handed to the part that does it.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};

use super::archive::{self, Limits, Owner};
use super::cgroup::Groups;
use super::client::{self, Silence, answer, in_time, unsure};
use super::config::{ProcessConfig, ShimProgram};
use super::controller::{Controller, Orphans, not_running, now, survey};
use super::log;
use super::ports::Ports;
use super::protocol::{Ask, ExecPlan, Frame, Tell};
use super::root::{Root, blocking};
use super::session::session;
use super::sys::{proc, spawn, user};
use crate::bus::Bus;
use crate::capability::{Capability, CapabilitySet, RuntimeCapabilities};
use crate::detach;
use crate::error::{Error, Result, io_error};
use crate::event::{EventStream, Notice};
use crate::id::{InstanceId, NodeId};
use crate::instance::{ExitStatus, Instance, InstanceKey, InstanceState};
use crate::node::{Capacity, Node};
use crate::runtime::{
    ByteStream, CreateOptions, ExecSession, ExecSpec, LogOptions, LogStream, RemoveOptions, Runtime,
    StopOptions, Usage, WaitOptions,
};
use crate::selector::Selector;
use crate::spec::InstanceSpec;
use crate::spec::lifecycle::Signal;
use crate::spec::platform::{Isolation, Platform};
use crate::spec::resources::{ByteSize, Cpu};

/// Runs services as plain processes of this machine. See the [module](super) for what an instance is here.
///
/// Dropping it lets the root go; what it started runs on.
///
/// ```no_run
/// use ews_core::process::{ProcessConfig, ProcessRuntime, shim_entry};
/// use ews_core::runtime::{CreateOptions, Runtime};
/// use ews_core::spec::source::{ArtifactSource, Source};
/// use ews_core::{InstanceKey, InstanceSpec, OwnerId, RevisionId, RuntimeExt, ServiceName};
///
/// fn main() -> ews_core::Result<()> {
///     shim_entry();
///     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
///     runtime.block_on(async {
///         let processes = ProcessRuntime::open(ProcessConfig::new("/var/lib/shop/ews")).await?;
///         let mut spec = InstanceSpec::new(Source::Artifact(ArtifactSource::new("/usr/sbin/nginx")));
///         spec.args = vec!["-g".into(), "daemon off;".into()];
///         let key = InstanceKey {
///             owner: OwnerId::new("shop")?,
///             service: ServiceName::new("web")?,
///             revision: RevisionId::new("r1")?,
///             slot: 0,
///             generation: 0,
///         };
///         let web = processes.launch(&spec, &key, &CreateOptions::default()).await?;
///         println!("{} runs", web.id);
///         Ok(())
///     })
/// }
/// ```
pub struct ProcessRuntime {
    controller: Arc<Controller>,
    /// Its end tells the watches that nobody is interested any more.
    _alive: tokio::sync::watch::Sender<()>,
}

impl std::fmt::Debug for ProcessRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessRuntime").field("root", &self.controller.root.path()).finish_non_exhaustive()
    }
}

impl ProcessRuntime {
    /// Opens the runtime of a root directory, and takes over what a predecessor has left there.
    ///
    /// # Errors
    /// `Busy` while another has the root; `Unauthorized` where the root belongs to somebody else or others may write to it;
    /// `Invalid` for a configuration that can't be, such as a program without [`shim_entry`](super::shim_entry) or a path too
    /// long for sockets; `Corrupt` for a root of another format; what the disk says.
    pub async fn open(config: ProcessConfig) -> Result<Self> {
        Self::open_root(config).await.map_err(|error| error.with_operation("process.open"))
    }

    async fn open_root(config: ProcessConfig) -> Result<Self> {
        let shim = shim_program(&config.shim)?;
        let node = config.node.clone().map_or_else(|| NodeId::new("local"), Ok)?;
        let bus = Bus::new(config.events)?;
        let root = Root::open(&config.root, config.takeover).await?;
        let (choice, range) = (config.cgroups.clone(), config.ports.clone());
        let (root, boot, groups, found) = blocking(move || {
            let boot = proc::boot_id();
            let groups = Groups::detect(&choice, root.tag());
            let found = survey(&root, &boot)?;
            Ok((root, boot, groups, found))
        })
        .await?;
        let ports = Ports::new(range, root.ports(), found.ports());
        let capabilities = Arc::new(capabilities(&groups));
        let (alive, ends) = tokio::sync::watch::channel(());
        let controller = Arc::new(Controller::new(super::controller::Parts {
            config,
            node,
            root,
            ports,
            groups,
            boot,
            shim,
            capabilities,
            bus,
            alive: ends,
        }));
        controller.recover(found).await;
        Ok(Self { controller, _alive: alive })
    }

    /// Where everything is kept.
    pub fn root(&self) -> &std::path::Path {
        self.controller.root.path()
    }

    /// The work directory of an instance, on this machine.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn work_directory(&self, id: &InstanceId) -> Result<PathBuf> {
        self.controller.get(id).map(|_| self.controller.root.instance(id).work())
    }

    fn stopped(&self, id: &InstanceId) -> Result<Instance> {
        let instance = self.controller.get(id)?;
        if let InstanceState::Unknown { .. } = instance.state {
            return Err(Error::new(crate::ErrorKind::Unavailable, "the instance's shim does not answer")
                .with_context("instance", id));
        }
        Ok(instance)
    }

    fn owner_of(&self, id: &InstanceId) -> Result<Owner> {
        let user = self.controller.with(id, |entry| entry.record.spec.user.clone())?;
        let user = user.as_deref().map(user::resolve).transpose()?;
        Ok(user::owner(user.as_ref()))
    }
}

fn shim_program(choice: &ShimProgram) -> Result<PathBuf> {
    match choice {
        ShimProgram::Current if super::shim::was_entered() => {
            spawn::own_program().map_err(|error| io_error("this program's own file can't be found", error))
        }
        ShimProgram::Current => Err(Error::invalid(
            "this program can't be its own shim: call `ews_core::process::shim_entry()` as the first line of `main`, or name the \
             program `ews-shim` by `ShimProgram::Path`",
        )),
        ShimProgram::Path(path) => path.canonicalize().map_err(|error| {
            io_error("the shim's program can't be found", error).with_context("path", path.display())
        }),
    }
}

fn capabilities(groups: &Groups) -> RuntimeCapabilities {
    use Capability as C;
    let mut features: CapabilitySet = [
        C::ArtifactSource,
        C::SurvivesController,
        C::Signals,
        C::Exec,
        C::ExecHalfClose,
        C::ExecTerminate,
        C::Logs,
        C::LogsSplit,
        C::LogsSince,
        C::Usage,
        C::PutArchive,
        C::GetArchive,
        C::AllotPorts,
        C::Udp,
        C::Files,
        C::Workdir,
        C::TreeKill,
        C::NodeChoice,
    ]
    .into_iter()
    .collect();
    for feature in spawn::FEATURES {
        features = features.with(*feature);
    }
    if user::may_change() {
        features = features.with(C::User);
    }
    if groups.tells_memory_kills() {
        features = features.with(C::OomDetection);
    }
    let mut capabilities = RuntimeCapabilities::new(features);
    [capabilities.cpu, capabilities.memory, capabilities.pids] = groups.enforcement();
    capabilities.isolation = vec![Isolation::None];
    capabilities.signals = spawn::signals();
    capabilities
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn capabilities(&self) -> Arc<RuntimeCapabilities> {
        Arc::clone(&self.controller.capabilities)
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        let platform = Platform::host().ok_or_else(|| Error::internal("this platform is not known"))?;
        let mut node = Node::new(self.controller.node.clone(), platform);
        node.isolation = vec![Isolation::None];
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let cpu = Cpu::from_millis(u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(1000));
        node.capacity = Capacity::new(cpu, ByteSize::from_bytes(proc::memory()));
        node.addresses = self.controller.config.advertise.into_iter().collect();
        node.engine = concat!("ews-process ", env!("CARGO_PKG_VERSION")).to_owned();
        node.labels = self.controller.config.labels.clone();
        Ok(vec![node])
    }

    async fn create(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        options: &CreateOptions,
    ) -> Result<Instance> {
        detach(Arc::clone(&self.controller).create(spec.clone(), key.clone(), options.clone()))
            .await
            .map_err(|error| error.with_operation("runtime.create"))
    }

    async fn start(&self, id: &InstanceId) -> Result<Instance> {
        Orphans::reap();
        detach(Arc::clone(&self.controller).start(id.clone()))
            .await
            .map_err(|error| error.with_operation("runtime.start"))
    }

    async fn stop(&self, id: &InstanceId, options: &StopOptions) -> Result<ExitStatus> {
        detach(Arc::clone(&self.controller).stop(id.clone(), options.clone()))
            .await
            .map_err(|error| error.with_operation("runtime.stop"))
    }

    async fn wait(&self, id: &InstanceId, options: &WaitOptions) -> Result<ExitStatus> {
        self.controller.wait(id, options).await.map_err(|error| error.with_operation("runtime.wait"))
    }

    async fn remove(&self, id: &InstanceId, options: &RemoveOptions) -> Result<()> {
        detach(Arc::clone(&self.controller).remove(id.clone(), options.clone()))
            .await
            .map_err(|error| error.with_operation("runtime.remove"))
    }

    async fn get(&self, id: &InstanceId) -> Result<Instance> {
        self.controller.get(id).map_err(|error| error.with_operation("runtime.get"))
    }

    async fn list(&self, selector: &Selector) -> Result<Vec<Instance>> {
        let entries = self.controller.entries();
        let instances = entries.values().map(|entry| &entry.instance);
        Ok(instances.filter(|instance| selector.matches(*instance)).cloned().collect())
    }

    async fn events(&self, selector: &Selector) -> Result<EventStream> {
        let selector = selector.clone();
        let told = self.controller.bus.subscribe().into_stream();
        let events = told.filter_map(move |notice| {
            let notice = match notice {
                Notice::Event(told) if selector.matches(&*told.event.instance) => {
                    Some(Notice::Event(told.event.event))
                }
                Notice::Event(_) => None,
                Notice::Gap(gap) => Some(Notice::Gap(gap)),
            };
            std::future::ready(notice)
        });
        Ok(events.boxed())
    }

    async fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()> {
        self.controller.capabilities.check_signal(signal)?;
        let (controller, id) = (Arc::clone(&self.controller), id.clone());
        detach(async move { controller.signal(&id, signal).await })
            .await
            .map_err(|error| error.with_operation("runtime.signal"))
    }

    async fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream> {
        let instance = self.controller.get(id).map_err(|error| error.with_operation("runtime.logs"))?;
        let paths = self.controller.root.instance(id);
        let mut options = options.clone();
        let mut wake = stream::empty().boxed();
        if options.follow && instance.state.is_running() {
            let asked = async {
                let mut session =
                    client::ask(&paths.socket, &Ask::Follow, self.controller.config.call_limit).await?;
                answer(&mut session).await?;
                Ok(session)
            };
            match in_time(self.controller.config.call_limit, asked).await {
                Ok(session) => {
                    wake = stream::unfold(session, |mut session| async move {
                        match session.reader.next::<Tell>().await {
                            Ok(Some(Frame::Words(Tell::Changed))) => Some(((), session)),
                            _ => None,
                        }
                    })
                    .boxed();
                }
                // It has ended meanwhile: then all there is is there.
                Err(Silence::Nobody) => options.follow = false,
                Err(silence) => {
                    return Err(silence.error().with_operation("runtime.logs").with_context("instance", id));
                }
            }
        } else {
            options.follow = false;
        }
        Ok(log::stream(paths.log(), options, wake))
    }

    async fn usage(&self, ids: &[InstanceId]) -> Result<Vec<Usage>> {
        let mut wanted = Vec::new();
        {
            let entries = self.controller.entries();
            for id in ids {
                let running = entries.get(id).filter(|entry| entry.instance.state.is_running());
                if let Some((entry, run)) = running.and_then(|entry| Some((entry, entry.run.clone()?))) {
                    wanted.push((id.clone(), entry.instance.incarnation, run));
                }
            }
        }
        blocking(move || {
            let mut table = None;
            let usage = wanted.into_iter().filter_map(|(id, incarnation, run)| {
                let at = now();
                let counted = if run.cgroups.is_empty() {
                    let table = table.get_or_insert_with(proc::Table::read);
                    proc::count(&table.below(run.shim))
                } else {
                    run.cgroups.count()
                };
                // It ended between the look and the count.
                if counted == super::cgroup::Counted::default() {
                    return None;
                }
                let mut usage = Usage::new(id, incarnation, at);
                usage.cpu_nanos = counted.cpu_nanos;
                usage.memory = counted.memory.filter(|bytes| *bytes > 0);
                usage.memory_limit = counted.memory_limit;
                usage.pids = counted.pids.filter(|count| *count > 0);
                usage.io_read = counted.io_read;
                usage.io_written = counted.io_written;
                Some(usage)
            });
            Ok(usage.collect())
        })
        .await
    }

    async fn exec(&self, id: &InstanceId, spec: &ExecSpec) -> Result<ExecSession> {
        let failed = |error: Error| error.with_operation("runtime.exec").with_context("instance", id);
        check_exec(spec)?;
        let instance = self.stopped(id)?;
        if !instance.state.is_running() {
            return Err(failed(not_running(id)));
        }
        if spec.user.is_some() {
            self.controller.capabilities.features.require(Capability::User)?;
        }
        if spec.tty.is_some() {
            self.controller.capabilities.features.require(Capability::ExecTty)?;
        }
        let plan = ExecPlan {
            command: spec.command.clone(),
            env: spec.env.clone(),
            workdir: spec.workdir.clone(),
            user: spec.user.as_deref().map(user::resolve).transpose()?,
            tty: spec.tty,
            stdin: spec.stdin,
        };
        let socket = self.controller.root.instance(id).socket;
        let ask = Ask::Exec(Box::new(plan.clone()));
        match client::ask(&socket, &ask, self.controller.config.call_limit).await {
            Ok(connection) => Ok(session(connection, &plan, id.clone())),
            Err(Silence::Nobody) => Err(failed(not_running(id))),
            Err(silence) => Err(failed(unsure(silence))),
        }
    }

    async fn put_archive(&self, id: &InstanceId, path: &str, archive: ByteStream) -> Result<()> {
        let owner = self.owner_of(id)?;
        let work = self.controller.root.instance(id).work();
        let limits = Limits { bytes: self.controller.config.max_artifact, ..Limits::default() };
        let (path, id) = (path.to_owned(), id.clone());
        detach(async move { archive::put(work, &path, archive, limits, owner).await })
            .await
            .map_err(|error| error.with_operation("runtime.put_archive").with_context("instance", id))
    }

    async fn get_archive(&self, id: &InstanceId, path: &str) -> Result<ByteStream> {
        self.controller.get(id)?;
        let work = self.controller.root.instance(id).work();
        archive::get(work, path)
            .await
            .map_err(|error| error.with_operation("runtime.get_archive").with_context("instance", id))
    }
}

/// What no system could start.
fn check_exec(spec: &ExecSpec) -> Result<()> {
    let wrong =
        |what: &'static str, field: &'static str| Err(Error::invalid(what).with_context("field", field));
    if spec.command.first().is_none_or(String::is_empty) {
        return wrong("there is no program to run", "command");
    }
    if spec.command.iter().any(|word| word.contains('\0')) {
        return wrong("a word holds NUL", "command");
    }
    let bad_name = |name: &String| name.is_empty() || name.contains(['=', '\0']);
    if spec.env.iter().any(|(name, value)| bad_name(name) || value.contains('\0')) {
        return wrong("a variable has no name, or holds NUL or `=` in it", "env");
    }
    if spec.workdir.as_ref().is_some_and(|path| path.contains('\0')) {
        return wrong("the path holds NUL", "workdir");
    }
    Ok(())
}
