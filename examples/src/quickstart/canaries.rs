//! A canary that does badly, one that does well, and files that are replaced in running instances.

use ews_core::Result;

use super::load;
use super::say::{Ask, Said};
use super::{REPLICAS, Tour, service};

/// The share of the requests that the canary gets, in hundredths.
pub(super) const SHARE: u8 = 20;

impl Tour<'_> {
    /// One that its probe finds healthy, and that the gateway's figures find out.
    pub(super) async fn sickly_canary(&mut self) -> Result<()> {
        let what = format!("a canary with {SHARE} % of the requests; it is ready and answers with errors");
        self.report.step("canary v5", &what);
        let before = self.settle().await;
        self.controller.ask(&Ask::Canary(service::SICKLY.to_owned())).await?;
        let outcome = self.outcome().await?;
        let now = self.settle().await;
        let (sent, failed) = (now.0 - before.0, now.1 - before.1);
        self.report.cost("a canary that does badly, and the way back", (sent, failed), before.2);
        self.report.check("it was rolled back by what the gateway counted", outcome.outcome == "rolled back");
        self.report.show(&format!("{failed} of {sent} requests met it"));
        // A third is far from a fifth, and all would be the version everywhere.
        self.report
            .check("some requests met it, and no more than its share", failed > 0 && failed * 3 < sent);
        let versions = self.status().await?.0;
        self.report.check("three instances of v2 serve on", versions == ["v2", "v2", "v2"]);
        let before = self.settle().await;
        self.wait_for_requests(before.0 + 50).await;
        self.report.check("and none fails any more", self.settle().await.1 == before.1);
        Ok(())
    }

    pub(super) async fn good_canary(&mut self) -> Result<()> {
        self.report.step("canary v6", "the same way, and it does well");
        let before = self.settle().await;
        self.controller.ask(&Ask::Canary("v6".to_owned())).await?;
        let outcome = self.outcome().await?;
        self.report.check("it was promoted", outcome.outcome == "succeeded");
        let versions = self.status().await?.0;
        self.report.check("three instances of v6 serve", versions == ["v6", "v6", "v6"]);
        self.planned("a canary that is promoted", before).await;
        Ok(())
    }

    pub(super) async fn hotfix(&mut self) -> Result<()> {
        self.report.step("hotfix", "one file replaced in the running instances, one after the other");
        let (before, ids) = (self.settle().await, self.instances().await?);
        self.controller.ask(&Ask::Hotfix("mended".to_owned())).await?;
        let outcome = self.outcome().await?;
        self.report.check("it succeeded", outcome.outcome == "succeeded");
        let same = self.instances().await? == ids;
        self.report.check("they are the same instances, not started again", same);
        let mut mended = 0;
        for _ in 0..REPLICAS * 4 {
            let answer = load::fetch(self.gateway, "/", "hello.test").await;
            mended += u32::from(answer.is_ok_and(|(status, text)| status == 200 && text.contains("mended")));
        }
        self.report.check("every one of them answers with what is new", mended == REPLICAS * 4);
        self.planned("a hotfix", before).await;
        Ok(())
    }

    /// Which instances run, and which of their starts.
    async fn instances(&mut self) -> Result<Vec<String>> {
        self.controller.ask(&Ask::Status).await?;
        let mut found = Vec::new();
        self.until("the status", |said| {
            if let Said::Status { instances, .. } = said {
                found.clone_from(instances);
            }
            matches!(said, Said::Status { .. })
        })
        .await?;
        found.sort();
        Ok(found)
    }
}
