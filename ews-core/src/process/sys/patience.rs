//! Killing again and again until nothing is left.

use std::time::Duration;

/// How long a tree is being killed before it is given up: what does not end then waits in the kernel.
const PATIENCE: Duration = Duration::from_secs(10);

/// Repeats a step that kills until it finds nothing; `false` where that does not happen.
pub(super) async fn until_gone(mut step: impl FnMut() -> bool) -> bool {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    while !step() {
        if tokio::time::Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    true
}
