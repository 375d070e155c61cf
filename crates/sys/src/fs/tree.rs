//! Whole directories: made with their parents, removed with everything in them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

/// A tree deeper than this is taken down in pieces, so that neither the stack nor the number of
/// open files depends on what somebody put there.
const MAX_DEPTH: usize = 128;

/// Makes the directory `path` and its missing parents.
///
/// The last one gets exactly `mode`; missing parents get what `mode` has of 0755. Directories that
/// exist already are left as they are.
///
/// # Errors
///
/// `ENOTDIR` when something else has one of the names; else what mkdir(2) or chmod(2) return.
pub fn make_dir_all(path: &Path, mode: u32) -> io::Result<()> {
    let mut missing = Vec::new();
    for ancestor in path
        .ancestors()
        .filter(|ancestor| !ancestor.as_os_str().is_empty())
    {
        match rustix::fs::statat(CWD, ancestor, AtFlags::empty()) {
            Ok(status) if FileType::from_raw_mode(status.st_mode).is_dir() => break,
            Ok(_) => return Err(Errno::NOTDIR.into()),
            Err(Errno::NOENT) => missing.push(ancestor),
            Err(error) => return Err(error.into()),
        }
    }
    for (left, directory) in missing.iter().enumerate().rev() {
        let mode = if left == 0 {
            mode & 0o7777
        } else {
            mode & 0o755
        };
        let mode = Mode::from_bits_truncate(mode);
        match rustix::fs::mkdirat(CWD, *directory, mode) {
            // mkdir(2) subtracts the umask and may drop the special bits.
            Ok(()) => rustix::fs::chmodat(CWD, *directory, mode, AtFlags::empty())?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Removes `path` and, when it is a directory, everything below it; absent is fine.
///
/// Links below it are removed, not followed, and no other mount is entered. Links in the parent of
/// `path` are followed: it is a path of our own.
///
/// # Errors
///
/// `EBUSY` or `EXDEV` when something is mounted in the tree; else what unlinkat(2) or openat2(2)
/// return. What was removed until then stays removed; calling again goes on.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Errno::INVAL.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::openat(CWD, super::parent_of(path), flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    remove_beneath(parent, name)
}

/// [`remove_tree`] for one name in a directory.
///
/// # Errors
///
/// `EINVAL` when `name` is not a single component; else as [`remove_tree`].
pub fn remove_beneath(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    let dir = dir.as_fd();
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(top) = open_child(dir, name)? else {
        return Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?);
    };
    // Deep directories are moved up into `top`, so it is read again until it is empty.
    let mut moved = 0_u64;
    while remove_contents(top.as_fd(), top.as_fd(), 0, &mut moved)? {}
    drop(top);
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes what is in `dir`; tells whether something was moved up to `top` and is still there.
fn remove_contents(
    dir: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    depth: usize,
    moved: &mut u64,
) -> io::Result<bool> {
    let mut left_over = false;
    for name in children(dir)? {
        match rustix::fs::unlinkat(dir, &*name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        if depth >= MAX_DEPTH {
            *moved += 1;
            let parked = format!(".removing-{}-{moved}", std::process::id());
            match rustix::fs::renameat_with(dir, &*name, top, &*parked, RenameFlags::NOREPLACE) {
                Ok(()) => left_over = true,
                Err(Errno::EXIST) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
            continue;
        }
        if let Some(child) = open_child(dir, &name)? {
            left_over |= remove_contents(child.as_fd(), top, depth + 1, moved)?;
        }
        match rustix::fs::unlinkat(dir, &*name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(left_over)
}

/// Opens the directory `name` in `dir`, `None` when it is something else by now.
fn open_child(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
        Ok(child) => Ok(Some(child)),
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn children(dir: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}
