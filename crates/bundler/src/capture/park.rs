//! Pages that stay as they are, parked in pipes.
//!
//! Where the container's memory is copy-on-write, what lies in a pipe does not change when the container
//! runs on. Then nothing has to be in the file when CRIU waits at `post-dump`: pages are parked in pipes
//! of ours, and threads write and digest them, partly while the container stands and the rest after.
//! ```text
//!   CRIU's pipe ──splice──▶ pipes of a block ──read──▶ a thread's buffer ──┬─ O_DIRECT ─▶ archive
//!        no copy                  no copy              of huge pages       └─▶ BLAKE3
//! ```
//! What is digested has to be copied anyway; and a disk takes scattered pages more slowly than one piece
//! of memory (measured with 1 GiB on a virtio disk: 2.1 against 3.5 GB/s). What is parked takes no memory:
//! it belongs to the container. A pipe is a descriptor; when there are as many as [`most_pipes`] allows,
//! taking waits for writing.
//!
//! Storing begins while CRIU takes pages. It leaves one of two processors idle then: it and the process
//! whose memory it takes run in turns, and each time one wakes the other. So while the container stands the
//! threads give way to all others, the container's own among them, which CRIU makes run its code. They do
//! not while they hold the lock, which others wait for, nor with a block that somebody waits for.
//!
//! The first block of each image stays in its pipes until CRIU has left the processes: it makes them run
//! system calls by code that it puts into a page, most often one of the first, for a moment (`compel`'s
//! `compel_execute_syscall`), also after it has taken that page.

mod parked;
mod state;
mod store;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::Resource;
use sys::memory::HugeBuffer;
use sys::process::{Deadline, Weight, set_weight};

pub(super) use self::parked::Full;
use self::parked::{Parked, Piece};
use self::state::{State, UnderWay, urgent};
use self::store::{PIECE_BYTES, Store};
use super::Part;
use super::digest::Block;
use super::lanes::Parcel;
use super::route::open_direct;
use super::signal::Signal;
use super::write_back;
use crate::blocks::{self, BlockDigest};
use crate::error::Error;

/// Threads for each processor: while some wait for the disk, others digest.
const THREADS: usize = 4;
/// Most threads.
const MOST_THREADS: usize = 16;
/// The part of the descriptors that a process may have that one capture takes.
const DESCRIPTORS_PART: u64 = 3;
/// Pipes where the number of descriptors is not limited: 64 GiB or more.
const MOST_PIPES: u64 = 64 << 10;
/// Most bytes that are copied where references would not do; the rest goes into the file meanwhile.
const MOST_COPIED: u64 = 64 << 20;
/// How often who waits looks whether the capture was given up.
const LOOK: Duration = Duration::from_millis(20);

/// How many pipes may be full at once.
fn most_pipes() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    let most = limit.map_or(MOST_PIPES, |limit| limit / DESCRIPTORS_PART);
    usize::try_from(most.min(MOST_PIPES)).unwrap_or(usize::MAX)
}

/// Full pipes on their way into the file.
#[derive(Debug)]
pub(super) struct Parking {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    signal: Arc<Signal>,
    file: File,
    /// The same file past the page cache, where the filesystem can.
    direct: Option<File>,
    most_pipes: usize,
    /// The container runs, or waits for a block. Without the lock, which a thread that stands back must
    /// not hold.
    hurry: AtomicBool,
    state: Mutex<State>,
    /// There is a block to store.
    to_store: Condvar,
    /// One is done with.
    done: Condvar,
}

impl Parking {
    /// Starts the threads.
    pub(super) fn start(file: &File, signal: &Arc<Signal>) -> io::Result<Self> {
        Self::with_pipes(most_pipes(), file, signal)
    }

