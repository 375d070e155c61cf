//! Reads one image file entry by entry, within limits (layout in `names.rs`).

use std::io::{self, BufRead as _, Read};

use crate::limits::Limits;
use crate::names::{Header, ImageName};

/// Why an image could not be read as entries.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The bytes could not be had.
    #[error("read image")]
    Read(#[source] io::Error),
    /// The file ends in the middle of its header, an entry or raw data.
    #[error("ends in the middle of an entry")]
    Truncated,
    /// It does not begin as a file of its name must.
    #[error("has magic {found:#010x}, expected {expected:#010x}")]
    Magic {
        /// What the file has.
        found: u32,
        /// What its name demands.
        expected: u32,
    },
    /// One entry is larger than [`Limits::max_entry_bytes`].
    #[error("entry of {bytes} bytes, limit is {limit}")]
    EntryTooLarge {
        /// Its length field.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// More entries than [`Limits::max_entries`].
    #[error("more than {0} entries")]
    TooManyEntries(u64),
}

impl From<io::Error> for ImageError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::Truncated
        } else {
            Self::Read(error)
        }
    }
}

/// The entries of one image file.
pub(crate) struct Entries<'a> {
    reader: io::BufReader<Box<dyn Read + 'a>>,
    max_entry_bytes: u64,
    max_entries: u64,
    seen: u64,
}

impl<'a> Entries<'a> {
    /// Reads and checks the header of the file `name`.
    pub(crate) fn open(
        reader: Box<dyn Read + 'a>,
        name: ImageName,
        limits: &Limits,
    ) -> Result<Self, ImageError> {
        let mut entries = Self {
            reader: io::BufReader::new(reader),
            max_entry_bytes: limits.max_entry_bytes,
            max_entries: limits.max_entries,
            seen: 0,
        };
        match name.header() {
            Header::None => {}
            Header::One(magic) => entries.expect_magic(magic)?,
            Header::Two(first, second) => {
                entries.expect_magic(first)?;
                entries.expect_magic(second)?;
            }
        }
        Ok(entries)
    }

