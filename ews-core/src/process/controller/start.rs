//! Starting: a shim is made, told what to start, and watched from then on.

use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::stop::AFTERMATH;
use super::watch::Orphan;
use super::{Controller, Entry, Run, Turn, now};
use crate::endpoint::{Endpoint, EndpointKey, Scope};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::id::{InstanceId, PortName};
use crate::instance::{Failure, Incarnation, Instance, InstanceState};
use crate::process::cgroup;
use crate::process::client::{Session, greet, in_time, unsure};
use crate::process::environment::{self, MARK};
use crate::process::ports::is_free;
use crate::process::protocol::{Ask, Frame, Limit, Plan, Tell};
use crate::process::record::{InstanceRecord, at};
use crate::process::root::{InstancePaths, blocking, try_lock};
use crate::process::sys::ipc::{self, Connection};
use crate::process::sys::spawn::{ShimStart, spawn_shim};
use crate::process::sys::user;
use crate::runtime::WaitOptions;
use crate::spec::content::EnvValue;
use crate::spec::resources::Ulimit;
use crate::time::Timestamp;

/// How often the lock of an instance is tried while its last shim ends.
const AGAIN: Duration = Duration::from_millis(2);

/// The largest file that a shim's own words go to, before it is begun anew.
const SHIM_LOG: u64 = 64 << 10;

impl Controller {
    /// Starts an instance, where it does not run.
    pub(in crate::process) async fn start(self: Arc<Self>, id: InstanceId) -> Result<Instance> {
        let (_turn, found, record) = self.turn_unless_stopping(&id).await?;
        match found.state {
            ref state if state.is_running() => return Ok(found),
            InstanceState::Unknown { .. } => {
                return Err(Error::new(ErrorKind::Unavailable, "the instance's shim does not answer")
                    .with_context("instance", id));
            }
            _ => {}
        }
        let paths = self.root.instance(&id);
        let incarnation = Incarnation(found.incarnation.0 + 1);
        let plan = self.plan(&id, &record, &paths, incarnation).await?;
        let cgroups = plan.cgroups.clone();
        let (connection, orphan) = self.shim(&id, &record, &paths, &plan).await?;
        self.set_state(&id, InstanceState::Starting)?;
        let launched = self.launch(connection, orphan.pid(), plan).await;
        match launched {
            Ok(Launched::Started { session, at, shim }) => {
                let instance = self.change(&id, |entry| {
                    entry.instance.incarnation = incarnation;
                    entry.run = Some(Run { shim, cgroups });
                    self.running(entry, at, InstanceState::Running);
                })?;
                self.watch(id, incarnation, session, orphan);
                Ok(instance)
            }
            Ok(Launched::Failed(failure)) => {
                cgroups.remove();
                self.set_state(&id, InstanceState::Failed(failure))
            }
            Err(error) => {
                // Whether the program runs, the shim or its lock will tell.
                self.with(&id, |entry| entry.run = Some(Run { shim: orphan.pid(), cgroups }))?;
                self.set_state(&id, InstanceState::Unknown { since: now() })?;
                self.find_out(id.clone(), incarnation, orphan);
                Err(error.with_context("instance", id))
            }
        }
    }

    /// The turn of an instance that is not being stopped: who asks for a start then wants it to run after that.
    async fn turn_unless_stopping(
        self: &Arc<Self>,
        id: &InstanceId,
    ) -> Result<(Turn, Instance, Arc<InstanceRecord>)> {
        loop {
            let turn = self.turn(id).await;
            let (found, record) =
                self.with(id, |entry| (entry.instance.clone(), Arc::clone(&entry.record)))?;
            if found.state != InstanceState::Stopping {
                return Ok((turn, found, record));
            }
            drop(turn);
            let ended = WaitOptions::incarnation(found.incarnation);
            let limit = record.spec.stop.grace.saturating_add(AFTERMATH);
            let late = |_| {
                Error::new(ErrorKind::Busy, "the instance is being stopped, with a grace longer than its own")
                    .with_context("instance", id)
            };
            match tokio::time::timeout(limit, self.wait(id, &ended)).await.map_err(late)? {
                // Somebody else has started it meanwhile.
                Err(error) if error.kind() != ErrorKind::Stale => return Err(error),
                _ => {}
            }
        }
    }

