//! What services were deployed of, and when it may go: an artifact that no kept revision runs is removed.
//!
//! Between the copy of an artifact and the record of the revision that runs it there is a moment in which nobody names it. So it
//! goes only where nobody has named it at two looks in a row, an hour apart; at the start of the host, before anybody may ask for
//! anything, one look is enough.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ews_core::{Digest, Result, Source};
use ews_deploy::Deployer;
use ews_deploy::source::Sources;
use tokio::time::sleep;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(3_600);

/// The artifacts of a host.
pub(crate) struct Artifacts {
    pub(crate) directory: PathBuf,
    pub(crate) deployer: Deployer,
    pub(crate) sources: Sources,
}

impl Artifacts {
    /// Removes what nothing runs. What can't be is tried again at the next look.
    pub(crate) async fn forget(&self) {
        let forget = async { self.sources.forget_artifacts(&self.named().await?).await };
        tell(forget.await);
    }

    /// Goes on removing what nothing runs, for ever.
    pub(crate) async fn keep_small(self) {
        let mut unnamed = BTreeSet::new();
        loop {
            sleep(EVERY).await;
            unnamed = match self.look(&unnamed).await {
                Ok(unnamed) => unnamed,
                Err(error) => {
                    tell(Err(error));
                    BTreeSet::new()
                }
            };
        }
    }

    /// Removes what nobody has named at the last look nor at this one, and gives what nobody names now.
    async fn look(&self, before: &BTreeSet<Digest>) -> Result<BTreeSet<Digest>> {
        let there = there(&self.directory);
        let named: BTreeSet<Digest> = self.named().await?.into_iter().collect();
        let unnamed: BTreeSet<Digest> = there.difference(&named).copied().collect();
        let doomed: BTreeSet<Digest> = unnamed.intersection(before).copied().collect();
        if doomed.is_empty() {
            return Ok(unnamed);
        }
        // What came since the directory was read is in neither set.
        let now = self::there(&self.directory);
        let keep: Vec<Digest> = now.difference(&doomed).copied().chain(named).collect();
        tell(self.sources.forget_artifacts(&keep).await);
        Ok(unnamed.difference(&doomed).copied().collect())
    }

    /// What revisions run that are kept.
    async fn named(&self) -> Result<Vec<Digest>> {
        let mut named = Vec::new();
        for service in self.deployer.services().await? {
            for revision in self.deployer.revisions(&service).await? {
                if let Source::Artifact(artifact) = &revision.spec.instance.source {
                    named.extend(artifact.digest);
                }
            }
        }
        Ok(named)
    }
}

/// The artifacts in the directory, by their names.
fn there(directory: &Path) -> BTreeSet<Digest> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let digests = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let hex = name.strip_suffix(".tar.gz").unwrap_or(&name);
        format!("sha256:{hex}").parse().ok()
    });
    digests.collect()
}

fn tell(result: Result<Vec<Digest>>) {
    match result {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => tracing::info!(count = removed.len(), "artifacts that nothing runs were removed"),
        Err(error) => tracing::warn!(%error, "artifacts that nothing runs could not be removed"),
    }
}
