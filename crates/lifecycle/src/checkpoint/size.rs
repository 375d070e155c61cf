//! How much a container has changed in its root filesystem, before anything is frozen.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, OFlags, statat};

use super::Cancel;

/// Files that are looked at; the sum over more of them is an estimate anyway.
const MOST: u64 = 1_000_000;

/// `struct stat` counts in these whatever the filesystem's own are (stat(3type)).
const BLOCK_BYTES: u64 = 512;

/// Bytes on the disk of all files below `upper`. What the container changes meanwhile may be
/// counted or not.
///
/// # Errors
///
/// What opening or reading a directory returns, unless it has just gone.
pub(super) fn changes(upper: &Path, cancel: &Cancel) -> io::Result<u64> {
    let root = sys::fs::open_dir(upper)?;
    let (mut bytes, mut seen) = (0_u64, 0_u64);
    let mut left = vec![PathBuf::from(".")];
    while let Some(path) = left.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match sys::fs::open_beneath(&root, &path, flags) {
            Err(error) if is_gone(&error) => continue,
            opened => opened?,
        };
        for entry in Dir::read_from(directory.as_fd())? {
            let entry = entry?;
            let name = entry.file_name();
            if seen == MOST || cancel.reason().is_some() {
                return Ok(bytes);
            }
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            seen += 1;
            let Ok(stat) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
            bytes = bytes.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                use std::os::unix::ffi::OsStrExt as _;
                left.push(path.join(std::ffi::OsStr::from_bytes(name.to_bytes())));
            }
        }
    }
    Ok(bytes)
}

/// Removed, or replaced by something that is no directory, since it was listed.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Reason;

    #[test]
    fn files_of_every_level_count_and_links_are_not_followed() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let outside = tempfile::tempdir_in("/var/tmp").unwrap();
        let write = |path: PathBuf, length: usize| {
            sys::fs::replace_path(&path, 0o600, &vec![1; length]).unwrap();
        };
        let deep = dir.path().join("a/b");
        sys::fs::make_dir_all(&deep, 0o700).unwrap();
        write(outside.path().join("big"), 4 << 20);
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let empty = changes(dir.path(), &Cancel::new()).unwrap();
        assert!(empty < 1 << 20, "{empty}");
        write(dir.path().join("top"), 1 << 20);
        write(deep.join("file"), 2 << 20);
        let full = changes(dir.path(), &Cancel::new()).unwrap();
        let grown = full - empty;
        assert!((3 << 20..4 << 20).contains(&grown), "{grown}");
        let cancel = Cancel::new();
        cancel.cancel_because(Reason::Caller);
        assert_eq!(changes(dir.path(), &cancel).unwrap(), 0);
    }
}
