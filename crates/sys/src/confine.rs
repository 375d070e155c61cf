//! Giving up what a process does not need, for good: the host's files, and all rights.
//!
//! For processes with one thread; elsewhere the others would keep what they have.
#![expect(unsafe_code, reason = "unshare has no safe wrapper")]

use std::io;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use rustix::thread::{Gid, Uid};

/// A directory that every Linux system has; the new root is mounted there for a moment.
const MOUNT_POINT: &str = "/proc";

/// Moves the process to a mount namespace of its own whose root is empty and read-only. What is
/// open stays open.
///
/// # Errors
///
/// What unshare(2), mount(2) or pivot_root(2) return: `EINVAL` when the current root is no mount
/// point, as after chroot(2).
pub fn empty_root() -> io::Result<()> {
    // SAFETY: only the mount namespace is unshared, never the descriptor table (CLONE_FILES) that
    // other threads would rely on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    let root = crate::mount::tmpfs(Some(4096), 0o555)?;
    crate::mount::attach(&root, Path::new(MOUNT_POINT))?;
    rustix::process::fchdir(&root)?;
    // The old root ends up on top of the new one (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    let read_only = crate::mount::Attributes {
        read_only: true,
        ..crate::mount::Attributes::default()
    };
    crate::mount::set_flags(Path::new("/"), read_only)
}

/// Becomes the user and group `id` without other groups, without any capability, now and after an
/// execve(2). Afterwards only a process with `CAP_SYS_PTRACE` can look into this one
/// (PR_SET_DUMPABLE(2const): a change of credentials clears the flag).
///
/// # Errors
///
/// `EPERM` without the rights to do so (capabilities(7)).
pub fn drop_privileges(id: u32) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Of a newer kernel than this one.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::thread::set_thread_groups(&[])?;
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)?;
    Ok(())
}
