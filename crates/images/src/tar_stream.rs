//! A bounded tar reader for hostile input: ustar, GNU long names and pax.
//!
//! ```text
//! ┌────────┬────────────┬────────┬──────┬─────────┬───┬──────────────┐
//! │ header │ pax or GNU │ header │ data │ padding │ … │ zero block(s)│   512-byte blocks
//! └────────┴── names ───┴────────┴──────┴─────────┴───┴──────────────┘
//! ```
//!
//! Header fields are decoded by the `tar` crate; the walk is ours, because its own reads extension
//! entries of any length into memory. Formats: pax(1), GNU tar manual "Basic Tar Format".

use std::io::{self, Read};

use rustix::fs::Timespec;
use tar::Header;

use crate::error::Error;

mod pax;

const BLOCK: usize = 512;

/// Bounds of what one tar may contain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TarLimits {
    /// Entries, extension headers included.
    pub(crate) entries: u64,
    /// Sum of the sizes of all entries.
    pub(crate) bytes: u64,
    /// Bytes of one name or link target.
    pub(crate) name_bytes: u64,
    /// Bytes of one pax header.
    pub(crate) extension_bytes: u64,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    Directory,
    Symlink,
    Hardlink,
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// One entry without its data.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    /// Target of a symbolic or hard link.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timespec,
    /// Bytes of data; 0 unless regular.
    pub(crate) size: u64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The name for people.
    pub(crate) fn display(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

/// Reads entries one after the other; see [`TarReader::next`].
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    inner: R,
    limits: TarLimits,
    /// Data of the current entry not yet read.
    data: u64,
    /// Padding after it.
    padding: u64,
    entries: u64,
    bytes: u64,
    current: String,
    ended: bool,
}

/// What extension entries say about the next entry.
#[derive(Debug, Default)]
struct Pending {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<pax::Attributes>,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(inner: R, limits: TarLimits) -> Self {
        Self {
            inner,
            limits,
            data: 0,
            padding: 0,
            entries: 0,
            bytes: 0,
            current: "the tar's first header".to_owned(),
            ended: false,
        }
    }

