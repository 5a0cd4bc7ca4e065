//! What the driver writes on its containers, networks and volumes, and how it reads it back.
//!
//! An engine's labels are the only record that outlives every controller. The spec's labels stand beside ours, so that `docker ps
//! --filter label=…` finds them; which of a container's labels are the spec's is written down too, since an image adds its own.

use std::collections::{BTreeMap, HashMap};

use ews_core::spec::content::{FileContent, FileMode, SecretRef};
use ews_core::spec::network::Protocol;
use ews_core::{
    Digest, Error, InstanceKey, InstanceSpec, Labels, OwnerId, PortName, Result, RevisionId, ServiceName,
};
use serde::{Deserialize, Serialize};

/// Everything with this prefix is the driver's.
pub(crate) const PREFIX: &str = "ews.";
/// Whose it is: also on networks, volumes and images.
pub(crate) const OWNER: &str = "ews.owner";
const SERVICE: &str = "ews.service";
const REVISION: &str = "ews.revision";
const SLOT: &str = "ews.slot";
const GENERATION: &str = "ews.generation";
const SPEC_HASH: &str = "ews.spec-hash";
/// The keys of the spec's labels.
const KEYS: &str = "ews.labels";
/// The spec's ports by name.
const PORTS: &str = "ews.ports";
/// The image's name, for people: containers are made from ids.
const IMAGE: &str = "ews.image";
/// The spec's grace, in milliseconds.
const GRACE: &str = "ews.stop-grace-ms";
/// Where the instance's files in memory are, and which secrets they hold, so that they can be laid out again after a reboot.
const MEMORY_FILES: &str = "ews.memory-files";

/// A named port, as it is written on a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPort {
    pub(crate) name: PortName,
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
}

/// A file in memory: where it is laid, and which secret it holds. Never what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryFile {
    pub(crate) secret: SecretRef,
    pub(crate) mode: FileMode,
}

/// The files in memory of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryFiles {
    /// The directory's name below the driver's.
    pub(crate) directory: String,
    /// By their number, which is their name there.
    pub(crate) secrets: BTreeMap<usize, MemoryFile>,
}

/// The labels of a container.
pub(crate) fn of_container(
    spec: &InstanceSpec,
    key: &InstanceKey,
    image: &str,
    files: Option<&MemoryFiles>,
) -> Result<HashMap<String, String>> {
    if let Some((clash, _)) = spec.labels.iter().find(|(name, _)| name.starts_with(PREFIX)) {
        return Err(Error::invalid(format!(
            "the label `{clash}` is one that the driver writes itself; accepted: keys that don't start with `{PREFIX}`"
        ))
        .with_context("field", "labels"));
    }
    let keys: Vec<&str> = spec.labels.iter().map(|(name, _)| name).collect();
    let ports: Vec<String> = spec
        .ports
        .iter()
        .filter_map(|port| Some(format!("{}={}/{}", port.name, port.number?, port.protocol)))
        .collect();
    let mut labels: HashMap<String, String> =
        spec.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    labels.extend([
        (OWNER.to_owned(), key.owner.to_string()),
        (SERVICE.to_owned(), key.service.to_string()),
        (REVISION.to_owned(), key.revision.to_string()),
        (SLOT.to_owned(), key.slot.to_string()),
        (GENERATION.to_owned(), key.generation.to_string()),
        (SPEC_HASH.to_owned(), spec.hash().to_string()),
        (KEYS.to_owned(), keys.join(",")),
        (PORTS.to_owned(), ports.join(",")),
        (IMAGE.to_owned(), image.to_owned()),
        (GRACE.to_owned(), spec.stop.grace.as_millis().to_string()),
    ]);
    if let Some(files) = files {
        let text = serde_json::to_string(files).map_err(|error| {
            Error::internal("the files in memory can't be written down").with_source(error)
        })?;
        labels.insert(MEMORY_FILES.to_owned(), text);
    }
    Ok(labels)
}

/// The labels of a network or a volume.
pub(crate) fn of_object(owner: &OwnerId) -> HashMap<String, String> {
    HashMap::from([(OWNER.to_owned(), owner.to_string())])
}

/// What the labels of a container say; `None` where it is not ours.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) key: InstanceKey,
    pub(crate) spec_hash: Digest,
    pub(crate) labels: Labels,
    pub(crate) ports: Vec<NamedPort>,
    pub(crate) grace: std::time::Duration,
    pub(crate) files: Option<MemoryFiles>,
}

