//! What to start, and with what.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::{Child, Deadline, Output, OutputLimits, RunError, output, spawn};

/// One of a child's standard descriptors.
#[derive(Debug, Default)]
pub enum Stdio {
    /// `/dev/null`.
    #[default]
    Null,
    /// The caller's own.
    Inherit,
    /// This descriptor.
    Fd(OwnedFd),
    /// A new pipe, whose other end is in [`Child`].
    Pipe,
}

/// Who else gets the signals that are sent to the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// A process group of its own.
    Own,
    /// A session of its own, without a controlling terminal (setsid(2)).
    Session,
}

/// A program to start. Descriptors it owns are closed here once the child has them.
#[derive(Debug)]
pub struct Command {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) env_clear: bool,
    pub(super) env: BTreeMap<OsString, OsString>,
    pub(super) cwd: Option<PathBuf>,
    pub(super) fds: Vec<(OwnedFd, i32)>,
    pub(super) stdio: [Stdio; 3],
    pub(super) group: Group,
}

impl Command {
    /// A program by path, or by a name without `/` that is looked up on this process's `PATH`.
    /// By default it inherits the environment and working directory, its standard descriptors are
    /// `/dev/null`, and it leads a process group of its own.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env_clear: false,
            env: BTreeMap::new(),
            cwd: None,
            fds: Vec::new(),
            stdio: [Stdio::Null, Stdio::Null, Stdio::Null],
            group: Group::Own,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: Into<OsString>>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the child's environment.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// Starts from an empty environment; variables set by [`Self::env`] stay.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self
    }

    /// Sets the child's working directory. A relative program path is looked up from there.
    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = Some(dir.as_ref().to_owned());
        self
    }

    /// Gives the child a descriptor under the number `target`, which must be above 2.
    #[must_use]
    pub fn fd(mut self, fd: OwnedFd, target: i32) -> Self {
        self.fds.push((fd, target));
        self
    }

    /// Sets its standard input.
    #[must_use]
    pub fn stdin(mut self, stdio: Stdio) -> Self {
        self.stdio[0] = stdio;
        self
    }

    /// Sets its standard output.
    #[must_use]
    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.stdio[1] = stdio;
        self
    }

    /// Sets its standard error.
    #[must_use]
    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.stdio[2] = stdio;
        self
    }

    /// Makes it lead a process group of its own, which is the default.
    #[must_use]
    pub fn new_process_group(mut self) -> Self {
        self.group = Group::Own;
        self
    }

    /// Makes it lead a session of its own, and so a process group.
    #[must_use]
    pub fn new_session(mut self) -> Self {
        self.group = Group::Session;
        self
    }

    /// Program and arguments, for errors and logs.
    #[must_use]
    pub fn argv(&self) -> Vec<OsString> {
        std::iter::once(self.program.as_os_str())
            .chain(self.args.iter().map(OsString::as_os_str))
            .map(OsStr::to_owned)
            .collect()
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// `NotFound` and the like when the program cannot be executed or the working directory cannot
    /// be entered; `InvalidInput` when an argument contains a NUL byte, or a descriptor's number is
    /// below 3 or given twice; what pipe(2) and dup(2) return.
    pub fn spawn(self) -> io::Result<Child> {
        spawn::spawn(self)
    }

    /// Runs it to its end: writes `stdin` to it, collects what it prints, within limits.
    /// Standard output and error become pipes, whatever was set before.
    ///
    /// Processes that it leaves behind are not waited for, and lose the pipes' readers.
    ///
    /// # Errors
    ///
    /// When it cannot be started, prints more than the limit, or does not end by the deadline; its
    /// process group is killed in the last two cases, and it is reaped in all of them. A status
    /// other than success is no error here.
    pub fn output(
        self,
        stdin: &[u8],
        limits: OutputLimits,
        deadline: Deadline,
    ) -> Result<Output, RunError> {
        output::run(self, stdin, limits, deadline)
    }
}
