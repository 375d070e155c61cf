//! Digests of page images, block by block.
//!
//! A digest over gigabytes keeps one processor busy for seconds when it goes from the first byte to the
//! last. BLAKE3 is a tree: that of a page image is put together from those of its blocks, which all
//! processors take at once, and in any order. It is the plain BLAKE3 digest of the whole, as b3sum(1)
//! gives it.
//! ```text
//!   page image │ 4 MiB │ 4 MiB │ 4 MiB │ rest │      a block is a whole subtree, but for the last one
//!                 ▼       ▼       ▼      ▼
//!                 └───┬───┘       └──┬───┘
//!                     └──────┬───────┘
//!                         BLAKE3 of the page image
//! ```
//! Measured on two threads of one core (AMD EPYC, GB/s): SHA-256 3.4, BLAKE3 11. Archives of format
//! version 2 have the SHA-256 digest of the SHA-256 digests of such blocks; they are still read.

mod hasher;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::OFlags;

use crate::reader::Location;

pub(crate) use hasher::{BlockDigest, BlockHasher, Scheme};

/// Bytes of a block; the last one of an image may be shorter.
pub(crate) const BLOCK_BYTES: u64 = 4 << 20;
/// Bytes read from the page cache and digested at a time: they are still in the processor's cache.
const READ_BYTES: usize = 256 << 10;
/// Bytes read past the page cache at a time.
const DIRECT_BYTES: usize = 1 << 20;
/// What reads past the page cache ask of the buffer's address and of the length.
const ALIGNMENT: usize = 4096;
/// Threads of one entry for each processor: while some wait for the disk, others digest.
const THREADS: usize = 2;
/// Most threads of one entry.
const MOST_THREADS: usize = 8;
/// Blocks that follow each other which one thread digests, so that the kernel reads ahead for each of
/// them. Measured (1 GiB that is not in the page cache, virtio disk, GB/s): 1.9; 1.2 to 1.9 when each
/// block is some other thread's; 1.0 when the program asks for blocks beforehand (posix_fadvise(2),
/// `POSIX_FADV_WILLNEED`), for which the kernel takes memory page by page.
const RUN_BLOCKS: u64 = 16;

/// How many processors may help.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// What files are read into.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
}

impl Buffer {
    /// For reading through the page cache.
    pub(crate) fn cached() -> Self {
        Self::new(READ_BYTES)
    }

    /// For reading past it.
    pub(crate) fn direct() -> Self {
        Self::new(DIRECT_BYTES)
    }

    fn new(length: usize) -> Self {
        let bytes = vec![0; length + ALIGNMENT];
        Self { bytes, length }
    }

    fn aligned(&mut self) -> &mut [u8] {
        let skip = self.bytes.as_ptr().align_offset(ALIGNMENT);
        self.bytes
            .get_mut(skip..skip.saturating_add(self.length))
            .unwrap_or_default()
    }
}

/// Digests `length` bytes at `offset` with `digest`; `None` when the file ends before. The file may be
/// open past the page cache when `offset` is a multiple of 4096.
pub(crate) fn of_range(
    file: &File,
    offset: u64,
    length: u64,
    mut digest: BlockHasher,
    buffer: &mut Buffer,
) -> io::Result<Option<BlockDigest>> {
    let buffer = buffer.aligned();
    let mut done = 0;
    while done < length {
        let left = usize::try_from(length - done).unwrap_or(usize::MAX);
        let most = left.next_multiple_of(ALIGNMENT).min(buffer.len());
        let part = buffer.get_mut(..most).unwrap_or_default();
        let read = match file.read_at(part, offset + done) {
            Ok(0) => return Ok(None),
            Ok(read) => read.min(left),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        digest.update(part.get(..read).unwrap_or_default());
        done += u64::try_from(read).map_err(io::Error::other)?;
    }
    Ok(Some(digest.finish()))
}

/// Digests a whole entry on several processors; `None` when the file ends before. `progress` is
/// told how many bytes of it have been read.
pub(crate) fn of_entry(
    file: &File,
    at: Location,
    scheme: Scheme,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Option<String>> {
    let blocks = at.size.div_ceil(BLOCK_BYTES);
    let most = (THREADS * processors()).min(MOST_THREADS);
    let threads = usize::try_from(blocks).map_or(most, |blocks| blocks.min(most));
    let work = Work {
        file,
        at,
        scheme,
        blocks,
        run: blocks
            .div_ceil(u64::try_from(threads.max(1)).map_err(io::Error::other)?)
            .clamp(1, RUN_BLOCKS),
        next: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let mut digests = vec![None; usize::try_from(blocks).map_err(io::Error::other)?];
    let parts = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads)
            .map(|_| scope.spawn(|| work.run(&mut |_| {})))
            .collect();
        let mut parts = vec![work.run(progress)];
        parts.extend(helpers.into_iter().map(|helper| {
            helper
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a digesting thread panicked")))
        }));
        parts
    });
    for part in parts {
        for (index, digest) in part? {
            let index = usize::try_from(index).map_err(io::Error::other)?;
            if let Some(place) = digests.get_mut(index) {
                *place = digest;
            }
        }
    }
    let digests: Option<Vec<BlockDigest>> = digests.into_iter().collect();
    Ok(digests.map(|digests| scheme.combine(&digests)))
}