    /// What is known of an instance from the moment that it runs.
    pub(super) fn running(&self, entry: &mut Entry, at: Timestamp, state: InstanceState) {
        entry.instance.started_at = Some(at);
        entry.instance.endpoints = self.endpoints(&entry.record, &entry.instance);
        entry.instance.state = state;
    }

    /// The lock that a living shim has: the last one may take a moment to end after it has told how its program did.
    pub(super) async fn lock(&self, paths: &InstancePaths) -> Result<std::fs::File> {
        let until = tokio::time::Instant::now() + self.config.call_limit;
        loop {
            if let Some(lock) = try_lock(&paths.lock())? {
                return Ok(lock);
            }
            if tokio::time::Instant::now() >= until {
                return Err(Error::new(ErrorKind::Timeout, "the shim of the last start does not end"));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn plan(
        &self,
        id: &InstanceId,
        record: &InstanceRecord,
        paths: &InstancePaths,
        incarnation: Incarnation,
    ) -> Result<Plan> {
        let spec = &record.spec;
        let work = text(&paths.work())?;
        let numbers = |port: &crate::spec::network::Port| {
            record.ports.get(&port.name).map(|number| (port.name.clone(), *number))
        };
        let ports: Vec<(PortName, u16)> = spec.ports.iter().filter_map(numbers).collect();
        let inherited =
            self.config.inherit.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)));
        let mut env = environment::base(inherited, &record.key, &work, &ports);
        env.insert(MARK.to_owned(), self.mark(id));
        let secrets = self.secrets_of(spec).await?;
        for (name, value) in &spec.env {
            let value = match value {
                EnvValue::Plain(value) => value.clone(),
                EnvValue::Secret { secret } => match secrets.get(secret) {
                    Some(value) => without_nul(value.expose_str()?, name)?,
                    None => {
                        return Err(
                            Error::internal("a secret was not resolved").with_context("variable", name)
                        );
                    }
                },
            };
            env.insert(name.clone(), value);
        }
        let mut command: Vec<String> = spec.command.clone();
        if command.is_empty() {
            command.extend(record.program.clone());
        }
        command.extend(spec.args.iter().cloned());
        let limit = |limit: &Ulimit| Limit {
            name: limit.name.clone(),
            soft: Some(limit.soft).filter(|soft| *soft != Ulimit::UNLIMITED),
            hard: Some(limit.hard).filter(|hard| *hard != Ulimit::UNLIMITED),
        };
        Ok(Plan {
            directory: text(&paths.directory)?,
            socket: text(&paths.socket)?,
            incarnation,
            boot: self.boot.clone(),
            command,
            env,
            workdir: spec.workdir.clone().unwrap_or(work),
            user: spec.user.as_deref().map(user::resolve).transpose()?,
            ulimits: spec.ulimits.iter().map(limit).collect(),
            no_new_privileges: spec.security.no_new_privileges,
            log_size: spec.log.max_size,
            log_files: spec.log.max_files,
            cgroups: self.groups.of_start(id, incarnation).needed(&spec.resources),
            memory_limit: spec.resources.memory.map(|memory| memory.bytes()),
            cpu_millis: spec.resources.cpu.map(|cpu| cpu.millis()),
            pids_limit: spec.resources.pids,
        })
    }

