//! Content digests: `sha256:` and 64 lower-case hexadecimal digits (OCI image specification,
//! `descriptor.md`).

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::Error;

/// A SHA-256 digest in its written form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::new().chain_update(bytes))
    }

    /// Reads the written form.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for another algorithm or form.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let well_formed = text.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::malformed(
                text,
                "is not sha256: and 64 hexadecimal digits",
            ))
        }
    }

    /// From 64 hexadecimal digits, as files in a content store are named.
    ///
    /// # Errors
    ///
    /// As [`Digest::parse`].
    pub fn from_hex(hex: &str) -> Result<Self, Error> {
        Self::parse(&format!("sha256:{hex}"))
    }

    /// `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }

    /// Fails unless `actual` is this digest; `entry` names the content in the error.
    pub(crate) fn expect(&self, entry: &str, actual: &Self) -> Result<(), Error> {
        if self == actual {
            return Ok(());
        }
        Err(Error::DigestMismatch {
            entry: entry.to_owned(),
            expected: self.0.clone(),
            actual: actual.0.clone(),
        })
    }

    fn from_hash(hash: Sha256) -> Self {
        Self(format!("sha256:{}", hex::encode(hash.finalize())))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// A reader that hashes and counts what passes through it.
#[derive(Debug)]
pub(crate) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// Digest and number of the bytes read so far.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (Digest::from_hash(self.hash), self.bytes)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(read) = buffer.get(..count) {
            self.hash.update(read);
        }
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Digest and length of everything that `reader` yields.
///
/// # Errors
///
/// What reading returns.
pub(crate) fn digest_of(reader: impl Read) -> io::Result<(Digest, u64)> {
    let mut hashing = HashingReader::new(reader);
    let mut buffer = vec![0; 256 << 10];
    while hashing.read(&mut buffer)? > 0 {}
    Ok(hashing.finish())
}

/// The chain id of a layer upon another (OCI image specification, `config.md`, "Layer ChainID").
pub(crate) fn chain_id(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    match below {
        None => diff_id.clone(),
        Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn only_lower_case_sha256_is_a_digest() {
        assert_eq!(Digest::parse(EMPTY).unwrap(), Digest::of(b""));
        assert_eq!(Digest::of(b"").hex().len(), 64);
        for text in [
            "",
            "sha256:",
            "sha512:00",
            &EMPTY.to_uppercase(),
            &EMPTY[..70],
            "../etc",
        ] {
            assert!(
                matches!(Digest::parse(text), Err(Error::Malformed { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn the_chain_id_depends_on_the_layers_below() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(chain_id(None, &a), a);
        let ab = chain_id(Some(&a), &b);
        assert_eq!(ab, Digest::of(format!("{a} {b}").as_bytes()));
        assert_ne!(ab, chain_id(Some(&b), &a));
    }

    #[test]
    fn the_digest_of_a_reader_is_that_of_its_bytes() {
        let bytes = vec![7; 1 << 20];
        assert_eq!(
            digest_of(bytes.as_slice()).unwrap(),
            (Digest::of(&bytes), 1 << 20)
        );
    }
}
