//! A started child and its guard.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::{ExitStatus, spawn};
use crate::socket::poll_readable;

/// How long a drop waits for a killed child before a thread takes over: a task in
/// uninterruptible sleep outlives its SIGKILL.
const REAP_LIMIT: Duration = Duration::from_secs(2);

/// A started process. Dropped before it was waited for, its process group is killed and it is
/// reaped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: Option<OwnedFd>,
    status: Option<ExitStatus>,
    /// Our end of the pipe to its standard input, where [`super::Stdio::Pipe`] was asked for.
    pub stdin: Option<OwnedFd>,
    /// Our end of the pipe from its standard output.
    pub stdout: Option<OwnedFd>,
    /// Our end of the pipe from its standard error.
    pub stderr: Option<OwnedFd>,
}

impl Child {
    pub(super) fn started(pid: Pid, pidfd: OwnedFd, stdio: [Option<OwnedFd>; 3]) -> Self {
        let [stdin, stdout, stderr] = stdio;
        Self {
            pid,
            pidfd: Some(pidfd),
            status: None,
            stdin,
            stdout,
            stderr,
        }
    }

    /// Its process id, which may be another process's once it has been waited for.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// A descriptor that is readable once it has ended (pidfd_open(2)).
    ///
    /// # Panics
    ///
    /// Never: it is absent only inside [`Self::leave`].
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "only `leave`, which consumes the child, takes it"
    )]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_ref().expect("present until `leave`").as_fd()
    }

    /// Waits for its end, at most so long (`None`: without limit), and reaps it. `None` is
    /// returned when it still runs.
    ///
    /// # Errors
    ///
    /// What poll(2) and waitid(2) return: `ECHILD` when someone else has reaped it.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() && poll_readable(self.pidfd(), limit)? {
            self.status = Some(spawn::reap(self.pidfd())?);
        }
        Ok(self.status)
    }

    /// Sends a signal to it and everything else in its process group; does nothing once it has
    /// been waited for.
    ///
    /// # Errors
    ///
    /// What kill(2) returns; `InvalidInput` for a number that is no signal's.
    pub fn kill_group(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{signal} is no signal"),
            )
        })?;
        if self.status.is_some() {
            return Ok(());
        }
        Ok(rustix::process::kill_process_group(self.pid, signal)?)
    }

    /// Lets it run on, unreaped: the caller's `SIGCHLD` handling or the subreaper has it now.
    /// Returns its descriptor.
    #[expect(
        clippy::expect_used,
        reason = "only this function, which consumes the child, takes it"
    )]
    pub fn leave(mut self) -> OwnedFd {
        self.pidfd.take().expect("present until `leave`")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(pidfd) = self.pidfd.take() else {
            return;
        };
        if self.status.is_some() {
            return;
        }
        // The child is not reaped, so its number and its group's are still its own. A failure
        // means that all of the group have ended.
        rustix::process::kill_process_group(self.pid, Signal::KILL).ok();
        if matches!(poll_readable(&pidfd, Some(REAP_LIMIT)), Ok(true)) {
            drop(spawn::reap(pidfd.as_fd()));
        } else {
            std::thread::spawn(move || drop(spawn::reap(pidfd.as_fd())));
        }
    }
}
