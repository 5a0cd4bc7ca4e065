//! Where instances run: processes of this machine, or containers of its Docker Engine.

use std::sync::Arc;

use ews_core::process::{Cgroups, ProcessConfig, ProcessRuntime};
#[cfg(not(feature = "docker"))]
use ews_core::{Error, ErrorKind};
use ews_core::{Result, Runtime, Secrets};
use ews_deploy::source::{Catalogue, Sources, SourcesConfig};

use crate::config::{HostConfig, RuntimeKind};
use crate::data::DataDirectory;

/// The group into which a unit of systemd puts the host alone; see `ews.service`.
const OWN_GROUP: &str = "/ews-host";

/// Where instances run, and what else is known of that place.
pub(crate) struct Ground {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) sources: Sources,
}

impl Ground {
    /// The one that the configuration names.
    pub(crate) async fn open(
        config: &HostConfig,
        data: &DataDirectory,
        secrets: &Arc<dyn Secrets>,
    ) -> Result<Self> {
        let made = SourcesConfig::new(data.at("scratch")).with_artifacts(data.at("artifacts"));
        let sources = Sources::new(made, Catalogue::built_in()?)?;
        match config.runtime {
            RuntimeKind::Process => {
                let (first, last) = config.process.ports;
                let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
                let mut process = ProcessConfig::new(data.at("runtime"))
                    .with_secrets(Arc::clone(secrets))
                    .with_cgroups(cgroups(&own))
                    .with_ports(first..=last)?;
                for name in &config.process.inherit {
                    process = process.with_inherited(name.clone());
                }
                if let Some(address) = config.process.advertise {
                    process = process.with_advertise(address);
                }
                Ok(Self { runtime: Arc::new(ProcessRuntime::open(process).await?), sources })
            }
            RuntimeKind::Docker => docker(sources, secrets).await,
        }
    }
}

/// Where groups of instances are made. A group that has processes of its own can't hold limits for those below it; so where the host has
/// been put into a group of its own, instances come beside that and not below it.
fn cgroups(own: &str) -> Cgroups {
    let unified = own.trim_end().strip_prefix("0::").filter(|path| !path.contains('\n'));
    match unified.and_then(|path| path.strip_suffix(OWN_GROUP)) {
        Some(parent) => Cgroups::Parent(format!("/{}", parent.trim_start_matches('/'))),
        None => Cgroups::Auto,
    }
}

#[cfg(feature = "docker")]
async fn docker(sources: Sources, secrets: &Arc<dyn Secrets>) -> Result<Ground> {
    use ews_docker::{DockerConfig, DockerImages, DockerRuntime};
    let config = DockerConfig::from_env()?;
    let builder = DockerRuntime::builder(config.clone()).with_secrets(Arc::clone(secrets));
    let runtime = builder.connect().await?;
    let images = DockerImages::connect(config).await?;
    let sources = sources.with_images(Arc::new(images), runtime.engine_id());
    Ok(Ground { runtime: Arc::new(runtime), sources })
}

#[cfg(not(feature = "docker"))]
async fn docker(sources: Sources, _: &Arc<dyn Secrets>) -> Result<Ground> {
    // The configuration's check has refused it; it is refused here too, whoever calls.
    std::future::ready(()).await;
    drop(sources);
    Err(Error::new(ErrorKind::Unsupported, "this program was built without Docker"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_come_beside_the_hosts_own_group_where_it_has_one() {
        let beside = |path: &str| Cgroups::Parent(path.to_owned());
        assert_eq!(cgroups("0::/system.slice/ews.service/ews-host\n"), beside("/system.slice/ews.service"));
        assert_eq!(cgroups("0::/ews-host\n"), beside("/"));
        // With the older kind of groups, and where systemd has made none, it is as everywhere.
        for own in ["0::/system.slice/ews.service\n", "1:name=systemd:/a\n0::/a/ews-host\n", "", "0::/\n"] {
            assert_eq!(cgroups(own), Cgroups::Auto, "{own}");
        }
    }
}