/// What the threads of one entry share.
struct Work<'a> {
    file: &'a File,
    at: Location,
    scheme: Scheme,
    blocks: u64,
    /// How many blocks a thread takes at a time.
    run: u64,
    /// The first block that nobody has taken.
    next: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
}

impl Work<'_> {
    /// Where a block lies, and how long it is: 0 behind the last one.
    fn block(&self, index: u64) -> (u64, u64) {
        let begin = index.saturating_mul(BLOCK_BYTES);
        let length = BLOCK_BYTES.min(self.at.size.saturating_sub(begin));
        (self.at.offset.saturating_add(begin), length)
    }

    /// Digests the blocks that are next until there are none.
    fn run(&self, progress: &mut dyn FnMut(u64)) -> io::Result<Vec<(u64, Option<BlockDigest>)>> {
        let mut buffer = Buffer::cached();
        let mut done = Vec::new();
        // The kernel's reading ahead follows one reader of an open file, not several.
        let own = sys::fs::reopen(self.file, OFlags::RDONLY).ok();
        let file = own.as_ref().unwrap_or(self.file);
        loop {
            let first = self.next.fetch_add(self.run, Ordering::Relaxed);
            let behind = first.saturating_add(self.run).min(self.blocks);
            if first >= behind {
                return Ok(done);
            }
            for index in first..behind {
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(done);
                }
                let (offset, length) = self.block(index);
                let hasher = BlockHasher::new(self.scheme, index);
                let digest = of_range(file, offset, length, hasher, &mut buffer);
                if !matches!(digest, Ok(Some(_))) {
                    self.stop.store(true, Ordering::Relaxed);
                }
                done.push((index, digest?));
                progress(self.bytes.fetch_add(length, Ordering::Relaxed) + length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    /// By the book, in one thread.
    fn plainly(scheme: Scheme, content: &[u8]) -> String {
        match scheme {
            Scheme::Blake3 => blake3::hash(content).to_string(),
            Scheme::Sha256OfBlocks => {
                let blocks = content.chunks(usize::try_from(BLOCK_BYTES).unwrap());
                let blocks: Vec<[u8; 32]> =
                    blocks.map(|block| Sha256::digest(block).into()).collect();
                hex::encode(Sha256::digest(blocks.concat()))
            }
        }
    }

    #[test]
    fn entries_of_any_size_are_digested_wherever_they_lie() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        let content: Vec<u8> = (0..13_000_001_u32).map(|at| (at % 251) as u8).collect();
        file.write_all_at(&content, 777).unwrap();
        let sizes = [
            0,
            1,
            1024,
            4096,
            4 << 20,
            (4 << 20) + 1,
            8 << 20,
            12 << 20,
            13_000_001,
        ];
        for (size, scheme) in sizes
            .into_iter()
            .flat_map(|size| [(size, Scheme::Blake3), (size, Scheme::Sha256OfBlocks)])
        {
            let at = Location { offset: 777, size };
            let mut read = Vec::new();
            let digest = of_entry(&file, at, scheme, &mut |bytes| read.push(bytes)).unwrap();
            assert_eq!(
                digest.unwrap(),
                plainly(scheme, &content[..usize::try_from(size).unwrap()]),
                "{size}"
            );
            assert!(read.iter().all(|bytes| *bytes <= size));
        }
        let at = Location {
            offset: 777,
            size: 13_000_002,
        };
        assert_eq!(
            of_entry(&file, at, Scheme::Blake3, &mut |_| {}).unwrap(),
            None
        );
    }

    #[test]
    fn the_page_cache_may_be_passed_by() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        let content: Vec<u8> = (0..600_001_u32).map(|at| (at % 239) as u8).collect();
        file.write_all_at(&content, 8192).unwrap();
        let direct = sys::fs::reopen(&file, OFlags::RDONLY | OFlags::DIRECT).unwrap();
        let mut buffer = Buffer::direct();
        let hasher = || BlockHasher::new(Scheme::Blake3, 0);
        let digest = of_range(&direct, 8192, 600_001, hasher(), &mut buffer).unwrap();
        assert_eq!(
            Scheme::Blake3.combine(&[digest.unwrap()]),
            blake3::hash(&content).to_string(),
            "the last page is not a whole one"
        );
        let beyond = of_range(&direct, 8192, 700_000, hasher(), &mut buffer).unwrap();
        assert_eq!(beyond, None);
    }
}
