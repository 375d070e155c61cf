//! The exit record: the one thing a monitor leaves behind.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use sys::process::ExitStatus;

use crate::{VERSION, names};

/// A record is a few numbers; more is not ours.
const MAX_RECORD_BYTES: u64 = 4096;

/// How a container ended (`exit.json`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Exit code; 128 + number when a signal ended it; 255 when it could not be learnt.
    pub code: u8,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// When the monitor reaped it, in nanoseconds since the Unix epoch.
    pub finished_at_ns: u64,
    /// The kernel's OOM killer ended the container's first process. A monitor of an older version
    /// says so when it ended any process of the container.
    pub oom_killed: bool,
}

impl ExitRecord {
    /// The record of a process that ended so.
    #[must_use]
    pub fn new(status: ExitStatus, finished_at_ns: u64, oom_killed: bool) -> Self {
        Self {
            version: VERSION,
            code: status.code_or_128_plus_signal(),
            signal: match status {
                ExitStatus::Signal(signal) => Some(signal),
                ExitStatus::Code(_) => None,
            },
            finished_at_ns,
            oom_killed,
        }
    }
}

/// Reads the record in a run directory; `None` when there is none (yet).
///
/// # Errors
///
/// `InvalidData` for a file that is no record of a known version; what open(2) and read(2) return.
pub fn read_exit(run_dir: &Path) -> io::Result<Option<ExitRecord>> {
    let path = run_dir.join(names::EXIT);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(fd) => std::fs::File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes)?;
    parse(&bytes).map(Some).map_err(|message| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: {message}", path.display()),
        )
    })
}

fn parse(bytes: &[u8]) -> Result<ExitRecord, String> {
    let record: ExitRecord = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if record.version == VERSION {
        Ok(record)
    } else {
        Err(format!(
            "version {} where {VERSION} is known",
            record.version
        ))
    }
}

/// Writes the record: whole or not at all.
///
/// # Errors
///
/// What open(2), write(2), fsync(2) and rename(2) return.
pub fn write_exit(run_dir: impl AsFd, record: &ExitRecord) -> io::Result<()> {
    let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
    sys::fs::replace(run_dir, names::EXIT, 0o600, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_and_codes_are_told_apart() {
        let record = ExitRecord::new(ExitStatus::Signal(9), 5, true);
        assert_eq!(
            (record.code, record.signal, record.oom_killed),
            (137, Some(9), true)
        );
        let record = ExitRecord::new(ExitStatus::Code(137), 5, false);
        assert_eq!(
            (record.code, record.signal, record.oom_killed),
            (137, None, false)
        );
    }

    #[test]
    fn a_record_is_read_as_written_and_anything_else_refused() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(read_exit(temp.path()).unwrap(), None);
        let directory = std::fs::File::open(temp.path()).unwrap();
        let record = ExitRecord::new(ExitStatus::Code(3), 1_700_000_000_000_000_001, false);
        write_exit(&directory, &record).unwrap();
        assert_eq!(read_exit(temp.path()).unwrap(), Some(record));
        let text = std::fs::read_to_string(temp.path().join(names::EXIT)).unwrap();
        assert_eq!(
            text,
            r#"{"version":1,"code":3,"signal":null,"finished_at_ns":1700000000000000001,"oom_killed":false}"#
        );
        for bad in [
            "",
            "{}",
            &text.replace("\"version\":1", "\"version\":2"),
            &" ".repeat(5000),
        ] {
            sys::fs::replace(&directory, names::EXIT, 0o600, bad.as_bytes()).unwrap();
            let error = read_exit(temp.path()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad}");
        }
    }
}
