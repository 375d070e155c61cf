//! Paths inside a layer's directory: cleaning, resolving, implied parents.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Uid};
use rustix::io::Errno;

/// Most components of a path, resolved or not.
const MAX_DEPTH: usize = 512;
/// Most links on the way (`MAXSYMLINKS`, `linux/namei.h`).
const MAX_LINKS: usize = 40;

/// Why something was not done; the caller adds the entry's name.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The input breaks a rule.
    Problem(String),
    /// The kernel said no.
    Kernel(&'static str, Errno),
}

impl Refusal {
    pub(super) fn kernel(action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Kernel(action, errno)
    }
}

/// A directory inside the layer: its descriptor and its path without links.
#[derive(Debug, Clone)]
pub(super) struct Dir {
    pub(super) fd: Rc<OwnedFd>,
    pub(super) path: PathBuf,
}

/// The layer's directory and those of the layers below.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    root: OwnedFd,
    lowers: &'a [OwnedFd],
    /// The directory resolved last, by the name that was asked for.
    last: Option<(PathBuf, Dir)>,
    /// Directories that were only implied, with the times that they get at the end.
    pub(super) implied: Vec<(PathBuf, Timespec)>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: OwnedFd, lowers: &'a [OwnedFd]) -> Self {
        Self {
            root,
            lowers,
            last: None,
            implied: Vec::new(),
        }
    }

    /// Opens a directory by components that [`clean`] returned. With `create` missing ones are made.
    pub(super) fn directory(&mut self, parts: &[&[u8]], create: bool) -> Result<Dir, Refusal> {
        let asked = join(parts);
        if let Some((name, dir)) = &self.last
            && *name == asked
        {
            return Ok(dir.clone());
        }
        let dir = match self.open(&asked) {
            Ok(fd) => Dir {
                fd: Rc::new(fd),
                path: asked.clone(),
            },
            // Missing, a link on the way, or no directory: look closer.
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => self.walk(parts, create)?,
            Err(errno) => return Err(Refusal::Kernel("open the parent directory of", errno)),
        };
        self.last = Some((asked, dir.clone()));
        Ok(dir)
    }

    /// Opens a directory whose path has no links.
    pub(super) fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        open_beneath(
            &self.root,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        )
    }

    /// Must be called when a directory or link is removed.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// Whether a layer below has something at the path.
    pub(super) fn is_below(&self, path: &Path) -> bool {
        self.lowers
            .iter()
            .any(|lower| stat_beneath(lower, path).is_some())
    }

    /// What the topmost layer below that has the path has there.
    pub(super) fn below(&self, path: &Path) -> Option<Stat> {
        self.lowers
            .iter()
            .find_map(|lower| stat_beneath(lower, path))
    }

    fn walk(&mut self, parts: &[&[u8]], create: bool) -> Result<Dir, Refusal> {
        let mut pending: VecDeque<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let mut at = PathBuf::new();
        let mut links = 0;
        while let Some(part) = pending.pop_front() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if !at.pop() {
                        return Err(Refusal::Problem(
                            "a link on its way leads out of the layer".to_owned(),
                        ));
                    }
                    continue;
                }
                _ => {}
            }
            let name = OsStr::from_bytes(&part);
            let dir = self
                .open(&at)
                .map_err(Refusal::kernel("open the parent directory of"))?;
            let kind = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) if create => {
                    self.imply(&dir, &at, name)?;
                    FileType::Directory
                }
                Err(Errno::NOENT) => {
                    let shown = at.join(name);
                    return Err(Refusal::Problem(format!("{shown:?} is not in the layer")));
                }
                Err(errno) => return Err(Refusal::Kernel("look at the parent of", errno)),
            };
            match kind {
                FileType::Directory => at.push(name),
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Refusal::Problem("too many links on its way".to_owned()));
                    }
                    let target = rustix::fs::readlinkat(&dir, name, Vec::new())
                        .map_err(Refusal::kernel("read a link on the way to"))?;
                    if target.as_bytes().starts_with(b"/") {
                        at.clear();
                    }
                    for part in target.as_bytes().split(|byte| *byte == b'/').rev() {
                        pending.push_front(part.to_vec());
                    }
                }
                _ => {
                    let shown = at.join(name);
                    return Err(Refusal::Problem(format!(
                        "its parent {shown:?} is no directory"
                    )));
                }
            }
            if at.components().count() > MAX_DEPTH {
                return Err(Refusal::Problem("its path is too deep".to_owned()));
            }
        }
        let fd = self
            .open(&at)
            .map_err(Refusal::kernel("open the parent directory of"))?;
        Ok(Dir {
            fd: Rc::new(fd),
            path: at,
        })
    }

    /// Makes a directory that has no entry of its own (yet).
    fn imply(&mut self, dir: &OwnedFd, at: &Path, name: &OsStr) -> Result<(), Refusal> {
        if name.as_bytes().starts_with(b".wh.") {
            return Err(Refusal::Problem(
                "a parent's name is a deletion mark".to_owned(),
            ));
        }
        let action = "make the parent directory of";
        rustix::fs::mkdirat(dir, name, Mode::from(0o755)).map_err(Refusal::kernel(action))?;
        let path = at.join(name);
        let made = self.open(&path).map_err(Refusal::kernel(action))?;
        self.copy_from_below(&made, &path)
            .map_err(Refusal::kernel(action))?;
        Ok(())
    }

    /// Gives a directory owner, mode and time of the one it will cover; else root's and 0755.
    pub(super) fn copy_from_below(&mut self, made: &OwnedFd, path: &Path) -> Result<(), Errno> {
        let below = self.below(path);
        let directory = below.filter(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
        let mode = match directory {
            Some(stat) => {
                let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                rustix::fs::fchown(made, Some(owner.0), Some(owner.1))?;
                let (tv_sec, nanoseconds) = (stat.st_mtime, i64::try_from(stat.st_mtime_nsec));
                if let Ok(tv_nsec) = nanoseconds {
                    self.implied
                        .push((path.to_owned(), Timespec { tv_sec, tv_nsec }));
                }
                Mode::from_raw_mode(stat.st_mode)
            }
            None => Mode::from(0o755),
        };
        rustix::fs::fchmod(made, mode)
    }
}

fn stat_beneath(root: &OwnedFd, path: &Path) -> Option<Stat> {
    let fd = open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
    rustix::fs::fstat(fd).ok()
}

fn open_beneath(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    // With O_PATH and O_NOFOLLOW the last component may be a link, which is then opened itself.
    let resolve = rustix::fs::ResolveFlags::BENEATH
        | rustix::fs::ResolveFlags::NO_SYMLINKS
        | rustix::fs::ResolveFlags::NO_MAGICLINKS
        | rustix::fs::ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// The components of an entry's name; none for the layer's root.
pub(super) fn clean(name: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its name leads out of the layer".to_owned()),
            part if part.contains(&0) => return Err("its name contains a NUL byte".to_owned()),
            part if part.len() > 255 => return Err("a part of its name is too long".to_owned()),
            part => parts.push(part),
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err("its path is too deep".to_owned());
    }
    Ok(parts)
}

pub(super) fn join(parts: &[&[u8]]) -> PathBuf {
    parts.iter().map(|part| OsStr::from_bytes(part)).collect()
}