    fn with_pipes(most_pipes: usize, file: &File, signal: &Arc<Signal>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            signal: Arc::clone(signal),
            file: file.try_clone()?,
            direct: open_direct(file, OFlags::WRONLY),
            most_pipes,
            hurry: AtomicBool::new(false),
            state: Mutex::default(),
            to_store: Condvar::new(),
            done: Condvar::new(),
        });
        let mut parking = Self {
            shared,
            threads: Vec::new(),
        };
        let threads = (THREADS * blocks::processors()).min(MOST_THREADS);
        for buffer in HugeBuffer::several(threads, PIECE_BYTES)? {
            let shared = Arc::clone(&parking.shared);
            let thread = std::thread::Builder::new()
                .name("page-parking".to_owned())
                .spawn(move || shared.work(buffer))?;
            parking.threads.push(thread);
        }
        Ok(parking)
    }

    /// Where blocks are put.
    pub(super) fn spaces(&self) -> Spaces {
        Spaces(Arc::clone(&self.shared))
    }

    /// Waits until these parts of page images are copied, or done with, so that no later write to memory
    /// reaches them.
    pub(super) fn land(&self, parts: &[Part], deadline: Deadline) -> Result<(), Error> {
        let shared = &self.shared;
        let mut left = MOST_COPIED;
        let mut state = shared.lock();
        // A thread that waits for the lock meanwhile has nothing better to do than this.
        urgent(&mut state.parked, parts, &mut left)
            .map_err(|error| Error::io("copy memory", error))?;
        state.settled = true;
        if state.has_open(parts) {
            shared.hurry(&mut state);
        } else {
            // They still stand back: CRIU is not at its end.
            shared.to_store.notify_all();
        }
        while state.has_open(parts) {
            shared.still_good(&mut state)?;
            if deadline.passed() {
                let bytes = shared.signal.bytes.load(Ordering::Relaxed);
                return Err(Error::Deadline { bytes });
            }
            state = Shared::wait(&shared.done, state);
        }
        shared.still_good(&mut state)
    }

    /// Waits until everything is in the file, and returns the digest of each page image by its number.
    pub(super) fn finish(mut self) -> Result<HashMap<u32, String>, Error> {
        self.shared.close();
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| Error::Cancelled)?;
        }
        let mut state = self.shared.lock();
        self.shared.still_good(&mut state)?;
        if self.shared.direct.is_none() {
            // Piece by piece, so that it can be given up; the rest is the archive's own last sync.
            let signal = &self.shared.signal;
            write_back::sync(&self.shared.file, &|| signal.aborted())
                .map_err(|error| Error::io("sync the archive", error))?;
        }
        Ok(std::mem::take(&mut state.digests).combine())
    }
}

