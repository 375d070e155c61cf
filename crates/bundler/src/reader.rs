//! Reading an archive, anybody's.
//!
//! [`Archive::open`] reads the headers and refuses at the first thing that is wrong with them;
//! [`Archive::verify`] reads everything and compares it with the manifest. [`findings`] does both
//! and goes on as far as it can, for people who want to know all that is wrong.
//!
//! What is checked without looking at content: the names are known and clean, each occurs once,
//! entries are regular files and directories, numbers and sizes are within [`ReadLimits`], every
//! entry lies within the file, and nothing follows the end marker but zeros. Data is then read at
//! the offsets found here, so a second member of the same name cannot be read by mistake.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use crate::error::{Error, Finding, Problem};
use crate::format::PAGE;
use crate::format::source::FileRange;
use crate::manifest::{MAX_MANIFEST_BYTES, Manifest};
use crate::names;

mod scan;
mod verify;

pub use verify::{Pages, Verified, findings};

/// How much an archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// Number of entries. Every process and thread has some.
    pub entries: u64,
    /// Bytes of one page image, root filesystem difference, tmpfs or volume.
    pub large_bytes: u64,
    /// Bytes of any other entry.
    pub small_bytes: u64,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            entries: 200_000,
            large_bytes: 1 << 42,
            small_bytes: 1 << 30,
        }
    }
}

impl ReadLimits {
    /// What the entry `name` may have.
    fn bytes_of(&self, name: &str) -> u64 {
        let tar = name.ends_with(".tar");
        let image = name.starts_with(names::CHECKPOINT_DIRECTORY);
        let pages = name.contains("pages-") && image;
        // Deleted but open files are images of their own.
        let ghost = name.contains("ghost-file") && image;
        match name {
            names::MANIFEST => MAX_MANIFEST_BYTES,
            _ if tar || pages || ghost => self.large_bytes,
            _ => self.small_bytes,
        }
    }
}

/// Where an entry's data lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// First byte of the data in the file.
    pub offset: u64,
    /// Number of bytes.
    pub size: u64,
}

/// An archive whose headers have been read and found good.
#[derive(Debug)]
pub struct Archive {
    file: File,
    entries: Vec<(String, Location)>,
    index: HashMap<String, usize>,
    manifest: Option<Manifest>,
}

impl Archive {
    /// [`Self::open_within`] the usual limits.
    ///
    /// # Errors
    ///
    /// As [`Self::open_within`].
    pub fn open(file: File) -> Result<Self, Error> {
        Self::open_within(file, &ReadLimits::default())
    }

    /// Reads the headers and, when there is one, the manifest. The file has to be a regular one.
    ///
    /// Archives of other engines, which have no manifest, are opened as well.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the first entry that is not as it has to be; [`Error::Io`].
    pub fn open_within(file: File, limits: &ReadLimits) -> Result<Self, Error> {
        let mut first = None;
        let scanned = scan::scan(&file, limits, &mut |finding| {
            first = Some(finding);
            false
        })?;
        if let Some(finding) = first {
            return Err(finding.into());
        }
        let mut archive = Self {
            file,
            index: HashMap::new(),
            entries: scanned.entries,
            manifest: None,
        };
        for (index, (name, _)) in archive.entries.iter().enumerate() {
            archive.index.insert(name.clone(), index);
        }
        if archive.location(names::MANIFEST).is_some() {
            let bytes = archive.read_small(names::MANIFEST, MAX_MANIFEST_BYTES)?;
            let manifest = Manifest::parse(&bytes)
                .map_err(|reason| Error::invalid(names::MANIFEST, Problem::Manifest { reason }))?;
            archive.manifest = Some(manifest);
        }
        Ok(archive)
    }

