//! Writing an archive: it appears complete and synced under its name, or not at all.
//!
//! ```text
//!   ArchiveWriter ──capture_pages──▶ PageCapture ──finish──▶ ArchiveWriter
//!        │ append_bytes, append_reader                            │
//!        ▼                                                        ▼
//!     finish(manifest) ──▶ CompleteArchive ──sync──▶ SyncedArchive ──publish──▶ the name exists
//! ```
//! Until it is published the file is called `.NAME.tmp-RANDOM`; every state above removes it when
//! it is dropped, and [`crate::remove_unfinished`] removes what a crash has left.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::AtFlags;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::format::encode::Header;
use crate::format::{BLOCK, Kind, PAGE, Time, round_up};
use crate::location::open_parent;
use crate::manifest::{Entry, FORMAT_MINOR, FORMAT_VERSION, Manifest};
use crate::names;

/// Bytes copied at a time.
pub(crate) const COPY_BYTES: usize = 1 << 20;
/// The least that a padded header needs: two headers and one block of records.
const MIN_PADDED: u64 = 3 * BLOCK;

/// An archive that is being written.
#[derive(Debug)]
pub struct ArchiveWriter {
    pub(crate) target: Target,
    /// Where the next header goes; a multiple of the block size.
    pub(crate) position: u64,
    pub(crate) entries: Vec<Entry>,
    names: HashSet<String>,
    pub(crate) mtime: Time,
}

/// The file, its name to be, and the temporary one, which goes away with this.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) file: File,
    pub(crate) directory: OwnedFd,
    path: PathBuf,
    name: String,
    temporary: Option<String>,
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // What cannot be removed now is found by `remove_unfinished`.
            rustix::fs::unlinkat(&self.directory, &*temporary, AtFlags::empty())
                .unwrap_or_default();
            // The space is to be free now, also while a process that is just being started has a copy
            // of the descriptor until its execve(2).
            if rustix::fs::fstat(&self.file).is_ok_and(|file| file.st_nlink == 0) {
                self.file.set_len(0).unwrap_or_default();
            }
        }
    }
}

impl ArchiveWriter {
    /// Begins the archive `location`: its directory is opened without following any link, the
    /// name has to be free, and a temporary file (mode 0600) is made beside it.
    ///
    /// # Errors
    ///
    /// [`Error::Location`] for a path that is relative, has no name, or whose directory does not
    /// exist or is reached through a link; [`Error::Exists`]; [`Error::NoSpace`]; [`Error::Io`].
    pub fn create(location: &Path) -> Result<Self, Error> {
        let (directory, name) = open_parent(location)?;
        match rustix::fs::statat(&directory, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(_) => {
                return Err(Error::Exists {
                    path: location.to_owned(),
                });
            }
            Err(error) => return Err(Error::io("look for the archive's name", error.into())),
        }
        let begin = |error| Error::io("make the archive's temporary file", error);
        let temporary = sys::fs::temporary_name(&name).map_err(begin)?;
        let file = sys::fs::create_new(&directory, &temporary, 0o600).map_err(begin)?;
        let target = Target {
            file,
            directory,
            path: location.to_owned(),
            name,
            temporary: Some(temporary),
        };
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
        let mut writer = Self {
            target,
            position: 0,
            entries: Vec::new(),
            names: HashSet::new(),
            mtime: Time {
                seconds,
                nanoseconds: 0,
            },
        };
        writer.directory_entry()?;
        Ok(writer)
    }

