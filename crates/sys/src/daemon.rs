//! Becoming a process that outlives the one that started it.
#![expect(
    unsafe_code,
    reason = "fork(2), _exit(2) and closing by number have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// Leaves the caller's process tree: the calling process ends with status 0 and a child of it, in a
/// session of its own and given to the nearest subreaper, returns from this function.
///
/// The program must have one thread only: in the child of a fork no other thread exists, and locks
/// that those held stay locked for ever. Threads are therefore counted first.
///
/// # Errors
///
/// `Unsupported` when there are other threads; what fork(2) and setsid(2) return.
pub fn detach() -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "detaching with several threads",
        ));
    }
    // SAFETY: this process has one thread (counted above, and the only thread is the one here, so no
    // other can have begun since); the child may therefore go on as if it were the parent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            rustix::process::setsid()?;
            Ok(())
        }
        // SAFETY: _exit(2) ends the process and runs nothing of it; buffers and guards that the child
        // now owns as well must not be flushed or dropped here.
        _ => unsafe { libc::_exit(0) },
    }
}

/// Takes what standard input is, and puts `/dev/null` there.
///
/// This is how a program is given one descriptor without an agreement about numbers.
///
/// # Errors
///
/// `EBADF` when standard input is closed; what open(2) and dup2(2) return.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let taken = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: `null` is open for the duration of the call. Standard input is owned by nobody: std
    // reads it by number, and finds `/dev/null` there from now on.
    if unsafe { libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(taken)
}

/// Puts `/dev/null` in the place of standard output and error, so that whoever reads what was there sees
/// its end once the others that hold it have ended.
///
/// # Errors
///
/// What open(2) and dup2(2) return.
pub fn silence_outputs() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    for number in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: `null` is open for the duration of the call; the standard descriptors are owned by
        // nobody, as above.
        if unsafe { libc::dup2(null.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Closes the descriptors that this program was started with, except standard input, output and error.
///
/// A descriptor leaked by whoever started the program would otherwise stay open for as long as it
/// lives: a test harness, or a shell, that waits for the end of a pipe would wait for ever (conmon
/// closes what is above 2 for the same reason).
///
/// # Errors
///
/// What reading `/proc/self/fd` returns.
pub fn close_inherited() -> io::Result<()> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        numbers.extend(
            name.to_str()
                .and_then(|name| name.parse::<libc::c_int>().ok()),
        );
    }
    for number in numbers
        .into_iter()
        .filter(|number| *number > libc::STDERR_FILENO)
    {
        // SAFETY: F_GETFD is defined for any number; one that is closed by now (the directory read
        // above had one) fails with `EBADF` and affects nothing.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: nothing in this process owns the descriptor. It lacks close-on-exec, and what
            // std, rustix and this crate open has it from the first moment; so it came through exec.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
}
