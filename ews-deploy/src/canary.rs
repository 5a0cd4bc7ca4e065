//! What a rollout does before it replaces anything: canaries by step, and blue/green.
//!
//! Instances of the new revision stand *beside* the old ones, slot by slot, so that what is served never gets less and going back
//! is a matter of weights. When every step is done the batches follow: a slot with a new instance beside its old one only loses
//! the old one. Blue/green is the same with other steps: everything beside, a look, one switch, a delay, then the old ones go.

use std::fmt;
use std::time::Duration;

use ews_core::balancer::{AttributeMatch, DomainName, HashOn};
use ews_core::time::duration;
use ews_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::analysis::Analysis;
use crate::strategy::Batch;

/// A canary: steps that are made one after the other before anything is replaced.
///
/// A first deployment has nothing to compare with and skips them; a rollback skips them too. It takes an order in which new and
/// old instances can live side by side: with a fixed port or an exclusive volume, take small batches with approval instead.
///
/// ```
/// use std::time::Duration;
/// use ews_deploy::{Canary, CanaryStep, Strategy};
///
/// let strategy = Strategy::default().with_canary(Canary::new([
///     CanaryStep::Weight(5),
///     CanaryStep::Pause(Duration::from_secs(600)),
///     CanaryStep::Weight(50),
///     CanaryStep::Approval,
/// ]));
/// strategy.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Canary {
    /// The steps, in order; 1 to [`Canary::STEPS`].
    pub steps: Vec<CanaryStep>,
    /// What is measured all along, from the first step that brings traffic to the last; its `count` is not looked at. Default: nothing.
    #[serde(default)]
    pub analysis: Option<Analysis>,
    /// What of a request decides who gets the new revision, so that a user sees one of the two. Default: chance. Needs the
    /// balancer's capability `balance_hash`.
    #[serde(default)]
    pub split_by: Option<HashOn>,
}

impl Canary {
    /// The most steps.
    pub const STEPS: usize = 50;

    /// These steps.
    pub fn new(steps: impl IntoIterator<Item = CanaryStep>) -> Self {
        Self { steps: steps.into_iter().collect(), analysis: None, split_by: None }
    }

    /// Measuring this all along.
    #[must_use]
    pub fn with_analysis(mut self, analysis: Analysis) -> Self {
        self.analysis = Some(analysis);
        self
    }

    /// With this of a request deciding who gets the new revision.
    #[must_use]
    pub fn with_split_by(mut self, what: HashOn) -> Self {
        self.split_by = Some(what);
        self
    }
}

/// A step of a canary: `{"weight": 10}`, `{"pause": "10m"}`, `"approval"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CanaryStep {
    /// So many hundredths of the traffic, 0 to 100. Before that as many instances as [`Replicas`](Self::Replicas) said, by
    /// default the same share of all, rounded up (Argo's `setWeight`).
    Weight(u8),
    /// So many instances from here on, whatever the weight (Argo's `setCanaryScale`).
    Replicas(Batch),
    /// Requests to which all of this applies get the new revision, beside their share; none: no more (Argo's `setHeaderRoute`).
    Match(Vec<AttributeMatch>),
    /// Nothing for so long, at most 7 days.
    Pause(#[serde(with = "duration")] Duration),
    /// Nothing until somebody [resumes](crate::Deployer::resume) the rollout.
    Approval,
    /// Nothing until this has passed.
    Analysis(Analysis),
}

impl fmt::Display for CanaryStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight(percent) => write!(f, "weight {percent}%"),
            Self::Replicas(count) => write!(f, "{count} of the instances"),
            Self::Match(attributes) if attributes.is_empty() => f.write_str("no matching requests"),
            Self::Match(attributes) => {
                f.write_str("requests with")?;
                for (index, attribute) in attributes.iter().enumerate() {
                    let place = format!("{:?}", attribute.place).to_lowercase();
                    write!(f, "{} {place} {}", if index == 0 { "" } else { " and" }, attribute.name)?;
                    if let Some(value) = &attribute.value {
                        write!(f, "={value}")?;
                    }
                }
                Ok(())
            }
            Self::Pause(time) => write!(f, "pause {time:?}"),
            Self::Approval => f.write_str("approval"),
            Self::Analysis(analysis) => write!(f, "analysis of {analysis}"),
        }
    }
}

