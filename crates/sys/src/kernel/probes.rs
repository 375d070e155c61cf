//! The probes: each uses one thing as the rest of the program does, on objects of its own.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;

use crate::mount::{self, Attributes};
use crate::{fs, pidfd};

/// How long a traced process may take to stop.
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
const STOP: std::time::Duration = std::time::Duration::from_secs(5);
/// A tmpfs for a few names.
const BYTES: u64 = 1 << 20;

pub(super) fn attach() -> io::Result<()> {
    with_root(|| Ok(()))
}

pub(super) fn mount_setattr() -> io::Result<()> {
    with_root(|| {
        let read_only = Attributes {
            read_only: true,
            ..Attributes::default()
        };
        mount::set_flags(Path::new("."), read_only)
    })
}

pub(super) fn mount_root() -> io::Result<()> {
    mount::is_mount_point(Path::new("/")).map(drop)
}

pub(super) fn overlay() -> io::Result<()> {
    with_root(mount::try_overlay)
}

pub(super) fn openat2() -> io::Result<()> {
    let root = fs::open_dir(Path::new("/"))?;
    fs::open_beneath(root, Path::new("proc"), OFlags::PATH).map(drop)
}

pub(super) fn pidfd_open() -> io::Result<()> {
    own().map(drop)
}

pub(super) fn pidfd_send_signal() -> io::Result<()> {
    pidfd::send_signal(own()?, 0)
}

pub(super) fn waitid() -> io::Result<()> {
    match pidfd::wait_child(own()?) {
        // This process is no child of its own: the kernel knew what was meant.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(()),
        other => other.map(drop),
    }
}

pub(super) fn pidfd_getfd() -> io::Result<()> {
    let own = own()?;
    let flags = rustix::process::PidfdGetfdFlags::empty();
    let number = own.as_raw_fd();
    rustix::process::pidfd_getfd(&own, number, flags)?;
    Ok(())
}

pub(super) fn children() -> io::Result<()> {
    std::fs::read("/proc/thread-self/children").map(drop)
}

pub(super) fn close_range() -> io::Result<()> {
    crate::process::try_close_range()
}

pub(super) fn kcmp() -> io::Result<()> {
    let file = std::fs::File::open("/proc/self/status")?;
    let number = file.as_raw_fd();
    let own = (
        std::process::id(),
        u32::try_from(number).map_err(io::Error::other)?,
    );
    crate::kcmp::same_file(own, own).map(drop)
}

pub(super) fn unix_diag() -> io::Result<()> {
    crate::unix_diag::sockets().map(drop)
}

pub(super) fn forked_pages() -> io::Result<()> {
    if crate::memory::forked_pages_keep()? {
        return Ok(());
    }
    Err(io::Error::other(
        "writes go through to pages that lie in a pipe",
    ))
}

#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
pub(super) fn suspend_seccomp() -> io::Result<()> {
    traced(|tid| crate::ptrace::set_options(tid, crate::ptrace::SUSPEND_SECCOMP))
}

#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
pub(super) fn sequence() -> io::Result<()> {
    traced(|tid| crate::ptrace::sequence(tid).map(drop))
}

// Processes are made to fork on x86-64 only.
#[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64")))]
pub(super) fn suspend_seccomp() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64")))]
pub(super) fn sequence() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn tmpfs_attributes() -> io::Result<()> {
    let tmpfs = mount::tmpfs(Some(BYTES), 0o700)?;
    fs::set_xattr(&tmpfs, OsStr::new(""), OsStr::new("user.thawd"), b"1")
}

fn own() -> io::Result<OwnedFd> {
    pidfd::open(std::process::id())
}

/// Runs `work` in a mount namespace that ends with it, with an empty tmpfs as the working directory.
fn with_root(work: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    mount::in_private_namespace(|| {
        let tmpfs = mount::tmpfs(Some(BYTES), 0o700)?;
        // What lies on the root directory is not seen by its absolute paths, and /proc stays.
        mount::attach(&tmpfs, Path::new("/"))?;
        rustix::process::fchdir(&tmpfs)?;
        work()
    })
}

/// Runs `work` with the thread id of a process that this thread traces, and that stands.
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
fn traced(work: impl FnOnce(u32) -> io::Result<()>) -> io::Result<()> {
    use crate::process::{Command, Deadline, Stdio};
    // It waits for input, which ends with this process.
    let child = Command::new("cat").stdin(Stdio::Pipe).spawn()?;
    let tid = child.pid();
    crate::ptrace::seize(tid)?;
    crate::ptrace::interrupt(tid)?;
    let until = Deadline::after(STOP);
    while crate::ptrace::wait(tid)?.is_none() {
        if until.passed() {
            return Err(rustix::io::Errno::TIMEDOUT.into());
        }
        std::thread::yield_now();
    }
    work(tid)
}
