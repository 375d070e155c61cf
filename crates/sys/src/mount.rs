//! Mounts: overlay and tmpfs without option strings to escape, binds, flags, unmounting.
//!
//! New filesystems are made detached with fsopen(2) and attached with move_mount(2), so that a
//! failure leaves nothing mounted. Every function acts in the mount namespace of the calling
//! thread (mount_namespaces(7)); so does [`mountinfo()`], which is why it reads `/proc/thread-self`.
//! Links are not followed in the last component of a target.
#![expect(
    unsafe_code,
    reason = "mount_setattr(2) and unshare(2) have no safe wrapper"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

mod mountinfo;
mod overlay;

pub use mountinfo::{MountInfo, mountinfo, mountinfo_of, parse_mountinfo};
pub(crate) use overlay::try_overlay;
pub use overlay::{MAX_LOWER_LAYERS, overlay};

/// Mount attributes to switch on; the others stay as they are (mount_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Nothing can be written through this mount.
    pub read_only: bool,
    /// Set-uid and set-gid bits and file capabilities have no effect.
    pub nosuid: bool,
    /// Device nodes cannot be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
    /// Applies to every mount below the target too.
    pub recursive: bool,
}

impl Attributes {
    fn bits(self) -> u64 {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.nosuid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.nodev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.noexec);
        u64::from(flags.bits())
    }
}

/// `struct mount_attr` of `linux/mount.h` (`MOUNT_ATTR_SIZE_VER0`, 32 bytes).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Makes a detached tmpfs, `nosuid,nodev,noexec`, whose root directory has `mode`.
///
/// It can be used through `/proc/self/fd` and by *at calls before, or without ever, being attached
/// with [`attach`]; it goes away with the last descriptor.
///
/// # Errors
///
/// What fsopen(2), fsconfig(2) or fsmount(2) return.
pub fn tmpfs(size_bytes: Option<u64>, mode: u32) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, c"source", c"tmpfs")?;
    if let Some(size) = size_bytes {
        rustix::mount::fsconfig_set_string(&context, c"size", size.to_string())?;
    }
    rustix::mount::fsconfig_set_string(&context, c"mode", format!("{:o}", mode & 0o7777))?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Attaches a detached mount at `target`.
///
/// # Errors
///
/// What move_mount(2) returns.
pub fn attach(mount: impl AsFd, target: &Path) -> io::Result<()> {
    rustix::mount::move_mount(
        mount.as_fd(),
        c"",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(())
}

/// Makes the file or directory `source` visible at `target` too; links in `source` are followed.
///
/// # Errors
///
/// What open_tree(2) or move_mount(2) return.
pub fn bind(source: &Path, target: &Path, recursive: bool) -> io::Result<()> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let tree = rustix::mount::open_tree(CWD, source, flags)?;
    attach(tree, target)
}

/// Makes an open file or directory (also one opened with `O_PATH`) visible at `target`.
///
/// # Errors
///
/// What open_tree(2) or move_mount(2) return.
pub fn bind_fd(source: impl AsFd, target: &Path) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(source.as_fd(), c"", flags)?;
    attach(tree, target)
}

/// Switches attributes of the mount at `target` on.
///
/// # Errors
///
/// `EINVAL` when `target` is not a mount point; else what mount_setattr(2) returns.
pub fn set_flags(target: &Path, attributes: Attributes) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: attributes.bits(),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    mount_setattr(target, attributes.recursive, &attr)
}

/// Cuts the mount at `target` off from its peers, so that nothing propagates in or out.
///
/// # Errors
///
/// `EINVAL` when `target` is not a mount point; else what mount(2) returns.
pub fn make_private(target: &Path, recursive: bool) -> io::Result<()> {
    let mut flags = MountPropagationFlags::PRIVATE;
    flags.set(MountPropagationFlags::REC, recursive);
    rustix::mount::mount_change(target, flags)?;
    Ok(())
}

/// Takes the topmost mount at `target` away; absent or not mounted is fine.
///
/// With `detach` it leaves the tree at once, even in use, together with what is mounted below it.
///
/// # Errors
///
/// `EBUSY` when in use and not detached; else what umount2(2) returns.
pub fn unmount(target: &Path, detach: bool) -> io::Result<()> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, detach);
    match rustix::mount::unmount(target, flags) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether something is mounted at `path` (`STATX_ATTR_MOUNT_ROOT`, statx(2)); absent is `false`.
///
/// # Errors
///
/// What statx(2) returns; `Unsupported` on a kernel before 5.8.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let status = match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
    {
        Err(Errno::NOENT) => return Ok(false),
        other => other?,
    };
    if !status
        .stx_attributes_mask
        .contains(StatxAttributes::MOUNT_ROOT)
    {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Runs `work` on a thread with a mount namespace of its own, out of which nothing propagates.
///
/// The namespace and every mount made in it go away when the thread ends, unless a process that
/// `work` started keeps it.
///
/// # Errors
///
/// What unshare(2) or mount(2) return, or `work` itself.
pub fn in_private_namespace<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mounts".into());
        let handle = thread.spawn_scoped(scope, || {
            let flags = rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS;
            unshare(flags)?;
            make_private(Path::new("/"), true)?;
            work()
        })?;
        handle
            .join()
            .map_err(|_| io::Error::other("the thread with the mounts panicked"))?
    })
}

/// Unshares what other threads of a process may go on sharing: mounts, the working directory.
fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    // SAFETY: no caller in this module passes CLONE_FILES: the descriptor table, which other threads
    // rely on, stays shared.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

fn mount_setattr(target: &Path, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let path = CString::new(target.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `path` ends with a NUL byte and `attr` is a `struct mount_attr` of the size that is
    // passed with it; both live until the call returns, which keeps no reference to them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
pub(crate) mod tests;
