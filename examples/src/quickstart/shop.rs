//! A release of three services that find each other, one that takes the others back with it, and staying up.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ews_core::{ErrorKind, Result};
use tokio::time::{Instant, sleep};

use super::load;
use super::say::{Ask, Said};
use super::{Interrupts, PATIENCE, Tour, service};

/// Its services, each called by the one after it.
pub(super) const MEMBERS: [&str; 3] = ["stock", "basket", "front"];
/// What the last of them answers.
const STOCK: &str = "stock v1";
/// Where its front answers.
pub(super) const DOMAIN: &str = "shop.test";

impl Tour<'_> {
    pub(super) async fn release(&mut self) -> Result<()> {
        self.report.step("release", "a shop of three services: front calls basket, basket calls stock");
        let before = self.settle().await;
        let (outcome, order) = self.released("v1").await?;
        self.report.check("it succeeded", outcome == "succeeded");
        self.report.check("each was done before the one that calls it", order == MEMBERS);
        let answer = self.answer_of_shop().await;
        self.report.show(&format!("http://{DOMAIN}/ answers: {answer}"));
        self.report.check("each found the one that it calls", answer.contains(STOCK));
        self.report.step("release", "a basket that is broken takes the stock back with it");
        let (outcome, order) = self.released(service::BROKEN).await?;
        self.report.check("it was rolled back", outcome == "rolled back");
        self.report.check("the front was not touched", order.iter().all(|member| member != "front"));
        let answer = self.answer_of_shop().await;
        self.report.check("the shop answers as before", answer.contains(STOCK));
        self.planned("two releases beside it", before).await;
        Ok(())
    }

    pub(super) async fn released(&mut self, version: &str) -> Result<(String, Vec<String>)> {
        self.controller.ask(&Ask::Release(version.to_owned())).await?;
        let mut ended = None;
        self.until("the release has ended", |said| {
            if let Said::Released { outcome, order, .. } = said {
                ended = Some((outcome.clone(), order.clone()));
            }
            ended.is_some()
        })
        .await?;
        Ok(ended.unwrap_or_default())
    }

    /// What the shop answers, at the latest after a while with the right stock in it.
    async fn answer_of_shop(&self) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = load::fetch(self.gateway, "/", DOMAIN).await;
            match answer {
                Ok((200, text)) if text.contains(STOCK) => return text,
                other if Instant::now() > until => return format!("{other:?}"),
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Stays as it is until Ctrl-C, and shows what happens.
    pub(super) async fn stay(&mut self, interrupts: &Interrupts) -> Result<()> {
        interrupts.staying.store(true, Ordering::Relaxed);
        let gateway = self.gateway;
        self.report.step("stay", "all of it is up; Ctrl-C ends it");
        self.report.show(&format!("curl -H 'Host: hello.test' http://{gateway}/"));
        self.report.show(&format!("curl -H 'Host: {DOMAIN}' http://{gateway}/"));
        self.report.show(&format!("its files are in {}", self.root.display()));
        loop {
            tokio::select! {
                () = interrupts.stayed.notified() => {
                    interrupts.staying.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                said = self.controller.next(Duration::from_secs(3600)) => match said {
                    Ok(Said::Event(text) | Said::Filled(text) | Said::Lost(text)) => self.report.show(&text),
                    Ok(Said::Scaled { why, .. }) => self.report.show(&format!("scaled: {why}")),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Timeout => {}
                    Err(error) => return Err(error),
                },
            }
        }
    }
}
