//! Whether the kernel's OOM killer struck the container.
//!
//! The kernel counts it for the cgroup: `oom_kill N` in `memory.oom_control` (cgroup v1, Linux 4.13) and
//! in `memory.events` (v2). The count is compared with what it was when the container started, so that a
//! cgroup which was there before does not matter.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

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

    /// Whether a process of the container was killed since [`Self::start`].
    pub(crate) fn struck(&self) -> bool {
        self.count() > self.before
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
    fn only_kills_after_the_start_count() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("memory.events");
        let directory = File::open(temp.path()).unwrap();
        let write = |text: &str| {
            sys::fs::replace(&directory, "memory.events", 0o600, text.as_bytes()).unwrap();
        };
        let mut counter = OomCounter::new(vec![path, temp.path().join("absent")]);
        write("oom_kill 4\n");
        counter.start();
        assert!(!counter.struck());
        write("oom_kill 5\n");
        assert!(counter.struck());
    }
}