impl Known {
    pub(crate) fn read(labels: &BTreeMap<String, String>) -> Option<Self> {
        let of = |name: &str| labels.get(name).map(String::as_str);
        let key = key_of(labels)?;
        let keys = of(KEYS)?.split(',').filter(|name| !name.is_empty());
        let own = keys.map(|name| Some((name, of(name)?))).collect::<Option<Vec<_>>>()?;
        let millis = of(GRACE).and_then(|text| text.parse().ok()).unwrap_or(10_000);
        Some(Self {
            key,
            spec_hash: of(SPEC_HASH)?.parse().ok()?,
            labels: Labels::new(own).ok()?,
            ports: of(PORTS)?.split(',').filter(|port| !port.is_empty()).map(port).collect::<Option<_>>()?,
            grace: std::time::Duration::from_millis(millis),
            files: of(MEMORY_FILES).and_then(|text| serde_json::from_str(text).ok()),
        })
    }
}

/// The key alone, which events carry too.
pub(crate) fn key_of(labels: &BTreeMap<String, String>) -> Option<InstanceKey> {
    let of = |name: &str| labels.get(name).map(String::as_str);
    Some(InstanceKey {
        owner: OwnerId::new(of(OWNER)?).ok()?,
        service: ServiceName::new(of(SERVICE)?).ok()?,
        revision: RevisionId::new(of(REVISION)?).ok()?,
        slot: of(SLOT)?.parse().ok()?,
        generation: of(GENERATION)?.parse().ok()?,
    })
}

/// The spec's own labels alone, which events carry too.
pub(crate) fn own(labels: &BTreeMap<String, String>) -> Labels {
    let keys = labels.get(KEYS).map(String::as_str).unwrap_or_default();
    let own = keys.split(',').filter_map(|name| Some((name, labels.get(name)?.as_str())));
    Labels::new(own).unwrap_or_default()
}

fn port(text: &str) -> Option<NamedPort> {
    let (name, rest) = text.split_once('=')?;
    let (number, protocol) = rest.split_once('/')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some(NamedPort { name: PortName::new(name).ok()?, number: number.parse().ok()?, protocol })
}

/// The secrets among a spec's files, by the file's number.
pub(crate) fn secret_files(spec: &InstanceSpec) -> BTreeMap<usize, MemoryFile> {
    let secrets = spec.files.iter().enumerate().filter_map(|(index, file)| match &file.content {
        FileContent::Secret(secret) => Some((index, MemoryFile { secret: secret.clone(), mode: file.mode })),
        _ => None,
    });
    secrets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ews_core::spec::network::Port;
    use ews_core::spec::source::{ImageSource, Source};

    fn spec() -> InstanceSpec {
        InstanceSpec::new(Source::Image(ImageSource::new("shop/web:1".parse().unwrap())))
    }

    fn key() -> InstanceKey {
        InstanceKey {
            owner: OwnerId::new("inst").unwrap(),
            service: ServiceName::new("web").unwrap(),
            revision: RevisionId::new("r1").unwrap(),
            slot: 3,
            generation: 2,
        }
    }

    #[test]
    fn what_is_written_is_read_back_whatever_an_image_adds() {
        let mut spec = spec();
        spec.labels = Labels::new([("a.b/c", ""), ("tier", "x,y=\"中\"")]).unwrap();
        spec.ports = vec![Port::new(PortName::new("web").unwrap(), Some(8080))];
        let files = MemoryFiles {
            directory: "d".into(),
            secrets: BTreeMap::from([(
                1,
                MemoryFile { secret: "file:db".parse().unwrap(), mode: FileMode::SECRET },
            )]),
        };
        let mut written: BTreeMap<_, _> =
            of_container(&spec, &key(), "shop/web:1", Some(&files)).unwrap().into_iter().collect();
        written.insert("maintainer".to_owned(), "the image's".to_owned());
        let known = Known::read(&written).unwrap();
        assert_eq!((known.key, known.spec_hash, &known.labels), (key(), spec.hash(), &spec.labels));
        assert_eq!(known.ports.len(), 1);
        assert_eq!(known.files.unwrap(), files);
        assert_eq!(own(&written), spec.labels);
        for missing in [OWNER, SLOT, SPEC_HASH, KEYS, "tier"] {
            let mut cut = written.clone();
            cut.remove(missing);
            assert!(Known::read(&cut).is_none(), "{missing}");
        }
    }

    #[test]
    fn a_label_of_the_drivers_is_refused() {
        let mut spec = spec();
        spec.labels = Labels::new([("ews.owner", "somebody-else")]).unwrap();
        let error = of_container(&spec, &key(), "x", None).unwrap_err();
        assert!(error.message().contains("ews.owner"), "{error}");
    }
}
