//! One process in a running container, run to its end.
//!
//! ```text
//!  parent (stays) ──▶ process ── stdout, stderr ──▶ pipes ──▶ here
//!        │                │
//!        │                └ pid file: written by the runtime once it runs
//!        └ ends with the process's code
//! ```
//!
//! The parent is the runtime itself or, better, a helper that the detaching runtime leaves the process
//! to: runc stays as long as anything holds the process's output, a background process for instance, and
//! keeps the exit code for so long.
//!
//! Killing the parent does not end the process: it belongs to the container. So at the deadline a helper
//! is asked, with SIGTERM, to end what it has started; without one the runtime's children are killed, of
//! which the process is one. The pid file is not enough for that: it comes after the process.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use sys::epoll::{Epoll, Interest};
use sys::process::{Child, Command, Deadline, ExitStatus, OutputLimits, Stdio};

use crate::error::Failure;
use crate::runtime::STDERR_TAIL_BYTES;
use crate::{Error, ExecArgs, OciRuntime, log};

/// How long the parent may take to end after its process was killed.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// How soon children of the runtime are looked for again.
const AGAIN: Duration = Duration::from_millis(20);

/// How long output is awaited after the end of the process, where something it left behind still
/// holds the pipe.
const DRAIN: Duration = Duration::from_millis(500);

/// A process that ran to its end in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// How it ended; death by a signal shows as code 128 + number, which is what runtimes make of it.
    pub status: ExitStatus,
    /// What it wrote to standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, up to the limit.
    pub stderr: Vec<u8>,
    /// Some output was beyond the limits and is lost.
    pub truncated: bool,
}

impl OciRuntime {
    /// Runs a process in a container, waits for its end and gives what it wrote; its standard input is
    /// empty. Output beyond the limits is read and dropped, so that the process is not held up.
    ///
    /// # Errors
    ///
    /// [`Error::Deadline`] when it does not end in time or is cancelled, and is killed; [`Error::NotFound`];
    /// [`Error::Failed`] with the runtime's words when the process could not be run; [`Error::Io`].
    pub fn exec_output(
        &self,
        exec: &ExecArgs<'_>,
        limits: OutputLimits,
        deadline: Deadline,
    ) -> Result<ExecOutput, Error> {
        let argv = self.exec_args(exec);
        let mut words = argv.iter().cloned();
        let command = Command::new(words.next().unwrap_or_default())
            .args(words)
            .stdout(Stdio::Pipe)
            .stderr(Stdio::Pipe);
        let io = |source| Error::Io {
            argv: argv.clone(),
            source,
        };
        let mut run = Run::start(command, limits).map_err(io)?;
        if let Some(cancel) = exec.cancel {
            run.epoll
                .add(cancel, CANCEL, Interest::Readable)
                .map_err(io)?;
        }
        let Some(status) = run.until_end(deadline, exec.cancel).map_err(io)? else {
            if self.exec_helper.is_some() {
                run.end_helper().map_err(io)?;
            } else {
                run.end_process().map_err(io)?;
            }
            remove_unfinished(exec.pid_file);
            return Err(Error::Deadline { argv });
        };
        // The runtime writes the pid file once the process runs: without one it never did.
        if !status.success() && !exec.pid_file.exists() {
            return Err(self.failure(exec, argv, status, &run.stderr.kept));
        }
        Ok(ExecOutput {
            status,
            truncated: run.stdout.lost || run.stderr.lost,
            stdout: run.stdout.kept,
            stderr: run.stderr.kept,
        })
    }

    fn failure(
        &self,
        exec: &ExecArgs<'_>,
        argv: Vec<OsString>,
        status: ExitStatus,
        stderr: &[u8],
    ) -> Error {
        if self.is_absent(exec.id) {
            return Error::NotFound {
                id: exec.id.to_owned(),
                root: self.root.clone(),
            };
        }
        Error::Failed(Box::new(Failure {
            argv,
            status,
            errors: log::read(exec.log)
                .map(|bytes| log::errors(&bytes))
                .unwrap_or_default(),
            stderr_tail: log::tail(stderr, STDERR_TAIL_BYTES),
        }))
    }
}

const CHILD: u64 = 0;
const STDOUT: u64 = 1;
const STDERR: u64 = 2;
const CANCEL: u64 = 3;

