//! Names, references, selectors and quantities: no panic, and what is shown is read as the same.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use ews_core::balancer::DomainName;
use ews_core::spec::content::SecretRef;
use ews_core::spec::resources::{ByteSize, Cpu};
use ews_core::{Digest, HostName, ImageRef, InstanceId, Labels, OwnerId, Selector, ServiceName};
use libfuzzer_sys::fuzz_target;

fn same<T: FromStr + Display + Debug + PartialEq>(text: &str)
where
    T::Err: Debug + Display,
{
    match text.parse::<T>() {
        Ok(read) => assert_eq!(read, read.to_string().parse::<T>().expect("what is shown can be read")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    same::<ImageRef>(text);
    same::<SecretRef>(text);
    same::<Digest>(text);
    if let Ok(name) = DomainName::new(text) {
        assert_eq!(name, DomainName::new(name.as_str()).expect("what is shown can be read"));
    }
    same::<HostName>(text);
    same::<OwnerId>(text);
    same::<ServiceName>(text);
    same::<InstanceId>(text);
    same::<ByteSize>(text);
    same::<Cpu>(text);
    let _ = ews_core::time::parse_duration(text);
    if let Ok(selector) = text.parse::<Selector>() {
        let again: Selector = selector.to_string().parse().expect("what is shown can be read");
        for (key, value) in [("a", "b"), ("app", "web"), ("a", "")] {
            if let Ok(labels) = Labels::new([(key, value)]) {
                assert_eq!(selector.matches(&labels), again.matches(&labels));
            }
        }
    }
    let mut parts = text.split('\n');
    if let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        let _ = Labels::new([(key, value)]);
    }
});
