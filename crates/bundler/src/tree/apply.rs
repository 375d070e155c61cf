//! From a tar to a directory.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FileType, OFlags};

use super::paths::{clean, open, open_parent, parent_error, split};
use super::place::{self, AttributeError, Lost, Place};
use super::report::{ApplyReport, Limits, MAX_SKIPPED, Skipped};
use super::{Dialect, path_of, sparse};
use crate::error::{Error, Problem};
use crate::format::decode::{Member, Reader, Stop};
use crate::format::source::Stream;
use crate::format::{Kind, Time};

mod whiteout;

/// Beginning of names that mark deletions in a layer.
const WHITEOUT: &[u8] = b".wh.";
/// Bytes of paths of directories whose times are set at the end.
const MAX_DIRECTORY_PATHS: u64 = 64 << 20;

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
            return Err(invalid(Problem::TooManyEntries {
                limit: self.limits.entries,
            }));
        }
        let path = clean(&member.name).ok_or_else(|| invalid(Problem::UncleanName))?;
        let Some((parent, name)) = split(&path) else {
            return self.root_entry(member);
        };
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
        let place = Place {
            dir: dir.as_fd(),
            name: OsStr::from_bytes(name),
            path: &path,
        };
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

    fn file(
        &mut self,
        member: &Member,
        place: Place<'_>,
        data: &mut impl Read,
    ) -> Result<(), Error> {
        let kind = member.kind();
        if kind == Kind::HardLink {
            return self.hard_link(member, place);
        }
        if !matches!(kind, Kind::Regular | Kind::Symlink | Kind::Fifo) {
            return Err(Error::invalid(
                &member.name,
                Problem::WrongType { found: kind.word() },
            ));
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
            return Err(invalid(Problem::TooLarge {
                size_bytes,
                limit_bytes: limit,
            }));
        }
        self.report.bytes = self.report.bytes.saturating_add(member.size);
        if self.report.bytes > self.limits.bytes {
            let (size_bytes, limit_bytes) = (self.report.bytes, self.limits.bytes);
            return Err(invalid(Problem::TooLarge {
                size_bytes,
                limit_bytes,
            }));
        }
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => invalid(Problem::Truncated),
            _ => Error::io("read a tar", error),
        };
        let segments = if member.sparse_size.is_some() {
            sparse::decode(data, member.size, size)
                .map_err(cut)?
                .map_err(invalid)?
        } else {
            vec![(0, member.size)]
        };
        let file = place.create_file()?;
        let mut buffer = vec![0_u8; 128 << 10];
        for (offset, length) in segments {
            let mut done = 0;
            while done < length {
                let most = usize::try_from(length - done)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                let part = buffer.get_mut(..most).unwrap_or_default();
                data.read_exact(part).map_err(cut)?;
                file.write_all_at(part, offset + done)
                    .map_err(|error| place.failed(error))?;
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
            Error::invalid(
                &member.name,
                Problem::HardLink {
                    reason: reason.to_owned(),
                },
            )
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
        let target = Place {
            dir: dir.as_fd(),
            name: OsStr::from_bytes(name),
            path: &target,
        };
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
            return Err(Error::invalid(
                path,
                Problem::TooLarge {
                    size_bytes,
                    limit_bytes,
                },
            ));
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
            self.report.skipped.push(Skipped {
                path: path_of(path),
                reason,
            });
        }
    }

    fn note_lost(&mut self, path: &[u8], lost: Lost) {
        for _ in lost {
            self.skip(path, "the filesystem does not take one of its attributes");
        }
    }
}
