//! Starting a monitor.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use sys::process::{Child, Command, Deadline, ExitStatus, Stdio};

use crate::wire::{self, MAX_MESSAGE_BYTES, MAX_START_BYTES, Start, StartFailure, Startup};
use crate::{Error, MonitorSpec};

/// How much longer than the runtime the monitor itself may take to say that it failed.
const GRACE: Duration = Duration::from_secs(5);

/// Answers that quote the runtime are longer than the others: its standard error's end is within.
const MAX_STARTUP_BYTES: usize = MAX_MESSAGE_BYTES;

/// A monitor and its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The monitor.
    pub monitor_pid: u32,
    /// The container's first process.
    pub container_pid: u32,
}

/// Starts a monitor and waits until its runtime has created (or restored) the container.
///
/// `monitor_binary` is an absolute path, or a name that is looked up on `PATH`.
///
/// The monitor is no child of the caller and lives on without it. On an error neither monitor nor
/// processes are left, but the runtime's directory and cgroups may be: remove them with its
/// `delete --force`.
///
/// # Errors
///
/// [`Error::Runtime`] with the runtime's words; [`Error::Setup`] when a log, socket or pipe could not be
/// made; [`Error::Timeout`] at the deadline; [`Error::Spawn`], [`Error::Died`], [`Error::Protocol`],
/// [`Error::Io`].
pub fn spawn(
    monitor_binary: &Path,
    spec: &MonitorSpec,
    deadline: Deadline,
) -> Result<Started, Error> {
    let (ours, theirs) = sys::socket::seqpacket_pair()?;
    let mut start = Starting {
        channel: ours,
        launcher: launch(monitor_binary, spec, theirs)?,
        monitor: None,
        spec,
    };
    let timeout = deadline.remaining().unwrap_or_default();
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    start.send(&wire::encode(&Start {
        timeout_ms,
        spec: spec.clone(),
    })?)?;
    let result = start.wait(Deadline::after(timeout.saturating_add(GRACE)));
    if result.is_err() {
        start.end();
    }
    result
}

fn launch(binary: &Path, spec: &MonitorSpec, channel: OwnedFd) -> Result<Child, Error> {
    // The id as an argument only shows people in ps(1) whose monitor it is.
    Command::new(binary)
        .arg("run")
        .arg(&spec.container_id)
        .cwd("/")
        .stdin(Stdio::Fd(channel))
        .spawn()
        .map_err(|source| Error::Spawn {
            binary: binary.to_owned(),
            source,
        })
}

/// A monitor that has not said yet that it runs.
struct Starting<'a> {
    channel: OwnedFd,
    /// The program as it was started; it forks the monitor and ends. Dropping kills it.
    launcher: Child,
    /// Its pid, and its descriptor unless it had ended by the time it was opened.
    monitor: Option<(u32, Option<OwnedFd>)>,
    spec: &'a MonitorSpec,
}

impl Starting<'_> {
    fn send(&self, message: &[u8]) -> Result<(), Error> {
        if message.len() > MAX_START_BYTES {
            let message = format!("{} bytes of specification", message.len());
            return Err(Error::Protocol { message });
        }
        sys::socket::force_send_buffer(&self.channel, MAX_START_BYTES * 2)?;
        sys::socket::send(&self.channel, message, &[])?;
        Ok(())
    }

    fn wait(&mut self, deadline: Deadline) -> Result<Started, Error> {
        let container_id = || self.spec.container_id.clone();
        loop {
            let left = deadline.remaining().unwrap_or_default();
            if !sys::socket::poll_readable(&self.channel, Some(left))? {
                return Err(Error::Timeout {
                    container_id: container_id(),
                });
            }
            let received = sys::socket::recv(&self.channel, MAX_STARTUP_BYTES)?;
            if received.is_end() {
                return Err(Error::Died {
                    container_id: container_id(),
                });
            }
            match wire::decode(&received.bytes)? {
                Startup::Monitor { pid } => self.monitor = Some((pid, sys::pidfd::open(pid).ok())),
                Startup::Started { container_pid } => {
                    let Some((monitor_pid, _)) = self.monitor else {
                        return Err(Error::Protocol {
                            message: "started without a pid".into(),
                        });
                    };
                    // It has ended since: its child has come this far.
                    self.launcher.wait(Some(GRACE))?;
                    return Ok(Started {
                        monitor_pid,
                        container_pid,
                    });
                }
                Startup::Failed(failure) => return Err(self.failed(failure)),
            }
        }
    }

    fn failed(&self, failure: StartFailure) -> Error {
        let container_id = self.spec.container_id.clone();
        match failure {
            StartFailure::Setup { action, message } => Error::Setup {
                container_id,
                action,
                message,
            },
            StartFailure::Timeout => Error::Timeout { container_id },
            StartFailure::Runtime {
                code,
                signal,
                stderr_tail,
            } => {
                let log = oci_runtime::log::read(&self.spec.runtime_log).unwrap_or_default();
                let status = match (code, signal) {
                    (_, Some(signal)) => ExitStatus::Signal(signal),
                    (code, None) => ExitStatus::Code(code.unwrap_or(u8::MAX)),
                };
                Error::Runtime(Box::new(oci_runtime::Failure {
                    argv: self.spec.runtime_argv.iter().map(Into::into).collect(),
                    status,
                    errors: oci_runtime::log::errors(&log),
                    stderr_tail,
                }))
            }
        }
    }

    /// Makes sure that no monitor is left. One that failed by itself is only awaited.
    fn end(&self) {
        let Some((_, Some(pidfd))) = &self.monitor else {
            return;
        };
        if !matches!(sys::pidfd::wait_exit(pidfd.as_fd(), Some(GRACE)), Ok(true)) {
            // It hangs. A failure means that it has just ended.
            drop(sys::pidfd::send_signal(pidfd.as_fd(), sys::signal::KILL));
        }
    }
}
