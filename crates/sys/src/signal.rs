//! Signals as data (signalfd(2)).
//!
//! A blocked signal is kept by the kernel until it is read here, also when its default action is to be
//! ignored, and also in the init process of a pid namespace, which otherwise never sees a signal that it
//! has no handler for.
#![expect(unsafe_code, reason = "rustix has neither signal masks nor signalfd")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// `SIGHUP`.
pub const HUP: i32 = libc::SIGHUP;
/// `SIGINT`.
pub const INT: i32 = libc::SIGINT;
/// `SIGKILL`.
pub const KILL: i32 = libc::SIGKILL;
/// `SIGPIPE`.
pub const PIPE: i32 = libc::SIGPIPE;
/// `SIGSTOP`.
pub const STOP: i32 = libc::SIGSTOP;
/// `SIGTERM`.
pub const TERM: i32 = libc::SIGTERM;
/// `SIGCHLD`.
pub const CHLD: i32 = libc::SIGCHLD;

/// `struct signalfd_siginfo` is 128 bytes and begins with the number (signalfd(2)).
const RECORD_BYTES: usize = 128;

/// A descriptor from which blocked signals are read, one record each; never blocks.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Blocks `signals` in the calling thread and opens a descriptor for them.
    ///
    /// Call it before other threads exist: they inherit the mask, and a process-directed signal goes
    /// to any thread that has not blocked it. The signals stay blocked when this is dropped. Children
    /// started by [`crate::process::Command`] begin with an empty mask all the same.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a number that is no signal; what signalfd(2) returns.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        let mut empty = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset(3) writes a whole set to the valid, aligned place it is given.
        unsafe { libc::sigemptyset(empty.as_mut_ptr()) };
        // SAFETY: the call above initialised it and cannot fail for a valid pointer.
        let mut set = unsafe { empty.assume_init() };
        for &signal in signals {
            // SAFETY: `set` is an initialised set; numbers that are no signal are refused by the call.
            if unsafe { libc::sigaddset(&raw mut set, signal) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: `set` is an initialised set; a null old set is not written to.
        let error =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: -1 asks for a new descriptor; `set` is an initialised set and only read.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor and nothing else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// The next pending signal's number, `None` when there is none.
    ///
    /// # Errors
    ///
    /// What read(2) returns except `EAGAIN` and `EINTR`.
    pub fn read(&self) -> io::Result<Option<i32>> {
        let mut record = [0_u8; RECORD_BYTES];
        loop {
            match rustix::io::read(&self.fd, &mut record) {
                Ok(RECORD_BYTES) => {
                    let number = record
                        .first_chunk::<4>()
                        .map_or(0, |n| i32::from_ne_bytes(*n));
                    return Ok(Some(number));
                }
                Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "short record")),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_once() {
        // In a thread of its own, and thread-directed, so that the other tests' threads are left alone.
        std::thread::spawn(|| {
            let signals = SignalFd::block(&[libc::SIGUSR1]).unwrap();
            assert_eq!(signals.read().unwrap(), None);
            // SAFETY: pthread_self(3) names the calling thread, which is alive.
            assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
            assert_eq!(signals.read().unwrap(), Some(libc::SIGUSR1));
            assert_eq!(signals.read().unwrap(), None);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn numbers_that_are_no_signal_are_refused() {
        for number in [0, -1, 4096] {
            let error = SignalFd::block(&[number]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{number}");
        }
    }
}
