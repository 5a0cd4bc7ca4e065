//! Networks and volumes: made where a spec names one that is missing, marked as the owner's, removed when asked.
//!
//! One that nobody has marked (an engine's own `bridge`, what people made by hand) is used as it is and never removed. One that carries the
//! mark of another installation is refused: two who share a volume without knowing would lose it to whoever prunes first.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{EndpointSettings, NetworkConnectRequest};
use bollard::query_parameters::RemoveVolumeOptions;
use ews_core::spec::network::NetworkAttachment;
use ews_core::spec::storage::MountKind;
use ews_core::{Error, ErrorKind, InstanceSpec, OwnerId, Result};

use super::{DockerRuntime, Inner, labels};
use crate::client::models::{IdAnswer, Named, VolumesAnswer};
use crate::client::{Call, Subject};

const OPERATION: &str = "runtime.create";
const PRUNE: &str = "docker.prune";

/// What [`DockerRuntime::prune`] and [`DockerRuntime::prune_with_volumes`] have removed, and what they have not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// Networks by name.
    pub networks: Vec<String>,
    /// Volumes by name; none where volumes were not meant.
    pub volumes: Vec<String>,
    /// The owner's networks and volumes that are in use.
    pub kept: Vec<Kept>,
}

/// A network or a volume that was left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kept {
    /// The network's or volume's name.
    pub name: String,
    /// Why it stays: who uses it, as far as that is known.
    pub reason: String,
}

impl DockerRuntime {
    /// Removes the networks of an owner that no container names. They come back with the next instance that names them. What is in use
    /// is kept, with the reason; volumes are not touched.
    ///
    /// An instance that is being created at this moment may lose a network that was made for it; its creation then fails and may be
    /// repeated. So prune when no rollout runs.
    ///
    /// # Errors
    /// The common ones of [`Runtime`](ews_core::runtime).
    pub async fn prune(&self, owner: &OwnerId) -> Result<Pruned> {
        self.inner.prune_networks(owner).await
    }

    /// Removes what [`prune`](Self::prune) does, and then the volumes of the owner that no container uses. Their data is gone for good.
    ///
    /// # Errors
    /// Those of [`prune`](Self::prune).
    pub async fn prune_with_volumes(&self, owner: &OwnerId) -> Result<Pruned> {
        let mut pruned = self.inner.prune_networks(owner).await?;
        self.inner.prune_volumes(owner, &mut pruned).await?;
        Ok(pruned)
    }
}

/// The two kinds of objects that are made for specs.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Network,
    Volume,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Network => "networks",
            Self::Volume => "volumes",
        }
    }

    const fn subject(self) -> Subject {
        match self {
            Self::Network => Subject::Network,
            Self::Volume => Subject::Volume,
        }
    }
}

