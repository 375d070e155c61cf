//! A place for what is captured while the memory streams into the archive.
//!
//! A tar has one entry after the other, so what is captured at the same time waits here: in memory
//! up to 8 MiB, then in a file without a name beside the archive, on the filesystem
//! whose space was checked.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

/// How much is kept in memory before it moves to disk.
const IN_MEMORY_BYTES: u64 = 8 << 20;

/// Bytes that are written once and read once.
#[derive(Debug)]
pub struct Spool {
    file: File,
    length: u64,
    /// Where to go when it outgrows the memory; gone once there.
    directory: Option<OwnedFd>,
}

impl Spool {
    /// An empty spool that may move to a file without a name in `directory`.
    ///
    /// # Errors
    ///
    /// What memfd_create(2) or fcntl(2) return.
    pub fn new(directory: impl AsFd) -> io::Result<Self> {
        Ok(Self {
            file: sys::pipe::memfd("thawd-spool")?,
            length: 0,
            directory: Some(directory.as_fd().try_clone_to_owned()?),
        })
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What was written, from its beginning.
    ///
    /// # Errors
    ///
    /// What lseek(2) returns.
    pub fn into_reader(mut self) -> io::Result<impl Read> {
        self.file.seek(SeekFrom::Start(0))?;
        Ok(self.file.take(self.length))
    }

    /// Moves to disk when `more` bytes would be too many for memory.
    fn make_room(&mut self, more: usize) -> io::Result<()> {
        let after = self
            .length
            .saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
        if after <= IN_MEMORY_BYTES {
            return Ok(());
        }
        let Some(directory) = self.directory.take() else {
            return Ok(());
        };
        let mut on_disk = sys::fs::create_unnamed(&directory, 0o600)?;
        self.file.seek(SeekFrom::Start(0))?;
        let moved = io::copy(&mut (&mut self.file).take(self.length), &mut on_disk)?;
        if moved != self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file = on_disk;
        Ok(())
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.make_room(bytes.len())?;
        let written = self.file.write(bytes)?;
        self.length += u64::try_from(written).map_err(io::Error::other)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spools_give_back_what_went_in_before_and_after_they_move() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let fd = sys::fs::open_dir(directory.path()).unwrap();
        for length in [0, 5, 8 << 20, (8 << 20) + 1, 20 << 20] {
            let mut spool = Spool::new(&fd).unwrap();
            assert!(spool.is_empty());
            let content: Vec<u8> = (0..=250).cycle().take(length).collect();
            for part in content.chunks(1 << 20) {
                spool.write_all(part).unwrap();
            }
            assert_eq!(spool.len(), length as u64);
            assert_eq!(spool.directory.is_none(), length > 8 << 20);
            let mut read = Vec::new();
            spool.into_reader().unwrap().read_to_end(&mut read).unwrap();
            assert!(read == content);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }
}
