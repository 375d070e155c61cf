//! Where image files come from: a directory, an archive, or memory.

use std::collections::BTreeMap;
use std::io::{self, Read};

/// A set of image files. Implemented by whoever holds the directory or the archive; this crate
/// opens nothing itself.
pub trait ImageSource {
    /// Names and sizes in bytes of all files, in any order.
    ///
    /// # Errors
    ///
    /// Whatever kept the names from being read.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// The content of `name` from its beginning, or `None` when there is no such file.
    ///
    /// # Errors
    ///
    /// Whatever kept the file from being opened.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read + '_>>>;

    /// Up to `length` bytes of `name` from `offset` on; fewer at the end of the file.
    ///
    /// Implementations that can seek should override this: page images are large.
    ///
    /// # Errors
    ///
    /// As [`ImageSource::open`] and reading from it; `NotFound` when there is no such file.
    fn read_at(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut file = self.open(name)?.ok_or(io::ErrorKind::NotFound)?;
        if io::copy(&mut file.by_ref().take(offset), &mut io::sink())? < offset {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        let limit = u64::try_from(length).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Images held in memory, by name: for tests, and for what was fetched elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryImages(pub BTreeMap<String, Vec<u8>>);

impl ImageSource for MemoryImages {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self
            .0
            .iter()
            .map(|(name, bytes)| (name.clone(), u64::try_from(bytes.len()).unwrap_or(u64::MAX)))
            .collect())
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read + '_>>> {
        Ok(self
            .0
            .get(name)
            .map(|bytes| Box::new(bytes.as_slice()) as Box<dyn Read + '_>))
    }
}
