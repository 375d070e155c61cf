//! From a directory to a tar.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat, StatxAttributes, StatxFlags};

use super::report::{CaptureReport, MAX_SKIPPED, Skipped};
use super::{Dialect, path_of};
use crate::error::Error;
use crate::format::encode::Header;
use crate::format::{BLOCK_LEN, Kind, Records, Time, XATTR_PREFIX};

mod content;
mod later;

/// A container can make trees of any depth; this one has a descriptor open for each level.
const MAX_DEPTH: usize = 512;
/// Beginning of names that mark deletions in a layer.
const WHITEOUT: &[u8] = b".wh.";

/// A directory that is being walked.
#[derive(Debug)]
struct Open {
    dir: OwnedFd,
    path: Vec<u8>,
    names: std::vec::IntoIter<OsString>,
}

/// Writes a directory as a tar, in one pass or several.
#[derive(Debug)]
pub struct TreeWriter<W> {
    root: OwnedFd,
    out: W,
    dialect: Dialect,
    /// Names in the tar of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Paths in the tar that a later pass must not write again.
    written: HashSet<u64>,
    hasher: RandomState,
    report: CaptureReport,
}

impl<W: Write> TreeWriter<W> {
    /// Of a directory as it is.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the directory cannot be opened again.
    pub fn plain(dir: impl AsFd, out: W) -> Result<Self, Error> {
        Self::new(dir.as_fd(), out, Dialect::Plain)
    }

    /// Of an overlay's upper directory, as an OCI layer.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the directory cannot be opened again.
    pub fn overlay(upper: impl AsFd, out: W) -> Result<Self, Error> {
        Self::new(upper.as_fd(), out, Dialect::Overlay)
    }

    fn new(dir: BorrowedFd<'_>, out: W, dialect: Dialect) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let root = sys::fs::open_beneath(dir, ".".as_ref(), flags)
            .map_err(|error| Error::io("open the directory to capture", error))?;
        Ok(Self {
            root,
            out,
            dialect,
            links: HashMap::new(),
            written: HashSet::new(),
            hasher: RandomState::new(),
            report: CaptureReport::default(),
        })
    }

    /// Writes everything there is.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], [`Error::Io`], [`Error::NoSpace`].
    pub fn write_all(&mut self) -> Result<(), Error> {
        let root = self
            .root
            .try_clone()
            .map_err(|error| Error::io("open a directory", error))?;
        let root = self.enter(root, Vec::new())?;
        self.walk(root, 0)
    }

