//! Networks of clients, written as `10.0.0.0/8`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::time::Shown;

/// A network: an address and how many of its bits count. All that follow are zero, so that one network has one name.
///
/// ```
/// use ews_core::balancer::Network;
///
/// let network: Network = "10.1.0.0/16".parse()?;
/// assert!(network.contains("10.1.2.3".parse().expect("an address")));
/// assert!("10.1.2.3/16".parse::<Network>().is_err());
/// assert_eq!("10.1.2.3".parse::<Network>()?.to_string(), "10.1.2.3/32");
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// This network.
    ///
    /// # Errors
    /// `Invalid` for more bits than the address has, or ones among those that do not count.
    pub fn new(address: IpAddr, bits: u8) -> Result<Self> {
        let (value, width) = number(address);
        match width.checked_sub(bits) {
            Some(rest) if value & !mask(rest) == 0 => Ok(Self { address, bits }),
            _ => Err(Error::invalid(format!(
                "the network {address}/{bits}; accepted: at most {width} bits, and zeros in all that follow them"
            ))),
        }
    }

    /// Its address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits count.
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether the address is in it. An IPv4 address that is written as an IPv6 one (`::ffff:10.0.0.1`) is looked at as what
    /// it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, width) = number(self.address);
        let (other, others) = number(address.to_canonical());
        width == others && (own ^ other) & mask(width - self.bits) == 0
    }
}

/// An address as a number, and its width in bits.
fn number(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

/// All ones but for so many at the end.
fn mask(rest: u8) -> u128 {
    u128::MAX.checked_shl(rest.into()).unwrap_or(0)
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl std::str::FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "`{}` is no network; accepted: an address, such as `10.0.0.1`, or one with its bits, such as `10.0.0.0/8`",
                Shown(text)
            ))
        };
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| wrong())?,
            None => number(address).1,
        };
        Self::new(address, bits)
    }
}

impl TryFrom<String> for Network {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_has_one_name_and_contains_its_addresses() {
        for wrong in
            ["", "/8", "10.0.0.0/33", "10.0.0.1/8", "::1/64", "10.0.0.0/-1", "10.0.0.0/8/8", "a/8", "::/129"]
        {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
        let within = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(within("0.0.0.0/0", "255.255.255.255") && !within("0.0.0.0/0", "::1"));
        assert!(within("10.0.0.0/8", "10.255.0.1") && !within("10.0.0.0/8", "11.0.0.0"));
        assert!(within("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(within("::/0", "2001:db8::1") && within("2001:db8::/32", "2001:db8:ffff::"));
        assert!(within("10.0.0.1", "10.0.0.1") && !within("10.0.0.1", "10.0.0.0"));
        assert!(!within("2001:db8::/32", "2001:db9::"));
    }
}
