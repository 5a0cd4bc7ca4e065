//! The version of the tables in a file, and the way from older ones.

use super::super::embedded::codec::{self, corrupt, meta};
use super::super::embedded::rows::{Backend as _, Ending, RowsMut, Table};
use super::rows::RedbRows;
use crate::error::{Error, Result};

/// The version that a program writes, and how it gets there from each older one.
pub(super) struct Formats {
    pub(super) version: u64,
    /// One for each version before, in order.
    pub(super) migrations: &'static [Migration],
}

/// One step from a version to the next.
pub(super) struct Migration {
    pub(super) from: u64,
    pub(super) run: fn(&mut dyn RowsMut) -> Result<()>,
}

/// What [`codec`](super::super::embedded::codec) describes. Whoever changes that raises this and adds a migration.
pub(super) const CURRENT: Formats = Formats { version: 1, migrations: &[] };

/// Brings rows to the version of `formats`, in one transaction, or refuses them.
pub(super) fn migrate(rows: &RedbRows, formats: &Formats) -> Result<()> {
    let mut found = None;
    rows.read(&mut |rows| {
        found =
            rows.get(Table::Meta, meta::FORMAT)?.map(|row| codec::read_number("format", &row)).transpose()?;
        Ok(())
    })?;
    let Some(found) = found else {
        return Err(corrupt("the file is a database, though not a store of EWS: it has no format version"));
    };
    let current = formats.version;
    if found > current {
        return Err(corrupt(format!(
            "the store has the format {found}, of a newer version of EWS; this one reads formats up to {current}"
        )));
    }
    if found == current {
        return Ok(());
    }
    tracing::info!(from = found, to = current, "migrating the store's format");
    rows.write(&mut |rows| {
        for version in found..current {
            let step = formats.migrations.iter().find(|step| step.from == version).ok_or_else(|| {
                corrupt(format!(
                    "the store has the format {found}; there is no way from {version} to {current}"
                ))
            })?;
            (step.run)(rows).map_err(|error: Error| error.with_context("migration_from", version))?;
        }
        rows.put(Table::Meta, meta::FORMAT, &current.to_le_bytes())?;
        Ok(Ending::Commit)
    })
}
