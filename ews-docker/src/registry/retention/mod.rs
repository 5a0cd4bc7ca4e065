//! Retention: which manifests of a repository may go, decided by digest, shown before it is done.
//!
//! Deleting a digest takes every tag on it along, and rules that look at tags have taken images that other tags still meant
//! (goharbor/harbor#8717) and the untagged children of indexes (harbor#11273). So the unit here is the digest: [`plan`] keeps what
//! is named, pinned or recent, then everything that those need (an index's manifests) and everything that is said about them
//! (signatures, SBOMs: their referrers), and deletes only what is left. It is pure: the same contents and rules give the same plan.
//!
//! ```no_run
//! use ews_core::registry::Registry;
//! use ews_docker::registry::retention::{self, Rules};
//!
//! # async fn example(registry: &dyn Registry, running: Vec<ews_core::Digest>) -> ews_core::Result<()> {
//! let repository = "registry.example/shop/web".parse()?;
//! let rules = Rules::default().with_kept(running).with_pinned("v*").with_last(10);
//! let plan = retention::plan(&retention::read(registry, &repository, &rules).await?, &rules)?;
//! println!("{plan}");
//! retention::apply(registry, &repository, &rules, &plan).await?;
//! # Ok(()) }
//! ```
//!
//! # What it can't see
//! A registry lists tags, not manifests: what has no tag, is no part of anything tagged and is not named in the rules is
//! invisible, and stays. Should an invisible index share a manifest with one that is deleted, it loses it; name it in the rules. Referrers are
//! found by the tag scheme of the distribution specification (`sha256-…`, and with cosign's endings) and by the subject of
//! what is visible anyhow; those that a registry lists by its referrers API alone stay behind, untagged, when their subject goes.
//!
//! A registry has no transactions. [`apply`] reads everything again and refuses a plan that no longer holds, but a tag that is put
//! on a digest while that is deleted is lost. Do it while nobody pushes to the repository. Bytes are freed by the registry's own
//! garbage collection, which must not run during a push at all (distribution#3045).

mod driver;
mod plan;

pub use driver::{Applied, apply, read};
pub use plan::{Contents, DeleteReason, Deletion, Item, KeepReason, Plan, Rules, plan};
