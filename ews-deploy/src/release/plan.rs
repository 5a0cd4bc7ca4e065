//! What a release would do: the order, a plan for each member, and what somebody should know before.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ews_core::store::StoreRevision;
use ews_core::time::duration;
use ews_core::{ReleaseName, ServiceName};
use serde::{Deserialize, Serialize};

use super::spec::After;
use crate::plan::{Base, Plan};

/// What a release would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReleasePlan {
    /// Of which name.
    pub release: ReleaseName,
    /// The members in the order in which they go; those of one list may go at once.
    pub order: Vec<Vec<ServiceName>>,
    /// What is done to each, in that order.
    pub members: Vec<PlannedMember>,
    /// The services that are removed at the end, the first one first.
    pub removes: Vec<ServiceName>,
    /// What somebody should know before, those of the members' plans included.
    pub warnings: Vec<String>,
    /// The least time that it takes: of each list the member that takes longest, jobs not counted.
    #[serde(with = "duration")]
    pub at_least: Duration,
    pub(crate) base: ReleaseBase,
}

/// What is done to a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedMember {
    /// Which.
    pub member: ServiceName,
    /// What it waits for.
    pub after: Vec<After>,
    /// What.
    pub action: MemberAction,
}

/// What is done to a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemberAction {
    /// A rollout.
    Deploy(Box<Plan>),
    /// Nothing: it runs what it should already.
    Unchanged,
    /// A job is run once. It can't be taken back.
    Job,
}

/// What a plan was made from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ReleaseBase {
    pub(crate) input: StoreRevision,
    pub(crate) members: BTreeMap<ServiceName, Base>,
}

impl fmt::Display for ReleasePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "release {}", self.release)?;
        for (number, wave) in (1..).zip(&self.order) {
            let names: Vec<_> = wave.iter().map(ServiceName::as_str).collect();
            writeln!(f, "{number}. {}", names.join(", "))?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        for member in &self.members {
            let after: Vec<_> =
                member.after.iter().map(|edge| format!("{} is {}", edge.member, edge.condition)).collect();
            let when =
                if after.is_empty() { String::new() } else { format!(" when {}", after.join(" and ")) };
            match &member.action {
                MemberAction::Unchanged => writeln!(f, "= {}: runs this already", member.member)?,
                MemberAction::Job => writeln!(f, "! {}{when}: the job is run once", member.member)?,
                MemberAction::Deploy(plan) => {
                    writeln!(f, "~ {}{when}:", member.member)?;
                    for line in plan.to_string().lines() {
                        writeln!(f, "    {line}")?;
                    }
                }
            }
        }
        for service in &self.removes {
            writeln!(f, "- {service}: is removed at the end")?;
        }
        write!(f, "takes at least {:?}", self.at_least)
    }
}
