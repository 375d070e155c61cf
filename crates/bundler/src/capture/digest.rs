//! The thread that follows the pages: it starts their way to the disk and digests them.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use sys::pipe::WriteBack;

use super::Sink;
use super::pump::{Progress, Signal, open_direct};
use crate::error::Error;
use crate::format::PAGE;

/// Bytes read and digested at a time.
const READ_BYTES: usize = 512 << 10;
/// What reads past the page cache ask of the buffer's address.
const ALIGNMENT: usize = 4096;
/// What stays dirty in the page cache while the container stands. Write-back takes a fifth of the
/// writer's speed (measured: 1 GiB in 0.46 s with, 0.38 s without); but from a tenth of the free
/// memory on the kernel starts it anyway, and from a fifth on it makes writers wait
/// (`dirty_background_ratio`, `dirty_ratio`).
const MAX_DIRTY_BYTES: u64 = 1 << 30;

/// Digests of page images by their number, in the making.
#[derive(Debug)]
pub(super) struct Digests {
    progress: Sender<Progress>,
    thread: JoinHandle<io::Result<HashMap<u32, String>>>,
}

impl Digests {
    pub(super) fn start(file: &File, sink: Sink, signal: &Arc<Signal>) -> io::Result<Self> {
        let (progress, received) = channel();
        let mut follower = Follower {
            file: file.try_clone()?,
            direct: match sink {
                Sink::Direct => open_direct(file, OFlags::RDONLY),
                Sink::Buffered => None,
            },
            sink,
            signal: Arc::clone(signal),
            received,
            pending: VecDeque::new(),
            dirty: VecDeque::new(),
            dirty_bytes: 0,
            digest: Sha256::new(),
            done: HashMap::new(),
            buffer: vec![0; READ_BYTES + ALIGNMENT],
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
    /// The same file, read past the page cache, when it was written past it.
    direct: Option<File>,
    sink: Sink,
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
}

impl Follower {
    fn run(&mut self) -> io::Result<()> {
        while let Some(progress) = self.next()? {
            match progress {
                Progress::Bytes { offset, length } => self.digest(offset, length)?,
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
            if let (Some(Progress::Bytes { offset, length }), Sink::Buffered) =
                (received, self.sink)
            {
                self.dirty.push_back((offset, length));
                self.dirty_bytes += length;
            }
            self.write_back()?;
            match received {
                Some(progress) => self.pending.push_back(progress),
                None => return Ok(self.pending.pop_front()),
            }
        }
    }

    /// Starts the write-back: of everything once the container runs again, before that only of
    /// what the kernel would soon make the writer wait for.
    fn write_back(&mut self) -> io::Result<()> {
        let limit = if self.signal.draining() { 0 } else { MAX_DIRTY_BYTES };
        while self.dirty_bytes > limit {
            let Some((offset, length)) = self.dirty.pop_front() else { break };
            self.dirty_bytes -= length;
            sys::pipe::sync_file_range(&self.file, offset, length, WriteBack::Start)?;
        }
        Ok(())
    }

    /// Reading from the disk would slow the writing to it down: not while the container stands.
    fn must_wait(&self) -> bool {
        self.sink == Sink::Direct
    }

    fn digest(&mut self, mut offset: u64, mut length: u64) -> io::Result<()> {
        let skip = self.buffer.as_ptr().align_offset(ALIGNMENT);
        while length > 0 {
            // What is not whole pages is read through the page cache.
            let whole = usize::try_from(length & !(PAGE - 1)).unwrap_or(usize::MAX);
            let (file, most) = match &self.direct {
                Some(direct) if whole > 0 && offset.is_multiple_of(PAGE) => (direct, whole),
                _ => (&self.file, usize::try_from(length).unwrap_or(usize::MAX)),
            };
            let most = most.min(READ_BYTES);
            let buffer = self.buffer.get_mut(skip..skip + most).unwrap_or_default();
            let read = file.read_at(buffer, offset)?;
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
}
