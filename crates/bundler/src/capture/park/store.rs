//! From pipes into the file, and the digest of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sys::memory::HugeBuffer;

use super::super::digest::Block;
use super::parked::Parked;
use crate::blocks::{BLOCK_BYTES, BlockDigest};
use crate::format::PAGE;

/// What one thread stores blocks with.
#[derive(Debug)]
pub(super) struct Store<'a> {
    file: &'a File,
    /// The same file past the page cache, where the filesystem can.
    direct: Option<&'a File>,
    buffer: HugeBuffer,
}

impl<'a> Store<'a> {
    pub(super) fn new(file: &'a File, direct: Option<&'a File>) -> io::Result<Self> {
        let length = usize::try_from(BLOCK_BYTES).map_err(io::Error::other)?;
        Ok(Self {
            file,
            direct,
            buffer: HugeBuffer::new(length)?,
        })
    }

    /// Copies a block; returns its length.
    pub(super) fn copy(&mut self, parked: &mut Parked) -> io::Result<usize> {
        parked.read(self.buffer.bytes())
    }

    /// Writes the block of `length` bytes that was copied, and digests it.
    pub(super) fn write(&mut self, block: &Block, length: usize) -> io::Result<BlockDigest> {
        let bytes = self.buffer.bytes().get(..length).unwrap_or_default();
        write(self.file, self.direct, bytes, block.offset)?;
        let mut digest = block.hasher();
        digest.update(bytes);
        Ok(digest.finish())
    }
}

/// Writes past the page cache what can go there, and the rest through it.
fn write(file: &File, direct: Option<&File>, bytes: &[u8], offset: u64) -> io::Result<()> {
    let page = usize::try_from(PAGE).map_err(io::Error::other)?;
    let whole = bytes.len() - bytes.len() % page;
    let (past, rest) = bytes.split_at(if offset.is_multiple_of(PAGE) {
        whole
    } else {
        0
    });
    match direct.map(|direct| direct.write_all_at(past, offset)) {
        Some(Ok(())) => {}
        // Not on this filesystem after all, or with this alignment.
        Some(Err(error)) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
        Some(Err(_)) | None => file.write_all_at(past, offset)?,
    }
    let behind = offset + u64::try_from(past.len()).map_err(io::Error::other)?;
    file.write_all_at(rest, behind)
}