    /// Makes a shim, where the ports are free and the last one is gone, and everything that must be there before it.
    async fn shim(
        &self,
        id: &InstanceId,
        record: &Arc<InstanceRecord>,
        paths: &InstancePaths,
        plan: &Plan,
    ) -> Result<(Connection, Orphan)> {
        let until = tokio::time::Instant::now() + self.config.call_limit;
        if let Some(ready) = self.with(id, |entry| entry.ready.take())?
            && let Some(shim) = ready.meet()
        {
            let (record, groups, limits) = (Arc::clone(record), plan.cgroups.clone(), plan.limits());
            let prepared = blocking(move || {
                check_ports(&record)?;
                group(&groups, &limits)
            });
            prepared.await.map_err(|error| error.with_context("instance", id))?;
            return Ok(shim);
        }
        loop {
            let (ours, theirs) = ipc::pair().map_err(|error| {
                io_error("the shim could not be connected to", error).with_context("instance", id)
            })?;
            let (record, paths, program, name) =
                (Arc::clone(record), paths.clone(), self.shim.clone(), id.to_string());
            let (groups, limits) = (plan.cgroups.clone(), plan.limits());
            // In one go, since each change of threads costs as much as the work.
            let made = blocking(move || {
                let Some(lock) = try_lock(&paths.lock())? else { return Ok(None) };
                check_ports(&record)?;
                let log = shim_log(&paths.shim_log())?;
                group(&groups, &limits)?;
                let start = ShimStart { program: &program, name: &name, connection: theirs, lock, log };
                let started = spawn_shim(start).map_err(|error| {
                    groups.remove();
                    at(io_error("the shim could not be started", error), &program)
                });
                started.map(Some)
            });
            if let Some(child) = made.await.map_err(|error| error.with_context("instance", id))? {
                return Ok((ours, Orphan::of(child)));
            }
            // The last one may take a moment to end after it has told how its program did.
            if tokio::time::Instant::now() >= until {
                return Err(Error::new(ErrorKind::Timeout, "the shim of the last start does not end")
                    .with_context("instance", id));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Tells a new shim what to start.
    async fn launch(&self, connection: Connection, shim: u32, plan: Plan) -> Result<Launched> {
        let told = async {
            let mut session = greet(connection, &Ask::Launch(Box::new(plan))).await?;
            let answer = session.reader.next::<Tell>().await?;
            Ok((session, answer))
        };
        match in_time(self.config.call_limit, told).await {
            Ok((session, Some(Frame::Words(Tell::Started { at, .. })))) => {
                Ok(Launched::Started { session: Box::new(session), at, shim })
            }
            Ok((_, Some(Frame::Words(Tell::Failed(failure))))) => Ok(Launched::Failed(failure)),
            Ok(_) => {
                Err(Error::new(ErrorKind::Unavailable, "the shim ended before it had started the program")
                    .with_maybe_applied())
            }
            Err(silence) => Err(unsure(silence)),
        }
    }

    fn endpoints(&self, record: &InstanceRecord, instance: &Instance) -> Vec<Endpoint> {
        let (address, scope) = match self.config.advertise {
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), Scope::Loopback),
            Some(address) if address.is_loopback() => (address, Scope::Loopback),
            Some(address) => (address, Scope::Host),
        };
        let endpoint = |port: &crate::spec::network::Port| {
            Some(Endpoint {
                key: EndpointKey {
                    instance: instance.id.clone(),
                    incarnation: instance.incarnation,
                    port: port.name.clone(),
                },
                address: SocketAddr::new(address, *record.ports.get(&port.name)?),
                protocol: port.protocol,
                scope,
            })
        };
        record.spec.ports.iter().filter_map(endpoint).collect()
    }
}

/// Makes an instance's group, and holds it to its limits.
fn group(groups: &cgroup::Paths, limits: &cgroup::Limits) -> Result<()> {
    groups.make().and_then(|()| groups.limit(limits)).map_err(|error| {
        groups.remove();
        io_error("the instance's control group could not be made", error).with_context("field", "resources")
    })
}

/// Somebody may take a port between this and the program's own try; then the program says so.
fn check_ports(record: &InstanceRecord) -> Result<()> {
    for port in &record.spec.ports {
        let number = record.ports.get(&port.name).copied().unwrap_or_default();
        if !is_free(number, port.protocol) {
            return Err(
                Error::new(ErrorKind::PortInUse, "somebody else has the port").with_context("port", number)
            );
        }
    }
    Ok(())
}

/// What became of a launch.
enum Launched {
    Started { session: Box<Session>, at: Timestamp, shim: u32 },
    Failed(Failure),
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| at(Error::invalid("the path is not UTF-8 text"), path))
}

fn without_nul(value: &str, name: &str) -> Result<String> {
    if value.contains('\0') {
        return Err(
            Error::invalid("the secret holds NUL, which no variable can").with_context("variable", name)
        );
    }
    Ok(value.to_owned())
}

/// Where a shim's last words go; they are few.
pub(super) fn shim_log(path: &Path) -> Result<std::fs::File> {
    let mut options = OpenOptions::new();
    let large = path.metadata().is_ok_and(|metadata| metadata.len() > SHIM_LOG);
    options.create(true);
    if large {
        options.write(true).truncate(true)
    } else {
        options.append(true)
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path).map_err(|error| at(io_error("the shim's log could not be opened", error), path))
}
