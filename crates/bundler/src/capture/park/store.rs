//! From pipes into the file, and the digest of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sys::memory::HugeBuffer;

use super::parked::Parked;
use crate::blocks::BlockHasher;
use crate::format::PAGE;

/// What is written at once. So little that the buffers of all threads stay in the processors' caches until
/// the device has read them, and take few of the system's pages while the container stands. Measured (1 GiB,
/// eight threads on a virtio disk, blocks that were not written before): 0.35 s, 0.44 s with 512 KiB,
/// 0.39 s with 4 MiB.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// What is copied at once and then digested, while it is still next to the processor. The kernel may not
/// interrupt the copying, and CRIU may be waiting for this processor: with reads of 1 MiB the container
/// stood still for 70 ms longer than when nothing was stored meanwhile, with these for 20 ms (1 GiB, two processors).
const HOT_BYTES: usize = 64 << 10;

/// What one thread stores blocks with.
#[derive(Debug)]
pub(super) struct Store<'a> {
    file: &'a File,
    /// The same file past the page cache, where the filesystem can.
    direct: Option<&'a File>,
    buffer: HugeBuffer,
}

impl<'a> Store<'a> {
    /// `buffer` has [`PIECE_BYTES`].
    pub(super) fn new(file: &'a File, direct: Option<&'a File>, buffer: HugeBuffer) -> Self {
        Self {
            file,
            direct,
            buffer,
        }
    }

    /// Copies the next piece of a block and digests it; returns its length.
    pub(super) fn copy(
        &mut self,
        parked: &mut Parked,
        digest: &mut BlockHasher,
    ) -> io::Result<usize> {
        let mut length = 0;
        for place in self.buffer.bytes().chunks_mut(HOT_BYTES) {
            let read = parked.read(place)?;
            digest.update(place.get(..read).unwrap_or_default());
            length += read;
            if read < place.len() {
                break;
            }
        }
        Ok(length)
    }

    /// Writes the piece of `length` bytes that was copied last.
    pub(super) fn write(&mut self, length: usize, offset: u64) -> io::Result<()> {
        let bytes = self.buffer.bytes().get(..length).unwrap_or_default();
        write(self.file, self.direct, bytes, offset)
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
