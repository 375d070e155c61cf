//! Namespaces without a process: made by a thread that ends, kept by a bind mount.
//!
//! `unshare(2)` of a network, IPC or UTS namespace concerns the calling thread only, so each
//! function here starts a thread for it, does the work there and lets the thread end. What remains
//! is a bind mount of the namespace's file, which holds it (namespaces(7), "Namespace lifetime").
#![expect(
    unsafe_code,
    reason = "unshare and the interface ioctl have no safe wrapper"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Which namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Network (network_namespaces(7)).
    Net,
    /// System V IPC and POSIX message queues (ipc_namespaces(7)).
    Ipc,
    /// Host and domain name (uts_namespaces(7)).
    Uts,
    /// Process ids of children made afterwards (pid_namespaces(7)).
    Pid,
}

impl Kind {
    /// The name of its file below `/proc/PID/ns`, and of its pin.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Pid => "pid",
        }
    }

    /// The link in `/proc/thread-self/ns` to pin: for pid the one that children get.
    fn link(self) -> &'static str {
        match self {
            Self::Pid => "pid_for_children",
            other => other.file_name(),
        }
    }

    fn flag(self) -> UnshareFlags {
        match self {
            Self::Net => UnshareFlags::NEWNET,
            Self::Ipc => UnshareFlags::NEWIPC,
            Self::Uts => UnshareFlags::NEWUTS,
            Self::Pid => UnshareFlags::NEWPID,
        }
    }
}

/// Makes new namespaces, runs `setup` inside them and pins each at `pin_dir/<file_name>`.
///
/// `setup` runs on the new thread before pinning; for [`Kind::Pid`] a child that it starts is the
/// namespace's first process. The pins are bind mounts in the caller's mount namespace; undo with
/// [`unpin`].
///
/// # Errors
///
/// What unshare(2), `setup` or mount(2) return; pins made before the failure are removed.
pub fn create<T: Send>(
    kinds: &[Kind],
    pin_dir: &Path,
    setup: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_thread(move || {
        let flags = kinds
            .iter()
            .fold(UnshareFlags::empty(), |all, kind| all | kind.flag());
        // SAFETY: only namespaces are unshared, never the descriptor table (CLONE_FILES) that
        // other threads rely on; the thread does nothing else and ends afterwards.
        unsafe { rustix::thread::unshare_unsafe(flags) }?;
        let value = setup()?;
        for kind in kinds {
            let target = pin_dir.join(kind.file_name());
            let source = PathBuf::from(format!("/proc/thread-self/ns/{}", kind.link()));
            if let Err(error) = pin(&source, &target) {
                for made in kinds {
                    drop(unpin(&pin_dir.join(made.file_name())));
                }
                return Err(error);
            }
        }
        Ok(value)
    })
}

/// Binds a namespace file of `/proc` to a file, which is made.
///
/// # Errors
///
/// What open(2) or mount(2) return.
pub fn pin(source: &Path, target: &Path) -> io::Result<()> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(target)?;
    rustix::mount::mount_bind(source, target)?;
    Ok(())
}

