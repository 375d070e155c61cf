//! Paths of inotify watches, for CRIU to find again.
//!
//! The kernel tells of a watch only device and inode. CRIU asks for a file handle, which overlayfs
//! does not have here, and then searches the directories it is told (`irmap_scan_paths`). Searching
//! the whole root filesystem while everything is frozen would be slow, so it is done here before
//! the freeze, and CRIU is told the exact paths.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files looked at, at most.
const MOST: usize = 500_000;

/// Finds the watched inodes below `root` and returns their paths as the container sees them.
///
/// Only inode numbers are compared: the device of an overlay differs between its views.
pub(super) fn find(root: &Path, watches: &BTreeSet<(u64, u64)>) -> Vec<PathBuf> {
    let mut wanted: BTreeSet<u64> = watches.iter().map(|(_, inode)| *inode).collect();
    let mut found = Vec::new();
    let Ok(top) = std::fs::symlink_metadata(root) else {
        return found;
    };
    if wanted.remove(&top.ino()) {
        found.push(PathBuf::from("/"));
    }
    let mut pending = vec![root.to_path_buf()];
    let mut seen = 0_usize;
    while let Some(directory) = pending.pop() {
        if wanted.is_empty() || seen > MOST {
            break;
        }
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            seen += 1;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let path = entry.path();
            if wanted.remove(&metadata.ino())
                && let Ok(inner) = path.strip_prefix(root)
            {
                found.push(Path::new("/").join(inner));
            }
            if metadata.is_dir() {
                pending.push(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watched_files_are_found_by_inode() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        sys::fs::replace_path(&dir.path().join("a/b/c"), 0o600, b"x").unwrap();
        let inode = std::fs::metadata(dir.path().join("a/b/c")).unwrap().ino();
        let top = std::fs::metadata(dir.path()).unwrap().ino();
        let found = find(
            dir.path(),
            &BTreeSet::from([(1, inode), (1, top), (1, u64::MAX)]),
        );
        assert_eq!(found, [PathBuf::from("/"), PathBuf::from("/a/b/c")]);
    }
}
