//! A program that stands in for another one: what it was given, and becoming the other.
#![expect(unsafe_code, reason = "inherited descriptors are known by number only")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::FdFlags;

use super::Command;

/// Takes the descriptors above the standard three that this process was started with, by number.
/// From here on they are close-on-exec. Meant for the start of `main`, before other threads exist.
///
/// # Errors
///
/// When it is called again, `/proc` cannot be read, or what fcntl(2) returns.
pub fn take_inherited() -> io::Result<Vec<(i32, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::other("inherited descriptors can be taken once"));
    }
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    numbers.sort_unstable();
    let mut taken = Vec::new();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: F_GETFD takes any number; it fails for one that is not open, such as that of the
        // directory read above.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        // What exec left open is not close-on-exec; what this process has opened since is.
        if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
            continue;
        }
        // SAFETY: the number is open, and it was so before this program's first instruction: all
        // its own descriptors are close-on-exec. Nobody else can have it as theirs, because only
        // this function hands such numbers out, and it does so once.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        taken.push((number, fd));
    }
    Ok(taken)
}

impl Command {
    /// Becomes the program, with this process's id, standard descriptors, group, directory and
    /// environment, and its inherited descriptors where they have not been taken
    /// ([`take_inherited`]). Only program and arguments of the command count. Returns only when
    /// that fails.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "replaces this process; no child is started"
    )]
    pub fn exec(self) -> io::Error {
        std::process::Command::new(&self.program)
            .args(&self.args)
            .exec()
    }
}
