//! Changes at the balancer, as the admin endpoint takes them: no panic, and what passes the checks can be applied to a balancer or is refused.
#![no_main]

use ews_core::balancer::{Change, Object};
use ews_core::testkit::FakeBalancer;
use ews_core::Balancer as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(object) = serde_json::from_slice::<Object>(bytes) {
        let _ = object.check();
        let json = serde_json::to_vec(&object).expect("an object can be written");
        assert_eq!(serde_json::from_slice::<Object>(&json).expect("what is written can be read"), object);
    }
    let Ok(change) = serde_json::from_slice::<Change>(bytes) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let balancer = FakeBalancer::new();
        if balancer.apply(&change).await.is_ok() {
            balancer.apply(&change).await.expect("the same change again is the same");
        }
    });
});