/// Takes a pin away; absent is fine.
///
/// # Errors
///
/// What umount2(2) or unlink(2) return.
pub fn unpin(target: &Path) -> io::Result<()> {
    loop {
        match rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match std::fs::remove_file(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs `work` on a thread that has joined the namespace at `path`.
///
/// # Errors
///
/// What open(2) or setns(2) return, or `work` itself.
pub fn enter<T: Send>(
    path: &Path,
    kind: Kind,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let file = File::open(path)?;
    on_thread(move || {
        let link_type = match kind {
            Kind::Net => LinkNameSpaceType::Network,
            Kind::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Kind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Kind::Pid => LinkNameSpaceType::ProcessID,
        };
        move_into_link_name_space(file.as_fd(), Some(link_type))?;
        work()
    })
}

/// Runs `work` in a mount namespace of its own that still follows the old one, and comes back.
///
/// A process that `work` starts stays there: what it mounts is seen there only and vanishes with
/// the last process, while the host's unmounts arrive (mount_namespaces(7), "rslave").
///
/// For processes with one thread; elsewhere only the calling thread would move.
///
/// # Errors
///
/// What unshare(2), mount(2), setns(2) or `work` return.
pub fn with_private_mounts<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = File::open("/proc/thread-self/ns/mnt")?;
    // SAFETY: only the mount namespace is unshared, never the descriptor table (CLONE_FILES) that
    // other threads would rely on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let slave = rustix::mount::MountPropagationFlags::DOWNSTREAM
        | rustix::mount::MountPropagationFlags::REC;
    let result = match rustix::mount::mount_change("/", slave) {
        Ok(()) => work(),
        Err(error) => Err(error.into()),
    };
    move_into_link_name_space(before.as_fd(), Some(LinkNameSpaceType::Mount))?;
    result
}

/// Gives the calling thread a cgroup namespace of its own, whose root is the cgroup it is in
/// (cgroup_namespaces(7)). For processes with one thread; elsewhere the others would stay.
///
/// # Errors
///
/// What unshare(2) returns.
pub fn unshare_cgroup() -> io::Result<()> {
    // SAFETY: only the cgroup namespace is unshared, never the descriptor table (CLONE_FILES) that
    // other threads would rely on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }?;
    Ok(())
}

/// Sets the host name of the calling thread's UTS namespace.
///
/// # Errors
///
/// `EINVAL` for a name of more than 64 bytes (sethostname(2)).
pub fn set_hostname(name: &str) -> io::Result<()> {
    rustix::system::sethostname(name.as_bytes())?;
    Ok(())
}

/// Brings `lo` up in the calling thread's network namespace (netdevice(7), `SIOCSIFFLAGS`).
///
/// # Errors
///
/// What socket(2) or ioctl(2) return.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: ifreq is plain old data, for which all-zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = libc::c_char::try_from(*byte).map_err(io::Error::other)?;
    }
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(up).map_err(io::Error::other)?;
    // SAFETY: the descriptor is an open socket for the whole call, and SIOCSIFFLAGS reads one
    // ifreq, which `request` is.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The inode number of a namespace file, which is its identity (namespaces(7)).
///
/// # Errors
///
/// What stat(2) returns.
pub fn inode(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(path)?.ino())
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("namespace".into())
            .spawn_scoped(scope, work)?
            .join()
            .map_err(|_| io::Error::other("the namespace thread panicked"))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_namespace_outlives_its_thread_and_can_be_entered() {
        let dir = tempfile::tempdir().unwrap();
        create(&[Kind::Uts, Kind::Net], dir.path(), || {
            loopback_up()?;
            set_hostname("pod-1")
        })
        .unwrap();
        let name = enter(&dir.path().join("uts"), Kind::Uts, || {
            Ok(rustix::system::uname().nodename().to_owned())
        })
        .unwrap();
        assert_eq!(name.to_str().unwrap(), "pod-1");
        assert_ne!(
            rustix::system::uname().nodename().to_str().unwrap(),
            "pod-1"
        );
        let flags = enter(&dir.path().join("net"), Kind::Net, || {
            std::fs::read_to_string("/proc/thread-self/net/dev")
        })
        .unwrap();
        assert!(flags.contains("lo:") && !flags.contains("eth0:"), "{flags}");
        unpin(&dir.path().join("uts")).unwrap();
        unpin(&dir.path().join("net")).unwrap();
        unpin(&dir.path().join("net")).unwrap();
        assert!(!dir.path().join("uts").exists());
    }

    #[test]
    fn a_cgroup_namespace_begins_where_the_thread_is() {
        let (path, before, after) = on_thread(|| {
            let link = || std::fs::read_link("/proc/thread-self/ns/cgroup");
            let before = link()?;
            unshare_cgroup()?;
            let text = std::fs::read_to_string("/proc/thread-self/cgroup")?;
            Ok((text, before, link()?))
        })
        .unwrap();
        assert_ne!(before, after);
        assert!(path.lines().all(|line| line.ends_with(":/")), "{path}");
    }

    #[test]
    fn a_failed_setup_leaves_no_pin() {
        let dir = tempfile::tempdir().unwrap();
        let error = create(&[Kind::Uts], dir.path(), || set_hostname(&"x".repeat(65))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