    /// Writes the end marker; returns what the tar was written to, and what is in it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn finish(mut self) -> Result<(W, CaptureReport), Error> {
        let end = self
            .out
            .write_all(&[0; 2 * BLOCK_LEN])
            .and_then(|()| self.out.flush());
        end.map_err(|error| Error::io("end a tar", error))?;
        Ok((self.out, self.report))
    }

    /// Writes what is in a directory and below. Nothing here recurses: the container decides how
    /// deep its directories are.
    fn walk(&mut self, first: Open, depth: usize) -> Result<(), Error> {
        let mut stack = vec![first];
        while let Some(open) = stack.last_mut() {
            let Some(name) = open.names.next() else {
                stack.pop();
                continue;
            };
            if let Some(child) = self.child(&open.dir, &name, &open.path)? {
                check_depth(&child.path, depth + stack.len())?;
                stack.push(child);
            }
        }
        Ok(())
    }

    /// Writes the directory itself, and reads its names.
    fn enter(&mut self, dir: OwnedFd, path: Vec<u8>) -> Result<Open, Error> {
        let status = rustix::fs::fstat(&dir).map_err(|error| reading(&path, error.into()))?;
        let mut name = path.clone();
        name.extend_from_slice(if path.is_empty() { b"./" } else { b"/" });
        let mut header = header_of(&name, Kind::Directory, &status);
        header.records = self.attributes(dir.as_fd(), OsStr::new(""), &path, true)?;
        self.put(&header, &path)?;
        self.report.directories += 1;
        if self.dialect == Dialect::Overlay && self.is_opaque(&dir, &path)? {
            self.whiteout(&join(&path, b".wh..wh..opq"))?;
            self.report.opaque.push(path_of(&join(b"/", &path)));
        }
        let names = children(&dir)
            .map_err(|error| reading(&path, error))?
            .into_iter();
        Ok(Open { dir, path, names })
    }

    /// Writes one name; a directory is returned to be walked.
    fn child(
        &mut self,
        dir: &OwnedFd,
        child: &OsStr,
        parent: &[u8],
    ) -> Result<Option<Open>, Error> {
        let path = join(parent, child.as_bytes());
        let status = rustix::fs::statat(dir, child, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| reading(&path, error.into()))?;
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => {
                return match open_directory(dir, child) {
                    Ok(child) => self.enter(child, path).map(Some),
                    Err(error) if is_mount_point(&error) => {
                        self.mounted_directory(&path).map(|()| None)
                    }
                    Err(error) => Err(reading(&path, error)),
                };
            }
            FileType::RegularFile => Kind::Regular,
            FileType::Symlink => Kind::Symlink,
            // A terminal is mounted over /dev/console.
            _ if self.dialect == Dialect::Plain && is_mount_root(dir, child) => {
                return self.mounted_file(&path).map(|()| None);
            }
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            _ => {
                self.skip(&path, "a socket ends with its process");
                return Ok(None);
            }
        };
        if self.dialect == Dialect::Overlay {
            if kind == Kind::CharDevice && status.st_rdev == 0 {
                let mark = [WHITEOUT, child.as_bytes()].concat();
                self.report.deleted.push(path_of(&join(b"/", &path)));
                return self.whiteout(&join(parent, &mark)).map(|()| None);
            }
            if child.as_bytes().starts_with(WHITEOUT) {
                self.skip(&path, "in a layer this name would mean a deletion");
                return Ok(None);
            }
        }
        self.written.insert(self.hasher.hash_one(&path));
        self.file(dir, child, &path, kind, &status).map(|()| None)
    }

    /// Writes the place where something else is mounted: what is mounted has its own tree, but the
    /// mount needs a directory to go to. What is under the mount cannot be seen, so its attributes
    /// are those that a runtime makes mount points with.
    fn mounted_directory(&mut self, path: &[u8]) -> Result<(), Error> {
        let name = [path, b"/"].concat();
        let header = Header {
            kind: Kind::Directory,
            mode: 0o755,
            ..Header::file(&name, 0, Time::default())
        };
        self.report.directories += 1;
        self.put(&header, path)
    }

    /// The same for something that is mounted over a file.
    fn mounted_file(&mut self, path: &[u8]) -> Result<(), Error> {
        self.put(&Header::file(path, 0, Time::default()), path)
    }

    /// Writes anything that is not a directory.
    fn file(
        &mut self,
        dir: &OwnedFd,
        name: &OsStr,
        path: &[u8],
        kind: Kind,
        status: &Stat,
    ) -> Result<(), Error> {
        self.report.files += 1;
        let mut header = header_of(path, kind, status);
        let target;
        if status.st_nlink > 1 {
            let identity = (status.st_dev, status.st_ino);
            if let Some(first) = self.links.get(&identity) {
                target = first.clone();
                header.kind = Kind::HardLink;
                header.link = &target;
                return self.put(&header, path);
            }
            self.links.insert(identity, path.to_vec());
        }
        header.records = self.attributes(dir.as_fd(), name, path, false)?;
        match kind {
            Kind::Regular => return self.content(dir, name, path, header),
            Kind::Symlink => {
                let link = rustix::fs::readlinkat(dir, name, Vec::new())
                    .map_err(|error| reading(path, error.into()))?;
                target = link.into_bytes();
                header.link = &target;
            }
            Kind::CharDevice | Kind::BlockDevice => {
                header.device = (
                    rustix::fs::major(status.st_rdev),
                    rustix::fs::minor(status.st_rdev),
                );
            }
            _ => {}
        }
        self.put(&header, path)
    }

    fn put(&mut self, header: &Header<'_>, path: &[u8]) -> Result<(), Error> {
        self.out
            .write_all(&header.encode())
            .map_err(|error| writing(path, error))
    }

    fn whiteout(&mut self, name: &[u8]) -> Result<(), Error> {
        self.put(&Header::file(name, 0, Time::default()), name)
    }

    fn skip(&mut self, path: &[u8], reason: &'static str) {
        if self.report.skipped.len() < MAX_SKIPPED {
            self.report.skipped.push(Skipped {
                path: path_of(path),
                reason,
            });
        }
    }

    fn is_opaque(&self, dir: &OwnedFd, path: &[u8]) -> Result<bool, Error> {
        let key = OsStr::new("trusted.overlay.opaque");
        let value =
            sys::fs::get_xattr(dir, OsStr::new(""), key).map_err(|error| reading(path, error))?;
        Ok(value.as_deref() == Some(b"y"))
    }

    /// The attributes as records.
    fn attributes(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        directory: bool,
    ) -> Result<Records, Error> {
        let failed = |error| reading(path, error);
        let mut records = Vec::new();
        for key in sys::fs::list_xattrs(dir, name).map_err(failed)? {
            let bytes = key.as_bytes();
            if let Some(own) = bytes.strip_prefix(b"trusted.overlay.") {
                let incomplete = if directory {
                    own == b"redirect"
                } else {
                    own == b"metacopy"
                };
                if incomplete && self.dialect == Dialect::Overlay {
                    let reason = "the overlay was used with redirect_dir or metacopy";
                    return Err(Error::Unsupported {
                        path: path_of(path),
                        reason,
                    });
                }
                continue;
            }
            if bytes.contains(&b'=') {
                self.skip(path, "a tar cannot hold an attribute with '=' in its name");
                continue;
            }
            if let Some(value) = sys::fs::get_xattr(dir, name, &key).map_err(failed)? {
                records.push(([XATTR_PREFIX, bytes].concat(), value));
            }
        }
        Ok(records)
    }
}

