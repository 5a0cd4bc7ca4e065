//! What an instance is given beyond its spec when it is created: what is known of the others then.
//!
//! Creating is idempotent by key and spec, and what is known changes. A creation whose answer was lost is therefore never sent again
//! blindly: whoever tries again lists first and finds the instance; one that becomes visible only after that makes the second
//! creation fail as `AlreadyExists`, and the next look finds it. It keeps what it was told first, and its file is brought up to date.

use std::sync::Arc;

use ews_core::spec::content::{ConfigFile, EnvValue, FileContent};
use ews_core::spec::network::NetworkAttachment;
use ews_core::store::{TypedExt as _, decode_typed};
use ews_core::{
    Capability, Digest, InstanceKey, InstanceSpec, Isolation, NetworkName, OwnerId, ReleaseName, Result,
    Runtime, RuntimeCapabilities, Store, StoreExt as _,
};

use super::render::{self, Addresses};
use super::{MemberOf, prefix};

/// The directory of the files in an instance.
pub(super) const DIRECTORY: &str = "ews";
/// The file for programs.
pub(super) const PEERS: &str = "peers.json";
/// The file in the format of `/etc/hosts`.
pub(super) const HOSTS: &str = "hosts";
/// The variable that says where the file for programs is.
const VARIABLE: &str = "EWS_PEERS";

/// Dresses instances.
#[derive(Clone)]
pub(crate) struct Dresser {
    owner: OwnerId,
    store: Arc<dyn Store>,
    runtime: Arc<dyn Runtime>,
}

impl Dresser {
    pub(crate) fn new(owner: OwnerId, store: Arc<dyn Store>, runtime: Arc<dyn Runtime>) -> Self {
        Self { owner, store, runtime }
    }

    /// The spec of an instance of a service, with what it is told as a member of its release.
    pub(crate) async fn dress(&self, spec: &InstanceSpec, key: &InstanceKey) -> Result<InstanceSpec> {
        let path =
            ews_core::store::Key::new(format!("deploy/{}/{}/{}", self.owner, key.service, MemberOf::KEY))?;
        match self.store.get_typed::<MemberOf>(&path).await? {
            Some(member) => self.dress_as(&member.value, spec, key).await,
            None => Ok(spec.clone()),
        }
    }

    /// The same for a member that is known.
    pub(crate) async fn dress_as(
        &self,
        member: &MemberOf,
        spec: &InstanceSpec,
        key: &InstanceKey,
    ) -> Result<InstanceSpec> {
        let mut dressed = spec.clone();
        let capabilities = self.runtime.capabilities();
        let discovery = &member.discovery;
        let named = discovery.network && capabilities.features.has(Capability::Networks);
        if named {
            let name = network(&self.owner, &member.release)?;
            if dressed.networks.iter().all(|network| network.name != name) {
                let mut network = NetworkAttachment::new(name);
                network.aliases = vec![key.service.to_string()];
                dressed.networks.push(network);
            }
        }
        if !discovery.is_on() {
            return Ok(dressed);
        }
        let members = known(&*self.store, &self.owner, &member.release).await?;
        if discovery.environment {
            for (name, value) in render::environment(&members, key.slot, named) {
                dressed.env.entry(name).or_insert(EnvValue::Plain(value));
            }
        }
        if discovery.file && takes_files(&capabilities) && !spec.security.read_only_root {
            let content =
                [(PEERS, render::json(&member.release, &members)), (HOSTS, render::hosts(&members))];
            for (file, text) in content {
                let path = format!("/{DIRECTORY}/{file}");
                if dressed.files.iter().all(|other| other.path != path) {
                    dressed.files.push(ConfigFile::new(path, FileContent::Content(text)));
                }
            }
            // Without isolation the work directory is a directory among others, and a path from the root another one.
            let shared = capabilities.isolation.iter().all(|isolation| *isolation == Isolation::None);
            let at = format!("{}{DIRECTORY}/{PEERS}", if shared { "" } else { "/" });
            dressed.env.entry(VARIABLE.to_owned()).or_insert(EnvValue::Plain(at));
        }
        Ok(dressed)
    }
}

/// The network of a release. Where the names are too long for one, a digest stands for the release.
fn network(owner: &OwnerId, release: &ReleaseName) -> Result<NetworkName> {
    NetworkName::new(format!("ews-{owner}-{release}")).or_else(|_| {
        NetworkName::new(format!("ews-{owner}-{}", Digest::of(release.as_str().as_bytes()).short()))
    })
}

