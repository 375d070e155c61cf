//! Through the page cache or past it.
//!
//! Measured on one machine (1 GiB, 2 processors, NVMe-like disk, GB/s into the file): through the
//! page cache 2.2 to 3.2 while memory is warm, 0.25 to 0.5 when every page of the cache has to be
//! taken from a host that backs it lazily; past it 1.5 to 1.8 in both cases. On other machines the
//! disk is the slow part. Which one is faster is therefore measured while it happens: the page
//! cache is used until it is slow, then both are tried on [`WINDOW_BYTES`] and the faster one goes
//! on; the other one is tried again from time to time.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::Sink;
use crate::format::PAGE;

/// Most bytes moved by one system call.
const CHUNK_BYTES: usize = 1 << 20;
/// What is moved before the next choice.
const WINDOW_BYTES: u64 = 16 << 20;
/// The page cache is fast enough when it takes a window in this time: 2 GB/s.
const FAST: Duration = Duration::from_millis(8);
/// The way not taken is tried again after so many windows: 2 GiB.
const TRY_AGAIN: u32 = 128;

/// How some bytes got into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Cached,
    Direct,
}

/// The archive's file, by two ways.
#[derive(Debug)]
pub(super) struct Route {
    file: File,
    direct: Option<File>,
    chooser: Chooser,
}

impl Route {
    pub(super) fn new(file: &File, sink: Sink) -> io::Result<Self> {
        let direct = match sink {
            Sink::Buffered => None,
            Sink::Direct | Sink::Adaptive => open_direct(file, OFlags::WRONLY),
        };
        Ok(Self {
            file: file.try_clone()?,
            direct,
            chooser: Chooser::new(sink),
        })
    }

    /// Moves what lies in the pipe to `offset`; as [`sys::pipe::splice_to_file`].
    pub(super) fn splice(&mut self, pipe: &OwnedFd, offset: u64) -> io::Result<(u64, Way)> {
        if self.chooser.way == Way::Direct
            && offset.is_multiple_of(PAGE)
            && let Some(direct) = &self.direct
        {
            let whole = rustix::io::ioctl_fionread(pipe)? & !(PAGE - 1);
            let length = usize::try_from(whole)
                .unwrap_or(CHUNK_BYTES)
                .min(CHUNK_BYTES);
            if length > 0 {
                let begin = Instant::now();
                match sys::pipe::splice_to_file(pipe, direct, offset, length) {
                    // Pages that lie in the pipe in pieces cannot go this way.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        self.direct = None;
                        self.chooser = Chooser::new(Sink::Buffered);
                    }
                    Err(error) => return Err(error),
                    Ok(moved) => {
                        self.chooser.note(moved, begin.elapsed());
                        return Ok((moved, Way::Direct));
                    }
                }
            }
        }
        let begin = Instant::now();
        let moved = sys::pipe::splice_to_file(pipe, &self.file, offset, CHUNK_BYTES)?;
        self.chooser.note(moved, begin.elapsed());
        Ok((moved, Way::Cached))
    }
}

/// Opens the archive once more, past the page cache; `None` where the filesystem cannot.
pub(super) fn open_direct(file: &File, access: OFlags) -> Option<File> {
    let path = format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd());
    let flags = access | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::openat(rustix::fs::CWD, &*path, flags, Mode::empty())
        .ok()
        .map(File::from)
}

/// Which way the next window goes.
#[derive(Debug)]
struct Chooser {
    adaptive: bool,
    way: Way,
    moved: u64,
    spent: Duration,
    /// What the last window took by either way.
    cached: Option<Duration>,
    direct: Option<Duration>,
    /// Windows since the other way was tried.
    settled: u32,
}

impl Chooser {
    fn new(sink: Sink) -> Self {
        Self {
            adaptive: sink == Sink::Adaptive,
            way: if sink == Sink::Direct {
                Way::Direct
            } else {
                Way::Cached
            },
            moved: 0,
            spent: Duration::ZERO,
            cached: None,
            direct: None,
            settled: 0,
        }
    }

    fn note(&mut self, moved: u64, spent: Duration) {
        self.moved += moved;
        self.spent += spent;
        if !self.adaptive || self.moved < WINDOW_BYTES {
            return;
        }
        let took = std::mem::take(&mut self.spent);
        self.moved = 0;
        match self.way {
            Way::Cached => self.cached = Some(took),
            Way::Direct => self.direct = Some(took),
        }
        let next = match (self.cached, self.direct) {
            (Some(cached), _) if self.way == Way::Cached && cached <= FAST => Way::Cached,
            (None, _) => Way::Cached,
            (Some(_), None) => Way::Direct,
            (Some(cached), Some(direct)) if direct < cached => Way::Direct,
            _ => Way::Cached,
        };
        self.settled = if next == self.way {
            self.settled + 1
        } else {
            0
        };
        self.way = next;
        if self.settled >= TRY_AGAIN {
            self.settled = 0;
            self.way = match next {
                Way::Direct => Way::Cached,
                Way::Cached if self.cached.is_some_and(|took| took > FAST) => Way::Direct,
                Way::Cached => Way::Cached,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ways of so many windows when they take so long.
    fn ways(windows: usize, cached_ms: u64, direct_ms: u64) -> Vec<Way> {
        let mut chooser = Chooser::new(Sink::Adaptive);
        let mut ways = Vec::new();
        for _ in 0..windows {
            ways.push(chooser.way);
            let took = match chooser.way {
                Way::Cached => Duration::from_millis(cached_ms),
                Way::Direct => Duration::from_millis(direct_ms),
            };
            for _ in 0..16 {
                chooser.note(1 << 20, took / 16);
            }
        }
        ways
    }

    #[test]
    fn a_fast_page_cache_is_never_left() {
        assert!(ways(400, 6, 1).iter().all(|way| *way == Way::Cached));
    }

    #[test]
    fn the_faster_way_is_found_and_the_other_one_tried_again() {
        let slow_cache = ways(400, 40, 9);
        assert_eq!(slow_cache[..3], [Way::Cached, Way::Direct, Way::Direct]);
        assert_eq!(
            slow_cache.iter().filter(|way| **way == Way::Cached).count(),
            4
        );
        let slow_disk = ways(400, 40, 160);
        assert_eq!(slow_disk[..3], [Way::Cached, Way::Direct, Way::Cached]);
        assert_eq!(
            slow_disk.iter().filter(|way| **way == Way::Direct).count(),
            4
        );
    }
}
