//! System calls that no safe wrapper in the dependency tree offers. Test programs only: thawd's own
//! are in `sys`.
#![expect(
    unsafe_code,
    reason = "semaphores, signal masks and refused features have no safe API"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

/// Turns libc's -1 into the error behind it.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

extern "C" fn terminate(_: libc::c_int) {
    // SAFETY: _exit is async-signal-safe and has no preconditions.
    unsafe { libc::_exit(0) }
}

/// Ends the process at SIGTERM, which the kernel drops for a first process without a handler.
pub(super) fn exit_on_terminate() {
    let handler: extern "C" fn(libc::c_int) = terminate;
    // SAFETY: the handler calls async-signal-safe functions only and lives as long as the program.
    unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
}

/// The set that holds SIGUSR2 alone.
fn user_signal() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset initialises it below.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: the pointer is to a live, initialised local and the signal number is valid.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGUSR2) };
    set
}

/// Blocks SIGUSR2 in this thread and all that it starts later.
pub(super) fn block_user_signal() -> io::Result<()> {
    let set = user_signal();
    // SAFETY: set is initialised; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Queues SIGUSR2 with a value for this process.
pub(super) fn queue_user_signal(value: usize) -> io::Result<()> {
    let payload = libc::sigval {
        sival_ptr: std::ptr::without_provenance_mut(value),
    };
    // SAFETY: getpid has no preconditions.
    let own = unsafe { libc::getpid() };
    // SAFETY: the payload is an integer that nobody dereferences.
    checked(unsafe { libc::sigqueue(own, libc::SIGUSR2, payload) }).map(drop)
}

/// Takes the pending SIGUSR2 and returns the value it carries; never waits.
pub(super) fn take_user_signal() -> io::Result<usize> {
    let set = user_signal();
    let zero = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: siginfo_t is plain data that the call fills in.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: all three pointers are to live locals.
    checked(unsafe { libc::sigtimedwait(&raw const set, &raw mut info, &raw const zero) })?;
    // SAFETY: the signal was queued with a value (SI_QUEUE), so that field is the valid one.
    Ok(unsafe { info.si_value() }.sival_ptr.addr())
}

/// Tries to take a whole-file write lock of the open file description (`F_OFD_SETLK`).
pub(super) fn try_description_lock(file: impl AsFd) -> io::Result<()> {
    // SAFETY: flock is plain data; zero is a valid value for every field.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(libc::F_WRLCK).map_err(io::Error::other)?;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the duration of the call, the pointer is to a live local.
    checked(unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw const lock) }).map(drop)
}

/// A POSIX named semaphore: a file in /dev/shm mapped into the process.
pub(super) struct Semaphore(*mut libc::sem_t);

impl Semaphore {
    /// Opens, or creates with `value`, the semaphore of that name.
    pub(super) fn open(name: &str, value: libc::c_uint) -> io::Result<Self> {
        let name = CString::new(name)?;
        // SAFETY: the name is a C string; mode and value are passed because O_CREAT is.
        let semaphore = unsafe { libc::sem_open(name.as_ptr(), libc::O_CREAT, 0o600, value) };
        if semaphore == libc::SEM_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(semaphore))
    }

    /// Its value.
    pub(super) fn value(&self) -> io::Result<libc::c_int> {
        let mut value = 0;
        // SAFETY: the semaphore is open as long as self lives.
        checked(unsafe { libc::sem_getvalue(self.0, &raw mut value) })?;
        Ok(value)
    }

    /// Takes one without waiting.
    pub(super) fn try_wait(&self) -> io::Result<()> {
        // SAFETY: the semaphore is open as long as self lives.
        checked(unsafe { libc::sem_trywait(self.0) }).map(drop)
    }

    /// Gives one back.
    pub(super) fn post(&self) -> io::Result<()> {
        // SAFETY: the semaphore is open as long as self lives.
        checked(unsafe { libc::sem_post(self.0) }).map(drop)
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        // SAFETY: opened by sem_open and closed once.
        unsafe { libc::sem_close(self.0) };
    }
}

/// An io_uring instance.
pub(super) fn io_uring() -> io::Result<OwnedFd> {
    // struct io_uring_params of <linux/io_uring.h> is 120 bytes, all zero for the defaults.
    let mut parameters = [0_u64; 15];
    // SAFETY: the kernel writes at most the size of its structure, which the buffer has.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr()) };
    let fd = checked(libc::c_int::try_from(fd).map_err(io::Error::other)?)?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts children that are started from now on into a pid namespace of their own.
pub(super) fn unshare_pid() -> io::Result<()> {
    // SAFETY: CLONE_NEWPID changes where children go, nothing about this thread.
    checked(unsafe { libc::unshare(libc::CLONE_NEWPID) }).map(drop)
}

/// Becomes the tracer of a process, without stopping it.
pub(super) fn trace(pid: u32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes no address and no data.
    let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
