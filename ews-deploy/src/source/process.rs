//! An artifact that runs without an image: kept by its digest where the process runtime finds it.
//!
//! An archive is not kept as it came. What passed the checks is packed again in the deterministic form of a layer, so that the runtime
//! unpacks what was checked, a zip runs where only tar is read, and one content is kept once. A program is kept as it is.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ews_core::spec::source::ArtifactSource;
use ews_core::{Digest, Error, ErrorKind, Os, Result, ServiceSpec, Source};

use super::artifact::layer::{self, Placing};
use super::artifact::{Artifact, Content, Tree};
use super::assemble::{Laid, split, taking};
use super::catalogue::{Kind, Takes};
use super::request::ProcessRequest;
use super::resolved::{Provenance, ProvenanceKind, Resolved};
use super::scratch::{Scratch, ScratchFile, blocking, of_disk};
use super::{Sources, defaults, now};

/// What a file is called while it is written.
const UNFINISHED: &str = ".unfinished-";
/// How old such a file must be to belong to nobody who still writes it.
const STALE: Duration = Duration::from_secs(24 * 3600);

impl Sources {
    pub(super) async fn process(
        &self,
        request: &ProcessRequest,
        by: &str,
        mut spec: ServiceSpec,
    ) -> Result<Resolved> {
        let directory = self.artifacts.clone().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "there is no directory for artifacts: name one in the configuration of sources",
            )
        })?;
        let entry = request.on.as_deref().map(|on| self.catalogue.find(on)).transpose()?;
        let mut warnings = Vec::new();
        let files = Takes { kind: Kind::Files, to: String::new(), unpack: true };
        let mut takes = files;
        if let Some(entry) = entry {
            let Some(process) = &entry.process else {
                return Err(Error::invalid(format!("`{}` does not run without an image", entry.name())));
            };
            takes = taking(entry, &request.artifact)?.clone();
            let command = defaults::command(&process.command, request.main.as_deref(), entry)?;
            if spec.instance.command.is_empty() {
                spec.instance.command = command;
            }
            // A process has no network of its own, so a fixed port would let one instance run; it is allotted one as `PORT`.
            let said = !spec.instance.ports.is_empty();
            defaults::fill(&mut spec, entry)?;
            if !said {
                spec.instance.ports.iter_mut().for_each(|port| port.number = None);
            }
            for (name, value) in entry.env.iter().filter(|(name, _)| said || *name != "PORT") {
                let value = ews_core::spec::content::EnvValue::Plain(value.clone());
                spec.instance.env.entry(name.clone()).or_insert(value);
            }
            warnings = defaults::warnings(entry, false, now());
            warnings.retain(|warning| warning.about != super::WarningAbout::Times);
        }
        let is_program = matches!(request.artifact.content(), Content::Program { .. });
        let (path, digest, layer) = if is_program {
            let (artifact, directory) = (request.artifact.clone(), directory.clone());
            blocking(move || {
                let path = keep(&directory, &artifact.file(), artifact.digest(), "", true)?;
                Ok((path, artifact.digest(), None))
            })
            .await?
        } else {
            let laid = self.laid(&request.artifact, &takes, request.root.as_deref()).await?;
            let scratch = self.scratch.clone();
            blocking(move || pack(&laid.tree, &directory, &scratch)).await?
        };
        let mut artifact = ArtifactSource::new(path.to_string_lossy());
        artifact.digest = Some(digest);
        spec.instance.source = Source::Artifact(artifact);
        let mut provenance = Provenance::new(ProvenanceKind::Process, by, digest);
        provenance.upload = Some(request.artifact.digest());
        provenance.layer = layer;
        provenance.entry = entry.map(super::CatalogueEntry::name);
        Ok(Resolved { spec, provenance, warnings, moved: super::Moved::default() })
    }

    async fn laid(&self, artifact: &Artifact, takes: &Takes, root: Option<&str>) -> Result<Laid> {
        let mut laid = self.lay(artifact, takes, root, cfg!(windows)).await?;
        if !takes.unpacks() {
            let (_, name) = split(&takes.to);
            laid.tree = Tree::single(name, false, artifact.file());
        }
        Ok(laid)
    }

    /// Removes the artifacts of the process runtime that are none of these digests, and what writers that died left. Returns what was
    /// removed.
    ///
    /// # Errors
    /// `Unavailable` and the like for the directory.
    pub async fn forget_artifacts(&self, keep: &[Digest]) -> Result<Vec<Digest>> {
        let Some(directory) = self.artifacts.clone() else { return Ok(Vec::new()) };
        let keep = keep.to_vec();
        blocking(move || {
            let failed = |error| of_disk("the directory of artifacts", error);
            let mut removed = Vec::new();
            for found in std::fs::read_dir(&*directory).map_err(failed)? {
                let found = found.map_err(failed)?;
                let name = found.file_name().to_string_lossy().into_owned();
                let hex = name.strip_suffix(".tar.gz").unwrap_or(&name);
                match format!("sha256:{hex}").parse::<Digest>() {
                    Ok(digest) if !keep.contains(&digest) => {
                        std::fs::remove_file(found.path()).map_err(failed)?;
                        removed.push(digest);
                    }
                    _ => {}
                }
            }
            sweep(&directory)?;
            Ok(removed)
        })
        .await
    }
}

/// Packs a tree and keeps it under its digest: where, which, and that of its bytes without compression.
pub(super) fn pack(
    tree: &Tree,
    directory: &Path,
    scratch: &Scratch,
) -> Result<(PathBuf, Digest, Option<Digest>)> {
    let placing = Placing {
        to: String::new(),
        os: Os::Linux,
        user: 0,
        group: 0,
        modified: layer::TIME,
        compress: true,
    };
    let packed = layer::write(tree, &placing, scratch)?;
    let path = keep(directory, &packed.file, packed.digest, ".tar.gz", false)?;
    Ok((path, packed.digest, Some(packed.diff_id)))
}

/// Puts a file under its digest, whole or not at all.
fn keep(
    directory: &Path,
    file: &ScratchFile,
    digest: Digest,
    ending: &str,
    executable: bool,
) -> Result<PathBuf> {
    let failed = |error| of_disk("the directory of artifacts", error);
    let text = digest.to_string();
    let path = directory.join(format!("{}{ending}", text.strip_prefix("sha256:").unwrap_or(&text)));
    if path.is_file() {
        return Ok(path);
    }
    let mut options = tempfile::Builder::new();
    options.prefix(UNFINISHED);
    #[cfg(unix)]
    {
        let mode = if executable { 0o755 } else { 0o644 };
        options.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = executable;
    let mut made = options.tempfile_in(directory).map_err(failed)?;
    let (mut from, mut buffer) = (file.whole(), vec![0; 256 * 1024]);
    loop {
        let count = from.read(&mut buffer).map_err(failed)?;
        let piece = buffer.get(..count).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        made.write_all(piece).map_err(failed)?;
    }
    made.as_file().sync_all().map_err(failed)?;
    made.persist(&path).map_err(|error| failed(error.error))?;
    Ok(path)
}

/// Removes what writers that died left.
pub(super) fn sweep(directory: &Path) -> Result<()> {
    let failed = |error| of_disk("the directory of artifacts", error);
    for found in std::fs::read_dir(directory).map_err(failed)? {
        let found = found.map_err(failed)?;
        let old = found
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > STALE));
        if old && found.file_name().to_string_lossy().starts_with(UNFINISHED) {
            std::fs::remove_file(found.path()).map_err(failed)?;
        }
    }
    Ok(())
}
