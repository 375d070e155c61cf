//! A process that can prove that its memory survived, and where CRIU is.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use criu_rpc::{CancelToken, Criu, DumpOptions, InheritFd, NotifyReply, RestoreOptions};
use rustix::process::{Pid, Signal, WaitOptions};
use sys::process::{Child, Command, Deadline, Stdio};

/// Where `scripts/install-criu.sh` puts it, unless `THAWD_CRIU` says otherwise.
pub(crate) fn criu_path() -> PathBuf {
    let path = std::env::var_os("THAWD_CRIU")
        .map_or_else(|| PathBuf::from("/opt/thawd/criu/bin/criu"), PathBuf::from);
    assert!(
        path.exists(),
        "no CRIU at {}: run scripts/install-criu.sh",
        path.display()
    );
    assert!(rustix::process::geteuid().is_root(), "CRIU needs root");
    path
}

pub(crate) fn criu() -> Criu {
    Criu::new(criu_path())
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

pub(crate) fn token() -> CancelToken {
    CancelToken::new().unwrap()
}

/// A directory for images and log.
pub(crate) struct Images {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) dir: File,
}

impl Images {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        Self { temp, dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn dump_options(&self, pid: u32) -> DumpOptions<'_> {
        DumpOptions::new(pid, self.dir.as_fd(), self.dir.as_fd())
    }

    pub(crate) fn restore_options(&self) -> RestoreOptions<'_> {
        RestoreOptions::new(self.dir.as_fd(), self.dir.as_fd())
    }
}

enum Root {
    Started(Child),
    Restored(Pid),
    Gone,
}

/// A shell that counts the lines it reads: its state is in its memory only.
pub(crate) struct Counter {
    root: Root,
    ask: PipeWriter,
    answers: PipeReader,
    input: OwnedFd,
    output: OwnedFd,
}

impl Counter {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// `setup` is run by the shell first.
    pub(crate) fn start_with(setup: &str) -> Self {
        let (input, ask) = std::io::pipe().unwrap();
        let (answers, output) = std::io::pipe().unwrap();
        let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
        let script = format!("{setup}\nn=0; while read x; do n=$((n+1)); echo $n; done");
        let child = Command::new("/bin/bash")
            .args(["-c", &script])
            .cwd("/")
            .stdin(Stdio::Fd(input.try_clone().unwrap()))
            .stdout(Stdio::Fd(output.try_clone().unwrap()))
            .new_session()
            .spawn()
            .unwrap();
        Self {
            root: Root::Started(child),
            ask,
            answers,
            input,
            output,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match &self.root {
            Root::Started(child) => child.pid(),
            Root::Restored(pid) => pid.as_raw_nonzero().get().unsigned_abs(),
            Root::Gone => 0,
        }
    }

    /// Asks it to count; panics when it does not within 20 s.
    pub(crate) fn count(&mut self) -> u32 {
        self.ask.write_all(b"\n").unwrap();
        assert!(
            self.answers_within(Duration::from_secs(20)),
            "the counter does not answer"
        );
        let mut line = String::new();
        while !line.ends_with('\n') {
            let mut byte = [0];
            self.answers.read_exact(&mut byte).unwrap();
            line.push(char::from(byte[0]));
        }
        line.trim().parse().unwrap()
    }

    /// Asks without reading the answer.
    pub(crate) fn ask(&mut self) {
        self.ask.write_all(b"\n").unwrap();
    }

    pub(crate) fn answers_within(&self, limit: Duration) -> bool {
        sys::socket::poll_readable(&self.answers, Some(limit)).unwrap()
    }

    /// Reads one number that is there.
    pub(crate) fn answer(&mut self) -> u32 {
        assert!(
            self.answers_within(Duration::from_secs(20)),
            "the counter does not answer"
        );
        let mut buffer = [0; 64];
        let read = self.answers.read(&mut buffer).unwrap();
        std::str::from_utf8(&buffer[..read])
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    /// The pipes, under the keys that CRIU gives them.
    pub(crate) fn pipes(&self) -> Vec<InheritFd<'_>> {
        let key = |fd: BorrowedFd<'_>| {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            link.to_str().unwrap().to_owned()
        };
        [self.input.as_fd(), self.output.as_fd()]
            .map(|fd| InheritFd { key: key(fd), fd })
            .into()
    }

    /// Dumps it and lets it end.
    pub(crate) fn dump(&mut self, images: &Images) {
        let options = images.dump_options(self.pid());
        criu()
            .dump(&options, soon(), &token(), &mut |_| {
                Ok(NotifyReply::Continue)
            })
            .expect("dump");
        self.reap();
    }

    /// Waits for its end, which is under way.
    pub(crate) fn reap(&mut self) {
        match std::mem::replace(&mut self.root, Root::Gone) {
            Root::Started(mut child) => {
                child
                    .wait(Some(Duration::from_secs(20)))
                    .unwrap()
                    .expect("the counter still runs");
            }
            Root::Restored(pid) => {
                rustix::process::waitpid(Some(pid), WaitOptions::empty()).unwrap();
            }
            Root::Gone => {}
        }
    }

    /// Takes note of its restored self, a child of this process.
    pub(crate) fn restored(&mut self, pid: u32) {
        self.root = Root::Restored(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap());
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Root::Restored(pid) = self.root {
            rustix::process::kill_process(pid, Signal::KILL).ok();
            rustix::process::waitpid(Some(pid), WaitOptions::empty()).ok();
        }
    }
}

/// Whether a process of that number exists and is not a zombie.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// A program of these shell lines.
pub(crate) fn script(dir: &Path, name: &str, lines: &str) -> PathBuf {
    let path = dir.join(name);
    sys::fs::replace_path(&path, 0o755, format!("#!/bin/sh\n{lines}\n").as_bytes()).unwrap();
    path
}
