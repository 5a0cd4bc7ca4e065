//! What is kept of a service's past: the last revisions and rollouts, and whatever is still in use.

use std::collections::BTreeSet;

use ews_core::Result;
use ews_core::store::Transaction;

use super::leader::Leader;
use crate::record::{Draft, numbered};

/// How many records one transaction deletes; a store takes 128 operations.
const AT_ONCE: usize = 100;

impl Leader {
    /// Deletes the oldest entries of the audit trail beyond those that are kept.
    pub(super) async fn trim_audit(&self) -> Result<()> {
        for part in self.tools.repository.old_audit().await?.chunks(AT_ONCE) {
            let mut transaction = Transaction::new().fence(self.tools.lead.fence().clone());
            for key in part {
                transaction = transaction.delete(key);
            }
            self.tools.repository.store().commit(&transaction).await?;
        }
        Ok(())
    }

    /// Deletes rollouts and revisions beyond those that are kept. A revision that a slot runs, that a rollback may go to or that
    /// is asked for is never deleted.
    pub(super) async fn prune(&mut self) -> Result<()> {
        let keep = self.history();
        let rollouts = self.tools.repository.rollouts().await?;
        let ended: Vec<u64> = rollouts.iter().filter(|r| r.outcome.is_some()).map(|r| r.number).collect();
        let surplus = ended.len().saturating_sub(keep);
        let old_rollouts = ended.iter().take(surplus);

        let state = &self.state;
        let mut used: BTreeSet<u64> = state.slots.values().chain(&state.stable).copied().collect();
        used.extend(state.current);
        used.extend(self.rollout.iter().flat_map(|rollout| rollout.from.into_iter().chain([rollout.to])));
        used.extend(self.input.value.active.iter().map(|active| active.revision));
        used.extend(self.input.value.queue.iter().map(|queued| queued.request.revision));
        // What a hotfix is laid over stays with it.
        let below = |number: &u64| Some(self.revisions.get(number)?.overlay.as_ref()?.base);
        used.extend(used.iter().filter_map(below).collect::<Vec<_>>());
        let unused: Vec<u64> =
            self.revisions.keys().copied().filter(|number| !used.contains(number)).collect();
        let surplus = unused.len().saturating_sub(keep);
        let old_revisions = unused.iter().take(surplus);

        let mut keys: Vec<String> = old_rollouts.map(|number| numbered("rollout", *number)).collect();
        keys.extend(old_revisions.clone().map(|number| numbered("revision", *number)));
        for part in keys.chunks(AT_ONCE) {
            let mut draft = Draft::fenced(&self.tools.repository, self.tools.lead.fence());
            for key in part {
                draft = draft.delete(key)?;
            }
            draft.commit().await?;
        }
        let gone = old_revisions.len();
        for number in old_revisions {
            self.revisions.remove(number);
        }
        self.trim_audit().await?;
        if gone == 0 {
            return Ok(());
        }
        let kept = self.revisions.keys().copied().collect();
        let stale = self.tools.repository.stale_blobs(&kept, 1_000).await?;
        for part in stale.chunks(AT_ONCE) {
            let mut transaction = Transaction::new().fence(self.tools.lead.fence().clone());
            for key in part {
                transaction = transaction.delete(key);
            }
            self.tools.repository.store().commit(&transaction).await?;
        }
        Ok(())
    }
}
