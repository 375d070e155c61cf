//! From a tar to a directory.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Dir, FileType, OFlags};
use rustix::io::Errno;

use super::place::{self, AttributeError, Lost, Place};
use super::{Dialect, Skipped, path_of, sparse};
use crate::error::{Error, Problem, quoted};
use crate::format::decode::{MAX_PATH_BYTES, Member, Reader, Stop, Stream};
use crate::format::{Kind, Time};

/// Beginning of names that mark deletions in a layer.
const WHITEOUT: &[u8] = b".wh.";
/// Name that hides what the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How many left-out files a report lists.
const MAX_SKIPPED: usize = 1000;
/// Bytes of paths of directories whose times are set at the end.
const MAX_DIRECTORY_PATHS: u64 = 64 << 20;

/// What is done with device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// They make the tar invalid.
    Refuse,
    /// They are left out and listed: the container's devices come from its request.
    Skip,
}

/// How much a tar may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of entries.
    pub entries: u64,
    /// Bytes of content of all files.
    pub bytes: u64,
    /// Size of one file; the holes of sparse files count.
    pub file_bytes: u64,
    /// What is done with device nodes.
    pub devices: Devices,
}

impl Limits {
    /// For the content of a tmpfs, which also has a size of its own.
    #[must_use]
    pub fn tmpfs() -> Self {
        Self { entries: 1 << 20, bytes: 64 << 30, file_bytes: 1 << 40, devices: Devices::Skip }
    }

    /// For a root filesystem. Archives are not compressed, so their content takes no more space
    /// than they do.
    #[must_use]
    pub fn rootfs() -> Self {
        Self { entries: 4 << 20, bytes: 1 << 42, file_bytes: 1 << 43, devices: Devices::Skip }
    }
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Number of files that are not directories.
    pub files: u64,
    /// Number of directories.
    pub directories: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Number of deletions, of names that existed or not.
    pub deleted: u64,
    /// What was left out; the first 1000.
    pub skipped: Vec<Skipped>,
}

struct Applier<'a> {
    root: BorrowedFd<'a>,
    limits: &'a Limits,
    dialect: Dialect,
    report: ApplyReport,
    entries: u64,
    /// Hashes of the paths made so far.
    made: HashSet<u64>,
    hasher: RandomState,
    /// The directory of the last entry.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories, whose times change until the end.
    directories: Vec<(Vec<u8>, Time)>,
    directory_bytes: u64,
}

pub(crate) fn apply(
    tar: impl Read,
    root: BorrowedFd<'_>,
    limits: &Limits,
    dialect: Dialect,
) -> Result<ApplyReport, Error> {
    let mut reader = Reader::new(Stream(BufReader::with_capacity(128 << 10, tar)));
    let mut applier = Applier {
        root,
        limits,
        dialect,
        report: ApplyReport::default(),
        entries: 0,
        made: HashSet::new(),
        hasher: RandomState::new(),
        parent: None,
        directories: Vec::new(),
        directory_bytes: 0,
    };
    while let Some(member) = reader.next().map_err(|(name, stop)| stopped(&name, stop))? {
        applier.entry(&member, &mut reader)?;
    }
    applier.finish()
}

fn stopped(name: &[u8], stop: Stop) -> Error {
    match stop {
        Stop::Bad(problem) => Error::invalid(name, problem),
        Stop::Io(error) => Error::io("read a tar", error),
    }
}

