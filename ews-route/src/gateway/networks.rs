//! Many networks, looked up in as many steps as they have different lengths.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use ews_core::balancer::Network;

/// A set of networks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Networks {
    v4: Lengths,
    v6: Lengths,
}

/// For each number of bits that count, those bits of each network.
type Lengths = BTreeMap<u8, HashSet<u128>>;

impl Networks {
    pub(crate) fn new<'a>(networks: impl IntoIterator<Item = &'a Network>) -> Self {
        let mut set = Self::default();
        for network in networks {
            let (is_four, value, width) = number(network.address());
            let lengths = if is_four { &mut set.v4 } else { &mut set.v6 };
            lengths.entry(network.bits()).or_default().insert(leading(value, width, network.bits()));
        }
        set
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether the address is in one of them.
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let (is_four, value, width) = number(address.to_canonical());
        let lengths = if is_four { &self.v4 } else { &self.v6 };
        lengths.iter().any(|(bits, known)| known.contains(&leading(value, width, *bits)))
    }
}

/// Whether an address is an IPv4 one, its number, and how many bits that has.
pub(crate) fn number(address: IpAddr) -> (bool, u128, u8) {
    match address {
        IpAddr::V4(address) => (true, u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (false, u128::from(address), 128),
    }
}

/// The bits that count, as a number.
pub(crate) fn leading(value: u128, width: u8, bits: u8) -> u128 {
    value.checked_shr(u32::from(width.saturating_sub(bits))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network() -> impl Strategy<Value = Network> {
        (any::<bool>(), any::<u128>(), 0_u8..=128).prop_map(|(is_four, value, bits)| {
            let bits = if is_four { bits / 4 } else { bits };
            let width = if is_four { 32 } else { 128 };
            // Few different addresses, or nothing ever meets.
            let value = (value & 3) << (width - 2);
            let value = leading(value, width, bits).checked_shl(u32::from(width - bits)).unwrap_or(0);
            let address = match u32::try_from(value) {
                Ok(value) if is_four => IpAddr::from(value.to_be_bytes()),
                _ => IpAddr::from(value.to_be_bytes()),
            };
            Network::new(address, bits).unwrap()
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_each_by_itself_finds(
            networks in proptest::collection::vec(network(), 0..6),
            address in network(),
        ) {
            let address = address.address();
            let one_by_one = networks.iter().any(|network| network.contains(address));
            prop_assert_eq!(Networks::new(&networks).contain(address), one_by_one);
        }
    }
}
