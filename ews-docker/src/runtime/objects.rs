//! Networks and volumes: made where a spec names one that is missing, marked as the owner's, removed when asked.
//!
//! One that exists already is used as it is, whoever made it, and never removed by us unless it carries the owner's label.

use std::collections::HashMap;

use bollard::models::{EndpointSettings, NetworkConnectRequest, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::RemoveVolumeOptions;
use ews_core::spec::network::NetworkAttachment;
use ews_core::spec::storage::MountKind;
use ews_core::{ErrorKind, InstanceSpec, OwnerId, Result};

use super::{DockerRuntime, Inner, labels};
use crate::client::models::{Named, VolumesAnswer};
use crate::client::{Call, Subject};

const OPERATION: &str = "runtime.create";

/// What [`DockerRuntime::prune`] has removed, or would remove.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// Networks by name.
    pub networks: Vec<String>,
    /// Volumes by name.
    pub volumes: Vec<String>,
}

impl DockerRuntime {
    /// Removes the networks of an owner that no container uses, and its volumes that no container uses where `volumes` says so. A volume's
    /// data is gone for good; networks come back with the next instance that names them.
    ///
    /// An instance that is being created at this moment may lose a network that was made for it; its creation then fails and may be
    /// repeated. So prune when no rollout runs.
    ///
    /// # Errors
    /// The common ones of [`Runtime`](ews_core::Runtime).
    pub async fn prune(&self, owner: &OwnerId, volumes: bool) -> Result<Pruned> {
        self.inner.prune(owner, volumes).await
    }
}

impl Inner {
    pub(super) async fn ensure_networks(&self, spec: &InstanceSpec, owner: &OwnerId) -> Result<()> {
        for network in &spec.networks {
            let name = network.name.as_str();
            if self.has(&["networks", name], Subject::Network, name).await? {
                continue;
            }
            let request = NetworkCreateRequest {
                name: name.to_owned(),
                driver: Some(if self.engine.facts().is_windows() { "nat" } else { "bridge" }.to_owned()),
                labels: Some(labels::of_object(owner)),
                ..NetworkCreateRequest::default()
            };
            let call = self.engine.bollard().create_network(request);
            match self.engine.typed(OPERATION, Subject::Network, self.engine.config().work, call).await {
                Ok(_) => tracing::info!(network = name, %owner, "network created"),
                // Engines let two networks share a name; ours are made one at a time for each instance, but instances are many.
                Err(error) if error.detail().is_some_and(|words| words.contains("already exists")) => {}
                Err(error) => return Err(error.with_context("network", name)),
            }
            self.one_network(name, owner).await?;
        }
        Ok(())
    }

    /// Two creations at once may have made two networks of one name, which an engine allows and can't tell apart later: the first by id
    /// stays.
    async fn one_network(&self, name: &str, owner: &OwnerId) -> Result<()> {
        let filters =
            serde_json::json!({"name": [name], "label": [format!("{}={owner}", labels::OWNER)]}).to_string();
        let call = Call::get(OPERATION, Subject::Network, &["networks"]).query("filters", &filters);
        let mut twins: Vec<Named> = self.engine.json::<Vec<Named>>(call).await?;
        twins.retain(|network| network.name == name);
        twins.sort_by(|a, b| a.id.cmp(&b.id));
        for twin in twins.iter().skip(1) {
            let call = self.engine.bollard().remove_network(&twin.id);
            match self.engine.typed(OPERATION, Subject::Network, self.engine.config().work, call).await {
                Ok(()) => {}
                // Both who made one do this; and one that is in use already stays.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Busy) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) async fn ensure_volumes(&self, spec: &InstanceSpec, owner: &OwnerId) -> Result<()> {
        for mount in &spec.mounts {
            let MountKind::Volume(volume) = &mount.kind else { continue };
            let name = volume.as_str();
            if self.has(&["volumes", name], Subject::Volume, name).await? {
                continue;
            }
            // The engine gives back the one that is there, should somebody have been faster.
            let request = VolumeCreateRequest {
                name: Some(name.to_owned()),
                labels: Some(labels::of_object(owner)),
                ..VolumeCreateRequest::default()
            };
            let call = self.engine.bollard().create_volume(request);
            self.engine
                .typed(OPERATION, Subject::Volume, self.engine.config().work, call)
                .await
                .map_err(|error| error.with_context("volume", name))?;
            tracing::info!(volume = name, %owner, "volume created");
        }
        Ok(())
    }

    async fn has(&self, path: &[&str], subject: Subject, name: &str) -> Result<bool> {
        match self.engine.json::<Named>(Call::get(OPERATION, subject, path)).await {
            // An engine finds a network by the beginning of its id too.
            Ok(found) => Ok(found.name == name),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
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
            .typed(OPERATION, Subject::Network, self.engine.config().work, call)
            .await
            .map_err(|error| error.with_context("network", &network.name))
    }

    async fn prune(&self, owner: &OwnerId, volumes: bool) -> Result<Pruned> {
        const OPERATION: &str = "docker.prune";
        let work = self.engine.config().work;
        let label = format!("{}={owner}", labels::OWNER);
        let mut pruned = Pruned::default();
        let used = self.networks_in_use().await?;
        let filters = serde_json::json!({ "label": [label] }).to_string();
        let call = Call::get(OPERATION, Subject::Network, &["networks"]).query("filters", &filters);
        for network in self.engine.json::<Vec<Named>>(call).await? {
            if used.contains_key(&network.id) || used.contains_key(&network.name) {
                continue;
            }
            let call = self.engine.bollard().remove_network(&network.id);
            match self.engine.typed(OPERATION, Subject::Network, work, call).await {
                Ok(()) => pruned.networks.push(network.name),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Busy) => {}
                Err(error) => return Err(error),
            }
        }
        if !volumes {
            return Ok(pruned);
        }
        let filters = serde_json::json!({ "label": [label], "dangling": ["true"] }).to_string();
        let call = Call::get(OPERATION, Subject::Volume, &["volumes"]).query("filters", &filters);
        for volume in self.engine.json::<VolumesAnswer>(call).await?.volumes {
            let call = self.engine.bollard().remove_volume(&volume.name, None::<RemoveVolumeOptions>);
            match self.engine.typed(OPERATION, Subject::Volume, work, call).await {
                Ok(()) => pruned.volumes.push(volume.name),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Busy) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }

    /// The networks that any container names, ended ones too: an engine itself counts only those that run, and what was created could not
    /// be started without its network.
    async fn networks_in_use(&self) -> Result<HashMap<String, ()>> {
        #[derive(serde::Deserialize)]
        struct Listed {
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
        let call = Call::get("docker.prune", Subject::Container, &["containers", "json"]).flag("all", true);
        let listed: Vec<Listed> = self.engine.json(call).await?;
        let names = listed.into_iter().flat_map(|one| {
            let named = one.network.and_then(|network| network.networks).unwrap_or_default().into_keys();
            named.chain(one.host.and_then(|host| host.mode))
        });
        Ok(names.map(|name| (name, ())).collect())
    }
}