/// Ends the threads, of a capture that was given up or one whose memory was not protected after all.
impl Drop for Parking {
    fn drop(&mut self) {
        // What the pipes refer to is memory of the container.
        self.shared.lock().parked.clear();
        self.shared.close();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Where the thread that takes pages from CRIU puts them.
#[derive(Debug, Clone)]
pub(super) struct Spaces(Arc<Shared>);

impl Spaces {
    /// Says that a page image arrives; it may have no block.
    pub(super) fn image(&self, number: u32) {
        self.0.lock().digests.image(number);
    }

    /// An empty pipe, when need be after others have got into the file.
    pub(super) fn pipe(&self) -> io::Result<Parcel> {
        let mut state = self.0.lock();
        while state.pipes >= self.0.most_pipes {
            self.0.to_store.notify_all();
            if self.0.signal.aborted() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            state = Shared::wait(&self.0.done, state);
        }
        state.pipes += 1;
        drop(state);
        Parcel::new()
    }

    /// Takes a pipe back that nothing was put into.
    pub(super) fn put_back(&self, pipe: Parcel) {
        drop(pipe);
        self.0.lock().pipes -= 1;
    }

    /// A whole block, or the last one of its image.
    pub(super) fn park(&self, block: Block, pipes: Vec<Full>) {
        let pieces = pipes.into_iter().map(Piece::Pipe).collect();
        self.0.lock().parked.push_back(Parked { block, pieces });
        self.0.to_store.notify_one();
    }
}

impl Shared {
    /// What a panicking thread left is good: nothing is changed in steps.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(event: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = event.wait_timeout(state, LOOK);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.settled = true;
        self.hurry(&mut state);
    }

    /// Everything is to be stored as fast as possible.
    fn hurry(&self, state: &mut State) {
        self.hurry.store(true, Ordering::SeqCst);
        for under_way in &state.under_way {
            set_weight(Some(under_way.thread), Weight::Usual).unwrap_or_default();
        }
        self.to_store.notify_all();
    }

    fn still_good(&self, state: &mut State) -> Result<(), Error> {
        if let Some(error) = state.failed.take() {
            return Err(Error::io("write memory into the archive", error));
        }
        if self.signal.aborted() {
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    /// Stores blocks until there will be none.
    fn work(&self, buffer: HugeBuffer) {
        let own = rustix::thread::gettid()
            .as_raw_nonzero()
            .get()
            .unsigned_abs();
        let mut store = Store::new(&self.file, self.direct.as_ref(), buffer);
        while let Some(parked) = self.next(own) {
            let block = parked.block;
            let digest = self.store(&mut store, parked);
            let mut state = self.lock();
            state.under_way.retain(|other| !block.is(&other.block));
            match digest {
                Ok(digest) => state.digests.put(&block, digest),
                Err(error) => {
                    state.failed = Some(error);
                    state.parked.clear();
                }
            }
            drop(state);
            self.done.notify_all();
        }
    }

    /// Copies a block piece by piece, digests and writes it, and tells when it is copied.
    fn store(&self, store: &mut Store<'_>, mut parked: Parked) -> io::Result<BlockDigest> {
        let (block, pipes) = (parked.block, parked.pieces.len());
        let (mut digest, mut offset) = (block.hasher(), block.offset);
        while !parked.pieces.is_empty() {
            let length = self.standing_back(|| store.copy(&mut parked, &mut digest))?;
            if parked.pieces.is_empty() {
                self.copied(&block, pipes);
            }
            self.standing_back(|| store.write(length, offset))?;
            offset += u64::try_from(length).map_err(io::Error::other)?;
        }
        Ok(digest.finish())
    }

    /// A thread has a copy of a block, which lay in so many pipes.
    fn copied(&self, block: &Block, pipes: usize) {
        let mut state = self.lock();
        state.pipes = state.pipes.saturating_sub(pipes);
        let mut under_way = state.under_way.iter_mut();
        if let Some(own) = under_way.find(|other| block.is(&other.block)) {
            own.copied = true;
        }
        drop(state);
        self.done.notify_all();
    }

    /// Does something, behind all other threads until the container runs.
    fn standing_back<T>(&self, work: impl FnOnce() -> T) -> T {
        // Not being let to is no failure: it is about time only.
        let weigh = |weight| set_weight(None, weight).unwrap_or_default();
        if self.hurry.load(Ordering::SeqCst) {
            return work();
        }
        weigh(Weight::Idle);
        if self.hurry.load(Ordering::SeqCst) {
            // Since just now: [`Self::hurry`] may have come before.
            weigh(Weight::Usual);
        }
        let done = work();
        weigh(Weight::Usual);
        done
    }

    /// The next block for a thread; `None` when there will be none.
    fn next(&self, thread: u32) -> Option<Parked> {
        let mut state = self.lock();
        loop {
            if self.signal.aborted() || state.failed.is_some() {
                return None;
            }
            if let Some(parked) = state.take(self.most_pipes) {
                state.under_way.push(UnderWay {
                    block: parked.block,
                    thread,
                    copied: false,
                });
                return Some(parked);
            }
            if state.closed && state.parked.is_empty() {
                return None;
            }
            state = Self::wait(&self.to_store, state);
        }
    }
}

#[cfg(test)]
mod tests;
