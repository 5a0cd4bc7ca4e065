//! Documents of services, releases, gateways and policies in every format: no panic, and what is read is written and read again as the same.
#![no_main]

use ews_core::ServiceSpec;
use ews_deploy::release::ReleaseSpec;
use ews_deploy::{RemedyPolicy, Strategy};
use ews_route::server::ServerConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for read in [ServiceSpec::from_toml(text), ServiceSpec::from_json(text), ServiceSpec::from_yaml(text)] {
        match read {
            Ok(spec) => {
                let json = serde_json::to_string(&spec).expect("a spec can be written");
                let again = ServiceSpec::from_json(&json).expect("what is written can be read");
                assert_eq!(spec, again);
                assert_eq!(spec.instance.hash(), again.instance.hash());
                let _ = format!("{spec:?}");
            }
            Err(problems) => assert!(!problems.to_string().is_empty()),
        }
    }
    let _ = ServerConfig::from_toml(text);
    if let Ok(release) = serde_json::from_str::<ReleaseSpec>(text) {
        let _ = release.check();
    }
    if let Ok(strategy) = serde_json::from_str::<Strategy>(text) {
        let _ = strategy.check();
    }
    let _ = serde_json::from_str::<RemedyPolicy>(text);
});
