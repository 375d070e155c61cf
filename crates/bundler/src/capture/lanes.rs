//! The threads that write pages into the archive.
//!
//! While pages are copied into the page cache, or the disk takes them, CRIU is to go on with the
//! next ones, and several writes past the page cache are to be under way at once. So pages are
//! moved, in parcels, into pipes of ours, and threads splice one parcel each into the file.
//! ```text
//!                    ┌─▶ parcel (pipe) ──splice──────────────▶┐
//!   CRIU's pipe ─────┼─▶ parcel (pipe) ──splice, O_DIRECT──▶──┤ archive
//!                    └─▶ parcel (pipe) ──splice, O_DIRECT──▶──┘
//! ```
//! The file has its blocks and its size beforehand where the filesystem can: otherwise ext4 lets
//! writes past the page cache in one after the other. Into the page cache there is one thread:
//! ext4 lets in one at a time.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::pipe::PipeFlags;

use super::park::Full;
use super::route::Way;
use crate::format::PAGE;

/// Writes past the page cache at once. Measured (1 GiB, NVMe-like disk, GB/s): one 1.7 to 2.3, two
/// 2.2 to 2.4, eight 2.4 to 2.6.
const DIRECT_LANES: usize = 4;
/// Parcels: what CRIU may be ahead of the writing. It fills eight pipes before it hands them on.
const PARCELS: usize = 16;

/// A pipe with both of its ends.
#[derive(Debug)]
pub(super) struct Parcel {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Bytes that lie in it.
    length: u64,
    capacity: u64,
}

impl Parcel {
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let capacity = sys::pipe::set_capacity(&writer, super::PIPE_BYTES)?;
        Ok(Self {
            reader,
            writer,
            length: 0,
            capacity: u64::try_from(capacity).map_err(io::Error::other)?,
        })
    }

    /// Moves at most `max` bytes from `pipe` into this one; as [`sys::pipe::splice_to_pipe`].
    pub(super) fn fill(&mut self, pipe: &OwnedFd, max: u64) -> io::Result<u64> {
        let max = usize::try_from(max.min(self.room())).unwrap_or(usize::MAX);
        let moved = sys::pipe::splice_to_pipe(pipe, &self.writer, max)?;
        self.length += moved;
        Ok(moved)
    }

    /// Bytes that lie in it.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Nothing more is put in: half as many descriptors.
    pub(super) fn close(self) -> Full {
        Full {
            reader: self.reader,
            length: self.length,
        }
    }

    /// Bytes for which there may be room. Pieces of pages take the room of whole ones.
    pub(super) fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.length)
    }
}

/// How one parcel got into the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) way: Way,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// How long the way was busy with it.
    pub(super) took: Duration,
    /// Whether all of it could go that way, but for a piece of a page at the end.
    pub(super) aligned: bool,
}

/// The threads. Dropping them waits for writes under way.
#[derive(Debug)]
pub(super) struct Lanes {
    idle: Vec<Parcel>,
    under_way: usize,
    cached: Option<Sender<Job>>,
    direct: Option<Sender<Job>>,
    done: Receiver<io::Result<(Parcel, Written)>>,
    threads: Vec<JoinHandle<()>>,
}

/// A parcel and where it goes.
#[derive(Debug)]
struct Job {
    parcel: Parcel,
    offset: u64,
}

/// The same file twice.
struct Target {
    file: File,
    /// Open past the page cache.
    direct: Option<File>,
}

impl Lanes {
    /// Starts the threads for `file`, which is open past the page cache as `direct` too where the
    /// filesystem can.
    pub(super) fn start(file: &File, direct: Option<&File>) -> io::Result<Self> {
        let (cached, waiting) = channel();
        let (report, done) = channel();
        let mut lanes = Self {
            idle: Vec::new(),
            under_way: 0,
            cached: Some(cached),
            direct: None,
            done,
            threads: Vec::new(),
        };
        for _ in 0..PARCELS {
            lanes.idle.push(Parcel::new()?);
        }
        let mut lane = |direct: Option<&File>, jobs: Arc<Mutex<Receiver<Job>>>| {
            let target = Target {
                file: file.try_clone()?,
                direct: direct.map(File::try_clone).transpose()?,
            };
            let report = report.clone();
            let thread = std::thread::Builder::new()
                .name("page-lane".to_owned())
                .spawn(move || target.serve(&jobs, &report))?;
            lanes.threads.push(thread);
            Ok::<_, io::Error>(())
        };
        lane(None, Arc::new(Mutex::new(waiting)))?;
        if direct.is_some() {
            let (jobs, waiting) = channel();
            let waiting = Arc::new(Mutex::new(waiting));
            for _ in 0..DIRECT_LANES {
                lane(direct, Arc::clone(&waiting))?;
            }
            lanes.direct = Some(jobs);
        }
        Ok(lanes)
    }

    /// An empty parcel, when need be after a write has ended. `told` hears of the writes that have
    /// ended.
    pub(super) fn parcel(&mut self, told: &mut dyn FnMut(Written)) -> io::Result<Parcel> {
        while let Ok(outcome) = self.done.try_recv() {
            self.ended(outcome, told)?;
        }
        loop {
            if let Some(parcel) = self.idle.pop() {
                return Ok(parcel);
            }
            self.wait(told)?;
        }
    }

    /// Takes a parcel back in which nothing lies.
    pub(super) fn put_back(&mut self, parcel: Parcel) {
        self.idle.push(parcel);
    }

