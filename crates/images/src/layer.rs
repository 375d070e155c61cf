//! One layer: a tar, possibly compressed, made into a directory that overlayfs takes as it is.
//!
//! ```text
//! blob ─ sha256 ─▶ gzip | zstd | plain ─ sha256 ─▶ tar ─▶ apply ─▶ directory
//!        (digest)                        (diff id)
//! ```
//!
//! A deletion (`.wh.NAME`) becomes a character device 0:0, an opaque directory (`.wh..wh..opq`)
//! gets the attribute `trusted.overlay.opaque` (OCI image specification, `layer.md`; kernel,
//! `Documentation/filesystems/overlayfs.rst`).
//!
//! # Invariants
//! - Nothing outside the directory is touched: names are cleaned, links are resolved by hand inside
//!   it, and what is opened is opened beneath it without following links.
//! - Bytes, entries, names and free space are bounded; an error names the entry.

use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::digest::{Digest, HashingReader};
use crate::error::Error;
use crate::tar_stream::{TarLimits, TarReader};

mod apply;
mod node;
mod tree;

/// How often the free space is looked at, in bytes written.
pub(crate) const SPACE_CHECK_BYTES: u64 = 32 << 20;

/// Bounds of one layer. The defaults are above anything that real images have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Entries of the tar.
    pub(crate) entries: u64,
    /// Sum of the sizes of all files, in bytes.
    pub(crate) bytes: u64,
    /// Bytes of one name or link target (`PATH_MAX` without its end).
    pub(crate) name_bytes: u64,
    /// Sum of the names of all directories, in bytes; they are kept in memory.
    pub(crate) directory_name_bytes: u64,
    /// Bytes that must stay free on the filesystem.
    pub(crate) reserve_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            bytes: 1 << 40,
            name_bytes: 4095,
            directory_name_bytes: 256 << 20,
            reserve_bytes: 64 << 20,
        }
    }
}

impl Limits {
    /// Whether as much is free on the file's filesystem as must stay free; `shown` is being written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] of kind `StorageFull` when it is not.
    pub(crate) fn keep_free(self, file: impl AsFd, shown: &str) -> Result<(), Error> {
        let free = sys::fs::free_bytes(file).map_err(Error::io("write", shown))?;
        if free >= self.reserve_bytes {
            return Ok(());
        }
        Err(Error::Io {
            action: "keep enough space free while writing",
            path: shown.into(),
            source: io::ErrorKind::StorageFull.into(),
        })
    }

    pub(crate) fn tar(self) -> TarLimits {
        TarLimits {
            entries: self.entries,
            bytes: self.bytes,
            name_bytes: self.name_bytes,
            extension_bytes: 8 << 20,
        }
    }
}

/// What unpacking found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Digest of the blob as it was read.
    pub(crate) digest: Digest,
    /// Digest of the tar within.
    pub(crate) diff_id: Digest,
    /// Space that the files take, in bytes.
    pub(crate) used_bytes: u64,
    /// Files, directories and links made.
    pub(crate) inodes: u64,
}

/// Unpacks `blob` into the existing, empty directory `into`.
///
/// `lowers` are the directories of the layers below, topmost first: directories that the layer
/// only implies get their owner and mode from there.
///
/// # Errors
///
/// [`Error::Malformed`], [`Error::Limit`], [`Error::Read`] or [`Error::Io`]; what was made so far
/// stays for the caller to remove.
pub(crate) fn unpack(
    blob: impl Read,
    into: &Path,
    lowers: &[PathBuf],
    limits: Limits,
) -> Result<Unpacked, Error> {
    let open = |path: &Path| sys::fs::open_dir(path).map_err(Error::io("open layer", path));
    let lowers: Vec<OwnedFd> = lowers
        .iter()
        .map(|path| open(path))
        .collect::<Result<_, _>>()?;
    let mut compressed = HashingReader::new(blob);
    let (diff_id, usage) = {
        let (kind, reader) = sniff(&mut compressed)?;
        let mut tar = TarReader::new(HashingReader::new(decoder(kind, reader)?), limits.tar());
        let mut applier = apply::Applier::new(open(into)?, &lowers, limits)?;
        while let Some(entry) = tar.next()? {
            applier.apply(&entry, &mut tar)?;
        }
        let usage = applier.finish()?;
        let mut rest = tar.into_inner();
        drain(&mut rest)?;
        (rest.finish().0, usage)
    };
    drain(&mut compressed)?;
    Ok(Unpacked {
        digest: compressed.finish().0,
        diff_id,
        used_bytes: usage.bytes,
        inodes: usage.inodes,
    })
}

/// How a blob is compressed, told by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// Looks at the first bytes; the reader returned begins with them again.
pub(crate) fn sniff<'a>(
    mut reader: impl Read + 'a,
) -> Result<(Compression, impl Read + 'a), Error> {
    let mut magic = Vec::with_capacity(6);
    reader
        .by_ref()
        .take(6)
        .read_to_end(&mut magic)
        .map_err(Error::Read)?;
    let kind = match magic.as_slice() {
        // RFC 1952, 2.3.1.
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // RFC 8878, 3.1.1; a skippable frame (3.1.2) may come first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(unsupported("xz")),
        [b'B', b'Z', b'h', ..] => return Err(unsupported("bzip2")),
        _ => Compression::Plain,
    };
    Ok((kind, io::Cursor::new(magic).chain(reader)))
}

/// Undoes the compression.
pub(crate) fn decoder<'a>(
    kind: Compression,
    reader: impl Read + 'a,
) -> Result<Box<dyn Read + 'a>, Error> {
    let buffered = BufReader::with_capacity(128 << 10, reader);
    Ok(match kind {
        Compression::Plain => Box::new(buffered),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(buffered).map_err(Error::Read)?),
    })
}

fn unsupported(kind: &str) -> Error {
    Error::malformed(
        "the blob",
        format!("is compressed with {kind}; gzip and zstd are known"),
    )
}

/// Reads to the end, so that the digest covers what follows the last entry too.
fn drain(reader: &mut impl Read) -> Result<(), Error> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.raw_os_error().is_some() => return Err(Error::Read(error)),
            Err(error) => {
                let problem = format!("cannot be read to its end: {error}");
                return Err(Error::malformed("the blob", problem));
            }
        }
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
