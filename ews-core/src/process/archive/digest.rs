//! Reading an artifact's file once, and hashing exactly what was read.

use std::fs::File;
use std::io::{self, Read};

use crate::error::{Error, ErrorKind, Result};
use crate::spec::source::Digest;

/// A file of the length that it had when it was opened, hashed as it is read where a digest is expected.
pub(super) struct Hashed {
    file: File,
    length: u64,
    left: u64,
    expected: Option<(Digest, hmac_sha256::Hash)>,
}

impl Hashed {
    /// From where the file stands, which is its start.
    pub(super) fn new(file: File, length: u64, expected: Option<Digest>) -> Self {
        let expected = expected.map(|digest| (digest, hmac_sha256::Hash::new()));
        Self { file, length, left: length, expected }
    }

    /// Reads what nobody read yet, and compares the digest of the whole file.
    ///
    /// # Errors
    /// `Invalid` for another digest; `Busy` for a file that changed meanwhile.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.expected.is_some() {
            io::copy(&mut self, &mut io::sink()).map_err(unreadable)?;
        }
        let length = self.file.metadata().map_err(unreadable)?.len();
        if length != self.length || (self.expected.is_some() && self.left != 0) {
            return Err(Error::new(ErrorKind::Busy, "the artifact changed while it was read"));
        }
        let Some((expected, hash)) = self.expected else { return Ok(()) };
        let found = Digest::from_sha256(hash.finalize());
        if found == expected {
            return Ok(());
        }
        Err(Error::invalid(format!("the artifact's digest is {found}, and {expected} is expected")))
    }
}

impl Read for Hashed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = (&self.file).take(self.left).read(into)?;
        self.left = self.left.saturating_sub(count as u64);
        if let (Some((_, hash)), Some(read)) = (&mut self.expected, into.get(..count)) {
            hash.update(read);
        }
        Ok(count)
    }
}

fn unreadable(error: io::Error) -> Error {
    super::fault::file("read", &"the artifact", error)
}