impl Applier<'_> {
    fn entry(&mut self, member: &Member, data: &mut impl Read) -> Result<(), Error> {
        let invalid = |problem| Error::invalid(&member.name, problem);
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(invalid(Problem::TooManyEntries { limit: self.limits.entries }));
        }
        let path = clean(&member.name).ok_or_else(|| invalid(Problem::UncleanName))?;
        let Some((parent, name)) = split(&path) else { return self.root_entry(member) };
        if self.dialect == Dialect::Overlay && name.starts_with(WHITEOUT) {
            return self.whiteout_entry(member, parent, name);
        }
        let kind = member.kind();
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            return self.device(member, &path, parent, name);
        }
        let again = !self.made.insert(self.hasher.hash_one(&path));
        if again && kind != Kind::Directory {
            return Err(invalid(Problem::Duplicate));
        }
        let dir = self.open_parent(parent, &path)?;
        let place = Place { dir: dir.as_fd(), name: OsStr::from_bytes(name), path: &path };
        if kind == Kind::Directory {
            self.directory(member, place, again)?;
        } else {
            self.file(member, place, data)?;
        }
        self.parent.get_or_insert((parent.to_vec(), dir));
        Ok(())
    }

    fn directory(&mut self, member: &Member, place: Place<'_>, again: bool) -> Result<(), Error> {
        match place.kind()? {
            Some(FileType::Directory) => {}
            // What this tar made before is not replaced by what it says later.
            Some(_) if again => return Err(Error::invalid(&member.name, Problem::Duplicate)),
            Some(_) => {
                place.clear()?;
                place.create_directory()?;
            }
            None => place.create_directory()?,
        }
        let lost = place.attributes(member, false)?;
        self.note_lost(place.path, lost);
        self.report.directories += 1;
        self.later(place.path, member.mtime)
    }

    fn file(&mut self, member: &Member, place: Place<'_>, data: &mut impl Read) -> Result<(), Error> {
        let kind = member.kind();
        if kind == Kind::HardLink {
            return self.hard_link(member, place);
        }
        if !matches!(kind, Kind::Regular | Kind::Symlink | Kind::Fifo) {
            return Err(Error::invalid(&member.name, Problem::WrongType { found: kind.word() }));
        }
        self.clear(place)?;
        match kind {
            Kind::Regular => self.content(member, place, data)?,
            Kind::Symlink => place.create_symlink(&member.link)?,
            _ => place.create_fifo()?,
        }
        let lost = place.attributes(member, true)?;
        self.note_lost(place.path, lost);
        self.report.files += 1;
        Ok(())
    }

    fn content(
        &mut self,
        member: &Member,
        place: Place<'_>,
        data: &mut impl Read,
    ) -> Result<(), Error> {
        let invalid = |problem| Error::invalid(&member.name, problem);
        let size = member.sparse_size.unwrap_or(member.size);
        let limit = self.limits.file_bytes;
        if size > limit || member.size > limit {
            let size_bytes = size.max(member.size);
            return Err(invalid(Problem::TooLarge { size_bytes, limit_bytes: limit }));
        }
        self.report.bytes = self.report.bytes.saturating_add(member.size);
        if self.report.bytes > self.limits.bytes {
            let (size_bytes, limit_bytes) = (self.report.bytes, self.limits.bytes);
            return Err(invalid(Problem::TooLarge { size_bytes, limit_bytes }));
        }
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => invalid(Problem::Truncated),
            _ => Error::io("read a tar", error),
        };
        let segments = if member.sparse_size.is_some() {
            sparse::decode(data, member.size, size).map_err(cut)?.map_err(invalid)?
        } else {
            vec![(0, member.size)]
        };
        let file = place.create_file()?;
        let mut buffer = vec![0_u8; 128 << 10];
        for (offset, length) in segments {
            let mut done = 0;
            while done < length {
                let most = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
                let part = buffer.get_mut(..most).unwrap_or_default();
                data.read_exact(part).map_err(cut)?;
                file.write_all_at(part, offset + done).map_err(|error| place.failed(error))?;
                done += u64::try_from(most).unwrap_or(u64::MAX);
            }
        }
        if member.sparse_size.is_some() {
            file.set_len(size).map_err(|error| place.failed(error))?;
        }
        Ok(())
    }

    fn hard_link(&mut self, member: &Member, place: Place<'_>) -> Result<(), Error> {
        let bad = |reason: &str| {
            Error::invalid(&member.name, Problem::HardLink { reason: reason.to_owned() })
        };
        let target = clean(&member.link).ok_or_else(|| bad("its target is no clean path"))?;
        let (parent, name) = split(&target).ok_or_else(|| bad("its target is a directory"))?;
        if self.dialect == Dialect::Overlay && name.starts_with(WHITEOUT) {
            return Err(bad("its target is a whiteout"));
        }
        if target == place.path {
            return Err(bad("its target is itself"));
        }
        let dir = open_parent(self.root, parent).map_err(|error| bad(&error.to_string()))?;
        let target = Place { dir: dir.as_fd(), name: OsStr::from_bytes(name), path: &target };
        match target.kind()? {
            None => return Err(bad("its target does not exist")),
            Some(FileType::Directory) => return Err(bad("its target is a directory")),
            Some(FileType::CharacterDevice | FileType::BlockDevice) => {
                return Err(bad("its target is a device"));
            }
            Some(_) => {}
        }
        self.clear(place)?;
        place.create_link(&target)?;
        self.report.files += 1;
        Ok(())
    }

    fn device(
        &mut self,
        member: &Member,
        path: &[u8],
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), Error> {
        let whiteout = member.kind() == Kind::CharDevice && member.device == (0, 0);
        if whiteout && self.dialect == Dialect::Overlay {
            return self.delete(member, parent, name);
        }
        match self.limits.devices {
            Devices::Skip => {
                self.skip(path, "devices come from the container's request");
                Ok(())
            }
            Devices::Refuse => {
                let found = member.kind().word();
                Err(Error::invalid(&member.name, Problem::WrongType { found }))
            }
        }
    }

    fn whiteout_entry(
        &mut self,
        member: &Member,
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), Error> {
        if member.kind() != Kind::Regular || member.size != 0 {
            return Err(Error::invalid(&member.name, Problem::Whiteout));
        }
        if name == OPAQUE {
            return self.opaque(member, parent);
        }
        let deleted = name.strip_prefix(WHITEOUT).unwrap_or_default();
        if matches!(deleted, b"" | b"." | b"..") || deleted.starts_with(WHITEOUT) {
            return Err(Error::invalid(&member.name, Problem::Whiteout));
        }
        self.delete(member, parent, deleted)
    }

    /// Deletes `name`, which belongs to the layers below.
    fn delete(&mut self, member: &Member, parent: &[u8], name: &[u8]) -> Result<(), Error> {
        let path = join(parent, name);
        if self.made.contains(&self.hasher.hash_one(&path)) {
            return Err(Error::invalid(&member.name, Problem::Duplicate));
        }
        let dir = self.open_parent(parent, &member.name)?;
        self.clear(Place { dir: dir.as_fd(), name: OsStr::from_bytes(name), path: &path })?;
        self.report.deleted += 1;
        Ok(())
    }

    /// Deletes everything in a directory that this tar has not made.
    fn opaque(&mut self, member: &Member, path: &[u8]) -> Result<(), Error> {
        let failed = |error: io::Error| place::failed(&member.name, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = open(self.root, path, flags).map_err(|error| parent_error(&member.name, error))?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir).map_err(|error| failed(error.into()))? {
            let entry = entry.map_err(|error| failed(error.into()))?;
            let name = entry.file_name().to_bytes();
            let made = || self.made.contains(&self.hasher.hash_one(join(path, name)));
            if name != b"." && name != b".." && !made() {
                names.push(name.to_vec());
            }
        }
        for name in names {
            let path = join(path, &name);
            self.clear(Place { dir: dir.as_fd(), name: OsStr::from_bytes(&name), path: &path })?;
            self.report.deleted += 1;
        }
        Ok(())
    }

    /// The entry for the directory itself.
    fn root_entry(&mut self, member: &Member) -> Result<(), Error> {
        if member.kind() != Kind::Directory {
            let found = member.kind().word();
            return Err(Error::invalid(&member.name, Problem::WrongType { found }));
        }
        let opened = open(self.root, b"", OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|error| place::failed(&member.name, error))?;
        let lost = place::attributes_of(&opened, member).map_err(|error| match error {
            AttributeError::Refused(name) => {
                Error::invalid(&member.name, Problem::Attribute { name })
            }
            AttributeError::Failed(error) => place::failed(&member.name, error),
        })?;
        self.note_lost(b"", lost);
        self.report.directories += 1;
        self.later(b"", member.mtime)
    }

    /// Sets the directories' times, the deepest first.
    fn finish(mut self) -> Result<ApplyReport, Error> {
        for (path, time) in std::mem::take(&mut self.directories).into_iter().rev() {
            let dir = open(self.root, &path, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|error| place::failed(&path, error))?;
            rustix::fs::futimens(&dir, &place::timestamps(time))
                .map_err(|error| place::failed(&path, error.into()))?;
        }
        Ok(self.report)
    }

    /// Keeps a directory's time for the end.
    fn later(&mut self, path: &[u8], time: Time) -> Result<(), Error> {
        self.directory_bytes += u64::try_from(path.len()).unwrap_or(0);
        if self.directory_bytes > MAX_DIRECTORY_PATHS {
            let (size_bytes, limit_bytes) = (self.directory_bytes, MAX_DIRECTORY_PATHS);
            return Err(Error::invalid(path, Problem::TooLarge { size_bytes, limit_bytes }));
        }
        self.directories.push((path.to_vec(), time));
        Ok(())
    }

    /// Removes what is at a place; it may have been the directory kept open.
    fn clear(&mut self, place: Place<'_>) -> Result<(), Error> {
        if place.kind()? == Some(FileType::Directory) {
            self.parent = None;
        }
        place.clear()
    }

    /// Opens the directory of an entry; the last one is kept, entries come directory by directory.
    fn open_parent(&mut self, parent: &[u8], entry: &[u8]) -> Result<OwnedFd, Error> {
        match self.parent.take() {
            Some((path, dir)) if path == parent => Ok(dir),
            _ => open_parent(self.root, parent).map_err(|error| parent_error(entry, error)),
        }
    }

    fn skip(&mut self, path: &[u8], reason: &'static str) {
        if self.report.skipped.len() < MAX_SKIPPED {
            self.report.skipped.push(Skipped { path: path_of(path), reason });
        }
    }

    fn note_lost(&mut self, path: &[u8], lost: Lost) {
        for _ in lost {
            self.skip(path, "the filesystem does not take one of its attributes");
        }
    }
}

/// The path without a slash at its end or `./` in front; `None` when it is not clean. The
/// directory itself is empty.
fn clean(name: &[u8]) -> Option<Vec<u8>> {
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
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|byte| *byte == b'/') {
        _ if path.is_empty() => None,
        Some(at) => Some((path.get(..at)?, path.get(at + 1..)?)),
        None => Some((b"", path)),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    sys::fs::open_beneath_same_mount(root, OsStr::from_bytes(path).as_ref(), flags)
}

fn open_parent(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open(root, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// What it means that the directory of an entry cannot be opened.
fn parent_error(entry: &[u8], error: io::Error) -> Error {
    let reason = match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => "it does not exist",
        Some(Errno::NOTDIR) => "a part of it is not a directory",
        Some(Errno::LOOP) => "a part of it is a symbolic link",
        Some(Errno::XDEV) => "it is on another mount",
        Some(Errno::NAMETOOLONG) => "its path is too long",
        _ => return Error::io(format!("open the directory of {}", quoted(entry)), error),
    };
    Error::invalid(entry, Problem::Parent { reason: reason.to_owned() })
}
