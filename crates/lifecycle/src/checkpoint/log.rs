//! The container's log as it was when the container was frozen.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::Error;

/// Bytes of a log that go into an archive, from its end.
const MOST_BYTES: u64 = 16 << 20;

/// A log, held open: it may be rotated away before it is read.
#[derive(Debug)]
pub(super) struct FrozenLog {
    file: File,
    path: PathBuf,
    length: u64,
}

impl FrozenLog {
    /// Opens the log and remembers how long it is; there may be none.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`].
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Error> {
        let failed = |error: std::io::Error| Error::io("read the container's log", path, error);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        let length = file.metadata().map_err(failed)?.len();
        let path = path.to_owned();
        Ok(Some(Self { file, path, length }))
    }

    /// Its end as it was then, from the beginning of a line on.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`].
    pub(super) fn end(mut self) -> Result<Vec<u8>, Error> {
        self.read(MOST_BYTES)
            .map_err(|error| Error::io("read the container's log", &self.path, error))
    }

    fn read(&mut self, most: u64) -> std::io::Result<Vec<u8>> {
        let start = self.length.saturating_sub(most);
        self.file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        (&self.file)
            .take(self.length.saturating_sub(start))
            .read_to_end(&mut bytes)?;
        if start > 0 {
            let line = bytes.iter().position(|byte| *byte == b'\n');
            bytes.drain(..line.map_or(bytes.len(), |at| at + 1));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn what_was_written_before_is_there_though_the_log_was_rotated() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        assert!(FrozenLog::open(&path).unwrap().is_none());
        sys::fs::replace_path(&path, 0o600, b"one\ntwo\nthree\n").unwrap();
        let log = FrozenLog::open(&path).unwrap().unwrap();
        let mut cut = FrozenLog::open(&path).unwrap().unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"later\n")
            .unwrap();
        std::fs::rename(&path, directory.path().join("0.log.1")).unwrap();
        sys::fs::replace_path(&path, 0o600, b"a much longer and newer one\n").unwrap();
        assert_eq!(log.end().unwrap(), b"one\ntwo\nthree\n");
        assert_eq!(cut.read(8).unwrap(), b"three\n");
        assert_eq!(cut.read(3).unwrap(), b"");
    }

    #[test]
    fn links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        FrozenLog::open(&path).unwrap_err();
    }
}
