//! The fake runtime passes the suite of runtimes: with every capability, and with few.

use ews_core::testkit::conformance::runtime::{self, LogCapture};
use ews_core::testkit::fake::{FakeConfig, FakeHarness};

#[tokio::test(start_paused = true)]
async fn the_fake_passes_every_case() {
    let log = LogCapture::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let harness = FakeHarness::new(FakeConfig::default(), log);
    let report = runtime::run(&harness).await;
    println!("{report}");
    report.assert_passed(&[]);
    assert_eq!(harness.engine().objects(), 0, "the suite left instances behind");
    assert_eq!(harness.engine().processes(), 0, "the suite left processes behind");
}
