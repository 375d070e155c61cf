//! The threads that digest page images, block by block (see [`crate::blocks`]).
//!
//! While the container stands the processors are for CRIU and the thread that moves the pages: only
//! on machines with more than two do blocks get digested then. The others wait until it runs again,
//! and then all processors take part. Measured on two (256 MiB, medians of five): in the file after
//! 115 ms without digesting and 152 ms with it.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::OFlags;

use super::route::{Way, open_direct};
use super::signal::Signal;
use super::write_back;
use crate::blocks::{self, BlockDigest, BlockHasher, Buffer, Scheme};
use crate::error::Error;

/// Processors that digest nothing while the container stands.
const FOR_THE_PAGES: usize = 2;
/// Most threads. They all read one file.
const MOST_THREADS: usize = 8;

/// A block of a page image that is in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// Number of the page image.
    pub(super) image: u32,
    /// Which of its blocks this is.
    pub(super) index: usize,
    /// Where it begins in the file.
    pub(super) offset: u64,
    pub(super) length: u64,
    /// How it got there.
    pub(super) way: Way,
}

impl Block {
    /// Where it begins in its image.
    pub(super) fn begin(&self) -> u64 {
        let index = u64::try_from(self.index).unwrap_or(u64::MAX);
        index.saturating_mul(blocks::BLOCK_BYTES)
    }

    /// Whether both are the same one.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.image, self.index) == (other.image, other.index)
    }

    /// For its digest.
    pub(super) fn hasher(&self) -> BlockHasher {
        let index = u64::try_from(self.index).unwrap_or(u64::MAX);
        BlockHasher::new(Scheme::Blake3, index)
    }
}

/// Digests of blocks, by the page image.
#[derive(Debug, Default)]
pub(super) struct ImageDigests(HashMap<u32, Vec<BlockDigest>>);

impl ImageDigests {
    /// There is this page image; it may have no block.
    pub(super) fn image(&mut self, number: u32) {
        self.0.entry(number).or_default();
    }

    /// Blocks may come in any order.
    pub(super) fn put(&mut self, block: &Block, digest: BlockDigest) {
        let digests = self.0.entry(block.image).or_default();
        if digests.len() <= block.index {
            digests.resize(block.index + 1, BlockDigest::default());
        }
        if let Some(place) = digests.get_mut(block.index) {
            *place = digest;
        }
    }

    /// The digest of each page image by its number, once all of its blocks are there.
    pub(super) fn combine(self) -> HashMap<u32, String> {
        let images = self.0.into_iter();
        images
            .map(|(number, blocks)| (number, Scheme::Blake3.combine(&blocks)))
            .collect()
    }
}

/// Digests of page images in the making.
#[derive(Debug)]
pub(super) struct Digests {
    queue: Arc<Queue>,
    early: Vec<JoinHandle<()>>,
}

impl Digests {
    /// `signal` ends everything early.
    pub(super) fn start(file: &File, signal: &Arc<Signal>) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            signal: Arc::clone(signal),
            file: file.try_clone()?,
            direct: open_direct(file, OFlags::RDONLY),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut digests = Self {
            queue,
            early: Vec::new(),
        };
        let threads = blocks::processors().saturating_sub(FOR_THE_PAGES);
        for _ in 0..threads.min(MOST_THREADS) {
            let queue = Arc::clone(&digests.queue);
            let thread = std::thread::Builder::new()
                .name("page-digests".to_owned())
                .spawn(move || queue.work())?;
            digests.early.push(thread);
        }
        Ok(digests)
    }

    /// Where the blocks are put.
    pub(super) fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue)
    }

    /// Digests what is left on all processors, while the data is on its way to the disk, and
    /// returns the digest of each page image by its number.
    pub(super) fn finish(mut self) -> Result<HashMap<u32, String>, Error> {
        let failed = |error| Error::io("read memory back from the archive", error);
        self.queue.close();
        // Those that read past the page cache mostly wait for the disk.
        let threads = (4 * blocks::processors()).min(MOST_THREADS);
        let queue = &self.queue;
        std::thread::scope(|scope| {
            let stop = || queue.signal.aborted();
            let sync = scope.spawn(move || write_back::sync(&queue.file, &stop));
            for _ in self.early.len()..threads {
                scope.spawn(|| queue.work());
            }
            sync.join().unwrap_or(Ok(()))
        })
        .map_err(|error| Error::io("sync the archive", error))?;
        for thread in self.early.drain(..) {
            thread.join().map_err(|_| Error::Cancelled)?;
        }
        if self.queue.signal.aborted() {
            return Err(Error::Cancelled);
        }
        let mut state = self.queue.lock();
        if let Some(error) = state.failed.take() {
            return Err(failed(error));
        }
        Ok(std::mem::take(&mut state.digests).combine())
    }
}

/// Ends the threads of a capture that was given up, or that could not be begun.
impl Drop for Digests {
    fn drop(&mut self) {
        if self.early.is_empty() {
            return;
        }
        self.queue.signal.abort();
        self.queue.close();
        for thread in self.early.drain(..) {
            drop(thread.join());
        }
    }
}

/// Blocks that wait, and digests that are done.
#[derive(Debug)]
pub(super) struct Queue {
    signal: Arc<Signal>,
    file: File,
    /// The same file, for reading past the page cache what was written past it.
    direct: Option<File>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// No more will come.
    closed: bool,
    waiting: VecDeque<Block>,
    digests: ImageDigests,
    failed: Option<io::Error>,
}

impl Queue {
    /// Says that there is this page image; it may have no block.
    pub(super) fn image(&self, number: u32) {
        self.lock().digests.image(number);
    }

    pub(super) fn push(&self, block: Block) {
        self.lock().waiting.push_back(block);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// What a panicking thread left is good: nothing is changed in steps.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Digests blocks until there will be none.
    fn work(&self) {
        let mut cached = Buffer::cached();
        let mut direct = None;
        while let Some(block) = self.next() {
            let Block {
                offset,
                length,
                way,
                ..
            } = block;
            let past = self.direct.as_ref().filter(|_| way == Way::Direct);
            let (file, buffer) = match past {
                Some(file) => (file, direct.get_or_insert_with(Buffer::direct)),
                None => (&self.file, &mut cached),
            };
            let digest = blocks::of_range(file, offset, length, block.hasher(), buffer)
                .and_then(|digest| digest.ok_or(io::ErrorKind::UnexpectedEof.into()));
            let mut state = self.lock();
            match digest {
                Ok(digest) => state.digests.put(&block, digest),
                Err(error) => {
                    state.failed = Some(error);
                    state.waiting.clear();
                }
            }
        }
    }

    fn next(&self) -> Option<Block> {
        let mut state = self.lock();
        loop {
            if self.signal.aborted() {
                return None;
            }
            if let Some(block) = state.waiting.pop_front() {
                return Some(block);
            }
            if state.closed {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
