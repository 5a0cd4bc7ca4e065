//! Creating: everything that a container needs is there before it is, and nothing of it stays where the creation fails.

use std::sync::Arc;
use std::time::Duration;

use ews_core::image::{EnsureOptions, ImageStore as _, Progress};
use ews_core::instance::{Instance, InstanceKey};
use ews_core::runtime::CreateOptions;
use ews_core::spec::content::EnvValue;
use ews_core::spec::platform::Os;
use ews_core::spec::source::{ImageSource, Source};
use ews_core::{Error, ErrorKind, InstanceId, InstanceSpec, Result};

use futures_util::StreamExt as _;

use super::memory::Laid;
use super::objects::is_ambiguous;
use super::{Inner, labels, mapping};
use crate::client::models::{IdAnswer, ImageAnswer, Inspected};
use crate::client::{Call, Subject, Until, facts};

const OPERATION: &str = "runtime.create";
/// How often a name that is taken and not shown yet is asked for.
const UNSEEN: Duration = Duration::from_millis(50);

/// What a creation led to.
enum Made {
    /// A container.
    New(String),
    /// Somebody was faster.
    There(Box<Instance>),
}

/// Whether an engine refuses a container for want of the files that were laid for it.
fn unseen(error: &Error, laid: &Laid) -> bool {
    error.detail().is_some_and(|words| laid.mounts.iter().any(|(source, _)| words.contains(source.as_str())))
}

/// An engine that does not see this machine's memory: its socket leads to another machine, or it runs in a box of its own.
fn elsewhere(error: &Error) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "secret files were laid in this machine's memory, and the engine does not see them: it runs elsewhere, behind a socket that is \
         forwarded; set `secrets_directory` to a directory that both see, or give the secret through the environment",
    )
    .with_context("field", "files")
    .with_detail(error.detail().unwrap_or_default().to_owned())
}

impl Inner {
    pub(super) async fn create(
        self: Arc<Self>,
        spec: InstanceSpec,
        key: InstanceKey,
        options: CreateOptions,
    ) -> Result<Instance> {
        if let Some(node) = options.node.as_ref().filter(|node| **node != self.place.node) {
            return Err(Error::not_found("node", node));
        }
        self.capabilities.check(&spec)?;
        spec.check()?;
        let id = key.to_id()?;
        let _turn = self.turns.take(&id).await;
        if let Some(existing) = self.existing(&id, &spec).await? {
            return Ok(existing);
        }
        let Source::Image(source) = &spec.source else {
            return Err(Error::invalid("an engine runs images; this spec names an artifact")
                .with_context("field", "artifact"));
        };
        let image = self.image(source).await?;
        self.check_platform(&spec, &image)?;
        let env = self.env_of(&spec).await?;
        self.ensure_networks(&spec, &key.owner).await?;
        self.ensure_volumes(&spec, &key.owner).await?;
        let laid = self.lay_memory(&id, &spec).await?;
        let container = match self.make_or_adopt(&spec, &key, &id, &image, &env, laid.as_ref()).await {
            Ok(Made::New(container)) => container,
            Ok(Made::There(instance)) => {
                self.forget_laid(laid.as_ref()).await;
                return Ok(*instance);
            }
            Err(error) => {
                // A create that may have happened has a container that mounts these files.
                if !error.maybe_applied() {
                    self.forget_laid(laid.as_ref()).await;
                }
                return Err(match &laid {
                    Some(laid) if unseen(&error, laid) => elsewhere(&error),
                    _ => error,
                });
            }
        };
        match self.finish(&spec, &id, &container, laid.as_ref()).await {
            Ok(instance) => Ok(instance),
            Err(error) => {
                let removed = self.remove_container(&container, true, OPERATION).await;
                self.forget_laid(laid.as_ref()).await;
                match removed {
                    Ok(()) => Err(error),
                    Err(left) => Err(error.with_maybe_applied().with_context("left_behind", left)),
                }
            }
        }
    }