    /// The underlying reader, somewhere after the last entry.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry, or `None` after the last one; unread data of the one before is skipped.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`], [`Error::Limit`] or [`Error::Read`], naming the entry.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut pending = Pending::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = header
                .entry_size()
                .map_err(|_| self.bad("its size is not a number"))?;
            match header.as_bytes().get(156).copied().unwrap_or_default() {
                b'L' => pending.name = Some(self.long_name(size)?),
                b'K' => pending.link = Some(self.long_name(size)?),
                b'x' => {
                    let text = self.extension(size, self.limits.extension_bytes, "pax header")?;
                    let attributes = pax::parse(&text).map_err(|problem| self.bad(problem))?;
                    pending.pax = Some(attributes);
                }
                b'g' => drop(self.extension(size, self.limits.extension_bytes, "pax header")?),
                flag => return self.entry(&header, flag, size, pending).map(Some),
            }
        }
    }

    /// Reads some of the current entry's data; 0 at its end.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when the input ends inside it; [`Error::Read`].
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let want = usize::try_from(self.data)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(buffer) = buffer.get_mut(..want).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        match self.inner.read(buffer) {
            Ok(0) => Err(self.truncated()),
            Ok(count) => {
                self.data -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read_data(buffer),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    fn header(&mut self) -> Result<Option<Header>, Error> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest) {
                Ok(0) if filled == 0 => {
                    self.ended = true;
                    return Ok(None);
                }
                Ok(0) => return Err(self.truncated()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable(error)),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(self.limit("the number of entries", self.limits.entries));
        }
        let header = Header::from_byte_slice(&block).clone();
        if header.cksum().ok() != Some(checksum(&block)) {
            return Err(Error::malformed(
                format!("entry {}, after {}", self.entries, self.current),
                "is not a tar header: its checksum is wrong",
            ));
        }
        self.current = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        Ok(Some(header))
    }

    fn entry(
        &mut self,
        header: &Header,
        flag: u8,
        size: u64,
        pending: Pending,
    ) -> Result<Entry, Error> {
        let mut pax = pending.pax.unwrap_or_default();
        let name = pax.path.take().or(pending.name);
        let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
        self.current = String::from_utf8_lossy(&name).into_owned();
        let link = pax.link.take().or(pending.link);
        let link = link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        for text in [Some(&name), link.as_ref()].into_iter().flatten() {
            if text.len() as u64 > self.limits.name_bytes {
                return Err(self.limit("a name's length in bytes", self.limits.name_bytes));
            }
        }
        let kind = self.kind(header, flag, name.last() == Some(&b'/'))?;
        let size = if kind == Kind::Regular {
            pax.size.unwrap_or(size)
        } else {
            0
        };
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes {
            return Err(self.limit("the sum of all sizes", self.limits.bytes));
        }
        self.data = size;
        self.padding = padding(size);
        let id = |pax: Option<u64>, field: io::Result<u64>| {
            let id = pax
                .map_or(field, Ok)
                .ok()
                .and_then(|id| u32::try_from(id).ok());
            id.filter(|id| *id != u32::MAX)
        };
        let seconds = header
            .mtime()
            .ok()
            .and_then(|seconds| i64::try_from(seconds).ok());
        Ok(Entry {
            kind,
            mode: header
                .mode()
                .map_err(|_| self.bad("its mode is not a number"))?
                & 0o7777,
            uid: id(pax.uid, header.uid()).ok_or_else(|| self.bad("its user id is no user id"))?,
            gid: id(pax.gid, header.gid())
                .ok_or_else(|| self.bad("its group id is no group id"))?,
            mtime: pax.mtime.unwrap_or(Timespec {
                tv_sec: seconds.unwrap_or(0),
                tv_nsec: 0,
            }),
            size,
            xattrs: pax.xattrs,
            name,
            link: link.unwrap_or_default(),
        })
    }

    fn kind(&self, header: &Header, flag: u8, slash: bool) -> Result<Kind, Error> {
        let device = || {
            let major = header.device_major().ok().flatten();
            let minor = header.device_minor().ok().flatten();
            major
                .zip(minor)
                .ok_or_else(|| self.bad("its device number is not a number"))
        };
        Ok(match flag {
            // Before POSIX a directory was a file whose name ends with a slash.
            b'0' | 0 if slash => Kind::Directory,
            b'0' | 0 | b'7' => Kind::Regular,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => device().map(|(major, minor)| Kind::Char { major, minor })?,
            b'4' => device().map(|(major, minor)| Kind::Block { major, minor })?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(self.bad("is a sparse file, which an image layer may not have")),
            flag => {
                return Err(self.bad(format!("has the unknown type {:?}", char::from(flag))));
            }
        })
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        // The name ends with a NUL byte that is not part of it.
        let limit = self.limits.name_bytes.saturating_add(1);
        let mut name = self.extension(size, limit, "a name's length in bytes")?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn extension(&mut self, size: u64, limit: u64, what: &'static str) -> Result<Vec<u8>, Error> {
        if size > limit {
            return Err(self.limit(what, limit));
        }
        self.data = size;
        self.padding = padding(size);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += self.read_data(rest)?;
        }
        Ok(bytes)
    }

    fn skip_rest(&mut self) -> Result<(), Error> {
        self.data = self.data.saturating_add(std::mem::take(&mut self.padding));
        let mut buffer = [0; 16 << 10];
        while self.data > 0 {
            self.read_data(&mut buffer)?;
        }
        Ok(())
    }

    fn bad(&self, problem: impl Into<String>) -> Error {
        Error::malformed(self.current.clone(), problem)
    }

    fn limit(&self, what: &'static str, limit: u64) -> Error {
        Error::Limit {
            entry: self.current.clone(),
            what,
            limit,
        }
    }

    fn truncated(&self) -> Error {
        self.bad("the input ends inside it or its header")
    }

    /// Decompressors report damage without an errno; a failing disk has one.
    fn unreadable(&self, error: io::Error) -> Error {
        if error.raw_os_error().is_some() {
            Error::Read(error)
        } else {
            self.bad(format!("cannot be read here or later: {error}"))
        }
    }
}

fn padding(size: u64) -> u64 {
    let block = BLOCK as u64;
    (block - size % block) % block
}

/// Sum of all bytes, the checksum field itself counted as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let bytes = block.iter().enumerate();
    bytes
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum()
}

#[cfg(test)]
mod tests;
