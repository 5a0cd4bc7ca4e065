//! What is built from [`Runtime`]'s methods: launch, restart, run to completion.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;

use crate::capability::Capability;
use crate::error::{Error, ErrorKind, Result};
use crate::id::InstanceId;
use crate::instance::{ExitStatus, Instance, InstanceKey, InstanceState};
use crate::runtime::{CreateOptions, LogLine, LogOptions, RemoveOptions, Runtime, StopOptions, WaitOptions};
use crate::spec::InstanceSpec;

/// How a job ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Completion {
    /// How its program ended; `None` where it was stopped at the deadline.
    pub status: Option<ExitStatus>,
    /// The last lines it wrote, at most [`Completion::TAIL`]; empty where the runtime keeps none.
    pub tail: Vec<LogLine>,
}

impl Completion {
    /// How many lines are kept.
    pub const TAIL: usize = 50;

    /// Whether it ended with exit code 0 before the deadline.
    pub fn is_success(&self) -> bool {
        self.status.as_ref().is_some_and(ExitStatus::is_success)
    }
}

/// What every runtime offers on top.
#[async_trait]
pub trait RuntimeExt: Runtime {
    /// Creates and starts an instance. Where the start fails, what was created is removed again, and the error carries the
    /// engine's words; an instance that was there before the call stays.
    ///
    /// # Errors
    /// Those of [`Runtime::create`] and [`Runtime::start`]; `Invalid` with the engine's words as detail where the program
    /// could not be started.
    async fn launch(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        options: &CreateOptions,
    ) -> Result<Instance> {
        let created = self.create(spec, key, options).await?;
        let fresh = created.incarnation.0 == 0;
        let error = match self.start(&created.id).await {
            Ok(Instance { state: InstanceState::Failed(failure), .. }) => {
                let error = Error::invalid("the program could not be started")
                    .with_operation("runtime.launch")
                    .with_context("instance", key)
                    .with_detail(failure.message);
                match failure.code {
                    Some(code) => error.with_context("exit_code", code),
                    None => error,
                }
            }
            Ok(started) => return Ok(started),
            Err(error) => error,
        };
        // An instance that may be running is left to whoever looks next: it answers to the same key.
        if fresh && !error.maybe_applied() {
            match self.remove(&created.id, &RemoveOptions::force()).await {
                Ok(()) => {}
                Err(left) => return Err(error.with_context("left_behind", left)),
            }
        }
        Err(error)
    }

    /// Stops an instance and starts it again, which raises its incarnation.
    ///
    /// # Errors
    /// Those of [`Runtime::stop`] and [`Runtime::start`].
    async fn restart(&self, id: &InstanceId, options: &StopOptions) -> Result<Instance> {
        self.stop(id, options).await?;
        self.start(id).await
    }

    /// Runs a job to its end, at most for `deadline`, and removes it. A call with the key of a job that is there already
    /// waits for that one.
    ///
    /// # Errors
    /// Those of [`launch`](Self::launch), [`Runtime::wait`] and [`Runtime::remove`].
    async fn run_to_completion(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        options: &CreateOptions,
        deadline: Duration,
    ) -> Result<Completion> {
        let created = self.create(spec, key, options).await?;
        let id =
            if created.incarnation.0 == 0 { self.launch(spec, key, options).await?.id } else { created.id };
        let status = match tokio::time::timeout(deadline, self.wait(&id, &WaitOptions::default())).await {
            Ok(status) => Some(status?),
            Err(_) => {
                self.stop(&id, &StopOptions::default()).await?;
                None
            }
        };
        let mut tail = Vec::new();
        if self.capabilities().features.has(Capability::Logs) {
            let mut lines = self.logs(&id, &LogOptions::tail(Completion::TAIL)).await?;
            while let Some(line) = lines.next().await {
                tail.push(line?);
            }
        }
        self.remove(&id, &RemoveOptions::default()).await?;
        Ok(Completion { status, tail })
    }

    /// The instance, or `None` where there is none.
    ///
    /// # Errors
    /// Those of [`Runtime::get`], except `NotFound`.
    async fn find(&self, id: &InstanceId) -> Result<Option<Instance>> {
        match self.get(id).await {
            Ok(instance) => Ok(Some(instance)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<T: Runtime + ?Sized> RuntimeExt for T {}
