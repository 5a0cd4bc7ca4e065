//! Tokens of control endpoints.

use std::fmt;

use axum::http::{HeaderMap, header};
use subtle::{Choice, ConstantTimeEq as _};

use crate::error::{Error, Result};
use crate::secrets::SecretValue;

/// The tokens that open an endpoint. Several, so that one can be replaced while the other still works.
///
/// A token is kept as its SHA-256 only. The one that is presented is hashed too and compared with every one that is kept, each
/// in constant time and none left out, so that neither a right beginning nor which token it is shows in the time. Hashing
/// a presented token takes a time that depends on its length, which its sender knows anyway.
#[derive(Clone)]
pub struct Tokens {
    hashes: Vec<[u8; 32]>,
}

impl Tokens {
    /// The shortest accepted token, in bytes.
    pub const MIN_LEN: usize = 16;
    /// The most tokens.
    pub const MAX_COUNT: usize = 64;

    /// These tokens.
    ///
    /// # Errors
    /// `Invalid` for none, too many, or one that is shorter than [`Self::MIN_LEN`] and could be guessed.
    pub fn new(tokens: impl IntoIterator<Item = SecretValue>) -> Result<Self> {
        let mut hashes = Vec::new();
        for token in tokens {
            if token.expose().len() < Self::MIN_LEN {
                return Err(Error::invalid(format!(
                    "a token is too short (it is not shown); accepted: at least {} bytes of randomness",
                    Self::MIN_LEN
                )));
            }
            hashes.push(hmac_sha256::Hash::hash(token.expose()));
        }
        Self::from_sha256(hashes)
    }

    /// Tokens of which only the SHA-256 is known here.
    ///
    /// # Errors
    /// `Invalid` for none or too many.
    pub fn from_sha256(hashes: impl IntoIterator<Item = [u8; 32]>) -> Result<Self> {
        let hashes: Vec<_> = hashes.into_iter().take(Self::MAX_COUNT + 1).collect();
        if !(1..=Self::MAX_COUNT).contains(&hashes.len()) {
            return Err(Error::invalid(format!(
                "an endpoint needs 1 to {} tokens; one that needs none says so with `Access::Open`",
                Self::MAX_COUNT
            )));
        }
        Ok(Self { hashes })
    }

    /// Whether the request carries one of the tokens: `Authorization: Bearer <token>`, once.
    pub fn open(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (first, second) = (given.next(), given.next());
        let token = first.and_then(|value| bearer(value.as_bytes())).filter(|_| second.is_none());
        // Without a token the same work is done on none, so that both refusals take the same way.
        let hash = hmac_sha256::Hash::hash(token.unwrap_or_default());
        let same = self.hashes.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&hash));
        bool::from(same & Choice::from(u8::from(token.is_some())))
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii()).filter(|token| !token.is_empty())
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.hashes.len())
    }
}
