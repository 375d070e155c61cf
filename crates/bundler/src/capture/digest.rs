//! The thread that follows the pages: it starts their way to the disk and digests them.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use sys::pipe::WriteBack;

use super::pump::{Progress, Signal};
use super::route::{Way, open_direct};
use crate::error::Error;
use crate::format::PAGE;

/// Bytes read from the page cache and digested at a time: they are still in the processor's cache.
const READ_BYTES: usize = 256 << 10;
/// Bytes read from the disk at a time.
const DIRECT_BYTES: usize = 1 << 20;
/// Buffers for reading ahead.
const BUFFERS: usize = 3;
/// What reads past the page cache ask of the buffer's address.
const ALIGNMENT: usize = 4096;
/// Pieces that are put on their way to the disk for each one that is digested.
const PIECES_AT_ONCE: usize = 2;
/// What stays dirty in the page cache while the container stands. Write-back takes a fifth of the
/// writer's speed (measured: 1 GiB in 0.46 s with, 0.38 s without); but from a tenth of the free
/// memory on the kernel starts it anyway, and from a fifth on it makes writers wait
/// (`dirty_background_ratio`, `dirty_ratio`).
const MAX_DIRTY_BYTES: u64 = 1 << 30;
/// With fewer processors than this nothing is digested while the container stands: CRIU and the
/// thread that moves the pages need two. Measured on two (256 MiB, medians of five): in the file
/// after 115 ms without digesting and 152 ms with it, digested after 317 and 353 ms.
const ENOUGH_PROCESSORS: usize = 4;

/// Digests of page images by their number, in the making.
#[derive(Debug)]
pub(super) struct Digests {
    progress: Sender<Progress>,
    thread: JoinHandle<io::Result<HashMap<u32, String>>>,
}

impl Digests {
    pub(super) fn start(file: &File, signal: &Arc<Signal>) -> io::Result<Self> {
        let (progress, received) = channel();
        let mut follower = Follower {
            file: file.try_clone()?,
            direct: open_direct(file, OFlags::RDONLY),
            signal: Arc::clone(signal),
            received,
            pending: VecDeque::new(),
            dirty: VecDeque::new(),
            dirty_bytes: 0,
            digest: Sha256::new(),
            done: HashMap::new(),
            buffer: vec![0; READ_BYTES],
            patient: std::thread::available_parallelism()
                .is_ok_and(|processors| processors.get() < ENOUGH_PROCESSORS),
        };
        let thread = std::thread::Builder::new()
            .name("page-digests".to_owned())
            .spawn(move || follower.run().map(|()| follower.done))?;
        Ok(Self { progress, thread })
    }

    /// What the thread listens to; it ends when all of these are gone.
    pub(super) fn sender(&self) -> Sender<Progress> {
        self.progress.clone()
    }

    /// Ends the thread of a capture that was given up.
    pub(super) fn abandon(self) {
        drop(self.progress);
        drop(self.thread.join());
    }

    pub(super) fn finish(self) -> Result<HashMap<u32, String>, Error> {
        drop(self.progress);
        match self.thread.join() {
            Ok(outcome) => {
                outcome.map_err(|error| Error::io("read memory back from the archive", error))
            }
            Err(_) => Err(Error::Cancelled),
        }
    }
}

struct Follower {
    file: File,
    /// The same file, for reading past the page cache what was written past it.
    direct: Option<File>,
    signal: Arc<Signal>,
    received: Receiver<Progress>,
    /// What is to be digested.
    pending: VecDeque<Progress>,
    /// What is to be put on its way to the disk.
    dirty: VecDeque<(u64, u64)>,
    dirty_bytes: u64,
    digest: Sha256,
    done: HashMap<u32, String>,
    buffer: Vec<u8>,
    /// Whether everything waits for the container to run again.
    patient: bool,
}

impl Follower {
    fn run(&mut self) -> io::Result<()> {
        while let Some(progress) = self.next()? {
            match progress {
                Progress::Bytes {
                    offset,
                    length,
                    way: Way::Cached,
                } => {
                    self.digest(offset, length)?;
                }
                Progress::Bytes {
                    offset,
                    length,
                    way: Way::Direct,
                } => {
                    self.digest_direct(offset, length)?;
                }
                Progress::End { number } => {
                    let digest = std::mem::take(&mut self.digest).finalize();
                    self.done.insert(number, hex::encode(digest));
                }
            }
            if self.signal.aborted() {
                break;
            }
        }
        Ok(())
    }

