//! The container's log in CRI's format.
//!
//! ```text
//!  2026-11-21T10:00:00.123456789Z stdout F a whole line
//!  2026-11-21T10:00:00.123456789Z stderr P 16384 bytes of a longer line, or its end without newline
//! ```
//! (Kubernetes' `kuberuntime/logs` reads it: time in RFC 3339 with nanoseconds, stream, tag `F` or `P`,
//! content.) A reader joins `P` lines with what follows, so what a container wrote can be had back byte
//! for byte. A line without a newline at the end of its stream is tagged `P`, as containerd does it.
//!
//! # Invariants
//! - Nothing here waits, and no error stops the container: what cannot be written is counted and dropped.
//! - The file holds whole lines only, also after a full disk.
//! - What was read before a reopening goes to the old file, everything else to the new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

/// The most content bytes of one log line (containerd's `max_container_log_line_size`, 16 KiB).
pub(crate) const MAX_LINE_BYTES: usize = 16 * 1024;

/// A stream of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Cuts one stream into log lines.
#[derive(Debug)]
struct Lines {
    /// ` stdout ` or ` stderr `.
    name: &'static [u8],
    /// The beginning of a line whose end has not come, at most [`MAX_LINE_BYTES`].
    pending: Vec<u8>,
}

impl Lines {
    const fn new(name: &'static [u8]) -> Self {
        Self {
            name,
            pending: Vec::new(),
        }
    }

    /// Appends to `out` the log lines that `chunk` completes.
    fn feed(&mut self, mut chunk: &[u8], time: &[u8], out: &mut Vec<u8>) {
        while !chunk.is_empty() {
            let room = MAX_LINE_BYTES.saturating_sub(self.pending.len());
            // A line of exactly the limit is whole: only a further byte shows that it is longer.
            let window = chunk.get(..=room).unwrap_or(chunk);
            let (content, tag, rest) = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    let (content, rest) = chunk.split_at(end);
                    (content, b"F ", rest.get(1..).unwrap_or_default())
                }
                None if chunk.len() > room => {
                    let (content, rest) = chunk.split_at(room);
                    (content, b"P ", rest)
                }
                None => {
                    self.pending.extend_from_slice(chunk);
                    return;
                }
            };
            self.emit(content, tag, time, out);
            chunk = rest;
        }
    }

    /// Appends to `out` what is left at the end of the stream.
    fn finish(&mut self, time: &[u8], out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.emit(&[], b"P ", time, out);
        }
    }

    fn emit(&mut self, content: &[u8], tag: &[u8], time: &[u8], out: &mut Vec<u8>) {
        for part in [time, self.name, tag, &self.pending, content, b"\n"] {
            out.extend_from_slice(part);
        }
        self.pending.clear();
    }
}

/// Where lines go, and how many bytes did and did not.
#[derive(Debug, Default)]
struct Sink {
    path: Option<PathBuf>,
    file: Option<File>,
    written_bytes: u64,
    dropped_bytes: u64,
    /// The file ends in a part of a line that could not be taken back.
    torn: bool,
}

impl Sink {
    fn open(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // Not blocking, and only a regular file: a FIFO in its place must not hold us up.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(i32::try_from(flags.bits()).map_err(io::Error::other)?)
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        self.file = Some(file);
        self.torn = false;
        Ok(())
    }

    /// Writes whole lines; those that do not fit are dropped.
    fn write(&mut self, lines: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if self.torn {
            if !matches!(file.write(b"\n"), Ok(1)) {
                self.dropped_bytes += length(lines);
                return;
            }
            self.torn = false;
        }
        let mut left = lines;
        while !left.is_empty() {
            match file.write(left) {
                Ok(0) => break,
                Ok(count) => left = left.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let kept = if left.is_empty() {
            lines.len()
        } else {
            self.take_back(lines, left.len())
        };
        self.written_bytes += length(lines.get(..kept).unwrap_or_default());
        self.dropped_bytes += length(lines.get(kept..).unwrap_or_default());
    }

    /// Cuts the file back to the last whole line; gives how many bytes of `lines` stay.
    fn take_back(&mut self, lines: &[u8], unwritten: usize) -> usize {
        let written = lines.len().saturating_sub(unwritten);
        let begun = lines.get(..written).unwrap_or_default();
        let whole = begun
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let part = length(begun.get(whole..).unwrap_or_default());
        if part > 0 {
            let cut = self.file.as_ref().map(|file| {
                let end = file.metadata()?.len();
                file.set_len(end.saturating_sub(part))
            });
            self.torn = !matches!(cut, Some(Ok(())));
        }
        whole
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The log of one container.
#[derive(Debug)]
pub(crate) struct Log {
    sink: Sink,
    stdout: Lines,
    stderr: Lines,
    /// Lines of one chunk, kept for its memory.
    out: Vec<u8>,
}

impl Log {
    /// Opens the log for appending, and makes it and its directory where they do not exist; without a
    /// path everything is dropped, uncounted.
    pub(crate) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let mut sink = Sink {
            path,
            ..Sink::default()
        };
        sink.open()?;
        Ok(Self {
            sink,
            stdout: Lines::new(b" stdout "),
            stderr: Lines::new(b" stderr "),
            out: Vec::new(),
        })
    }

    /// Opens the path anew; on an error the file in use stays.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.sink.open()
    }

    /// Logs what was read from a stream.
    pub(crate) fn append(&mut self, stream: Stream, chunk: &[u8]) {
        self.write(stream, |lines, time, out| lines.feed(chunk, time, out));
    }

    /// Logs the unfinished line at the end of a stream.
    pub(crate) fn finish(&mut self, stream: Stream) {
        self.write(stream, Lines::finish);
    }

    fn write(&mut self, stream: Stream, lines: impl FnOnce(&mut Lines, &[u8], &mut Vec<u8>)) {
        if self.sink.file.is_none() {
            return;
        }
        let time = rfc3339(SystemTime::now());
        let of = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        lines(of, time.as_bytes(), &mut self.out);
        self.sink.write(&self.out);
        self.out.clear();
    }

    /// Bytes written since the start.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.sink.written_bytes
    }

    /// Bytes dropped since the start.
    pub(crate) fn dropped_bytes(&self) -> u64 {
        self.sink.dropped_bytes
    }
}

/// A time as RFC 3339 with nine digits of a second, in UTC; times before 1970 show as 1970.
fn rfc3339(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let nanoseconds = since.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

/// The Gregorian date so many days after 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last of its year; 400 such years have
/// 146,097 days, and five months from March or August on have 153.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    // Days from 0000-03-01 to 1970-01-01.
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests;