    /// The next entry's message; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, ImageError> {
        let mut bytes = Vec::new();
        Ok(self.next_into(&mut bytes)?.then_some(bytes))
    }

    /// Puts the next entry's message into `bytes`, in place of what was there; `false` at the end
    /// of the file. A page map has up to a million entries: one buffer does for all.
    pub(crate) fn next_into(&mut self, bytes: &mut Vec<u8>) -> Result<bool, ImageError> {
        bytes.clear();
        let Some(length) = self.word()? else {
            return Ok(false);
        };
        let length = u64::from(length);
        if length > self.max_entry_bytes {
            return Err(ImageError::EntryTooLarge {
                bytes: length,
                limit: self.max_entry_bytes,
            });
        }
        self.seen += 1;
        if self.seen > self.max_entries {
            return Err(ImageError::TooManyEntries(self.max_entries));
        }
        let ready = usize::try_from(length)
            .ok()
            .and_then(|length| self.reader.buffer().get(..length));
        if let Some(ready) = ready {
            bytes.extend_from_slice(ready);
            self.reader.consume(bytes.len());
            return Ok(true);
        }
        let read = self.reader.by_ref().take(length).read_to_end(bytes)?;
        if u64::try_from(read).is_ok_and(|read| read == length) {
            Ok(true)
        } else {
            Err(ImageError::Truncated)
        }
    }

    /// Passes over `length` bytes of raw data.
    pub(crate) fn skip(&mut self, length: u64) -> Result<(), ImageError> {
        let skipped = io::copy(&mut self.reader.by_ref().take(length), &mut io::sink())?;
        if skipped == length {
            Ok(())
        } else {
            Err(ImageError::Truncated)
        }
    }

    /// Passes over the rest of the file; its length.
    pub(crate) fn skip_rest(&mut self) -> Result<u64, ImageError> {
        Ok(io::copy(&mut self.reader, &mut io::sink())?)
    }

    fn expect_magic(&mut self, expected: u32) -> Result<(), ImageError> {
        match self.word()? {
            Some(found) if found == expected => Ok(()),
            Some(found) => Err(ImageError::Magic { found, expected }),
            None => Err(ImageError::Truncated),
        }
    }

    /// Four bytes little endian; `None` when the file ends before the first.
    fn word(&mut self) -> Result<Option<u32>, ImageError> {
        if let Some(word) = self.reader.buffer().first_chunk().copied() {
            self.reader.consume(4);
            return Ok(Some(u32::from_le_bytes(word)));
        }
        let mut bytes = Vec::with_capacity(4);
        self.reader.by_ref().take(4).read_to_end(&mut bytes)?;
        match <[u8; 4]>::try_from(bytes.as_slice()) {
            Ok(word) => Ok(Some(u32::from_le_bytes(word))),
            Err(_) if bytes.is_empty() => Ok(None),
            Err(_) => Err(ImageError::Truncated),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::{Entries, ImageError};
    use crate::limits::Limits;
    use crate::names::ImageName;

    fn read(bytes: &[u8], limits: &Limits) -> Result<Vec<Vec<u8>>, ImageError> {
        let mut entries = Entries::open(Box::new(bytes), ImageName::Pstree, limits)?;
        let mut all = Vec::new();
        while let Some(entry) = entries.next()? {
            all.push(entry);
        }
        Ok(all)
    }

    fn pstree(entries: &[&[u8]]) -> Vec<u8> {
        let mut bytes = [0x5456_4319u32.to_le_bytes(), 0x5027_3030u32.to_le_bytes()].concat();
        for entry in entries {
            bytes.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
            bytes.extend(*entry);
        }
        bytes
    }

    #[test]
    fn entries_come_in_order() {
        let bytes = pstree(&[b"one", b"", b"three"]);
        let entries = read(&bytes, &Limits::default()).unwrap();
        assert_eq!(entries, [b"one".to_vec(), Vec::new(), b"three".to_vec()]);
    }

    #[test]
    fn entries_larger_than_the_buffer_and_across_its_end_are_whole() {
        let long = vec![7; 20_000];
        let bytes = pstree(&[
            b"one",
            &long,
            b"three",
            &long[..8_100],
            b"five",
            b"",
            b"seven",
        ]);
        for cut in [8, 9, 12, 15, bytes.len() - 6, bytes.len() - 2] {
            let reader = Box::new(bytes[..cut].chain(&bytes[cut..]));
            let mut entries = Entries::open(reader, ImageName::Pstree, &Limits::default()).unwrap();
            let (mut entry, mut lengths) = (vec![1, 2, 3], Vec::new());
            while entries.next_into(&mut entry).unwrap() {
                lengths.push(entry.len());
            }
            assert_eq!(lengths, [3, 20_000, 5, 8_100, 4, 0, 5], "{cut}");
            assert!(entry.is_empty());
        }
    }

    #[test]
    fn every_proper_prefix_but_whole_entries_is_truncated() {
        let bytes = pstree(&[b"one", b"two"]);
        for end in 0..bytes.len() {
            let result = read(&bytes[..end], &Limits::default());
            if [8, 15].contains(&end) {
                assert!(result.is_ok());
            } else {
                assert!(matches!(result, Err(ImageError::Truncated)), "{end}");
            }
        }
    }

    #[test]
    fn wrong_magic_and_limits_are_told() {
        let mut bytes = pstree(&[b"one", b"two"]);
        let limits = Limits {
            max_entry_bytes: 2,
            ..Limits::default()
        };
        let error = read(&bytes, &limits).unwrap_err();
        assert!(matches!(
            error,
            ImageError::EntryTooLarge { bytes: 3, limit: 2 }
        ));
        let limits = Limits {
            max_entries: 1,
            ..Limits::default()
        };
        assert!(matches!(
            read(&bytes, &limits).unwrap_err(),
            ImageError::TooManyEntries(1)
        ));
        bytes[4] ^= 1;
        let error = read(&bytes, &Limits::default()).unwrap_err();
        assert!(matches!(
            error,
            ImageError::Magic {
                expected: 0x5027_3030,
                ..
            }
        ));
    }
}