/// What is recorded of the members of a release.
pub(super) async fn known(
    store: &dyn Store,
    owner: &OwnerId,
    release: &ReleaseName,
) -> Result<Vec<Addresses>> {
    let page = store.list_all(&prefix(owner, release)?, 1_000).await?;
    page.records.into_iter().map(|record| Ok(decode_typed::<Addresses>(record)?.value)).collect()
}

/// Whether running instances can be given files.
pub(super) fn takes_files(capabilities: &RuntimeCapabilities) -> bool {
    // Containers of Windows take no path from the root, and no files while they run: theirs alone are the credential specs.
    let has = |capability| capabilities.features.has(capability);
    let windows = has(Capability::CredentialSpec) && !has(Capability::LinuxCapabilities);
    has(Capability::Files) && has(Capability::PutArchive) && !windows
}

#[cfg(test)]
mod tests {
    use ews_core::spec::source::{ArtifactSource, Source};
    use ews_core::store::{Expect, Key, MemoryStore};
    use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
    use ews_core::{RevisionId, ServiceName};

    use super::super::Discovery;
    use super::*;

    fn dresser(capabilities: RuntimeCapabilities) -> Dresser {
        let engine = FakeEngine::new(FakeConfig::default().with_capabilities(capabilities));
        let store = Arc::new(MemoryStore::new());
        Dresser::new(OwnerId::new("acme").unwrap(), store, Arc::new(FakeRuntime::connect(&engine)))
    }

    fn key() -> InstanceKey {
        InstanceKey {
            owner: OwnerId::new("acme").unwrap(),
            service: ServiceName::new("api").unwrap(),
            revision: RevisionId::new("r1").unwrap(),
            slot: 0,
            generation: 0,
        }
    }

    fn plain() -> InstanceSpec {
        InstanceSpec::new(Source::Artifact(ArtifactSource::new("/srv/api")))
    }

    #[tokio::test]
    async fn a_member_joins_the_network_of_its_release_by_its_name_and_keeps_what_it_says_itself() {
        let dresser = dresser(FakeConfig::every_capability());
        assert_eq!(dresser.dress(&plain(), &key()).await.unwrap(), plain(), "no member, no dress");
        let member = MemberOf { release: ReleaseName::new("shop").unwrap(), discovery: Discovery::default() };
        let at = Key::new("deploy/acme/api/in/member").unwrap();
        dresser.store.put_typed(&at, &member, Expect::Absent).await.unwrap();
        let mut spec = plain();
        spec.env.insert(VARIABLE.to_owned(), EnvValue::Plain("mine".to_owned()));
        spec.networks.push(NetworkAttachment::new(NetworkName::new("own").unwrap()));
        let dressed = dresser.dress(&spec, &key()).await.unwrap();
        let networks: Vec<_> =
            dressed.networks.iter().map(|n| (n.name.as_str(), n.aliases.join(","))).collect();
        assert_eq!(networks, [("own", String::new()), ("ews-acme-shop", "api".to_owned())]);
        assert_eq!(dressed.env.get(VARIABLE), Some(&EnvValue::Plain("mine".to_owned())));
        let files: Vec<_> = dressed.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(files, ["/ews/peers.json", "/ews/hosts"]);
        assert_eq!(dresser.dress(&spec, &key()).await.unwrap().hash(), dressed.hash(), "the same again");
    }

    #[test]
    fn every_release_has_a_network() {
        let owner = OwnerId::new("o".repeat(63)).unwrap();
        let [a, b] = ["a", "b"].map(|end| ReleaseName::new(format!("{}{end}", "r".repeat(62))).unwrap());
        assert_ne!(network(&owner, &a).unwrap(), network(&owner, &b).unwrap());
    }

    #[tokio::test]
    async fn nothing_is_asked_of_a_runtime_that_it_can_not_do() {
        let mut capabilities = FakeConfig::every_capability();
        capabilities.features =
            capabilities.features.without(Capability::Networks).without(Capability::PutArchive);
        let member = MemberOf { release: ReleaseName::new("shop").unwrap(), discovery: Discovery::default() };
        let dressed = dresser(capabilities).dress_as(&member, &plain(), &key()).await.unwrap();
        assert_eq!(dressed, plain());
        let mut sealed = plain();
        sealed.security.read_only_root = true;
        let dressed =
            dresser(FakeConfig::every_capability()).dress_as(&member, &sealed, &key()).await.unwrap();
        assert!(dressed.files.is_empty() && dressed.networks.len() == 1);
    }
}
