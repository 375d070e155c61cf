//! Whether the kernel's OOM killer ended the container.
//!
//! The kernel counts it for the cgroup: `oom_kill N` in `memory.oom_control` (cgroup v1, Linux 4.13) and
//! in `memory.events` (v2). The count is compared with what it was when the container started, so that a
//! cgroup which was there before does not matter.
//!
//! The count tells of any process. The first one was ended so only if SIGKILL ended it, and if nobody else
//! sent that: so the count starts anew when the daemon is about to ([`monitor::wire::Request::Killing`]).
//! A SIGKILL by somebody else, after the OOM killer has ended another process, cannot be told apart.
//!
//! systemd removes a scope as soon as its last process has ended, and the counter with it. So with v2 the
//! counter is looked at whenever the kernel says that it has changed, which is before the process is killed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use sys::epoll::{Epoll, Interest};
use sys::process::ExitStatus;
use sys::signal;

/// These files are a few lines.
const MAX_BYTES: usize = 4096;

/// v2's file, which tells when it changes.
const EVENTS: &str = "memory.events";

/// The container's counters.
#[derive(Debug)]
pub(crate) struct OomCounter {
    files: Vec<PathBuf>,
    before: u64,
    /// The largest count so far.
    seen: u64,
    events: Option<File>,
}

impl OomCounter {
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            before: 0,
            seen: 0,
            events: None,
        }
    }

    /// Counts from now on.
    pub(crate) fn start(&mut self) {
        self.look();
        self.before = self.seen;
    }

    /// Has changes of the counter told with this token, after which [`Self::changed`] is to be called.
    /// Where there is nothing to be told of, the counter is read at the end only.
    pub(crate) fn watch(&mut self, epoll: &Epoll, token: u64) {
        let file = self.files.iter().find(|file| file.ends_with(EVENTS));
        let Some(file) = file.and_then(|file| File::open(file).ok()) else {
            return;
        };
        // What has been read is no change.
        if read(&file).is_ok() && epoll.add(&file, token, Interest::Change).is_ok() {
            self.events = Some(file);
        }
    }

    /// Looks at a counter that has changed, or has gone with its cgroup.
    pub(crate) fn changed(&mut self) {
        match self.events.as_ref().map(read) {
            Some(Ok(count)) => self.seen = self.seen.max(count),
            // Its registration ends with it.
            Some(Err(_)) => self.events = None,
            None => {}
        }
    }

    /// Whether a first process that ended so was killed for memory since [`Self::start`].
    pub(crate) fn ended(&mut self, status: ExitStatus) -> bool {
        self.look();
        status == ExitStatus::Signal(signal::KILL) && self.seen > self.before
    }

    fn look(&mut self) {
        let counts = self
            .files
            .iter()
            .filter_map(|path| read(&File::open(path).ok()?).ok());
        self.seen = counts.max().unwrap_or(0).max(self.seen);
    }
}

fn read(file: &File) -> io::Result<u64> {
    let mut bytes = [0; MAX_BYTES];
    let length = file.read_at(&mut bytes, 0)?;
    let text = bytes.get(..length).unwrap_or_default();
    Ok(parse(&String::from_utf8_lossy(text)))
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

    #[test]
    fn what_was_counted_is_known_when_the_cgroup_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(EVENTS);
        let directory = File::open(temp.path()).unwrap();
        let write = |text: &str| {
            sys::fs::replace(&directory, EVENTS, 0o600, text.as_bytes()).unwrap();
        };
        write("oom_kill 4\n");
        let mut counter = OomCounter::new(vec![path.clone()]);
        counter.start();
        write("oom_kill 5\n");
        counter.events = Some(File::open(&path).unwrap());
        counter.changed();
        std::fs::remove_file(&path).unwrap();
        assert!(counter.ended(ExitStatus::Signal(signal::KILL)));
    }
}