    /// The next piece to digest; `None` when there will be none.
    fn next(&mut self) -> io::Result<Option<Progress>> {
        loop {
            let received = match self.received.try_recv() {
                Err(TryRecvError::Empty) if self.pending.is_empty() || self.must_wait() => {
                    self.received.recv().ok()
                }
                Err(_) => None,
                Ok(progress) => Some(progress),
            };
            if let Some(Progress::Bytes {
                offset,
                length,
                way: Way::Cached,
            }) = received
            {
                self.dirty.push_back((offset, length));
                self.dirty_bytes += length;
            }
            self.write_back()?;
            match received {
                Some(progress) => self.push(progress),
                None => return Ok(self.pending.pop_front()),
            }
        }
    }

    /// Queues a piece; those read from the disk are read in one go.
    fn push(&mut self, progress: Progress) {
        if let Some(Progress::Bytes {
            offset,
            length,
            way: Way::Direct,
        }) = self.pending.back_mut()
            && let Progress::Bytes {
                offset: next,
                length: more,
                way: Way::Direct,
            } = progress
            && *offset + *length == next
        {
            *length += more;
        } else {
            self.pending.push_back(progress);
        }
    }

    /// Starts the write-back: once the container runs again, piece by piece between the digests,
    /// since this waits for room in the device's queue; before that only of what the kernel would
    /// soon make the writer wait for.
    fn write_back(&mut self) -> io::Result<()> {
        let mut pieces = if self.signal.draining() {
            PIECES_AT_ONCE
        } else {
            0
        };
        while pieces > 0 || self.dirty_bytes > MAX_DIRTY_BYTES {
            let Some((offset, length)) = self.dirty.pop_front() else {
                break;
            };
            pieces = pieces.saturating_sub(1);
            self.dirty_bytes -= length;
            sys::pipe::sync_file_range(&self.file, offset, length, WriteBack::Start)?;
        }
        Ok(())
    }

    /// Reading from the disk would slow the writing to it down: not while the container stands.
    fn must_wait(&self) -> bool {
        let direct = matches!(
            self.pending.front(),
            Some(Progress::Bytes {
                way: Way::Direct,
                ..
            })
        );
        (direct || self.patient) && !self.signal.draining()
    }

    fn digest(&mut self, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let most = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(READ_BYTES);
            let buffer = self.buffer.get_mut(..most).unwrap_or_default();
            let read = self.file.read_at(buffer, offset)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.digest.update(buffer.get(..read).unwrap_or_default());
            let read = u64::try_from(read).map_err(io::Error::other)?;
            offset += read;
            length -= read;
        }
        Ok(())
    }

    /// Digests what has to be read from the disk; another thread reads ahead.
    fn digest_direct(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let whole = length & !(PAGE - 1);
        let Some(direct) = self.direct.as_ref().filter(|_| offset.is_multiple_of(PAGE)) else {
            return self.digest(offset, length);
        };
        let (full, filled) = sync_channel(BUFFERS);
        let (empty, emptied) = channel();
        for _ in 0..BUFFERS {
            empty
                .send(vec![0_u8; DIRECT_BYTES + ALIGNMENT])
                .unwrap_or_default();
        }
        let (digest, signal) = (&mut self.digest, &self.signal);
        std::thread::scope(|scope| {
            scope.spawn(move || read_ahead(direct, offset, whole, &emptied, &full));
            for part in filled {
                if signal.aborted() {
                    break;
                }
                let (buffer, range) = part?;
                digest.update(buffer.get(range).unwrap_or_default());
                // The reader may have come to its end.
                empty.send(buffer).unwrap_or_default();
            }
            Ok::<(), io::Error>(())
        })?;
        self.digest(offset + whole, length - whole)
    }
}

type Part = (Vec<u8>, Range<usize>);

/// Reads whole pages past the page cache into empty buffers.
fn read_ahead(
    file: &File,
    mut offset: u64,
    mut length: u64,
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<io::Result<Part>>,
) {
    while length > 0 {
        let Ok(mut buffer) = empty.recv() else { return };
        let skip = buffer.as_ptr().align_offset(ALIGNMENT);
        let most = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(DIRECT_BYTES);
        let part = buffer
            .get_mut(skip..skip.saturating_add(most))
            .unwrap_or_default();
        let read = match file.read_at(part, offset) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        };
        let count = read
            .as_ref()
            .map_or(0, |read| u64::try_from(*read).unwrap_or(0));
        let failed = read.is_err();
        let part = read.map(|read| (buffer, skip..skip + read));
        if full.send(part).is_err() || failed {
            return;
        }
        offset += count;
        length = length.saturating_sub(count);
    }
}