/// All new instances beside all old ones, one switch of the traffic, and the old ones stay for a while.
///
/// ```
/// use ews_deploy::{BlueGreen, Strategy};
///
/// let strategy = Strategy::default().with_blue_green(BlueGreen::default().with_approval());
/// strategy.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BlueGreen {
    /// Domains under which the new instances can be looked at before the switch; at most 100. Default none.
    pub preview: Vec<DomainName>,
    /// What has to pass before the switch. Default nothing.
    pub before: Option<Analysis>,
    /// Whether the switch waits until somebody [resumes](crate::Deployer::resume) the rollout. Default no (Argo's auto-promotion).
    pub approval: bool,
    /// What has to pass after the switch; until it has, going back is one switch. Default nothing.
    pub after: Option<Analysis>,
    /// How long old instances stay after the switch, at most 7 days. Default 30 s (Argo's).
    #[serde(with = "duration")]
    pub retire: Duration,
}

impl Default for BlueGreen {
    fn default() -> Self {
        Self {
            preview: Vec::new(),
            before: None,
            approval: false,
            after: None,
            retire: Duration::from_secs(30),
        }
    }
}

impl BlueGreen {
    /// The most preview domains.
    pub const PREVIEWS: usize = 100;

    /// Seen under these domains before the switch.
    #[must_use]
    pub fn with_preview(mut self, domains: impl IntoIterator<Item = DomainName>) -> Self {
        self.preview = domains.into_iter().collect();
        self
    }

    /// Switched when somebody says so.
    #[must_use]
    pub fn with_approval(mut self) -> Self {
        self.approval = true;
        self
    }

    /// With what has to pass before and after the switch.
    #[must_use]
    pub fn with_analyses(mut self, before: Option<Analysis>, after: Option<Analysis>) -> Self {
        (self.before, self.after) = (before, after);
        self
    }

    /// Old instances stay for so long.
    #[must_use]
    pub fn with_retire(mut self, retire: Duration) -> Self {
        self.retire = retire;
        self
    }

    /// The steps that it stands for.
    pub(crate) fn steps(&self) -> Vec<CanaryStep> {
        let mut steps = vec![CanaryStep::Replicas(Batch::Percent(100))];
        steps.extend(self.before.clone().map(CanaryStep::Analysis));
        steps.extend(self.approval.then_some(CanaryStep::Approval));
        steps.push(CanaryStep::Weight(100));
        steps.extend(self.after.clone().map(CanaryStep::Analysis));
        if !self.retire.is_zero() {
            steps.push(CanaryStep::Pause(self.retire));
        }
        steps
    }
}

/// Refuses steps that can't be made.
pub(crate) fn check_steps(steps: &[CanaryStep]) -> Result<()> {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    let wrong = |number: usize, what: &str, accepted: &str| {
        Err(Error::invalid(format!("step {number} of the canary {what}; accepted: {accepted}"))
            .with_context("field", "canary.steps"))
    };
    if steps.is_empty() || steps.len() > Canary::STEPS {
        return Err(Error::invalid(format!(
            "a canary of {} steps; accepted: 1 to {}",
            steps.len(),
            Canary::STEPS
        ))
        .with_context("field", "canary.steps"));
    }
    let mut stands = false;
    for (number, step) in (1..).zip(steps) {
        match step {
            CanaryStep::Weight(percent) if *percent > 100 => {
                return wrong(number, &format!("is a weight of {percent}"), "0 to 100");
            }
            CanaryStep::Replicas(count) if !count.is_valid() => {
                return wrong(number, "is no number of instances", "a count from 1, or `1%` to `100%`");
            }
            CanaryStep::Pause(time) if time.is_zero() || *time > WEEK => {
                return wrong(number, &format!("is a pause of {time:?}"), "above zero, at most 7 days");
            }
            CanaryStep::Match(attributes) if attributes.len() > 16 => {
                return wrong(number, "has too many attributes", "at most 16");
            }
            CanaryStep::Analysis(analysis) => {
                analysis.check().map_err(|error| error.with_context("step", number))?;
                if !stands {
                    return wrong(
                        number,
                        "measures what is not there yet",
                        "a weight, instances or a match before the first analysis",
                    );
                }
            }
            _ => {}
        }
        stands |= matches!(step, CanaryStep::Weight(1..) | CanaryStep::Replicas(_))
            || matches!(step, CanaryStep::Match(attributes) if !attributes.is_empty());
    }
    Ok(())
}
