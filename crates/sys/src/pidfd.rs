//! Processes held by descriptor (pidfd_open(2)), and reaping.
//!
//! A pid may be given to another process as soon as its owner was reaped; a pidfd never is. What waits
//! here always waits on a descriptor and with a limit.
#![expect(
    unsafe_code,
    reason = "rustix has no signal type that covers real-time signals"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions};

use crate::process::ExitStatus;

/// Opens a descriptor of a process of this pid namespace.
///
/// # Errors
///
/// `ESRCH` when there is no such process, `EINVAL` for a pid that no process can have.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(
        to_pid(pid)?,
        PidfdFlags::empty(),
    )?)
}

/// Opens every process below `root`, parents before children; those that end meanwhile are left out.
///
/// Each is certainly one: it was below `root` before and after it was opened.
///
/// # Errors
///
/// `NotFound` when `root` is gone.
pub fn open_below(root: u32) -> io::Result<Vec<OwnedFd>> {
    let before = crate::proc::tree(root)?;
    let opened: Vec<(u32, OwnedFd)> = before
        .into_iter()
        .skip(1)
        .filter_map(|pid| open(pid).ok().map(|pidfd| (pid, pidfd)))
        .collect();
    let after = crate::proc::tree(root)?;
    let certain = opened.into_iter().filter(|(pid, _)| after.contains(pid));
    Ok(certain.map(|(_, pidfd)| pidfd).collect())
}

/// Sends a signal by number, 0 to ask only whether the process exists (a zombie does).
///
/// # Errors
///
/// `ESRCH` when it was reaped, `EPERM`, `EINVAL` for an unknown signal.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: pidfd_send_signal(2) reads no memory when `info` is null; the descriptor is borrowed and
    // therefore open for the duration of the call; any signal number is checked by the kernel, and no
    // flags are given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0_u32,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Waits until the process has ended (it may still be a zombie); `None` waits without a limit.
///
/// Returns false when the time passed first. Works for any process, not only children.
///
/// # Errors
///
/// What poll(2) returns except `EINTR`.
pub fn wait_exit(pidfd: impl AsFd, limit: Option<Duration>) -> io::Result<bool> {
    crate::socket::poll_readable(pidfd, limit)
}

/// Reaps a child that has ended or will soon: waits for it without a limit, so call [`wait_exit`] first
/// where one is wanted.
///
/// # Errors
///
/// `ECHILD` when it is no child of this process or was reaped already.
pub fn wait_child(pidfd: impl AsFd) -> io::Result<ExitStatus> {
    let status = rustix::io::retry_on_intr(|| {
        rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
    })?;
    status
        .as_ref()
        .and_then(ExitStatus::from_waitid)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a wait status that is no end"))
}

/// Makes this process the one that orphaned descendants are given to (`PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
///
/// What prctl(2) returns.
pub fn set_subreaper() -> io::Result<()> {
    // Any pid means "on"; the wrapper's type asks for one.
    Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::getpid(),
    ))?)
}

/// Reaps one child that has ended, whichever; `None` when none has, or there are none.
///
/// Not for programs that also wait for particular children elsewhere: it takes those too.
///
/// # Errors
///
/// What wait4(2) returns except `ECHILD` and `EINTR`.
pub fn reap_any() -> io::Result<Option<(u32, ExitStatus)>> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let pid = pid.as_raw_nonzero().get().unsigned_abs();
                return to_status(status.exit_status(), status.terminating_signal())
                    .map(|status| Some((pid, status)));
            }
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn to_status(code: Option<i32>, signal: Option<i32>) -> io::Result<ExitStatus> {
    match (code.map(u8::try_from), signal) {
        (Some(Ok(code)), _) => Ok(ExitStatus::Code(code)),
        (_, Some(signal)) => Ok(ExitStatus::Signal(signal)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a wait status that is no end",
        )),
    }
}

fn to_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no process can have pid {pid}"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Command, Stdio};

    fn sleeper() -> crate::process::Child {
        Command::new("sleep")
            .arg("600")
            .stdin(Stdio::Null)
            .spawn()
            .unwrap()
    }

    #[test]
    fn a_running_process_is_waited_for_only_as_long_as_asked() {
        let child = sleeper();
        let fd = open(child.pid()).unwrap();
        assert!(!wait_exit(&fd, Some(Duration::from_millis(20))).unwrap());
        send_signal(&fd, 0).unwrap();
        send_signal(&fd, libc::SIGKILL).unwrap();
        assert!(wait_exit(&fd, Some(Duration::from_secs(10))).unwrap());
    }

    #[test]
    fn an_ended_child_is_reaped_with_its_status_and_then_gone() {
        let child = sleeper();
        let fd = open(child.pid()).unwrap();
        send_signal(&fd, libc::SIGTERM).unwrap();
        assert_eq!(wait_child(&fd).unwrap(), ExitStatus::Signal(libc::SIGTERM));
        assert_eq!(
            send_signal(&fd, 0).unwrap_err().raw_os_error(),
            Some(libc::ESRCH)
        );
        assert_eq!(
            wait_child(&fd).unwrap_err().raw_os_error(),
            Some(libc::ECHILD)
        );
        child.leave();
    }

    #[test]
    fn pids_that_nobody_can_have_are_refused() {
        for pid in [0, u32::MAX] {
            assert_eq!(
                open(pid).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{pid}"
            );
        }
    }
}
