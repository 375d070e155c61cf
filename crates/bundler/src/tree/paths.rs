//! Names in a tar, and the directories they lead to.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::{Error, Problem, quoted};
use crate::format::records::MAX_PATH_BYTES;

/// The path without a slash at its end or `./` in front; `None` when it is not clean. The
/// directory itself is empty.
pub(super) fn clean(name: &[u8]) -> Option<Vec<u8>> {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let name = name.strip_suffix(b"/").unwrap_or(name);
    if matches!(name, b"" | b".") {
        return Some(Vec::new());
    }
    let good = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && part.len() <= 255;
    let fits = name.len() < MAX_PATH_BYTES && !name.contains(&0);
    (fits && name.split(|byte| *byte == b'/').all(good)).then(|| name.to_vec())
}

/// Directory and last component; `None` for the directory itself.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|byte| *byte == b'/') {
        _ if path.is_empty() => None,
        Some(at) => Some((path.get(..at)?, path.get(at + 1..)?)),
        None => Some((b"", path)),
    }
}

pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, b"/", name].concat()
    }
}

pub(super) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    sys::fs::open_beneath_same_mount(root, OsStr::from_bytes(path).as_ref(), flags)
}

pub(super) fn open_parent(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open(root, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// What it means that the directory of an entry cannot be opened.
pub(super) fn parent_error(entry: &[u8], error: io::Error) -> Error {
    let reason = match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => "it does not exist",
        Some(Errno::NOTDIR) => "a part of it is not a directory",
        Some(Errno::LOOP) => "a part of it is a symbolic link",
        Some(Errno::XDEV) => "it is on another mount",
        Some(Errno::NAMETOOLONG) => "its path is too long",
        _ => return Error::io(format!("open the directory of {}", quoted(entry)), error),
    };
    Error::invalid(
        entry,
        Problem::Parent {
            reason: reason.to_owned(),
        },
    )
}
