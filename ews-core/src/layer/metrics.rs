//! [`Metrics`] behind a layer.
#![deny(clippy::missing_trait_methods)]

use async_trait::async_trait;

use crate::capability::{Capability, CapabilitySet};
use crate::error::Result;
use crate::layer::{Around, Call, CallKind, Contract, Layered, Subject};
use crate::metrics::{Answer, Function, MetricInfo, MetricQuery, Metrics, Reading, TimeRange};

const fn call<'a>(operation: &'static str) -> Call<'a> {
    Call::new(Contract::Metrics, operation, CallKind::Read)
}

#[async_trait]
impl<C: Metrics + ?Sized, A: Around> Metrics for Layered<C, A> {
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities()
    }

    async fn describe(&self, after: Option<String>, limit: usize) -> Result<Vec<MetricInfo>> {
        self.around.around(call("metrics.describe"), || self.inner.describe(after.clone(), limit)).await
    }

    async fn instant(&self, query: &MetricQuery, at: Option<crate::Timestamp>) -> Result<Answer<Reading>> {
        let check = || check(&self.inner.capabilities(), query.function);
        let call = call("metrics.instant").about(Subject::object(&query.metric)).checked(&check);
        self.around.around(call, || self.inner.instant(query, at)).await
    }

    async fn range(&self, query: &MetricQuery, range: &TimeRange) -> Result<Answer<Vec<Reading>>> {
        let check = || {
            let capabilities = self.inner.capabilities();
            capabilities.require(Capability::MetricRanges)?;
            check(&capabilities, query.function)
        };
        let call = call("metrics.range").about(Subject::object(&query.metric)).checked(&check);
        self.around.around(call, || self.inner.range(query, range)).await
    }
}

fn check(has: &CapabilitySet, function: Function) -> Result<()> {
    match function {
        Function::Last => Ok(()),
        Function::Quantile(..) => {
            has.require(Capability::MetricHistograms)?;
            has.require(Capability::MetricWindows)
        }
        _ => has.require(Capability::MetricWindows),
    }
}