/// The runtime while it runs. Dropping it kills the runtime.
struct Run {
    child: Child,
    epoll: Epoll,
    stdout: Stream,
    stderr: Stream,
}

/// One of the two outputs.
struct Stream {
    pipe: Option<std::fs::File>,
    kept: Vec<u8>,
    limit: usize,
    lost: bool,
}

impl Stream {
    fn new(pipe: Option<OwnedFd>, limit: usize) -> Self {
        Self {
            pipe: pipe.map(Into::into),
            kept: Vec::new(),
            limit,
            lost: false,
        }
    }

    /// Reads once; the pipe is let go at its end. Must be called only when it is readable.
    fn read_once(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(());
        };
        let mut buffer = [0_u8; 16 * 1024];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                let room = self.limit.saturating_sub(self.kept.len()).min(count);
                self.kept
                    .extend_from_slice(buffer.get(..room).unwrap_or_default());
                self.lost |= room < count;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Run {
    fn start(command: Command, limits: OutputLimits) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let epoll = Epoll::new()?;
        let stdout = Stream::new(child.stdout.take(), limits.max_stdout_bytes);
        let stderr = Stream::new(child.stderr.take(), limits.max_stderr_bytes);
        epoll.add(child.pidfd(), CHILD, Interest::Readable)?;
        for (stream, token) in [(&stdout, STDOUT), (&stderr, STDERR)] {
            if let Some(pipe) = &stream.pipe {
                epoll.add(pipe, token, Interest::Readable)?;
            }
        }
        Ok(Self {
            child,
            epoll,
            stdout,
            stderr,
        })
    }

    /// Collects output until the runtime has ended and the pipes are empty; `None` at the deadline, and
    /// when it is cancelled.
    fn until_end(
        &mut self,
        deadline: Deadline,
        cancel: Option<BorrowedFd<'_>>,
    ) -> io::Result<Option<ExitStatus>> {
        let mut ended: Option<(ExitStatus, Deadline)> = None;
        while ended.is_none() || self.stdout.pipe.is_some() || self.stderr.pipe.is_some() {
            let limit = ended.map_or(deadline, |(_, drain)| drain.sooner(deadline));
            let Some(left) = limit.remaining() else { break };
            for event in self.epoll.wait(Some(left))? {
                match event.token {
                    STDOUT => self.stdout.read_once()?,
                    STDERR => self.stderr.read_once()?,
                    CANCEL => {
                        if let Some(cancel) = cancel {
                            // What is waited for from here on is its end.
                            self.epoll.delete(cancel)?;
                            return Ok(None);
                        }
                    }
                    _ => {
                        if let Some(status) = self.child.wait(Some(Duration::ZERO))? {
                            self.epoll.delete(self.child.pidfd())?;
                            ended = Some((status, Deadline::after(DRAIN)));
                        }
                    }
                }
            }
        }
        Ok(ended.map(|(status, _)| status))
    }

    /// Has the helper end what it has started; one that does not is killed by the guard.
    fn end_helper(&mut self) -> io::Result<()> {
        self.child.kill_group(sys::signal::TERM)?;
        self.until_end(Deadline::after(AFTER_KILL), None).map(drop)
    }

    /// Ends what is below the runtime, again and again until it has ended for lack of it: the process may
    /// only just be coming up. The runtime itself is not killed as long as it can still have children.
    fn end_process(&mut self) -> io::Result<()> {
        let deadline = Deadline::after(AFTER_KILL);
        while !deadline.passed() {
            for pidfd in sys::pidfd::open_below(self.child.pid()).unwrap_or_default() {
                // It may have ended meanwhile.
                drop(sys::pidfd::send_signal(&pidfd, sys::signal::KILL));
            }
            if self
                .until_end(Deadline::after(AGAIN).sooner(deadline), None)?
                .is_some()
            {
                break;
            }
        }
        Ok(())
    }
}

/// A runc that is killed while it writes the pid file leaves `.NAME`, which it would have renamed.
fn remove_unfinished(pid_file: &Path) {
    if let Some(name) = pid_file.file_name() {
        let mut unfinished = OsString::from(".");
        unfinished.push(name);
        std::fs::remove_file(pid_file.with_file_name(unfinished)).ok();
    }
}
