//! The example driver passes the suite of runtimes on real processes, with exactly the skips that it names.

#![cfg(unix)]

use ews_core::testkit::conformance::runtime;
use ews_examples::custom_runtime::Harness;

// Real processes need the real clock; the suite polls and asserts no upper bound that a slow machine could miss.
#[tokio::test]
async fn the_example_driver_passes_with_the_skips_it_names() {
    let harness = Harness::new().unwrap();
    runtime::run(&harness).await.assert_passed(Harness::SKIPS);
}
