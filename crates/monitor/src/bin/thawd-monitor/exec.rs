//! The parent of one process that is run in a container beside its first one (ExecSync).
//!
//! ```text
//!  thawd-monitor exec PID_FILE RUNTIME ARG...
//!    └─ RUNTIME exec --detach --pid-file PID_FILE … ─▶ process, given to us when the runtime ends
//! ```
//! A runtime that stays with the process also stays with everything that holds the process's output,
//! and keeps its exit code to itself for so long (runc copies the output and waits for its end). Here
//! the process is our child: its end is ours to see, whatever it leaves behind.
//!
//! Ends with the exit code of the process (128 + number for a signal), or of the runtime when that failed:
//! then there is no pid file. On `SIGTERM` it ends everything that it started.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use sys::epoll::{Epoll, Interest};
use sys::process::{Child, Command, ExitStatus, Stdio};
use sys::signal::{self, SignalFd};

use crate::descendants;

/// What this ends with when it fails itself; the runtime's own failures have this code, too.
const FAILED: u8 = 255;

/// Runs one process to its end.
pub(crate) fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(pid_file), Some(runtime)) = (args.next(), args.next()) else {
        return ExitCode::from(2);
    };
    let command = Command::new(runtime)
        .args(args)
        .stdout(Stdio::Inherit)
        .stderr(Stdio::Inherit);
    match supervise(command, &pid_file) {
        Ok(status) => ExitCode::from(status.code_or_128_plus_signal()),
        Err(_) => {
            descendants::end();
            ExitCode::from(FAILED)
        }
    }
}

fn supervise(command: Command, pid_file: &OsString) -> io::Result<ExitStatus> {
    sys::pidfd::set_subreaper()?;
    let signals = SignalFd::block(&[signal::CHLD, signal::TERM])?;
    let epoll = Epoll::new()?;
    epoll.add(&signals, 0, Interest::Readable)?;
    let mut runtime = command.spawn()?;
    let status = loop {
        if let Some(status) = runtime.wait(Some(Duration::ZERO))? {
            break status;
        }
        if terminated(&epoll, &signals)? {
            return Ok(end(Some(runtime)));
        }
    };
    // Our own copies: only the process decides how long its output lasts.
    sys::daemon::silence_outputs()?;
    if !status.success() {
        return Ok(status);
    }
    let text = std::fs::read_to_string(pid_file)?;
    let pid: u32 = text.trim().parse().map_err(io::Error::other)?;
    loop {
        while let Some((reaped, status)) = sys::pidfd::reap_any()? {
            if reaped == pid {
                return Ok(status);
            }
        }
        if terminated(&epoll, &signals)? {
            return Ok(end(None));
        }
    }
}

/// Waits for a signal; whether it was `SIGTERM`.
fn terminated(epoll: &Epoll, signals: &SignalFd) -> io::Result<bool> {
    epoll.wait(None)?;
    let mut terminated = false;
    while let Some(number) = signals.read()? {
        terminated |= number == signal::TERM;
    }
    Ok(terminated)
}

/// Ends the runtime, then what it has left us.
fn end(runtime: Option<Child>) -> ExitStatus {
    drop(runtime);
    descendants::end();
    ExitStatus::Signal(signal::KILL)
}