    /// The manifest, which only thawd's archives have.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Names and places of all entries that are regular files, in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Location)> {
        self.entries
            .iter()
            .map(|(name, location)| (name.as_str(), *location))
    }

    /// Where the data of an entry lies, `None` when there is no such entry.
    #[must_use]
    pub fn location(&self, name: &str) -> Option<Location> {
        self.index
            .get(name)
            .and_then(|index| self.entries.get(*index))
            .map(|(_, at)| *at)
    }

    /// Whether the data of this entry begins at byte 4096 exactly, so that CRIU can read it from
    /// the archive itself, behind one page that is skipped.
    #[must_use]
    pub fn in_place(&self, name: &str) -> bool {
        self.location(name).is_some_and(|at| at.offset == PAGE)
    }

    /// The archive's file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads an entry as a whole.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`]; [`Error::Invalid`] when it is larger than `max_bytes` or the file was
    /// cut since; [`Error::Io`].
    pub fn read_small(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, Error> {
        let at = self.find(name)?;
        if at.size > max_bytes {
            let problem = Problem::TooLarge {
                size_bytes: at.size,
                limit_bytes: max_bytes,
            };
            return Err(Error::invalid(name, problem));
        }
        let mut bytes = Vec::new();
        self.reader(name)?
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(format!("read {name} from the archive"), error))?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length == at.size) {
            Ok(bytes)
        } else {
            Err(Error::invalid(name, Problem::Truncated))
        }
    }

    /// Reads an entry piece by piece. Several readers may be used at once.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`].
    pub fn reader(&self, name: &str) -> Result<EntryReader<'_>, Error> {
        let Location { offset, size } = self.find(name)?;
        Ok(EntryReader(FileRange {
            file: &self.file,
            at: offset,
            end: offset + size,
        }))
    }

    /// Copies an entry to the new file `file_name` (mode 0600) in `dir`, sharing the blocks where
    /// the filesystem can.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`]; [`Error::Invalid`] when the file was cut since; [`Error::NoSpace`];
    /// [`Error::Io`], also when the name is taken.
    pub fn extract(&self, name: &str, dir: impl AsFd, file_name: &str) -> Result<(), Error> {
        let Location { offset, size } = self.find(name)?;
        let failed = |error| Error::io(format!("unpack {name}"), error);
        let mut out = sys::fs::create_new(dir, file_name, 0o600).map_err(failed)?;
        let whole = size & !(PAGE - 1);
        let aligned = offset.is_multiple_of(PAGE) && whole > 0;
        let shared =
            aligned && sys::pipe::reflink_range(&self.file, offset, whole, &out, 0).is_ok();
        let done = if shared { whole } else { 0 };
        if shared {
            io::Seek::seek(&mut out, io::SeekFrom::Start(done)).map_err(failed)?;
        }
        let mut rest = FileRange {
            file: &self.file,
            at: offset + done,
            end: offset + size,
        };
        let copied = copy(&mut rest, &mut out).map_err(failed)?;
        if done + copied == size {
            Ok(())
        } else {
            Err(Error::invalid(name, Problem::Truncated))
        }
    }

    /// Gives the archive one more name: `file_name` in `dir`, on the same filesystem. This is how
    /// the page image that is [in place](Self::in_place) is shown to CRIU. From then on the
    /// archive must not change.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], for instance when `dir` is on another filesystem or the name is taken.
    pub fn link(&self, dir: impl AsFd, file_name: &str) -> Result<(), Error> {
        sys::fs::link_into(&self.file, dir, file_name)
            .map_err(|error| Error::io("link the archive", error))
    }

    fn find(&self, name: &str) -> Result<Location, Error> {
        self.location(name).ok_or_else(|| Error::Missing {
            name: name.to_owned(),
        })
    }

    /// Reads every entry and compares it with the manifest, [`Self::verify_with`] everything.
    ///
    /// # Errors
    ///
    /// As [`Self::verify_with`].
    pub fn verify(&self) -> Result<Verified<'_>, Error> {
        self.verify_with(Pages::Digest, &mut |_| {})
    }

    /// Reads every entry and compares it with the manifest. `progress` is told the number of bytes
    /// read so far.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the first entry that differs, or with the manifest when there is
    /// none: then nothing is proven about the content; [`Error::Io`].
    pub fn verify_with(
        &self,
        pages: Pages,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Verified<'_>, Error> {
        let Some(manifest) = self.manifest() else {
            return Err(Error::invalid(names::MANIFEST, Problem::Missing));
        };
        let mut first: Option<Finding> = None;
        verify::verify(self, pages, progress, &mut |finding| {
            first = Some(finding);
            false
        })?;
        match first {
            Some(finding) => Err(finding.into()),
            None => Ok(Verified::new(manifest)),
        }
    }
}

/// Data of one entry. It can be cloned to read from the same place again.
#[derive(Debug, Clone, Copy)]
pub struct EntryReader<'a>(FileRange<'a>);

impl EntryReader<'_> {
    /// Bytes still to come.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.0.end.saturating_sub(self.0.at)
    }
}

impl Read for EntryReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

fn copy(from: &mut impl Read, to: &mut impl io::Write) -> io::Result<u64> {
    let mut buffer = vec![0_u8; crate::writer::COPY_BYTES];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => {
                to.write_all(buffer.get(..read).unwrap_or_default())?;
                copied += u64::try_from(read).map_err(io::Error::other)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
