//! The operations on containers that exist.

use std::path::PathBuf;

use sys::process::{Command, Deadline, Output, OutputLimits, RunErrorKind};

use crate::error::Failure;
use crate::{Error, State, Status, log};

/// Which program the binary is; the two differ in a few options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// runc.
    Runc,
    /// crun.
    Crun,
    /// Another one; treated as following runc's command line.
    Other,
}

impl Kind {
    /// Its name as manifests tell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Other => "other",
        }
    }
}

/// An OCI runtime binary and the state directory it is used with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciRuntime {
    /// The program; a bare name is looked up on `PATH`.
    pub binary: PathBuf,
    /// Its `--root`: a directory on tmpfs that holds one directory for each container.
    pub root: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Let systemd make the cgroups (`--systemd-cgroup`); the spec's cgroup path has its form then.
    pub systemd_cgroup: bool,
    /// The program (`thawd-monitor`) that is the parent of what `exec_output` runs. Without it the
    /// runtime is, and the call lasts as long as anything holds the process's output.
    pub exec_helper: Option<PathBuf>,
}

/// More than the runtimes print.
pub(crate) const LIMITS: OutputLimits = OutputLimits {
    max_stdout_bytes: 1024 * 1024,
    max_stderr_bytes: 64 * 1024,
};

/// The end of standard error that an error keeps.
pub(crate) const STDERR_TAIL_BYTES: usize = 4096;

impl OciRuntime {
    /// Lets a created container's program begin.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Failed`] with the runtime's words when the program cannot be run
    /// or the container is not in the state `created`; [`Error::Deadline`], [`Error::Run`].
    pub fn start(&self, id: &str, deadline: Deadline) -> Result<(), Error> {
        self.operate("start", &[], id, &[], deadline)
    }

    /// Sends a signal to the first process, or with `all` to every process of the container.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::NotRunning`] when the container has stopped; [`Error::Failed`],
    /// [`Error::Deadline`], [`Error::Run`].
    pub fn kill(&self, id: &str, signal: i32, all: bool, deadline: Deadline) -> Result<(), Error> {
        let options: &[&str] = if all { &["--all"] } else { &[] };
        let failed = match self.operate("kill", options, id, &[&signal.to_string()], deadline) {
            Err(error @ Error::Failed(_)) => error,
            done => return done,
        };
        match self.state(id, deadline) {
            Ok(Some(State {
                status: Status::Stopped,
                ..
            })) => Err(Error::NotRunning {
                id: id.to_owned(),
                status: Status::Stopped,
            }),
            _ => Err(failed),
        }
    }

    /// Removes a container from the runtime's books, with its cgroup; with `force` it is killed first
    /// if it runs. A container that does not exist is no error.
    ///
    /// runc polls every 100 ms for the end of what it kills: kill and wait on a pidfd before, where
    /// that can be done.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when it runs and `force` is false, or something cannot be removed;
    /// [`Error::Deadline`], [`Error::Run`].
    pub fn delete(&self, id: &str, force: bool, deadline: Deadline) -> Result<(), Error> {
        let options: &[&str] = if force { &["--force"] } else { &[] };
        match self.operate("delete", options, id, &[], deadline) {
            Err(Error::NotFound { .. }) => Ok(()),
            done => done,
        }
    }

    /// What the runtime knows of a container; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Output`], [`Error::Failed`], [`Error::Deadline`], [`Error::Run`].
    pub fn state(&self, id: &str, deadline: Deadline) -> Result<Option<State>, Error> {
        let command = self.command("state", &[], id, &[]);
        let argv = command.argv();
        let output = match run(command, LIMITS, deadline) {
            Err(Error::Failed(_)) if self.is_absent(id) => return Ok(None),
            done => done?,
        };
        State::parse(&output.stdout)
            .map(Some)
            .map_err(|_| Error::Output {
                argv,
                expected: "state",
                printed: String::from_utf8_lossy(&output.stdout)
                    .chars()
                    .take(200)
                    .collect(),
            })
    }

    fn operate(
        &self,
        operation: &str,
        options: &[&str],
        id: &str,
        operands: &[&str],
        deadline: Deadline,
    ) -> Result<(), Error> {
        match run(
            self.command(operation, options, id, operands),
            LIMITS,
            deadline,
        ) {
            Ok(_) => Ok(()),
            Err(Error::Failed(_)) if self.is_absent(id) => Err(Error::NotFound {
                id: id.to_owned(),
                root: self.root.clone(),
            }),
            Err(error) => Err(error),
        }
    }

    fn command(&self, operation: &str, options: &[&str], id: &str, operands: &[&str]) -> Command {
        let mut global = self.global_args(None).into_iter();
        Command::new(global.next().unwrap_or_default())
            .args(global)
            .arg(operation)
            .args(options.iter().copied())
            .arg(id)
            .args(operands.iter().copied())
    }

    /// Both runtimes keep one directory for each container below their root. Asked only after a
    /// command failed, so a container that ends meanwhile is seen as absent, which it then is.
    pub(crate) fn is_absent(&self, id: &str) -> bool {
        matches!(self.root.join(id).try_exists(), Ok(false))
    }
}

/// Runs the runtime to a successful end.
pub(crate) fn run(
    command: Command,
    limits: OutputLimits,
    deadline: Deadline,
) -> Result<Output, Error> {
    let argv = command.argv();
    match command.output(&[], limits, deadline) {
        Ok(output) if output.status.success() => Ok(output),
        Ok(output) => Err(Error::Failed(Box::new(Failure {
            argv,
            status: output.status,
            errors: log::errors(&output.stderr_tail),
            stderr_tail: log::tail(&output.stderr_tail, STDERR_TAIL_BYTES),
        }))),
        Err(error) => match error.kind {
            RunErrorKind::Deadline { .. } => Err(Error::Deadline { argv }),
            _ => Err(Error::Run(Box::new(error))),
        },
    }
}