impl Inner {
    pub(super) async fn ensure_networks(&self, spec: &InstanceSpec, owner: &OwnerId) -> Result<()> {
        for network in &spec.networks {
            let name = network.name.as_str();
            if self.ensure(Kind::Network, name, owner).await? {
                self.one_network(name, owner).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn ensure_volumes(&self, spec: &InstanceSpec, owner: &OwnerId) -> Result<()> {
        for mount in &spec.mounts {
            let MountKind::Volume(volume) = &mount.kind else { continue };
            self.ensure(Kind::Volume, volume.as_str(), owner).await?;
        }
        Ok(())
    }

    /// Sees to it that an object is there and is not another installation's; says whether it was made.
    async fn ensure(&self, kind: Kind, name: &str, owner: &OwnerId) -> Result<bool> {
        if self.is_there(kind, name, owner).await? {
            return Ok(false);
        }
        let _turn = self.making.lock().await;
        if self.is_there(kind, name, owner).await? {
            return Ok(false);
        }
        let mut body = BTreeMap::from([
            ("Name", serde_json::json!(name)),
            ("Labels", serde_json::json!(labels::of_object(owner))),
        ]);
        if matches!(kind, Kind::Network) {
            let driver = if self.engine.facts().is_windows() { "nat" } else { "bridge" };
            body.insert("Driver", driver.into());
            // Engines before 1.44 make two of one name unless they are asked to look; later ones never do.
            body.insert("CheckDuplicate", true.into());
        }
        let call = Call::post(OPERATION, kind.subject(), &[kind.path(), "create"]).json(&body)?;
        match self.engine.json::<IdAnswer>(call.within(self.engine.config().work_limit)).await {
            Ok(_) => tracing::info!(kind = kind.word(), name, %owner, "created for a spec"),
            Err(error) if error.detail().is_some_and(|words| words.contains("already exists")) => {}
            Err(error) => return Err(error.with_context(kind.word(), name)),
        }
        // Whoever was faster may be somebody else; an engine gives back a volume that is there as if it had made it.
        self.is_there(kind, name, owner).await?;
        Ok(true)
    }

    async fn is_there(&self, kind: Kind, name: &str, owner: &OwnerId) -> Result<bool> {
        let call = Call::get(OPERATION, kind.subject(), &[kind.path(), name]);
        let found = match self.engine.json::<Named>(call).await {
            // An engine finds a network by the beginning of its id too.
            Ok(found) if found.name != name => return Ok(false),
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            // Two of one name: it is there, and another controller is about to make them one, as we do.
            Err(error) if is_ambiguous(&error) => {
                self.one_network(name, owner).await?;
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        match found.labels.get(labels::OWNER) {
            Some(other) if other != owner.as_str() => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "a {} of this name belongs to another installation; it is left alone: choose another name",
                    kind.word()
                ),
            )
            .with_context(kind.word(), name)
            .with_context("owner", other)),
            _ => Ok(true),
        }
    }

    /// Two controllers at once may have made two networks of one name, which an engine before 1.44 allows and can't tell apart later. One
    /// stays: one that is in use, else the first by id, so that both controllers choose the same.
    async fn one_network(&self, name: &str, owner: &OwnerId) -> Result<()> {
        let filters =
            serde_json::json!({"name": [name], "label": [format!("{}={owner}", labels::OWNER)]}).to_string();
        let call = Call::get(OPERATION, Subject::Network, &["networks"]).query("filters", &filters);
        let mut twins: Vec<Named> = self.engine.list::<Named>(call).await?;
        twins.retain(|network| network.name == name);
        twins.sort_by(|a, b| b.id.cmp(&a.id));
        let mut used = false;
        // From the last by id on; the first goes only where another can't.
        for (number, twin) in twins.iter().enumerate() {
            if number + 1 == twins.len() && !used {
                break;
            }
            let call = self.engine.bollard().remove_network(&twin.id);
            match self.engine.typed(OPERATION, Subject::Network, self.engine.config().work_limit, call).await
            {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::Busy => used = true,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) async fn join_network(&self, container: &str, network: &NetworkAttachment) -> Result<()> {
        let settings = EndpointSettings {
            aliases: Some(network.aliases.clone()).filter(|list| !list.is_empty()),
            ..EndpointSettings::default()
        };
        let request =
            NetworkConnectRequest { container: container.to_owned(), endpoint_config: Some(settings) };
        let call = self.engine.bollard().connect_network(network.name.as_str(), request);
        self.engine
            .typed(OPERATION, Subject::Network, self.engine.config().work_limit, call)
            .await
            .map_err(|error| error.with_context("network", &network.name))
    }

    async fn prune_networks(&self, owner: &OwnerId) -> Result<Pruned> {
        let work = self.engine.config().work_limit;
        let mut pruned = Pruned::default();
        let users = self.users_of_networks().await?;
        let call = Call::get(PRUNE, Subject::Network, &["networks"]).query("filters", &filter_of(owner));
        for network in self.engine.list::<Named>(call).await? {
            if let Some(user) = users.get(&network.id).or_else(|| users.get(&network.name)) {
                pruned
                    .kept
                    .push(Kept { name: network.name, reason: format!("the container `{user}` names it") });
                continue;
            }
            let call = self.engine.bollard().remove_network(&network.id);
            let removed = self.engine.typed(PRUNE, Subject::Network, work, call).await;
            settle(removed, network.name, &mut pruned.networks, &mut pruned.kept)?;
        }
        Ok(pruned)
    }

    async fn prune_volumes(&self, owner: &OwnerId, pruned: &mut Pruned) -> Result<()> {
        let work = self.engine.config().work_limit;
        let call = Call::get(PRUNE, Subject::Volume, &["volumes"]).query("filters", &filter_of(owner));
        for volume in self.engine.json::<VolumesAnswer>(call).await?.volumes {
            let call = self.engine.bollard().remove_volume(&volume.name, None::<RemoveVolumeOptions>);
            let removed = self.engine.typed(PRUNE, Subject::Volume, work, call).await;
            settle(removed, volume.name, &mut pruned.volumes, &mut pruned.kept)?;
        }
        Ok(())
    }

    /// Who uses networks, by the network's name or id: containers that have ended too. An engine itself counts only those that run, and
    /// what was created could not be started without its network.
    async fn users_of_networks(&self) -> Result<HashMap<String, String>> {
        #[derive(serde::Deserialize)]
        struct Listed {
            #[serde(rename = "Names", default)]
            names: Option<Vec<String>>,
            #[serde(rename = "NetworkSettings", default)]
            network: Option<Settings>,
            #[serde(rename = "HostConfig", default)]
            host: Option<Mode>,
        }
        #[derive(serde::Deserialize)]
        struct Settings {
            #[serde(rename = "Networks", default)]
            networks: Option<HashMap<String, serde_json::Value>>,
        }
        #[derive(serde::Deserialize)]
        struct Mode {
            #[serde(rename = "NetworkMode", default)]
            mode: Option<String>,
        }
        let call = Call::get(PRUNE, Subject::Container, &["containers", "json"]).flag("all", true);
        let listed: Vec<Listed> = self.engine.list(call).await?;
        let mut users = HashMap::new();
        for one in listed {
            let user = one.names.into_iter().flatten().next().unwrap_or_default();
            let named = one.network.and_then(|network| network.networks).unwrap_or_default().into_keys();
            for network in named.chain(one.host.and_then(|host| host.mode)) {
                users.entry(network).or_insert_with(|| user.trim_start_matches('/').to_owned());
            }
        }
        Ok(users)
    }
}

/// What selects an owner's objects.
fn filter_of(owner: &OwnerId) -> String {
    serde_json::json!({ "label": [format!("{}={owner}", labels::OWNER)] }).to_string()
}

/// Whether an engine knows two networks of the name that it was given.
pub(super) fn is_ambiguous(error: &Error) -> bool {
    error.detail().is_some_and(|words| words.contains("is ambiguous"))
}

/// Notes what became of a removal: what is in use stays, and what is gone already needs no word.
fn settle(removed: Result<()>, name: String, gone: &mut Vec<String>, kept: &mut Vec<Kept>) -> Result<()> {
    match removed {
        Ok(()) => gone.push(name),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::Busy => {
            let reason = error.detail().unwrap_or_else(|| error.message()).to_owned();
            kept.push(Kept { name, reason });
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
