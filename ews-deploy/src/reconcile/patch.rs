//! The files of a hotfix on one instance: what differs, laying it over, telling the program.
//!
//! Every step may be made twice: what an instance holds is looked at first, and only what differs is written.

use std::collections::BTreeMap;
use std::time::Duration;

use ews_core::runtime::ExecSpec;
use ews_core::{Digest, Error, ErrorKind, Instance, Result, Runtime};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::unit::{Done, Halt, Unit};
use crate::event::Step;
use crate::failure::FailureClass;
use crate::hotfix::{FileFact, Reload, files};
use crate::record::RevisionRecord;
use crate::rollout::UnitFailure;

/// The files that an instance shall have.
pub(crate) struct Files {
    /// Every file that any hotfix of the revision touches; `None`: it shall not be there.
    pub(crate) targets: BTreeMap<String, Option<FileFact>>,
    /// The revision under whose number the store has each content.
    pub(crate) blobs: BTreeMap<Digest, u64>,
    pub(crate) reload: Reload,
    /// Whether the instance that runs is known to have them.
    pub(crate) known: bool,
    /// Whether it is on the way back: a program that can't be told is then started again.
    pub(crate) back: bool,
    /// Whether earlier work on them did not come to its end: then its program may not have been told.
    pub(crate) unsure: bool,
}

/// What differs in an instance.
pub(super) enum Difference {
    /// Nothing.
    None,
    /// These files.
    Files(Vec<(String, FileFact)>),
    /// A file has to go, which no archive can do: the instance has to make way for a new one.
    Stranger,
}

impl Unit {
    /// What differs in an instance from what it shall have.
    pub(super) async fn difference(&self, instance: &Instance, work: &Files) -> Done<Difference> {
        let mut differs = Vec::new();
        for (path, target) in &work.targets {
            self.check()?;
            let read = files::read(&*self.tools.runtime, &instance.id, path);
            let found = self.call(self.tools.call_limit, read).await?;
            match (target, found) {
                (None, Some(_)) => return Ok(Difference::Stranger),
                (Some(target), found)
                    if found.as_ref().is_none_or(|found| {
                        found.fact.digest != target.digest || found.fact.mode != target.mode
                    }) =>
                {
                    differs.push((path.clone(), *target));
                }
                _ => {}
            }
        }
        let told = differs.is_empty() && !(work.unsure && instance.state.is_running());
        Ok(if told { Difference::None } else { Difference::Files(differs) })
    }

    /// Lays files over an instance, and looks whether they are there.
    pub(super) async fn lay(
        &self,
        instance: &Instance,
        revision: &RevisionRecord,
        work: &Files,
        differs: &[(String, FileFact)],
    ) -> Done<()> {
        self.check()?;
        self.journal(Step::Patch, Some(&instance.id)).await?;
        let mtime = self.tools.clock.now().as_micros() / 1_000_000;
        for (path, target) in differs {
            self.check()?;
            let number = work.blobs.get(&target.digest).copied().unwrap_or_default();
            let content = self.tools.repository.blob(number, &target.digest, target.size).await?;
            let write = files::write(&*self.tools.runtime, &instance.id, path, target, &content, mtime);
            self.call(self.tools.call_limit, write).await?;
            let read = files::read(&*self.tools.runtime, &instance.id, path);
            let found = self.call(self.tools.call_limit, read).await?;
            let digest = found.map(|found| found.fact.digest);
            if digest != Some(target.digest) {
                let reason = match digest {
                    Some(digest) => format!("`{path}` does not hold what was written to it, but {digest}"),
                    None => format!("`{path}` is not there though it was written"),
                };
                let mut failure = self.failure(revision, Some(&instance.id), reason);
                failure.class = FailureClass::Reload;
                return Err(Halt::Failed(Box::new(failure)));
            }
        }
        Ok(())
    }

    /// Lays files over an instance that runs, and tells its program. The instance as it then is.
    pub(super) async fn patched(
        &self,
        instance: &Instance,
        revision: &RevisionRecord,
        work: &Files,
        differs: &[(String, FileFact)],
    ) -> Done<Instance> {
        if work.reload == Reload::Restart {
            self.quiesce(instance).await?;
            self.lay(instance, revision, work, differs).await?;
            return self.started_again(instance, revision).await;
        }
        self.lay(instance, revision, work, differs).await?;
        let told = match &work.reload {
            Reload::Signal(signal) => {
                self.journal(Step::Reload, Some(&instance.id)).await?;
                let signal = self.tools.runtime.signal(&instance.id, *signal);
                self.call(self.tools.call_limit, signal).await.map(|()| None)
            }
            Reload::Exec(command) => {
                self.journal(Step::Reload, Some(&instance.id)).await?;
                self.tools.lead.outlasts(self.tools.call_limit)?;
                run(&*self.tools.runtime, instance, command, self.tools.call_limit).await
            }
            Reload::None | Reload::Restart => Ok(None),
        };
        if let Some((reason, log)) = told? {
            if work.back {
                self.quiesce(instance).await?;
                return self.started_again(instance, revision).await;
            }
            let mut failure = self.failure(revision, Some(&instance.id), reason);
            failure.class = FailureClass::Reload;
            failure.log = log;
            return Err(Halt::Failed(Box::new(failure)));
        }
        Ok(instance.clone())
    }
}

impl Unit {
    /// Starts an instance that was stopped.
    async fn started_again(&self, instance: &Instance, revision: &RevisionRecord) -> Done<Instance> {
        let get = self.tools.runtime.get(&instance.id);
        let stopped = self.call(self.tools.call_limit, get).await?;
        self.started(&stopped, revision).await
    }
}

/// Runs the command that tells the program; what went wrong with it, and what it wrote.
async fn run(
    runtime: &dyn Runtime,
    instance: &Instance,
    command: &[String],
    limit: Duration,
) -> Result<Option<(String, Vec<String>)>> {
    let spec = ExecSpec::new(command.iter().cloned());
    let ran = async {
        let mut session = runtime.exec(&instance.id, &spec).await?;
        let mut written = Vec::new();
        while let Some(piece) = session.output.next().await {
            let room = (UnitFailure::LINES * UnitFailure::LINE).saturating_sub(written.len());
            let bytes = piece?.bytes;
            written.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        }
        Ok::<_, Error>((session.control.wait().await?, written))
    };
    match timeout(limit, ran).await {
        Ok(Ok((status, _))) if status.is_success() => Ok(None),
        Ok(Ok((status, written))) => {
            let text = String::from_utf8_lossy(&written).into_owned();
            let shown =
                |line: &str| line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            let log = text.lines().take(UnitFailure::LINES).map(shown).collect();
            Ok(Some((format!("the reload command ended: {status}"), log)))
        }
        Ok(Err(error)) if error.kind() == ErrorKind::Busy => Err(error.with_retry(ews_core::Retry::Safe)),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(Some((format!("the reload command did not end within {limit:?}"), Vec::new()))),
    }
}
