//! Creating: everything is laid out under another name, then it appears at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use super::ready::{Gift, Place};
use super::watch::Orphan;
use super::{Controller, Entry, now};
use crate::error::{Error, ErrorKind, Result, Retry, io_error};
use crate::id::{InstanceId, PortName};
use crate::instance::{Instance, InstanceKey};
use crate::process::archive::{Limits, Placed, place_artifact, place_file};
use crate::process::protocol::User;
use crate::process::record::{self, InstanceRecord, at};
use crate::process::root::{blocking, directory, done};
use crate::process::sys::ipc::Theirs;
use crate::process::sys::user;
use crate::runtime::CreateOptions;
use crate::secrets::SecretValue;
use crate::spec::InstanceSpec;
use crate::spec::content::{EnvValue, FileContent, SecretRef};
use crate::spec::source::Source;
use crate::store::embedded::file::sync_folder;

impl Controller {
    /// Creates an instance, or gives the one that this key has.
    pub(in crate::process) async fn create(
        self: Arc<Self>,
        spec: InstanceSpec,
        key: InstanceKey,
        options: CreateOptions,
    ) -> Result<Instance> {
        let id = key.to_id()?;
        let _turn = self.turn(&id).await;
        if let Ok(existing) = self.get(&id) {
            if existing.spec_hash == spec.hash() {
                return Ok(existing);
            }
            return Err(Error::new(ErrorKind::AlreadyExists, "the instance exists with another spec")
                .with_context("instance", id));
        }
        self.check(&spec, &options)?;
        let runs_as = spec.user.as_deref().map(user::resolve).transpose()?;
        let secrets = self.secrets_of(&spec).await?;
        let mut files = Vec::new();
        for (index, file) in spec.files.iter().enumerate() {
            files.push(match &file.content {
                FileContent::Content(text) => text.clone().into_bytes(),
                FileContent::Secret(secret) => match secrets.get(secret) {
                    Some(value) => value.expose().to_vec(),
                    None => {
                        return Err(Error::internal("a secret was not resolved").with_context("file", index));
                    }
                },
            });
        }
        drop(secrets);
        let ports = self.allot(&spec)?;
        let allotted: Vec<u16> = allotted(&spec, &ports);
        let (place, theirs) = Place::take(&self).unzip();
        let layout = Layout { id: id.clone(), spec, key, ports, files, runs_as };
        let (record, orphan) = match self.make(layout, theirs).await {
            Ok(laid_out) => laid_out,
            Err(error) => {
                self.ports.release(allotted);
                return Err(error);
            }
        };
        let mut entry = self.entry_of(id.clone(), record);
        entry.ready = place.zip(orphan).map(|(place, orphan)| place.with(orphan));
        let waits = entry.ready.is_some();
        let created = self.insert(&id, entry);
        if waits {
            self.dismiss_late(id);
        }
        created
    }

    /// The entry of what was created and not started.
    pub(super) fn entry_of(&self, id: InstanceId, record: InstanceRecord) -> Entry {
        let key = record.key.clone();
        let mut instance = Instance::new(id, key, self.node.clone(), record.spec_hash, record.created_at);
        instance.labels = record.spec.labels.clone();
        let changed = tokio::sync::watch::Sender::new(0);
        Entry { record: Arc::new(record), instance, last_end: None, run: None, ready: None, changed }
    }

