//! CRIU's log: which of its errors tell the cause.
//!
//! ```text
//!  (00.012345) 4711: Error (criu/sk-inet.c:190): inet: Connected TCP socket, consider …
//!  ─── time ── task  ─────── source ──────────  ─────────────── message ──────────────
//! ```

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};

/// Most errors kept.
const MAX_ERRORS: usize = 20;
/// Longest part of a line kept, in bytes.
const MAX_LINE_BYTES: usize = 512;
/// How much of the end is kept.
const TAIL_BYTES: usize = 4096;
/// How much of a log is read at all: at the highest level CRIU writes some hundred bytes a file.
const MAX_LOG_BYTES: u64 = 64 << 20;

/// Errors that come with every failure, or without one: they tell nothing.
const NOISE: [&str; 9] = [
    "RLIMIT_NOFILE",
    "Can't get 1:",
    "Dumping FAILED",
    "Restoring FAILED",
    "Dump files (pid",
    "Killed by signal 9",
    "Can't unfreeze",
    // At its end, of a freezer that was let go of when it had the tasks.
    "/freezer.state",
    "/cgroup.freeze",
];

/// What a log says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogReport {
    /// Its errors in order, each as `Error (source): message`, without known noise unless there is
    /// nothing else. At most 20, each cut at 512 bytes.
    pub first_errors: Vec<String>,
    /// Its last 4 KiB.
    pub tail: String,
}

impl LogReport {
    /// Reads the log `name` in `dir`; one that is not there says nothing.
    ///
    /// # Errors
    ///
    /// What openat(2) and read(2) return, `NotFound` excepted.
    pub fn read(dir: BorrowedFd<'_>, name: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(file) => Self::parse(std::fs::File::from(file)),
            Err(rustix::io::Errno::NOENT) => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Parses a log. Bytes that are not UTF-8 are replaced; what follows the first 64 MiB is not
    /// looked at.
    ///
    /// # Errors
    ///
    /// What reading returns.
    pub fn parse(log: impl Read) -> io::Result<Self> {
        let mut log = BufReader::new(log.take(MAX_LOG_BYTES));
        let (mut causes, mut noise) = (Vec::new(), Vec::new());
        let mut tail = VecDeque::with_capacity(TAIL_BYTES);
        let mut line = Vec::new();
        loop {
            line.clear();
            // A line without an end is taken in pieces.
            let read = log.by_ref().take(64 << 10).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            tail.extend(&line);
            let excess = tail.len().saturating_sub(TAIL_BYTES);
            tail.drain(..excess);
            if let Some(error) = error_of(&line) {
                let list = if is_noise(&error) {
                    &mut noise
                } else {
                    &mut causes
                };
                if list.len() < MAX_ERRORS && list.last() != Some(&error) {
                    list.push(error);
                }
            }
        }
        let (head, rest) = tail.as_slices();
        let tail = String::from_utf8_lossy(&[head, rest].concat()).into_owned();
        let first_errors = if causes.is_empty() { noise } else { causes };
        Ok(Self { first_errors, tail })
    }
}

/// The line from `Error (` on.
fn error_of(line: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"Error (";
    let at = line.windows(MARK.len()).position(|window| window == MARK)?;
    let text = line.get(at..)?;
    let text = text.get(..MAX_LINE_BYTES).unwrap_or(text);
    Some(String::from_utf8_lossy(text).trim_end().to_owned())
}

fn is_noise(error: &str) -> bool {
    NOISE.iter().any(|noise| error.contains(noise))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(log: &[u8]) -> LogReport {
        LogReport::parse(log).unwrap()
    }

    #[test]
    fn errors_are_found_among_other_lines_and_noise_is_dropped() {
        let report = parse(
            b"(00.000100) Version: 4.2.1 (gitid 0)\n\
            (00.000400) Error (criu/util.c:1442): Can't setup RLIMIT_NOFILE for self: Operation not permitted\n\
            (00.010000)    571: Warn  (criu/files.c:1): something\n\
            (00.020000)    571: Error (criu/sk-inet.c:190): inet: Connected TCP socket, consider using --tcp-established option.\n\
            (00.030000) Error (criu/cr-dump.c:1639): Dump files (pid: 571) failed with -1\n\
            (00.035000) Error (criu/seize.c:243): Unable to open /proc/9/fd/7/freezer.state: No such file\n\
            (00.040000) Error (criu/cr-dump.c:2111): Dumping FAILED.\n",
        );
        assert_eq!(
            report.first_errors,
            [
                "Error (criu/sk-inet.c:190): inet: Connected TCP socket, consider using --tcp-established option."
            ]
        );
        assert!(report.tail.ends_with("Dumping FAILED.\n"));
    }

    #[test]
    fn noise_is_shown_when_there_is_nothing_else() {
        let report = parse(b"(00.04) Error (criu/cr-dump.c:2111): Dumping FAILED.\n");
        assert_eq!(
            report.first_errors,
            ["Error (criu/cr-dump.c:2111): Dumping FAILED."]
        );
    }

    #[test]
    fn hostile_logs_stay_within_bounds() {
        let mut log = vec![0xff; 1 << 20];
        for n in 0..1000 {
            log.extend(format!("\n(00.1) Error (a.c:{n}): {}", "x".repeat(10_000)).bytes());
        }
        let report = parse(&log);
        assert_eq!(report.first_errors.len(), MAX_ERRORS);
        assert!(
            report
                .first_errors
                .iter()
                .all(|error| error.len() == MAX_LINE_BYTES)
        );
        assert_eq!(report.tail.len(), TAIL_BYTES);
        assert_eq!(parse(b""), LogReport::default());
    }

    #[test]
    fn the_same_error_in_a_row_is_told_once() {
        let report = parse(b"Error (a.c:1): x\nError (a.c:1): x\nError (a.c:2): y\n");
        assert_eq!(
            report.first_errors,
            ["Error (a.c:1): x", "Error (a.c:2): y"]
        );
    }

    #[test]
    fn a_missing_log_says_nothing_and_a_link_is_not_followed() {
        use std::os::fd::AsFd;
        let temp = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        assert_eq!(
            LogReport::read(dir.as_fd(), "dump.log").unwrap(),
            LogReport::default()
        );
        std::os::unix::fs::symlink("/etc/passwd", temp.path().join("dump.log")).unwrap();
        assert!(LogReport::read(dir.as_fd(), "dump.log").is_err());
    }
}
