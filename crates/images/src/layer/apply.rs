//! Making one entry after the other.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec};
use rustix::io::Errno;

use super::node::{dress, is, is_whiteout, node, opaque, stat, symlink, times};
use super::tree::{Dir, Refusal, Tree, clean, join};
use super::{Limits, SPACE_CHECK_BYTES};
use crate::error::Error;
use crate::tar_stream::{Entry, Kind, TarReader};

const WHITEOUT: &[u8] = b".wh.";
/// Marks of aufs itself (`.wh..wh.plnk`, …), which mean nothing here.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Space and number of what was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// Applies entries to a directory.
#[derive(Debug)]
pub(super) struct Applier<'a> {
    tree: Tree<'a>,
    limits: Limits,
    usage: Usage,
    /// Times of directories, set when nothing is made in them any more.
    times: Vec<(PathBuf, Timespec)>,
    name_bytes: u64,
    unchecked: u64,
    buffer: Vec<u8>,
}

impl<'a> Applier<'a> {
    pub(super) fn new(root: OwnedFd, lowers: &'a [OwnedFd], limits: Limits) -> Result<Self, Error> {
        let mut applier = Self {
            tree: Tree::new(root, lowers),
            limits,
            usage: Usage::default(),
            times: Vec::new(),
            name_bytes: 0,
            unchecked: SPACE_CHECK_BYTES,
            buffer: vec![0; 128 << 10],
        };
        let prepared = applier
            .tree
            .open(Path::new(""))
            .and_then(|root| applier.tree.copy_from_below(&root, Path::new("")));
        prepared.map_err(|errno| Error::io("prepare the root of", "layer")(errno.into()))?;
        Ok(applier)
    }