    /// Everything that can be known before anything is made.
    fn check(&self, spec: &InstanceSpec, options: &CreateOptions) -> Result<()> {
        if let Some(node) = options.node.as_ref().filter(|node| **node != self.node) {
            return Err(Error::not_found("node", node));
        }
        // What this runtime lacks comes first: it is the same on every machine, and the rest may depend on the platform.
        self.capabilities.check(spec)?;
        spec.check()?;
        let host = crate::spec::platform::Platform::host();
        if !host.as_ref().is_some_and(|host| host.meets(&spec.platform)) {
            let host = host.map_or_else(|| "unknown".to_owned(), |host| host.to_string());
            return Err(Error::invalid(format!(
                "this machine is {host}, the spec asks for another platform"
            ))
            .with_context("field", "platform"));
        }
        if self.config.secrets.is_none() && secrets_in(spec).next().is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the spec names a secret, and this runtime was given no way to resolve one; set `secrets` in its configuration",
            ));
        }
        Ok(())
    }

    /// Every secret that a spec names, resolved now.
    pub(super) async fn secrets_of(&self, spec: &InstanceSpec) -> Result<BTreeMap<SecretRef, SecretValue>> {
        let mut values = BTreeMap::new();
        let wanted: BTreeSet<&SecretRef> = secrets_in(spec).collect();
        for reference in wanted {
            let Some(secrets) = &self.config.secrets else {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this runtime was given no way to resolve secrets",
                ));
            };
            let value = tokio::time::timeout(self.config.call_limit, secrets.resolve(reference)).await;
            let late = |_| {
                Error::new(ErrorKind::Timeout, "a secret was not resolved in time")
                    .with_context("secret", reference)
            };
            values.insert(reference.clone(), value.map_err(late)??);
        }
        Ok(values)
    }

    fn allot(&self, spec: &InstanceSpec) -> Result<BTreeMap<PortName, u16>> {
        let mut ports = BTreeMap::new();
        for port in &spec.ports {
            let number = match port.number {
                Some(number) => number,
                None => match self.ports.allot(port.protocol) {
                    Ok(number) => number,
                    Err(error) => {
                        self.ports.release(allotted(spec, &ports));
                        return Err(error.with_context("port", &port.name));
                    }
                },
            };
            ports.insert(port.name.clone(), number);
        }
        Ok(ports)
    }

    /// Makes the directory, and the shim beside that where there is a place for one.
    async fn make(
        self: &Arc<Self>,
        layout: Layout,
        shim: Option<Theirs>,
    ) -> Result<(InstanceRecord, Option<Orphan>)> {
        let this = Arc::clone(self);
        let Some(theirs) = shim else {
            let made = blocking(move || {
                let new = this.hidden_place(&layout.id)?;
                this.lay_out(&new, layout)
            });
            return Ok((made.await?, None));
        };
        let begun = blocking(move || {
            let new = this.hidden_place(&layout.id)?;
            let (gift, id) = (Gift::of(&new), layout.id.clone());
            let shim = this.shim.clone();
            // The disk's work on another thread: this one waits until the shim has become a program.
            let laid_out = tokio::task::spawn_blocking(move || this.lay_out(&new, layout));
            Ok((laid_out, gift.and_then(|gift| gift.begin(&shim, &id, theirs))))
        });
        let (laid_out, orphan) = begun.await?;
        Ok((done(laid_out.await)?, orphan))
    }

    /// The directory that an instance is made in.
    fn hidden_place(&self, id: &InstanceId) -> Result<PathBuf> {
        let place = self.root.instance(id).directory;
        if place.symlink_metadata().is_ok() {
            let error = Error::new(
                ErrorKind::AlreadyExists,
                "something that is no instance of this runtime has its place; it was not touched",
            );
            return Err(at(error, &place).with_context("instance", id));
        }
        let new = self.root.hidden("new", id);
        // What a killed controller left.
        let made =
            remove_tree(&new).and_then(|()| directory(&new, 0o711).map_err(|error| not_made(error, &new)));
        made.map_err(|error| error.with_context("instance", id))?;
        Ok(new)
    }

    /// Fills the directory and gives it its name.
    fn lay_out(&self, new: &PathBuf, layout: Layout) -> Result<InstanceRecord> {
        let id = &layout.id.clone();
        let place = self.root.instance(id).directory;
        let made = self.fill(new, layout).and_then(|made| {
            let named = fs::rename(new, &place).and_then(|()| sync_folder(&self.root.instances()));
            named
                .map_err(|error| at(io_error("the instance could not be given its place", error), &place))?;
            Ok(made)
        });
        if made.is_err()
            && let Err(left) = remove_tree(new)
        {
            tracing::warn!(instance = %id, error = %left, "what a failed create made could not be removed");
        }
        made.map_err(|error| error.with_context("instance", id))
    }

    fn fill(&self, new: &Path, layout: Layout) -> Result<InstanceRecord> {
        let Layout { id: _, spec, key, ports, files, runs_as } = layout;
        let runs_as = runs_as.as_ref();
        let owner = user::owner(runs_as);
        let wrong = |error| not_made(error, new);
        let work = new.join("work");
        directory(&work, 0o700).map_err(wrong)?;
        let dir = Dir::open_ambient_dir(&work, ambient_authority()).map_err(wrong)?;
        let limits = Limits { bytes: self.config.max_artifact, ..Limits::default() };
        let program = match &spec.source {
            Source::Artifact(artifact) => match place_artifact(artifact, &dir, &limits, owner)? {
                Placed::Program(path) => Some(text_of(&path)?),
                Placed::Content => None,
            },
            _ => return Err(Error::unsupported(crate::Capability::ImageSource)),
        };
        if program.is_none() && spec.command.is_empty() {
            return Err(Error::invalid(
                "the artifact is a directory or an archive, so the spec must say which program of it runs",
            )
            .with_context("field", "command"));
        }
        for (file, content) in spec.files.iter().zip(&files) {
            place_file(&dir, &file.path, content, file.mode, owner)
                .map_err(|error| error.with_context("field", "files"))?;
        }
        // The artifact may bring one of its own.
        directory(&work.join("tmp"), 0o700).map_err(wrong)?;
        user::give(&work.join("tmp"), runs_as).and_then(|()| user::give(&work, runs_as)).map_err(wrong)?;
        directory(&new.join("log"), 0o700).map_err(wrong)?;
        let record = InstanceRecord {
            spec_hash: spec.hash(),
            key,
            spec,
            ports,
            program,
            created_at: now(),
            boot: self.boot.clone(),
        };
        record::write_hidden(&new.join("instance.json"), &record)?;
        Ok(record)
    }
}

/// What an instance is laid out from.
struct Layout {
    id: InstanceId,
    spec: InstanceSpec,
    key: InstanceKey,
    ports: BTreeMap<PortName, u16>,
    /// The contents of the spec's files, in its order.
    files: Vec<Vec<u8>>,
    runs_as: Option<User>,
}

/// The ports of a spec that were allotted, of those that have a number.
pub(super) fn allotted(spec: &InstanceSpec, ports: &BTreeMap<PortName, u16>) -> Vec<u16> {
    let open = spec.ports.iter().filter(|port| port.number.is_none());
    open.filter_map(|port| ports.get(&port.name).copied()).collect()
}

fn secrets_in(spec: &InstanceSpec) -> impl Iterator<Item = &SecretRef> {
    let env = spec.env.values().filter_map(|value| match value {
        EnvValue::Secret { secret } => Some(secret),
        EnvValue::Plain(_) => None,
    });
    env.chain(spec.files.iter().filter_map(|file| match &file.content {
        FileContent::Secret(secret) => Some(secret),
        FileContent::Content(_) => None,
    }))
}

fn not_made(error: std::io::Error, new: &Path) -> Error {
    at(io_error("the instance's directory could not be made", error), new)
}

fn text_of(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| at(Error::invalid("the path is not UTF-8 text"), path).with_retry(Retry::Never))
}

/// Removes a directory and all in it; links are removed, not followed.
pub(super) fn remove_tree(path: &PathBuf) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(at(io_error("a directory could not be removed", error), path))
        }
        _ => Ok(()),
    }
}
