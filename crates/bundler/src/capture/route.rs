//! Through the page cache or past it.
//!
//! Measured on one machine (1 GiB, 2 processors, NVMe-like disk, GB/s into the file): through the
//! page cache 4.3 to 5.0 while memory is warm and the file has its blocks beforehand (2.3 to 3.4 when
//! it has not), 0.25 to 0.7 when every page of the cache has to be taken from a host that backs it
//! lazily; past it 2.2 to 2.8 in both cases. On other machines the disk is the slow part. Which one
//! is faster is therefore measured while it happens: the page cache is used until it is slow, then
//! both are tried on [`WINDOW_BYTES`] and the faster one goes on; the other one is tried again from
//! time to time.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::OFlags;

use super::Sink;
use super::lanes::{Lanes, Parcel, Written};

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
    lanes: Lanes,
    /// What is being filled, where it will go, and how.
    open: Option<(Parcel, u64, Way)>,
    /// Where there is room in the page cache already.
    warm: Range<u64>,
    account: Account,
}

/// What is known of the writes that have ended.
#[derive(Debug)]
struct Account {
    /// What got into the file since [`Route::landed`] was asked.
    landed: Vec<(u64, u64)>,
    chooser: Chooser,
}

impl Account {
    fn note(&mut self, written: &Written) {
        self.chooser.note(written);
        self.landed.push((written.offset, written.length));
    }
}

impl Route {
    pub(super) fn new(file: &File, sink: Sink) -> io::Result<Self> {
        let direct = match sink {
            Sink::Buffered => None,
            Sink::Direct | Sink::Adaptive => open_direct(file, OFlags::WRONLY),
        };
        let sink = if direct.is_some() {
            sink
        } else {
            Sink::Buffered
        };
        Ok(Self {
            lanes: Lanes::start(file, direct.as_ref())?,
            open: None,
            warm: 0..0,
            account: Account {
                landed: Vec::new(),
                chooser: Chooser::new(sink),
            },
        })
    }

    /// Has the page cache used for `range`, where there is room in it already. An empty one changes
    /// nothing.
    pub(super) fn prefer_cache(&mut self, range: &Range<u64>) {
        if !range.is_empty() {
            self.warm = range.clone();
        }
    }

    /// The way of a block that begins at `offset`.
    pub(super) fn way(&self, offset: u64) -> Way {
        if self.warm.contains(&offset) {
            Way::Cached
        } else {
            self.account.chooser.way
        }
    }

    /// Moves at most `max` bytes of what lies in the pipe on their way to `offset`, behind those
    /// of the call before; 0 means that every writer has closed the pipe and that it is empty.
    /// They are in the file after [`Self::flush`].
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the pipe is empty and somebody may still write to it; what writing
    /// returns, also of earlier calls.
    pub(super) fn splice(
        &mut self,
        way: Way,
        pipe: &OwnedFd,
        offset: u64,
        max: u64,
    ) -> io::Result<u64> {
        loop {
            let (mut parcel, begin, way) = match self.open.take() {
                Some(open) => open,
                None => {
                    let account = &mut self.account;
                    let parcel = self.lanes.parcel(&mut |written| account.note(&written))?;
                    (parcel, offset, way)
                }
            };
            let moved = parcel.fill(pipe, max);
            let full = match &moved {
                Ok(moved) => *moved == 0 || *moved == max || parcel.room() == 0,
                // Pieces of pages have taken all the room there is while more waits in the pipe.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && parcel.length() > 0 => {
                    rustix::io::ioctl_fionread(pipe)? > 0
                }
                Err(_) => false,
            };
            if full && parcel.length() > 0 {
                self.lanes.send(parcel, begin, way)?;
            } else {
                self.open = Some((parcel, begin, way));
            }
            if moved.is_ok() || !full {
                return moved;
            }
        }
    }

    /// Waits until everything that was taken from pipes is in the file.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some((parcel, offset, way)) if parcel.length() > 0 => {
                self.lanes.send(parcel, offset, way)?;
            }
            Some((parcel, ..)) => self.lanes.put_back(parcel),
            None => {}
        }
        let account = &mut self.account;
        self.lanes.flush(&mut |written| account.note(&written))
    }

    /// Tells offsets and lengths of what got into the file, each until `known` says that it is.
    pub(super) fn landed(&mut self, known: &mut dyn FnMut(u64, u64) -> bool) {
        self.account
            .landed
            .retain(|(offset, length)| !known(*offset, *length));
    }
}

/// Opens the archive once more, past the page cache; `None` where the filesystem cannot.
pub(super) fn open_direct(file: &File, access: OFlags) -> Option<File> {
    sys::fs::reopen(file, access | OFlags::DIRECT).ok()
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

    fn note(&mut self, written: &Written) {
        if !written.aligned {
            // It was no faster than the page cache, and never will be.
            *self = Self::new(Sink::Buffered);
        }
        if written.way != self.way {
            return;
        }
        self.moved += written.length;
        self.spent += written.took;
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
                chooser.note(&Written {
                    way: chooser.way,
                    offset: 0,
                    length: 1 << 20,
                    took: took / 16,
                    aligned: true,
                });
            }
        }
        ways
    }

    #[test]
    fn what_lies_in_pieces_goes_through_the_page_cache_from_then_on() {
        let mut chooser = Chooser::new(Sink::Direct);
        let written = Written {
            way: Way::Direct,
            offset: 0,
            length: 1 << 20,
            took: Duration::from_millis(1),
            aligned: false,
        };
        chooser.note(&written);
        assert_eq!(chooser.way, Way::Cached);
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
