//! Whether CRIU works here, found out by really using it.
//!
//! `criu check` says "Looks good" where no container with an inet socket can be dumped. So a child
//! of ours that holds a listening TCP socket is dumped and left running, once; callers keep the
//! answer per program and boot.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use sys::process::{Child, Command, Deadline, Stdio};

use crate::{CancelToken, Criu, DumpOptions, Error, Features, NotifyReply, Version};

/// A CRIU that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Its version.
    pub version: Version,
    /// Its features on this kernel.
    pub features: Features,
    /// What the test dump took.
    pub elapsed: Duration,
}

impl Criu {
    /// Finds out whether this CRIU can be used on this kernel, by dumping a child of ours that
    /// listens on TCP. The images go into a directory in `scratch_dir` that is removed afterwards;
    /// a tmpfs is best.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::TooOld`] or [`Error::Probe`], whose messages begin with
    /// "checkpoint/restore requires at least CRIU"; [`Error::Prepare`] when the test itself could
    /// not be made; [`Error::Deadline`].
    pub fn probe(&self, scratch_dir: &Path, deadline: Deadline) -> Result<Probe, Error> {
        let kernel = sys::sysinfo::kernel().release;
        let needed = Version::needed_by(&kernel);
        let version = match self.version(deadline) {
            Err(error) if error.is_missing() => {
                return Err(Error::Missing {
                    binary: self.binary.clone(),
                    needed,
                    kernel,
                });
            }
            other => other?,
        };
        if version < needed {
            let binary = self.binary.clone();
            return Err(Error::TooOld {
                binary,
                found: version,
                needed,
                kernel,
            });
        }
        let features = self.features(deadline)?;
        match self.dump_listener(scratch_dir, deadline) {
            Ok(elapsed) => Ok(Probe {
                version,
                features,
                elapsed,
            }),
            Err(cause @ (Error::Criu { .. } | Error::Ended { .. })) => Err(Error::Probe {
                binary: self.binary.clone(),
                found: version,
                needed,
                kernel,
                cause: Box::new(cause),
            }),
            Err(other) => Err(other),
        }
    }

    fn dump_listener(&self, scratch_dir: &Path, deadline: Deadline) -> Result<Duration, Error> {
        let scratch = Scratch::new(scratch_dir).map_err(|source| Error::Prepare {
            what: format!("a directory in {}", scratch_dir.display()),
            source,
        })?;
        let images = sys::fs::open_dir(&scratch.0).map_err(|source| Error::Prepare {
            what: scratch.0.display().to_string(),
            source,
        })?;
        let listener = listener_process().map_err(|source| Error::Prepare {
            what: "a process that listens on TCP".to_owned(),
            source,
        })?;
        let cancel = CancelToken::new().map_err(|source| Error::Prepare {
            what: "a token".to_owned(),
            source,
        })?;
        let options = DumpOptions {
            leave_running: true,
            ..DumpOptions::new(listener.pid(), images.as_fd(), images.as_fd())
        };
        let begin = Instant::now();
        self.dump(&options, deadline, &cancel, &mut |_| {
            Ok(NotifyReply::Continue)
        })?;
        Ok(begin.elapsed())
    }
}

/// A process of ours in a session of its own, killed with its guard. It reads from a pipe of ours, so
/// that it ends as well when this process is killed before the guard can do anything.
fn listener_process() -> io::Result<Child> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Command::new("cat")
        .stdin(Stdio::Pipe)
        .fd(listener.into(), 3)
        .new_session()
        .env_clear()
        .spawn()
}

/// A directory that goes with its guard.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> io::Result<Self> {
        let path = parent.join(sys::fs::temporary_name("criu-probe")?);
        rustix::fs::mkdir(&path, Mode::RWXU)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left for whoever clears the scratch directory.
        sys::fs::remove_tree(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::process::ExitStatus;

    #[test]
    fn the_process_ends_when_nobody_holds_its_pipe() {
        let mut child = listener_process().unwrap();
        assert_eq!(child.wait(Some(Duration::from_millis(50))).unwrap(), None);
        // As the kernel does it for a process that is killed.
        drop(child.stdin.take().unwrap());
        let end = child.wait(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(end, Some(ExitStatus::Code(0)));
    }
}