    /// The directory that will hold the archive, for a [`crate::Spool`] or to ask for free space.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.target.directory.as_fd()
    }

    /// Appends an entry that is in memory. Page images begin at a multiple of 4096 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Name`] for a name that is taken or that no archive has; [`Error::NoSpace`];
    /// [`Error::Io`].
    pub fn append_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<Entry, Error> {
        self.append_reader(name, bytes)
    }

    /// Appends everything that `reader` gives as one entry. A failed call leaves the archive as it
    /// was before.
    ///
    /// # Errors
    ///
    /// As [`Self::append_bytes`], and what reading returns.
    pub fn append_reader(&mut self, name: &str, reader: impl Read) -> Result<Entry, Error> {
        self.check_name(name)?;
        self.append_unchecked(name, reader)
    }

    /// Writes the manifest, which lists every entry so far, and the end marker.
    ///
    /// `base` gives everything but the format version, the entries and the number of page bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Name`] when the manifest would be too large; [`Error::NoSpace`]; [`Error::Io`].
    pub fn finish(mut self, base: Manifest) -> Result<CompleteArchive, Error> {
        let is_page_image = |entry: &&Entry| names::page_image_number(&entry.name).is_some();
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            format_minor: FORMAT_MINOR,
            page_bytes: self
                .entries
                .iter()
                .filter(is_page_image)
                .map(|entry| entry.size)
                .sum(),
            entries: self.entries.clone(),
            ..base
        };
        let name = names::MANIFEST.to_owned();
        let bytes = manifest.to_bytes().map_err(|_| Error::Name {
            name,
            reason: "it would be larger than 16 MiB",
        })?;
        self.append_unchecked(names::MANIFEST, bytes.as_slice())?;
        // What a failed append left behind the end goes away, and the end marker is a hole.
        let size = self.position + 2 * BLOCK;
        let cut = self
            .target
            .file
            .set_len(self.position)
            .and_then(|()| self.target.file.set_len(size));
        cut.map_err(|error| Error::io("end the archive", error))?;
        Ok(CompleteArchive {
            target: self.target,
            manifest,
            size,
        })
    }

    fn check_name(&self, name: &str) -> Result<(), Error> {
        let reason = if !names::is_known_file(name) || name == names::MANIFEST {
            "no archive has an entry of this name"
        } else if self.names.contains(name) {
            "it is in the archive already"
        } else {
            return Ok(());
        };
        Err(Error::Name {
            name: name.to_owned(),
            reason,
        })
    }

    fn append_unchecked(&mut self, name: &str, reader: impl Read) -> Result<Entry, Error> {
        let begin = self.position;
        let padded = names::page_image_number(name).is_some();
        let offset = if padded {
            padded_data_offset(begin)
        } else {
            begin + BLOCK
        };
        let (size, sha256) = self.copy(name, reader, offset)?;
        self.write_header(name, begin, offset, size)?;
        let entry = Entry {
            name: name.to_owned(),
            size,
            offset,
            sha256,
            ..Entry::default()
        };
        self.record(entry.clone());
        Ok(entry)
    }

    /// Copies to `offset` and returns the number of bytes and their digest.
    fn copy(&self, name: &str, mut from: impl Read, offset: u64) -> Result<(u64, String), Error> {
        let failed = |error| Error::io(format!("write {name} into the archive"), error);
        let mut buffer = vec![0_u8; COPY_BYTES];
        let mut digest = Sha256::new();
        let mut size = 0_u64;
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => return Ok((size, hex::encode(digest.finalize()))),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            let part = buffer.get(..read).unwrap_or_default();
            digest.update(part);
            self.target
                .file
                .write_all_at(part, offset + size)
                .map_err(failed)?;
            size += u64::try_from(read).unwrap_or(0);
        }
    }

    /// Writes the header of `name` between `begin` and `offset`.
    pub(crate) fn write_header(
        &self,
        name: &str,
        begin: u64,
        offset: u64,
        size: u64,
    ) -> Result<(), Error> {
        let header = Header::file(name.as_bytes(), size, self.mtime);
        let bytes = if offset - begin == BLOCK {
            header.block().to_vec()
        } else {
            header
                .encode_padded(offset - begin)
                .ok_or_else(|| Error::Name {
                    name: name.to_owned(),
                    reason: "its header does not fit",
                })?
        };
        let failed = |error| Error::io(format!("write the header of {name}"), error);
        self.target
            .file
            .write_all_at(&bytes, begin)
            .map_err(failed)?;
        // The padding after the data may hold what a failed append left there.
        let end = offset + size;
        let padding = usize::try_from(round_up(end, BLOCK) - end).unwrap_or(0);
        self.target
            .file
            .write_all_at(&vec![0; padding], end)
            .map_err(failed)
    }

    /// Adds an entry that is in the file now.
    pub(crate) fn record(&mut self, entry: Entry) {
        self.position = round_up(entry.offset + entry.size, BLOCK);
        self.names.insert(entry.name.clone());
        self.entries.push(entry);
    }

    /// The entry for `checkpoint/` itself, which checkpointctl looks for.
    fn directory_entry(&mut self) -> Result<(), Error> {
        let mut header = Header::file(names::CHECKPOINT_DIRECTORY.as_bytes(), 0, self.mtime);
        header.kind = Kind::Directory;
        header.mode = 0o700;
        let written = self.target.file.write_all_at(&header.block(), 0);
        written.map_err(|error| Error::io("begin the archive", error))?;
        self.position = BLOCK;
        Ok(())
    }
}

/// Where the data of a page image begins whose header begins at `begin`.
pub(crate) fn padded_data_offset(begin: u64) -> u64 {
    round_up(begin + MIN_PADDED, PAGE)
}

/// An archive with its manifest, not yet under its name.
#[derive(Debug)]
pub struct CompleteArchive {
    target: Target,
    manifest: Manifest,
    size: u64,
}

impl CompleteArchive {
    /// The manifest as it was written.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Size of the archive in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Writes everything to the disk. That takes as long as the disk does: a caller that may not wait any
    /// more looks afterwards, and drops the archive.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`]; [`Error::Io`].
    pub fn sync(self) -> Result<SyncedArchive, Error> {
        self.target
            .file
            .sync_all()
            .map_err(|error| Error::io("sync the archive", error))?;
        Ok(SyncedArchive {
            target: self.target,
            manifest: self.manifest,
        })
    }
}

/// An archive that is on the disk, not yet under its name.
#[derive(Debug)]
pub struct SyncedArchive {
    target: Target,
    manifest: Manifest,
}

impl SyncedArchive {
    /// Gives the archive its name, which has to be free still.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when somebody took the name meanwhile; [`Error::NoSpace`]; [`Error::Io`]. There is
    /// no archive of that name then.
    pub fn publish(mut self) -> Result<Manifest, Error> {
        let Some(temporary) = self.target.temporary.take() else {
            return Ok(self.manifest);
        };
        let directory = &self.target.directory;
        let name = &self.target.name;
        if let Err(error) = sys::fs::rename_noreplace(directory, &temporary, directory, name) {
            self.target.temporary = Some(temporary);
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => Error::Exists {
                    path: self.target.path.clone(),
                },
                _ => Error::io("give the archive its name", error),
            });
        }
        if let Err(error) = sys::fs::sync_dir(directory) {
            // Whoever is told of a failure does not look for a file.
            self.target.temporary = Some(name.clone());
            return Err(Error::io("sync the directory", error));
        }
        Ok(self.manifest)
    }
}
