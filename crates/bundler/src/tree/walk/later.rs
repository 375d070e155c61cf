//! A second pass, for names that appear while the first one is under way.
//!
//! CRIU gives deleted files that have another name a new one (`link_remap.N`) while it dumps, and
//! takes it away when the dump ends. In the tar it has to be a hard link to that other name.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher as _;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, Dir, FileType};

use super::{TreeWriter, check_depth, is_mount_point, join, open_directory, reading};
use crate::error::Error;

/// One name in a directory.
struct Name {
    parent: Vec<u8>,
    name: OsString,
    inode: u64,
}

impl<W: Write> TreeWriter<W> {
    /// Writes files that came since, whose name begins with `prefix`; what was written before is
    /// not written again, and a second name of a file that is in the tar becomes a hard link.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], [`Error::Io`], [`Error::NoSpace`].
    pub fn append_matching(&mut self, prefix: &[u8]) -> Result<(), Error> {
        let mut found = Vec::new();
        self.scan(&mut |_, name| {
            if name.name.as_bytes().starts_with(prefix) {
                found.push(name);
            }
        })?;
        found.retain(|name| {
            let path = join(&name.parent, name.name.as_bytes());
            !self.written.contains(&self.hasher.hash_one(&path))
        });
        if found.is_empty() {
            return Ok(());
        }
        // Their files may be in the tar as files that had one name when they were written.
        let wanted: HashSet<u64> = found.iter().map(|name| name.inode).collect();
        let mut others = Vec::new();
        self.scan(&mut |writer, name| {
            let path = join(&name.parent, name.name.as_bytes());
            let known = writer.written.contains(&writer.hasher.hash_one(&path));
            if known && wanted.contains(&name.inode) {
                others.push(name);
            }
        })?;
        for name in others {
            let path = join(&name.parent, name.name.as_bytes());
            let dir = self.open(&name.parent)?;
            let status = rustix::fs::statat(&dir, &*name.name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| reading(&path, error.into()))?;
            self.links
                .entry((status.st_dev, status.st_ino))
                .or_insert(path);
        }
        for name in found {
            let dir = self.open(&name.parent)?;
            if let Some(directory) = self.child(&dir, &name.name, &name.parent)? {
                self.walk(directory, name.parent.split(|byte| *byte == b'/').count())?;
            }
        }
        Ok(())
    }

    /// Shows every name in the tree, except `.` and `..`.
    fn scan(&self, show: &mut dyn FnMut(&Self, Name)) -> Result<(), Error> {
        let mut stack = vec![self.list(self.open(b"")?, Vec::new())?];
        while let Some((dir, path, entries)) = stack.last_mut() {
            let Some(entry) = entries.read() else {
                stack.pop();
                continue;
            };
            let entry = entry.map_err(|error| reading(path, error.into()))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let found = Name {
                parent: path.clone(),
                name: name.to_owned(),
                inode: entry.ino(),
            };
            let mut below = None;
            if entry.file_type() == FileType::Directory {
                let child = join(path, name.as_bytes());
                match open_directory(dir, name) {
                    Ok(opened) => {
                        check_depth(&child, stack.len())?;
                        below = Some(self.list(opened, child)?);
                    }
                    // What is mounted there is not this tree's.
                    Err(error) if is_mount_point(&error) => {}
                    Err(error) => return Err(reading(&child, error)),
                }
            }
            show(self, found);
            stack.extend(below);
        }
        Ok(())
    }

    fn list(&self, dir: OwnedFd, path: Vec<u8>) -> Result<(OwnedFd, Vec<u8>, Dir), Error> {
        let entries = Dir::read_from(&dir).map_err(|error| reading(&path, error.into()))?;
        Ok((dir, path, entries))
    }

    /// Opens a directory of the tree by its path.
    fn open(&self, path: &[u8]) -> Result<OwnedFd, Error> {
        let path = if path.is_empty() { b"." } else { path };
        open_directory(&self.root, OsStr::from_bytes(path)).map_err(|error| reading(path, error))
    }
}
