//! Running a program to its end within limits.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::{Child, Command, Deadline, ExitStatus, Stdio};
use crate::socket::timespec;

/// How much a program may print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// Standard output; more of it is an error.
    pub max_stdout_bytes: usize,
    /// Standard error; of more, the last so many bytes are kept.
    pub max_stderr_bytes: usize,
}

/// What a program left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All it printed.
    pub stdout: Vec<u8>,
    /// The end of what it printed to standard error.
    pub stderr_tail: Vec<u8>,
}

/// A program that could not be run to its end.
#[derive(Debug, thiserror::Error)]
#[error("{}: {kind}", display_argv(argv))]
pub struct RunError {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// What happened.
    #[source]
    pub kind: RunErrorKind,
}

/// Why a program could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunErrorKind {
    /// It could not be started.
    #[error("cannot be started")]
    Spawn(#[source] io::Error),
    /// It ran at the deadline and was killed.
    #[error("still running at its deadline, killed; stderr: {}", String::from_utf8_lossy(stderr_tail).trim())]
    Deadline {
        /// The end of what it printed to standard error.
        stderr_tail: Vec<u8>,
    },
    /// It printed more than it may and was killed.
    #[error("printed more than {limit_bytes} bytes, killed")]
    StdoutLimit {
        /// The limit.
        limit_bytes: usize,
    },
    /// Waiting for it or reading from it failed; it was killed.
    #[error("cannot be waited for")]
    Io(#[source] io::Error),
}

fn display_argv(argv: &[OsString]) -> String {
    argv.iter()
        .map(|arg| arg.display().to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

pub(super) fn run(
    command: Command,
    stdin: &[u8],
    limits: OutputLimits,
    deadline: Deadline,
) -> Result<Output, RunError> {
    let argv = command.argv();
    let command = if stdin.is_empty() {
        command
    } else {
        command.stdin(Stdio::Pipe)
    };
    let result = command
        .stdout(Stdio::Pipe)
        .stderr(Stdio::Pipe)
        .spawn()
        .map_err(RunErrorKind::Spawn)
        .and_then(|child| Exchange::new(child, stdin, limits)?.run(deadline));
    result.map_err(|kind| RunError { argv, kind })
}

/// Both directions of the talk with a child. Dropping it kills the child: every early return does.
struct Exchange<'a> {
    child: Child,
    to_write: &'a [u8],
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    limits: OutputLimits,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl<'a> Exchange<'a> {
    fn new(
        mut child: Child,
        to_write: &'a [u8],
        limits: OutputLimits,
    ) -> Result<Self, RunErrorKind> {
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        for fd in [&stdin, &stdout, &stderr].into_iter().flatten() {
            set_nonblocking(fd).map_err(RunErrorKind::Io)?;
        }
        let (out, err) = (Vec::new(), Vec::new());
        Ok(Self {
            child,
            to_write,
            stdin,
            stdout,
            stderr,
            limits,
            out,
            err,
        })
    }

    fn run(mut self, deadline: Deadline) -> Result<Output, RunErrorKind> {
        loop {
            let Some(left) = deadline.remaining() else {
                self.read_all().ok();
                return Err(RunErrorKind::Deadline {
                    stderr_tail: self.err,
                });
            };
            let ended = self.poll(left).map_err(RunErrorKind::Io)?;
            self.write_some();
            // What the program wrote before its end is in the pipes by then. What others that
            // hold them write later is not its output.
            self.read_all().map_err(RunErrorKind::Io)?;
            if self.out.len() > self.limits.max_stdout_bytes {
                let limit_bytes = self.limits.max_stdout_bytes;
                return Err(RunErrorKind::StdoutLimit { limit_bytes });
            }
            if ended && let Some(status) = self.child.wait(None).map_err(RunErrorKind::Io)? {
                return Ok(Output {
                    status,
                    stdout: self.out,
                    stderr_tail: self.err,
                });
            }
        }
    }

    /// Waits for any of the descriptors; whether the child has ended.
    fn poll(&mut self, limit: Duration) -> io::Result<bool> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.child.pidfd(), PollFlags::IN)];
        for fd in [&self.stdout, &self.stderr].into_iter().flatten() {
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        if let Some(fd) = &self.stdin {
            fds.push(PollFd::new(fd, PollFlags::OUT));
        }
        match rustix::event::poll(&mut fds, Some(&timespec(limit))) {
            Ok(_) => Ok(fds.first().is_some_and(|pidfd| !pidfd.revents().is_empty())),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what the pipe takes; closes it at the end, and when the program reads no more.
    fn write_some(&mut self) {
        while let Some(stdin) = &self.stdin {
            match rustix::io::write(stdin, self.to_write) {
                Ok(written) => self.to_write = self.to_write.get(written..).unwrap_or_default(),
                Err(Errno::AGAIN | Errno::INTR) => return,
                // A program may end without having read everything.
                Err(_) => self.to_write = &[],
            }
            if self.to_write.is_empty() {
                self.stdin = None;
            }
        }
    }

    fn read_all(&mut self) -> io::Result<()> {
        if let Some(fd) = &self.stdout
            && read_some(
                fd.as_fd(),
                &mut self.out,
                Keep::First(self.limits.max_stdout_bytes),
            )?
        {
            self.stdout = None;
        }
        if let Some(fd) = &self.stderr
            && read_some(
                fd.as_fd(),
                &mut self.err,
                Keep::Last(self.limits.max_stderr_bytes),
            )?
        {
            self.stderr = None;
        }
        Ok(())
    }
}

/// What to keep of more than fits.
#[derive(Clone, Copy)]
enum Keep {
    First(usize),
    Last(usize),
}

/// Most that one call reads from a pipe before others get their turn and the deadline is looked at.
const READ_TURN_BYTES: usize = 1 << 20;

/// Reads what is there; whether the end has been reached. More than [`Keep::First`] allows shows
/// as a buffer longer than it.
fn read_some(fd: BorrowedFd<'_>, into: &mut Vec<u8>, keep: Keep) -> io::Result<bool> {
    let mut buffer = [0_u8; 16 * 1024];
    let mut turn = 0;
    while turn < READ_TURN_BYTES {
        let read = match rustix::io::read(fd, &mut buffer) {
            Ok(0) => return Ok(true),
            Ok(read) => read,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        turn += read;
        into.extend_from_slice(buffer.get(..read).unwrap_or_default());
        match keep {
            Keep::First(limit) if into.len() > limit => return Ok(false),
            Keep::Last(limit) if into.len() > limit => {
                into.drain(..into.len() - limit);
            }
            Keep::First(_) | Keep::Last(_) => {}
        }
    }
    Ok(false)
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(
        fd,
        flags | rustix::fs::OFlags::NONBLOCK,
    )?)
}
