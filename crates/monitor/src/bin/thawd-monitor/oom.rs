//! Whether the kernel's OOM killer ended the container.
//!
//! The kernel counts it for the cgroup: `oom_kill N` in `memory.oom_control` (cgroup v1, Linux 4.13) and
//! in `memory.events` (v2). The count is compared with what it was when the container started, so that a
//! cgroup which was there before does not matter.
//!
//! The count tells of any process. The first one was ended so only if SIGKILL ended it, and if nobody else
//! sent that: so the count starts anew when the daemon is about to ([`monitor::wire::Request::Killing`]).
//! A SIGKILL by somebody else, after the OOM killer has ended another process, cannot be told apart.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use sys::process::ExitStatus;
use sys::signal;

/// These files are a few lines.
const MAX_BYTES: u64 = 4096;

/// The container's counters.
#[derive(Debug)]
pub(crate) struct OomCounter {
    files: Vec<PathBuf>,
    before: u64,
}

impl OomCounter {
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        Self { files, before: 0 }
    }

    /// Counts from now on.
    pub(crate) fn start(&mut self) {
        self.before = self.count();
    }

    /// Whether a first process that ended so was killed for memory since [`Self::start`].
    pub(crate) fn ended(&self, status: ExitStatus) -> bool {
        status == ExitStatus::Signal(signal::KILL) && self.count() > self.before
    }

    fn count(&self) -> u64 {
        let texts = self.files.iter().filter_map(|path| {
            let mut text = String::new();
            File::open(path)
                .ok()?
                .take(MAX_BYTES)
                .read_to_string(&mut text)
                .ok()?;
            Some(text)
        });
        texts.map(|text| parse(&text)).max().unwrap_or(0)
    }
}

fn parse(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == "oom_kill")
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cgroup_versions_are_understood() {
        for (text, count) in [
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", 3),
            (
                "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n",
                1,
            ),
            ("oom_kill many\n", 0),
            ("", 0),
        ] {
            assert_eq!(parse(text), count, "{text}");
        }
    }

    #[test]
    fn only_a_process_that_was_killed_after_the_start_counts() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("memory.events");
        let directory = File::open(temp.path()).unwrap();
        let write = |text: &str| {
            sys::fs::replace(&directory, "memory.events", 0o600, text.as_bytes()).unwrap();
        };
        let mut counter = OomCounter::new(vec![path, temp.path().join("absent")]);
        write("oom_kill 4\n");
        counter.start();
        let killed = ExitStatus::Signal(signal::KILL);
        assert!(!counter.ended(killed));
        write("oom_kill 5\n");
        assert!(counter.ended(killed));
        for other in [
            ExitStatus::Code(137),
            ExitStatus::Code(0),
            ExitStatus::Signal(signal::TERM),
        ] {
            assert!(!counter.ended(other), "{other:?}");
        }
        counter.start();
        assert!(!counter.ended(killed));
    }
}