    /// Makes one entry, taking its data from `tar`.
    pub(super) fn apply<R: Read>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), Error> {
        self.usage.inodes += 1;
        self.usage.bytes = self
            .usage
            .bytes
            .saturating_add(entry.size.next_multiple_of(4096));
        let result = self.place(entry).and_then(|place| match place {
            None => Ok(None),
            Some((dir, base)) => self.make(entry, &dir, &base),
        });
        let file = result.map_err(|refusal| explain(entry, refusal))?;
        if let Some(file) = file {
            self.fill(entry, tar, file)?;
        }
        self.bound_names(entry)
    }

    /// Sets the directories' times.
    pub(super) fn finish(mut self) -> Result<Usage, Error> {
        let implied = std::mem::take(&mut self.tree.implied);
        for (path, mtime) in implied.into_iter().chain(std::mem::take(&mut self.times)) {
            match self
                .tree
                .open(&path)
                .and_then(|fd| rustix::fs::futimens(fd, &times(mtime)))
            {
                // Replaced by something else later in the tar.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(Error::io("set the time of", path)(errno.into())),
            }
        }
        Ok(self.usage)
    }

    /// Where an entry belongs, or `None` when it is done with: the root, a deletion, aufs' own.
    fn place(&mut self, entry: &Entry) -> Result<Option<(Dir, Vec<u8>)>, Refusal> {
        let parts = clean(&entry.name).map_err(Refusal::Problem)?;
        let Some((base, parents)) = parts.split_last() else {
            return self.root(entry).map(|()| None);
        };
        if parts
            .iter()
            .any(|part| part.starts_with(AUFS) && *part != OPAQUE)
        {
            return Ok(None);
        }
        let dir = self.tree.directory(parents, true)?;
        if *base == OPAQUE {
            return opaque(&dir.fd).map(|()| None);
        }
        if let Some(name) = base.strip_prefix(WHITEOUT) {
            return self.whiteout(&dir, name).map(|()| None);
        }
        Ok(Some((dir, base.to_vec())))
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Refusal> {
        if entry.kind != Kind::Directory {
            return Err(Refusal::Problem(
                "the layer's root is not a directory".to_owned(),
            ));
        }
        let root = self
            .tree
            .open(Path::new(""))
            .map_err(Refusal::kernel("open"))?;
        self.dress_directory(entry, &root, PathBuf::new())
    }

    /// A deletion concerns the layers below only (OCI `layer.md`, "Whiteouts").
    fn whiteout(&mut self, dir: &Dir, name: &[u8]) -> Result<(), Refusal> {
        if matches!(name, b"" | b"." | b"..") {
            return Err(Refusal::Problem(
                "is a deletion mark for nothing".to_owned(),
            ));
        }
        let name = OsStr::from_bytes(name);
        if !self.tree.is_below(&dir.path.join(name)) {
            // Without anything to hide the mark itself would show up in listings.
            return Ok(());
        }
        match stat(dir, name)? {
            None => {
                rustix::fs::mknodat(&*dir.fd, name, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(Refusal::kernel("make the deletion mark"))
            }
            // Made by this layer after the deletion: hides what is below it by itself, unless
            // both are directories.
            Some(found) if is(&found, FileType::Directory) => {
                let fd = self
                    .tree
                    .open(&dir.path.join(name))
                    .map_err(Refusal::kernel("open"))?;
                opaque(&fd)
            }
            Some(_) => Ok(()),
        }
    }

    /// Makes the entry; returns the file that wants data.
    fn make(&mut self, entry: &Entry, dir: &Dir, base: &[u8]) -> Result<Option<File>, Refusal> {
        let name = OsStr::from_bytes(base);
        let source = match entry.kind {
            Kind::Hardlink => Some(self.hardlink_source(entry, dir, name)?),
            _ => None,
        };
        let found = stat(dir, name)?;
        let was_deleted = found.as_ref().is_some_and(is_whiteout);
        let keep = entry.kind == Kind::Directory
            && found
                .as_ref()
                .is_some_and(|found| is(found, FileType::Directory));
        if found.is_some() && !keep {
            self.tree.forget();
            sys::fs::remove_beneath(&*dir.fd, name).map_err(|error| {
                Refusal::Kernel("replace", Errno::from_io_error(&error).unwrap_or(Errno::IO))
            })?;
        }
        match entry.kind {
            Kind::Directory => {
                if !keep {
                    let mode = Mode::from(0o700);
                    rustix::fs::mkdirat(&*dir.fd, name, mode).map_err(Refusal::kernel("make"))?;
                }
                let path = dir.path.join(name);
                let fd = self.tree.open(&path).map_err(Refusal::kernel("open"))?;
                if was_deleted {
                    opaque(&fd)?;
                }
                self.dress_directory(entry, &fd, path)?;
            }
            Kind::Regular => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let mode = Mode::from(0o600);
                let fd = rustix::fs::openat(&*dir.fd, name, flags | OFlags::CLOEXEC, mode);
                return Ok(Some(File::from(fd.map_err(Refusal::kernel("make"))?)));
            }
            Kind::Symlink => symlink(entry, dir, name)?,
            Kind::Hardlink => {
                let (from, from_name) = source.ok_or_else(|| Refusal::Problem(String::new()))?;
                rustix::fs::linkat(&*from.fd, &from_name, &*dir.fd, name, AtFlags::empty())
                    .map_err(Refusal::kernel("make the link"))?;
            }
            Kind::Char { major: 0, minor: 0 } => {
                return Err(Refusal::Problem(
                    "is device 0:0, which overlayfs takes for a deletion".into(),
                ));
            }
            Kind::Char { major, minor } => {
                let device = rustix::fs::makedev(major, minor);
                node(entry, dir, name, FileType::CharacterDevice, device)?;
            }
            Kind::Block { major, minor } => {
                let device = rustix::fs::makedev(major, minor);
                node(entry, dir, name, FileType::BlockDevice, device)?;
            }
            Kind::Fifo => node(entry, dir, name, FileType::Fifo, 0)?,
        }
        Ok(None)
    }

    fn hardlink_source(
        &mut self,
        entry: &Entry,
        dir: &Dir,
        name: &OsStr,
    ) -> Result<(Dir, PathBuf), Refusal> {
        let shown = String::from_utf8_lossy(&entry.link).into_owned();
        let parts = clean(&entry.link)
            .map_err(|problem| Refusal::Problem(format!("is a link to {shown:?}: {problem}")))?;
        let missing = || Refusal::Problem(format!("is a link to {shown:?}, which is not there"));
        let (base, parents) = parts.split_last().ok_or_else(missing)?;
        let from = self.tree.directory(parents, false)?;
        let base = join(&[base]);
        let found = stat(&from, base.as_os_str())?.ok_or_else(missing)?;
        if is(&found, FileType::Directory) || is_whiteout(&found) {
            return Err(missing());
        }
        let existing = stat(dir, name)?;
        if existing.is_some_and(|e| e.st_ino == found.st_ino && e.st_dev == found.st_dev)
            && from.path == dir.path
            && base.as_os_str() == name
        {
            return Err(Refusal::Problem("is a link to itself".to_owned()));
        }
        Ok((from, base))
    }

    fn dress_directory(
        &mut self,
        entry: &Entry,
        fd: &OwnedFd,
        path: PathBuf,
    ) -> Result<(), Refusal> {
        dress(entry, fd)?;
        self.name_bytes = self
            .name_bytes
            .saturating_add(path.as_os_str().len() as u64 + 64);
        self.times.push((path, entry.mtime));
        Ok(())
    }

    fn fill<R: Read>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<R>,
        mut file: File,
    ) -> Result<(), Error> {
        loop {
            let count = tar.read_data(&mut self.buffer)?;
            let Some(data) = self.buffer.get(..count).filter(|data| !data.is_empty()) else {
                break;
            };
            file.write_all(data)
                .map_err(Error::io("write", entry.display()))?;
            self.unchecked = self.unchecked.saturating_add(count as u64);
            if self.unchecked >= SPACE_CHECK_BYTES {
                self.unchecked = 0;
                self.limits.keep_free(&file, &entry.display())?;
            }
        }
        let fd = OwnedFd::from(file);
        dress(entry, &fd).map_err(|refusal| explain(entry, refusal))?;
        rustix::fs::futimens(&fd, &times(entry.mtime))
            .map_err(|errno| Error::io("set the time of", entry.display())(errno.into()))
    }

    fn bound_names(&self, entry: &Entry) -> Result<(), Error> {
        if self.name_bytes <= self.limits.directory_name_bytes {
            return Ok(());
        }
        Err(Error::Limit {
            entry: entry.display(),
            what: "the length of all directories' names",
            limit: self.limits.directory_name_bytes,
        })
    }
}

fn explain(entry: &Entry, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Problem(problem) => Error::malformed(entry.display(), problem),
        Refusal::Kernel(action, errno) => Error::io(action, entry.display())(errno.into()),
    }
}