fn header_of<'a>(name: &'a [u8], kind: Kind, status: &Stat) -> Header<'a> {
    Header {
        kind,
        mode: status.st_mode & 0o7777,
        uid: status.st_uid,
        gid: status.st_gid,
        mtime: Time {
            seconds: status.st_mtime,
            nanoseconds: u32::try_from(status.st_mtime_nsec).unwrap_or(0),
        },
        ..Header::file(name, 0, Time::default())
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent {
        b"" => name.to_vec(),
        b"/" => [b"/", name].concat(),
        _ => [parent, b"/", name].concat(),
    }
}

fn check_depth(path: &[u8], depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        let reason = "the tree is more than 512 directories deep";
        return Err(Error::Unsupported {
            path: path_of(path),
            reason,
        });
    }
    Ok(())
}

/// Names in a directory, in their order as bytes: the same tree gives the same tar.
fn children(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn open_directory(dir: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NOATIME;
    sys::fs::open_beneath_same_mount(dir, name.as_ref(), flags)
}

/// Whether something is mounted at this name. Regular files and directories tell by themselves
/// when they are opened.
fn is_mount_root(dir: &OwnedFd, name: &OsStr) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(dir, name, flags, StatxFlags::empty())
        .is_ok_and(|status| status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether opening failed because another mount begins there.
pub(super) fn is_mount_point(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::XDEV)
}

pub(super) fn reading(path: &[u8], error: io::Error) -> Error {
    Error::io(format!("read /{}", crate::error::quoted(path)), error)
}

pub(super) fn writing(path: &[u8], error: io::Error) -> Error {
    Error::io(format!("archive /{}", crate::error::quoted(path)), error)
}
