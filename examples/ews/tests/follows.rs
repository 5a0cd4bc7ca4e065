//! What follows from what is measured: a count that follows the load, and an alert.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod stage;

use stage::{Load, Stage, pause};

#[test]
fn the_count_follows_the_load_and_somebody_is_told_of_it() {
    let query = "query = { metric = \"ews.route.requests\", matching = \"service=hello\", function = { rate = \"20s\" }, \
                 aggregate = { by = \"sum\", group = [] } }";
    let stage = Stage::new(&format!(
        "[scale.hello]\nmin = 2\nmax = 3\ninterval = \"1s\"\nrespect = \"1s\"\nwarm_up = \"1s\"\n\
         [[scale.hello.signals]]\nname = \"requests\"\ntarget = {{ per_instance = 1.0 }}\n{query}\n\
         [[alerts]]\nname = \"busy\"\ncondition = {{ above = 5.0 }}\ninterval = \"1s\"\nseverity = \"ticket\"\n{query}\n"
    ));
    stage.ews(&["deploy", &stage.hello("v1", "bounds = [2, 5]")]).ends(0);
    let load = Load::on(stage.http(), "hello.test");
    let until = std::time::Instant::now() + stage::PATIENCE;
    loop {
        let seen = stage.ews(&["status", "hello", "--json"]).ends(0).json();
        let events = stage.ews(&["events"]).ends(0).out;
        if seen["desired"] == 3 && seen["ready"] == 3 && events.contains("alert busy firing") {
            break;
        }
        assert!(std::time::Instant::now() < until, "{seen}\n{events}");
        pause(500);
    }
    stage.ews(&["history", "hello"]).ends(0).says(&["autoscaler", "scale from 2 to 3"]);
    stage.ews(&["events", "hello"]).ends(0).says(&["scaled from 2 to 3"]);
    assert!(stage.log().contains("busy firing"));
    // What scaling may set holds for the operator too.
    stage.ews(&["scale", "hello", "6"]).ends(2).says(&["accepted by the service's bounds: 2 to 5"]);
    let (asked, failed) = load.end();
    assert_eq!(failed, 0, "of {asked}");
    stage.clear();
}
