//! The format before: `log/<generation>/<part>` with the changes, now and then an `image/<generation>/<part>` of everything,
//! and `current`, which named the image that counts.
//!
//! It is read once. The records are written beside it, `current` is changed last, and then it is removed: a crash before that
//! last write leaves the old journal as it was, and one after it the new one.

use ews_core::balancer::{Applied, Change, Limits, ObjectKind, Remembered, Stored, Table, TableImage};
use ews_core::id::ChangeId;
use ews_core::spec::source::Digest;
use ews_core::store::{Transaction, Write};
use ews_core::{CapabilitySet, Result};
use serde::Deserialize;

use super::batch::Writes;
use super::record::{Current, FORMAT, corrupt, encode, read};
use super::{Journal, Writer};

/// An image of that time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    generation: u64,
    objects: Vec<Stored>,
    changes: Vec<(ChangeId, Digest, Applied)>,
}

impl Journal {
    /// Reads what there is in the format before, and writes it in the present one; gives the generation that it is at.
    pub(super) async fn migrate(&self, current: Option<u64>) -> Result<u64> {
        let table = self.read_legacy(current).await?;
        for begun in ["object", "part", "change", "pending"] {
            // What an earlier attempt left.
            self.clear(begun).await?;
        }
        let mut writer = Writer::new(self);
        for &kind in ObjectKind::ALL {
            for stored in table.stored(kind, None) {
                let mut writes = Writes::default();
                writes.object(
                    &self.keys,
                    &stored.object.reference(),
                    stored.version,
                    Some(&stored.object),
                )?;
                for write in writes.all {
                    writer.add(write).await?;
                }
            }
        }
        let generation = table.generation();
        for change in table.remembered() {
            let (key, value) = (self.keys.change(&change)?, encode(&change)?);
            writer.add(Write::Put { key, value, lease: None }).await?;
        }
        writer.flush().await?;
        let current = encode(&Current { generation, format: FORMAT })?;
        self.store.commit(&Transaction::new().put(&self.keys.current()?, current)).await?;
        tracing::info!(generation, "the journal was moved to the present format");
        Ok(generation)
    }

    async fn read_legacy(&self, current: Option<u64>) -> Result<Table> {
        // What was accepted once stays, whatever this version accepts.
        let (everything, unlimited) = (CapabilitySet::all, super::replay::unlimited());
        let mut table = Table::new(everything(), unlimited);
        if let Some(generation) = current {
            let Some(bytes) = self.read_parts(&format!("image/{generation:020}")).await? else {
                return Err(corrupt("the journal's current image is not there"));
            };
            table = restore(read(&bytes)?, everything(), unlimited)?;
        }
        while let Some(bytes) = self.read_parts(&format!("log/{:020}", table.generation() + 1)).await? {
            let before = table.generation();
            let mut change: Change = read(&bytes)?;
            // They held when it was applied.
            change.preconditions.clear();
            if table.apply(&change)?.generation != before + 1 {
                return Err(corrupt("the journal holds a change twice"));
            }
        }
        Ok(table)
    }
}

fn restore(image: Image, capabilities: CapabilitySet, limits: Limits) -> Result<Table> {
    let Image { generation, objects, changes } = image;
    let remembered =
        |(id, digest, applied): (ChangeId, Digest, Applied)| Remembered::new(id, digest, applied.generation);
    let changes = changes.into_iter().map(remembered).collect();
    Table::restore(TableImage::new(generation, objects, changes), capabilities, limits)
}
