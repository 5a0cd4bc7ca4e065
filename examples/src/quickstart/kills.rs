//! The controller is killed by SIGKILL at one step after the other of an update and of a rollback, under load.
//!
//! `quickstart kills` does it at every step, `quickstart kills 3` at every third. The tests of ews-deploy do the same at every single
//! commit, on virtual time; here the process, its runtime, its store on disk and the gateway are real.

use std::process::ExitCode;

use ews_core::{Error, ErrorKind, Result};
use tokio::time::{Duration, Instant};

use super::load::Load;
use super::processes::{ControllerProcess, GatewayProcess};
use super::report::Report;
use super::say::{Ask, Said};
use super::{AT_REST, PATIENCE, REPLICAS, Tour, clean_up, prepare, processes_below, service};

/// More steps than any rollout of the tour has; the loop ends when one passes without a kill.
const STEPS: usize = 200;

/// Kills at every `stride`-th step.
pub async fn kills(stride: usize) -> ExitCode {
    let root = std::env::temp_dir().join(format!("ews-quickstart-kills-{}", std::process::id()));
    let mut report = Report::new();
    if let Err(error) = through(&root, &mut report, stride.max(1)).await {
        report.fail(&format!("it broke off: {error}"));
        clean_up(&root).await;
    }
    report.end()
}

async fn through(root: &std::path::Path, report: &mut Report, stride: usize) -> Result<()> {
    prepare(root)?;
    let gateway = GatewayProcess::start(root).await?;
    let controller = ControllerProcess::start(root).await?;
    let load = Load::start(gateway.address);
    let mut ground = super::Ground::Processes;
    let mut tour = Tour {
        root,
        gateway: gateway.address,
        ground: &mut ground,
        report,
        controller,
        load,
        drained: true,
        alerts: Vec::new(),
        scales: Vec::new(),
    };
    tour.first_deployment().await?;
    tour.load.set_rate(AT_REST);

    for (what, broken) in [("an update", false), ("a rollback", true)] {
        let (mut current, mut rounds) = (tour.status().await?.0.first().cloned().unwrap_or_default(), 0);
        for at in (1..STEPS).step_by(stride) {
            let next = if broken { service::BROKEN.to_owned() } else { format!("u{at}") };
            tour.report.step("kill", &format!("at step {at} of {what}"));
            let before = tour.settle().await;
            let (killed, outcome) = tour.killed_at(at, &next).await?;
            if !broken {
                current.clone_from(&next);
            }
            let wanted = if broken { "rolled back" } else { "succeeded" };
            tour.report.check(&format!("{what} {wanted}"), outcome.contains(wanted));
            let whole = tour.eventually(REPLICAS).await?;
            let versions = tour.status().await?.0;
            let all = whole && versions.iter().all(|version| *version == current);
            tour.report.check(&format!("{REPLICAS} instances of {current} serve, none besides"), all);
            tour.planned(what, before).await;
            if !killed {
                break;
            }
            rounds += 1;
        }
        tour.report.show(&format!("{rounds} kills in {what}"));
        tour.report.check("the loop reached the steps that it is about", rounds * stride >= 3);
    }

    let Tour { controller, load, .. } = tour;
    let mut controller = controller;
    drop(load);
    controller.ask(&Ask::Remove).await?;
    while controller.next(PATIENCE).await? != Said::Removed {}
    report.check("the controller left in order", controller.leave().await?);
    report.check("the gateway ended in order", gateway.stop().await);
    let _ = std::fs::remove_dir_all(root);
    report.check("no process is left", processes_below(root) == 0);
    Ok(())
}

impl Tour<'_> {
    /// Deploys a version and kills the controller when it begins the `at`-th step. Whether it came to that, and how the rollout
    /// ended.
    async fn killed_at(&mut self, at: usize, version: &str) -> Result<(bool, String)> {
        self.controller.ask(&Ask::Deploy(version.to_owned())).await?;
        let (mut steps, mut killed) = (0, false);
        let until = Instant::now() + PATIENCE * 2;
        loop {
            let said = match self.controller.next(Duration::from_millis(500)).await {
                Err(error) if error.kind() == ErrorKind::Timeout && Instant::now() < until => continue,
                said => said?,
            };
            match said {
                Said::Step(step) if !killed => {
                    steps += 1;
                    if steps == at {
                        self.controller.kill().await;
                        self.report.show(&format!("killed as it began: {step}"));
                        killed = true;
                        // It may have ended the rollout before it was killed, and nobody would say so again.
                        let mut ended = None;
                        while let Ok(said) = self.controller.next(PATIENCE).await {
                            ended = ended.or(outcome(said));
                        }
                        self.controller = ControllerProcess::start(self.root).await?;
                        if let Some(ended) = ended {
                            return Ok((killed, ended));
                        }
                    }
                }
                Said::Failed(why) => {
                    return Err(Error::internal("the controller failed").with_detail(why));
                }
                said => {
                    if let Some(ended) = outcome(said) {
                        return Ok((killed, ended));
                    }
                }
            }
        }
    }
}

/// How a rollout ended, where this says so.
fn outcome(said: Said) -> Option<String> {
    match said {
        Said::Event(event) if event.starts_with("rollout ") && !event.starts_with("rollout:") => Some(event),
        _ => None,
    }
}
