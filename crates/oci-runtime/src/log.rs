//! The runtime's log: JSON objects with `--log-format json`. runc and older cruns write one a line;
//! crun 1.28 spreads each over several.
//!
//! ```text
//! {"level":"error","msg":"runc create failed: unable to start …","time":"2026-11-21T10:00:00Z"}
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

/// The most messages that are quoted, the last ones: the outermost error comes last.
const MAX_MESSAGES: usize = 8;
/// The most bytes of one message that are quoted.
const MAX_MESSAGE_BYTES: usize = 2048;
/// The most bytes of a log that are looked at, from its end.
const MAX_LOG_BYTES: u64 = 64 * 1024;

/// The last 64 KiB of a log file.
///
/// # Errors
///
/// What open(2), lseek(2) and read(2) return; `NotFound` when the runtime logged nothing.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The messages of level error and above, in order, bounded in number and length.
///
/// Lines that are not JSON (a panic of the runtime, the beginning of a log that was cut) are passed over.
#[must_use]
pub fn errors(log: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let mut messages = Vec::new();
    let mut rest = log;
    while !rest.is_empty() {
        let mut objects = serde_json::Deserializer::from_slice(rest).into_iter::<Line>();
        let read = match objects.next() {
            Some(Ok(line)) => {
                if matches!(line.level.as_str(), "error" | "fatal" | "panic") {
                    messages.push(shorten(line.msg.trim(), MAX_MESSAGE_BYTES));
                }
                objects.byte_offset()
            }
            Some(Err(_)) => end_of_line(rest),
            None => break,
        };
        rest = rest.get(read..).unwrap_or_default();
    }
    messages.retain(|message| !message.is_empty());
    messages.dedup();
    messages.split_off(messages.len().saturating_sub(MAX_MESSAGES))
}

/// Bytes up to the next line, past empty ones before this one.
fn end_of_line(text: &[u8]) -> usize {
    let start = text.iter().position(|byte| *byte != b'\n');
    let start = start.unwrap_or(text.len());
    let line = text.get(start..).unwrap_or_default();
    let end = line.iter().position(|byte| *byte == b'\n');
    start.saturating_add(end.map_or(line.len(), |end| end.saturating_add(1)))
}

/// The last bytes of a program's output as text, at most `limit`, beginning at a line where it can.
#[must_use]
pub fn tail(output: &[u8], limit: usize) -> String {
    let start = output.len().saturating_sub(limit);
    let kept = output.get(start..).unwrap_or_default();
    let from_line = match kept.iter().position(|byte| *byte == b'\n') {
        Some(end) if start > 0 && end + 1 < kept.len() => kept.get(end + 1..).unwrap_or_default(),
        _ => kept,
    };
    String::from_utf8_lossy(from_line).trim().to_owned()
}

fn shorten(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = (0..=limit)
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(log: &str, expected: &[&str]) {
        assert_eq!(errors(log.as_bytes()), expected, "{log}");
    }

    #[test]
    fn only_errors_are_quoted() {
        check(
            "{\"level\":\"warning\",\"msg\":\"w\",\"time\":\"t\"}\n{\"level\":\"error\",\"msg\":\" e \",\"time\":\"t\"}\n",
            &["e"],
        );
        check(
            "{\"msg\":\"from crun\",\"level\":\"error\",\"time\":\"t\"}",
            &["from crun"],
        );
        // crun 1.28, Debian unstable's.
        check(
            "{\n  \"msg\": \"one\",\n  \"level\": \"error\",\n  \"time\": \"t\"\n}\n\
             {\n  \"msg\": \"two\",\n  \"level\": \"error\",\n  \"time\": \"t\"\n}\n",
            &["one", "two"],
        );
    }

    #[test]
    fn what_is_no_log_line_is_passed_over() {
        check("", &[]);
        check(
            "panic: runtime error\n[1,2]\n{\"level\":\"error\"}\n{\"level\":\"er",
            &[],
        );
        let object = "{\n \"msg\": \"m\",\n \"level\": \"error\"\n}\n";
        check(
            &format!("\n\nevel\": \"error\"\n}}\n{object}\n{{\n \"msg\": \"n"),
            &["m"],
        );
    }

    #[test]
    fn quotes_are_bounded_and_the_last_ones_kept() {
        let log: String = (0..100)
            .map(|n| format!("{{\"level\":\"error\",\"msg\":\"{n}\"}}\n"))
            .collect();
        assert_eq!(
            errors(log.as_bytes()),
            ["92", "93", "94", "95", "96", "97", "98", "99"]
        );
        let long = format!("{{\"level\":\"error\",\"msg\":\"{}\"}}", "é".repeat(4000));
        assert_eq!(errors(long.as_bytes()), [format!("{}…", "é".repeat(1024))]);
    }

    #[test]
    fn a_tail_begins_at_a_line() {
        assert_eq!(tail(b"one\ntwo\nthree\n", 100), "one\ntwo\nthree");
        assert_eq!(tail(b"one\ntwo\nthree\n", 8), "three");
        assert_eq!(tail(b"abcdefgh", 3), "fgh");
        assert_eq!(tail(b"", 3), "");
    }
}
