//! Extended attributes of a name in a directory; links are not followed (xattr(7)).
//!
//! The system calls take paths only, so a name below a descriptor goes through
//! `/proc/thread-self/fd/N/NAME`: the first part is a magic link to the directory, the last
//! component is not followed. An empty name means the descriptor itself, also one opened with
//! `O_PATH`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use rustix::fs::{CWD, XattrFlags};
use rustix::io::Errno;

/// How often a value that grows between two calls is read again.
const ATTEMPTS: usize = 16;

enum Target {
    /// A name: the last component is not followed.
    Name(PathBuf),
    /// A descriptor, by its magic link, which has to be followed.
    Descriptor(PathBuf),
}

/// The result names `dir` by its number, so it is of use only while `dir` is open.
fn target(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Target> {
    if name.as_bytes().contains(&b'/') && dir.as_raw_fd() != CWD.as_raw_fd() {
        return Err(Errno::INVAL.into());
    }
    let base = PathBuf::from(super::descriptor_path(dir));
    Ok(
        match (name.is_empty(), dir.as_raw_fd() == CWD.as_raw_fd()) {
            (true, true) => Target::Name(PathBuf::from(".")),
            (true, false) => Target::Descriptor(base),
            (false, true) => Target::Name(PathBuf::from(name)),
            (false, false) => Target::Name(base.join(name)),
        },
    )
}

/// Names of the attributes of `name` in `dir`; none when the filesystem has no attributes.
///
/// # Errors
///
/// `EINVAL` when `name` holds a slash below a descriptor; else what llistxattr(2) returns.
pub fn list_xattrs(dir: impl AsFd, name: &OsStr) -> io::Result<Vec<OsString>> {
    let dir = dir.as_fd();
    let target = target(dir, name)?;
    let list = |buffer: &mut Vec<u8>| match &target {
        Target::Name(path) => rustix::fs::llistxattr(path, buffer.as_mut_slice()),
        Target::Descriptor(path) => rustix::fs::listxattr(path, buffer.as_mut_slice()),
    };
    let Some(bytes) = grow(list)? else {
        return Ok(Vec::new());
    };
    Ok(bytes
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect())
}

/// The value of the attribute `key`, `None` when there is none.
///
/// # Errors
///
/// `EINVAL` when `name` holds a slash below a descriptor; else what lgetxattr(2) returns.
pub fn get_xattr(dir: impl AsFd, name: &OsStr, key: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let dir = dir.as_fd();
    let target = target(dir, name)?;
    grow(|buffer: &mut Vec<u8>| match &target {
        Target::Name(path) => rustix::fs::lgetxattr(path, key, buffer.as_mut_slice()),
        Target::Descriptor(path) => rustix::fs::getxattr(path, key, buffer.as_mut_slice()),
    })
}

/// Sets the attribute `key`, replacing its value.
///
/// # Errors
///
/// `EINVAL` when `name` holds a slash below a descriptor; else what lsetxattr(2) returns.
pub fn set_xattr(dir: impl AsFd, name: &OsStr, key: &OsStr, value: &[u8]) -> io::Result<()> {
    let dir = dir.as_fd();
    match target(dir, name)? {
        Target::Name(path) => rustix::fs::lsetxattr(&path, key, value, XattrFlags::empty())?,
        Target::Descriptor(path) => rustix::fs::setxattr(&path, key, value, XattrFlags::empty())?,
    }
    Ok(())
}

/// Takes the attribute `key` away; absent is fine.
///
/// # Errors
///
/// `EINVAL` when `name` holds a slash below a descriptor; else what lremovexattr(2) returns.
pub fn remove_xattr(dir: impl AsFd, name: &OsStr, key: &OsStr) -> io::Result<()> {
    let dir = dir.as_fd();
    let removed = match target(dir, name)? {
        Target::Name(path) => rustix::fs::lremovexattr(&path, key),
        Target::Descriptor(path) => rustix::fs::removexattr(&path, key),
    };
    match removed {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Calls `read` with a buffer that grows until the value fits; `None` when there is no such
/// attribute or the filesystem has none at all.
fn grow(
    mut read: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>,
) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0_u8; 256];
    for _ in 0..ATTEMPTS {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            // XATTR_SIZE_MAX and XATTR_LIST_MAX are 64 KiB (linux/limits.h).
            Err(Errno::RANGE) => buffer.resize((buffer.len() * 4).min(1 << 20), 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::RANGE.into())
}