    /// Makes the container. An engine takes a name before it shows the container, so somebody else's creation of the same name (a controller
    /// that was killed, say) is waited for.
    async fn make_or_adopt(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        id: &InstanceId,
        image: &ImageAnswer,
        env: &[String],
        laid: Option<&Laid>,
    ) -> Result<Made> {
        let limit = Until::after(self.engine.config().work_limit);
        loop {
            let error = match self.make(spec, key, id, image, env.to_vec(), laid).await {
                Ok(container) => return Ok(Made::New(container)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => error,
                // Another controller has made a second network of the name at this moment; one of the two goes.
                Err(error) if is_ambiguous(&error) && !limit.left().is_zero() => {
                    tokio::time::sleep(UNSEEN).await;
                    self.ensure_networks(spec, &key.owner).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(there) = self.existing(id, spec).await? {
                return Ok(Made::There(Box::new(there)));
            }
            if limit.left().is_zero() {
                return Err(error);
            }
            tokio::time::sleep(UNSEEN).await;
        }
    }

    async fn forget_laid(&self, laid: Option<&Laid>) {
        if let Some(laid) = laid {
            self.forget_memory(&laid.files.directory).await;
        }
    }

    /// The instance of this id, where it was made from this spec.
    async fn existing(&self, id: &InstanceId, spec: &InstanceSpec) -> Result<Option<Instance>> {
        let limit = Until::after(self.engine.config().work_limit);
        let found = loop {
            let call = Call::get(OPERATION, Subject::Container, &["containers", id.as_str(), "json"]);
            match self.engine.json::<Inspected>(call).await {
                // One that is on its way out is not the one that is asked for.
                Ok(found) if found.state.status == "removing" && !limit.left().is_zero() => {
                    tokio::time::sleep(UNSEEN).await;
                }
                Ok(found) => break found,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        if found.name.trim_start_matches('/') != id.as_str() {
            // Another container, whose id begins with these letters.
            return Ok(None);
        }
        match super::observe::instance(&self.place, &found) {
            Some(seen) if seen.instance.spec_hash == spec.hash() => Ok(Some(seen.instance)),
            Some(_) => Err(Error::new(ErrorKind::AlreadyExists, "the instance exists with another spec")),
            None => Err(Error::new(
                ErrorKind::AlreadyExists,
                "a container of this name exists that is not ours; it is left alone: rename or remove it",
            )
            .with_context("container", found.id)),
        }
    }

    /// The image that a spec names, brought by its policy where it is missing.
    async fn image(&self, source: &ImageSource) -> Result<ImageAnswer> {
        let named = |error: Error| error.with_context("image", &source.reference);
        let mut progress = self.images.ensure(source, &EnsureOptions::default()).await?;
        let mut id = None;
        while let Some(step) = progress.next().await {
            if let Progress::Done { image, .. } = step? {
                id = image;
            }
        }
        let id = id.ok_or_else(|| {
            named(Error::internal("the image is there, and the engine does not say its id"))
        })?;
        let call = Call::get(OPERATION, Subject::Image, &["images", &id.to_string(), "json"]);
        self.engine.json(call).await.map_err(named)
    }

    fn check_platform(&self, spec: &InstanceSpec, image: &ImageAnswer) -> Result<()> {
        let wanted = &spec.platform;
        let host = &self.engine.facts().platform;
        let incompatible =
            |what: String| Error::new(ErrorKind::ImageIncompatible, what).with_context("field", "platform");
        let Some(platform) = facts::platform(&image.os, &image.arch) else {
            return Err(incompatible(format!(
                "the image is for `{}/{}`, the node is {host}",
                image.os, image.arch
            )));
        };
        if !platform.meets(wanted) {
            return Err(incompatible(format!(
                "the image is for {platform}, and the spec asks for another platform"
            )));
        }
        if platform.os != host.os {
            return Err(incompatible(format!("the image is for {platform}, the node is {host}")));
        }
        // Another architecture of the same system may run by emulation, which only the engine knows; where the spec names one, it was
        // checked above, and a node that can't run it says so at the start.
        Ok(())
    }

    /// `NAME=value` for each variable, secrets resolved.
    async fn env_of(&self, spec: &InstanceSpec) -> Result<Vec<String>> {
        let mut env = Vec::with_capacity(spec.env.len());
        for (name, value) in &spec.env {
            match value {
                EnvValue::Plain(value) => env.push(format!("{name}={value}")),
                EnvValue::Secret { secret } => {
                    let value = self.resolve(secret).await?;
                    let text = value.expose_str().map_err(|error| error.with_context("secret", secret))?;
                    if text.contains('\0') {
                        return Err(Error::invalid(
                            "a secret for the environment holds NUL, at which programs end it",
                        )
                        .with_context("secret", secret));
                    }
                    env.push(format!("{name}={text}"));
                }
                _ => {
                    return Err(
                        Error::invalid("this kind of value is not known").with_context("variable", name)
                    );
                }
            }
        }
        Ok(env)
    }

    async fn make(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        id: &InstanceId,
        image: &ImageAnswer,
        env: Vec<String>,
        laid: Option<&Laid>,
    ) -> Result<String> {
        let name = match &spec.source {
            Source::Image(source) => source.reference.to_string(),
            _ => String::new(),
        };
        let facts = self.engine.facts();
        let request = mapping::Request {
            spec,
            os: if facts.is_windows() { Os::Windows } else { Os::Linux },
            image: &image.id,
            labels: labels::of_container(spec, key, &name, laid.map(|laid| &laid.files))?,
            env,
            files: laid.map(|laid| laid.mounts.clone()).unwrap_or_default(),
            swap_limit: facts.info.swap_limit.unwrap_or(false),
        };
        let body = mapping::create_body(request)?;
        // Not through bollard, which would log the environment. A 404 here is the image's.
        let call = Call::post(OPERATION, Subject::Image, &["containers", "create"])
            .query("name", id.as_str())
            .json(&body)?
            .within(self.engine.config().work_limit);
        let answer: IdAnswer = self.engine.json(call).await?;
        for warning in &answer.warnings {
            tracing::warn!(instance = %id, warning, "the engine warns at a creation");
        }
        Ok(answer.id)
    }

    /// What is done to a container before anybody sees it.
    async fn finish(
        self: &Arc<Self>,
        spec: &InstanceSpec,
        id: &InstanceId,
        container: &str,
        laid: Option<&Laid>,
    ) -> Result<Instance> {
        for network in spec.networks.iter().skip(1) {
            self.join_network(container, network).await?;
        }
        self.place_files(spec, container).await?;
        let (seen, inspected) = self.find(id, OPERATION).await?;
        if let Some(laid) = laid {
            self.give_memory(&laid.files, &inspected).await?;
        }
        Ok(seen.instance)
    }
}
