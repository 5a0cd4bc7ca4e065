//! The example policies keep the contract, do well over a day's load, and act as they say.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use ews_core::ErrorKind;
use ews_core::testkit::conformance::policy;
use ews_deploy::Outcome;
use ews_examples::custom_policy::{
    PatienceHarness, Staircase, StaircaseHarness, compared, followed, retried, staircase_for,
};

#[tokio::test]
async fn both_keep_the_contract_with_the_skips_they_name() {
    policy::run(&StaircaseHarness::new().unwrap()).await.assert_passed(StaircaseHarness::SKIPS);
    policy::run(&PatienceHarness).await.assert_passed(PatienceHarness::SKIPS);
}

/// A policy that forgets what it remembers flaps, and a replay shows it.
#[test]
fn the_replay_tells_a_good_staircase_from_a_hasty_one() {
    let of = |hold| compared(&staircase_for(Duration::from_secs(hold)).unwrap()).unwrap();
    let (patient, hasty) = (of(120), of(0));
    let [(_, patient), (_, tracking)] = patient;
    let [(_, hasty), _] = hasty;
    assert!(patient.share_under_provisioned() < 0.01, "{patient:?}");
    assert!(patient.cost() < 2.0 && tracking.cost() < 2.0, "{patient:?} {tracking:?}");
    assert_eq!((patient.fewest, patient.most), (2, 11));
    assert!(patient.changes < hasty.changes && patient.reversals < hasty.reversals, "{patient:?} {hasty:?}");
}

#[tokio::test]
async fn the_live_loop_goes_up_at_once_and_down_after_a_while() {
    let (counts, reasons) = Box::pin(followed()).await.unwrap();
    assert_eq!(counts, [2, 7, 2], "{reasons:?}");
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].starts_with("2 to 7: 350 asks for 7"), "{reasons:?}");
    assert!(reasons[1].starts_with("7 to 2: 60 has asked for 2 since"), "{reasons:?}");
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_goes_back() {
    assert_eq!(Box::pin(retried(75)).await.unwrap(), (Some(Outcome::RolledBack), 2));
    assert_eq!(Box::pin(retried(1)).await.unwrap(), (Some(Outcome::RolledBack), 0));
}

#[test]
fn steps_that_do_not_grow_are_refused() {
    for steps in [vec![], vec![(1.0, 1)], vec![(0.0, 0)], vec![(0.0, 2), (10.0, 2)], vec![(0.0, 2), (0.0, 3)]]
    {
        let error = Staircase::new("requests", steps, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}