    /// Has `parcel` written to `offset`; what fails is told by a later call.
    pub(super) fn send(&mut self, parcel: Parcel, offset: u64, way: Way) -> io::Result<()> {
        let gone = || io::Error::other("the writing threads are gone");
        let jobs = match way {
            Way::Cached => self.cached.as_ref(),
            Way::Direct => self.direct.as_ref(),
        };
        let jobs = jobs.ok_or_else(gone)?;
        jobs.send(Job { parcel, offset }).map_err(|_| gone())?;
        self.under_way += 1;
        Ok(())
    }

    /// Waits until everything is written.
    pub(super) fn flush(&mut self, told: &mut dyn FnMut(Written)) -> io::Result<()> {
        while self.under_way > 0 {
            self.wait(told)?;
        }
        Ok(())
    }

    fn wait(&mut self, told: &mut dyn FnMut(Written)) -> io::Result<()> {
        let outcome = self.done.recv();
        let outcome = outcome.map_err(|_| io::Error::other("the writing threads are gone"))?;
        self.ended(outcome, told)
    }

    fn ended(
        &mut self,
        outcome: io::Result<(Parcel, Written)>,
        told: &mut dyn FnMut(Written),
    ) -> io::Result<()> {
        self.under_way = self.under_way.saturating_sub(1);
        let (parcel, written) = outcome?;
        self.idle.push(parcel);
        told(written);
        Ok(())
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.cached = None;
        self.direct = None;
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Target {
    fn serve(&self, jobs: &Mutex<Receiver<Job>>, report: &Sender<io::Result<(Parcel, Written)>>) {
        loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { parcel, offset }) = next else {
                return;
            };
            // Without somebody who listens the capture was given up.
            report.send(self.write(parcel, offset)).unwrap_or_default();
        }
    }

    /// Writes one parcel; what cannot go past the page cache goes through it.
    fn write(&self, mut parcel: Parcel, mut offset: u64) -> io::Result<(Parcel, Written)> {
        let begin = Instant::now();
        let (mut aligned, first, length) = (true, offset, parcel.length);
        while parcel.length > 0 {
            let whole = parcel.length & !(PAGE - 1);
            let can = aligned && whole > 0 && offset.is_multiple_of(PAGE);
            let past = self.direct.as_ref().filter(|_| can);
            let (file, most) = match past {
                Some(direct) => (direct, whole),
                None => (&self.file, parcel.length),
            };
            let most = usize::try_from(most).map_err(io::Error::other)?;
            match sys::pipe::splice_to_file(&parcel.reader, file, offset, most) {
                // Pages that lie in the pipe in pieces cannot go this way.
                Err(error) if past.is_some() && error.kind() == io::ErrorKind::InvalidInput => {
                    aligned = false;
                }
                Err(error) => return Err(error),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => {
                    offset += moved;
                    parcel.length = parcel.length.saturating_sub(moved);
                }
            }
        }
        let lanes = if self.direct.is_some() {
            DIRECT_LANES
        } else {
            1
        };
        let written = Written {
            way: if self.direct.is_some() {
                Way::Direct
            } else {
                Way::Cached
            },
            offset: first,
            length,
            took: begin.elapsed() / u32::try_from(lanes).map_err(io::Error::other)?,
            aligned,
        };
        Ok((parcel, written))
    }
}

#[cfg(test)]
mod tests {
    use super::super::route::open_direct;
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    /// Sends `pieces` of `piece` bytes each through lanes and compares what is in the file.
    fn check(piece: usize, pieces: usize, way: Way) -> bool {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        let direct = open_direct(&file, rustix::fs::OFlags::WRONLY).unwrap();
        let content: Vec<u8> = (0..=248).cycle().take(piece * pieces).collect();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut writer = File::from(writer);
        let mut lanes = Lanes::start(&file, Some(&direct)).unwrap();
        let (mut offset, mut all_aligned, mut length) = (8192, true, 0);
        let mut told = |written: Written| {
            assert_eq!(written.way, way);
            all_aligned &= written.aligned;
            length += written.length;
        };
        for piece in content.chunks(piece) {
            writer.write_all(piece).unwrap();
            let mut parcel = lanes.parcel(&mut told).unwrap();
            let mut moved = 0;
            while moved < piece.len() as u64 {
                moved += parcel.fill(&reader, u64::MAX).unwrap();
            }
            assert_eq!(parcel.length(), moved);
            lanes.send(parcel, offset, way).unwrap();
            offset += moved;
        }
        lanes.flush(&mut told).unwrap();
        assert_eq!(length, content.len() as u64);
        let mut found = vec![0; content.len()];
        file.read_exact_at(&mut found, 8192).unwrap();
        assert!(found == content);
        all_aligned
    }

    #[test]
    fn whole_pages_and_pieces_of_them_arrive() {
        for way in [Way::Cached, Way::Direct] {
            assert!(check(16_384, 40, way), "whole pages");
            check(4096 * 3 + 100, 40, way);
            check(5, 9, way);
        }
    }

    #[test]
    fn a_failed_write_is_told_once_and_nothing_hangs() {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        File::from(writer).write_all(&[1; 4096]).unwrap();
        let mut lanes = Lanes::start(&file, None).unwrap();
        let mut told = |_| panic!("nothing was written");
        let mut parcel = lanes.parcel(&mut told).unwrap();
        assert_eq!(parcel.fill(&reader, u64::MAX).unwrap(), 4096);
        lanes.send(parcel, 0, Way::Cached).unwrap();
        lanes.flush(&mut told).unwrap_err();
        lanes.flush(&mut told).unwrap();
        assert!(lanes.send(Parcel::new().unwrap(), 0, Way::Direct).is_err());
    }
}
