//! The thread that moves pages from the pipes into the archive.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use super::digest::{Block, Queue};
use super::route::{Route, Way};
use super::warm::Warming;
use super::write_back::EarlyWriteBack;
use super::{Captured, pipe_name, poison, sum};
use crate::blocks::BLOCK_BYTES;
use crate::error::Error;
use crate::format::{BLOCK, round_up};
use crate::writer::padded_data_offset;

const RUN: u8 = 0;
const DRAIN: u8 = 1;
const ABORT: u8 = 2;

/// What the owner tells the threads, and what he can see of them.
#[derive(Debug)]
pub(super) struct Signal {
    command: AtomicU8,
    wake: OwnedFd,
    /// Bytes moved so far.
    pub(super) bytes: AtomicU64,
}

impl Signal {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags)?;
        Ok(Self {
            command: AtomicU8::new(RUN),
            wake,
            bytes: AtomicU64::new(0),
        })
    }

    /// Everything has been written to the pipes: end when they are empty.
    pub(super) fn drain(&self) {
        self.command.fetch_max(DRAIN, Ordering::SeqCst);
        self.notify();
    }

    pub(super) fn abort(&self) {
        self.command.fetch_max(ABORT, Ordering::SeqCst);
        self.notify();
    }

    pub(super) fn aborted(&self) -> bool {
        self.command.load(Ordering::SeqCst) == ABORT
    }

    pub(super) fn draining(&self) -> bool {
        self.command.load(Ordering::SeqCst) != RUN
    }

    fn notify(&self) {
        // It fails only when the counter is full, and then it wakes as well.
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).unwrap_or_default();
    }

    fn consume(&self) {
        rustix::io::read(&self.wake, &mut [0_u8; 8]).unwrap_or_default();
    }
}

/// Where images go in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// The image that has a place kept: its number, where, and how many bytes.
    pub(super) first: Option<(u32, u64, u64)>,
    /// End of what the others have taken so far.
    pub(super) end: u64,
}

impl Layout {
    /// Where the data of image `number` begins, and how much of it there may be.
    fn place(&self, number: u32) -> (u64, u64) {
        match self.first {
            Some((first, data, reserved)) if first == number => (data, reserved),
            _ => (padded_data_offset(self.end), u64::MAX),
        }
    }

    /// Gives the file blocks, and its size, for what is expected: pages are written faster then.
    /// Returns where most of them will go; nothing when there are no blocks.
    pub(super) fn preallocate(&self, file: &File, expected: &[u64]) -> Range<u64> {
        let free = sys::fs::free_bytes(file).unwrap_or(0);
        let total = sum(expected);
        if total > free {
            return 0..0;
        }
        let have = |begin: u64, length: u64| {
            let had = sys::pipe::preallocate(file, begin, length);
            begin..had.map_or(begin, |()| begin.saturating_add(length))
        };
        let Some((number, data, reserved)) = self.first else {
            let data = padded_data_offset(self.end);
            return have(data, total);
        };
        let index = usize::try_from(number).map_or(0, |number| number.saturating_sub(1));
        let first = expected.get(index).copied().unwrap_or(0).min(reserved);
        have(self.end, total - first);
        have(data, first)
    }

    fn placed(&mut self, image: Captured) {
        if self.first.is_none_or(|(first, ..)| first != image.number) {
            self.end = round_up(image.offset + image.size, BLOCK);
        }
    }
}

pub(super) struct Pump {
    pub(super) route: Route,
    pub(super) images: OwnedFd,
    pub(super) pipes: Vec<(u32, Option<OwnedFd>)>,
    pub(super) layout: Layout,
    pub(super) signal: Arc<Signal>,
    pub(super) warming: Warming,
    pub(super) digests: Arc<Queue>,
    pub(super) write_back: EarlyWriteBack,
    /// Blocks of the current image that have been taken from its pipe, and how many bytes of each
    /// are not in the file yet.
    pub(super) on_their_way: Vec<(Block, u64)>,
    /// Blocks of the current image that got into the file past the page cache.
    pub(super) direct: Vec<Block>,
}

impl Pump {
    /// Moves images until it is told that there are no more; a failure breaks all pipes.
    pub(super) fn run(mut self) -> Result<Vec<Captured>, Error> {
        let outcome = self.pump();
        if outcome.is_err() {
            for (number, reader) in &self.pipes {
                if reader.is_some() {
                    poison(self.images.as_fd(), &pipe_name(*number));
                }
            }
        }
        outcome
    }

    fn pump(&mut self) -> Result<Vec<Captured>, Error> {
        let mut captured = Vec::new();
        loop {
            // Looked at before the pipes: what was written before `drain` is seen after it.
            let draining = self.signal.draining();
            if self.signal.aborted() {
                return Err(Error::Cancelled);
            }
            let ready = self
                .wait(draining)
                .map_err(|error| Error::io("wait for memory", error))?;
            match ready {
                Some((index, number)) => {
                    let image = self.transfer(index, number)?;
                    self.layout.placed(image);
                    captured.push(image);
                }
                None if draining => return Ok(captured),
                None => {}
            }
        }
    }

    /// The first pipe that somebody has written to or closed; `None` when woken, or at once when
    /// there is none and `only_look`.
    fn wait(&self, only_look: bool) -> io::Result<Option<(usize, u32)>> {
        let open = || {
            self.pipes
                .iter()
                .enumerate()
                .filter_map(|(index, (number, reader))| {
                    reader.as_ref().map(|reader| (index, *number, reader))
                })
        };
        let mut polled = vec![PollFd::new(&self.signal.wake, PollFlags::IN)];
        polled.extend(open().map(|(_, _, reader)| PollFd::new(reader, PollFlags::IN)));
        poll(&mut polled, only_look)?;
        let mut events = polled.iter().map(|polled| !polled.revents().is_empty());
        if events.next() == Some(true) {
            self.signal.consume();
        }
        Ok(open()
            .zip(events)
            .find(|(_, ready)| *ready)
            .map(|((index, number, _), _)| (index, number)))
    }

    /// Moves one image from its first byte to its end.
    fn transfer(&mut self, index: usize, number: u32) -> Result<Captured, Error> {
        let Some(reader) = self
            .pipes
            .get_mut(index)
            .and_then(|(_, reader)| reader.take())
        else {
            return Err(Error::Cancelled);
        };
        let outcome = self.transfer_from(&reader, number);
        if outcome.is_err() {
            // Before the reader is closed, see the module's documentation.
            poison(self.images.as_fd(), &pipe_name(number));
        }
        outcome
    }

    fn transfer_from(&mut self, reader: &OwnedFd, number: u32) -> Result<Captured, Error> {
        let failed = |error| Error::io(format!("write pages-{number}.img into the archive"), error);
        let (offset, limit) = self.layout.place(number);
        let mut image = Captured {
            number,
            offset,
            size: 0,
        };
        let warm = self.warming.end();
        self.route.prefer_cache(&warm);
        self.digests.image(number);
        for index in 0.. {
            let block = self.block(reader, index, &mut image).map_err(failed)?;
            if self.signal.aborted() {
                return Err(Error::Cancelled);
            }
            if image.size > limit {
                let name = pipe_name(number);
                return Err(Error::Outgrown {
                    name,
                    reserved_bytes: limit,
                });
            }
            if block.length > 0 {
                self.on_their_way.push((block, block.length));
            }
            self.land();
            if block.length < BLOCK_BYTES {
                break;
            }
        }
        self.route.flush().map_err(failed)?;
        self.land();
        for block in self.direct.drain(..) {
            self.digests.push(block);
        }
        Ok(image)
    }

    /// Moves one block, a shorter one at the end of the image.
    fn block(&mut self, reader: &OwnedFd, index: usize, image: &mut Captured) -> io::Result<Block> {
        let way = self.route.way(image.offset + image.size);
        let mut block = Block {
            image: image.number,
            index,
            offset: image.offset + image.size,
            length: 0,
            way,
        };
        while block.length < BLOCK_BYTES && !self.signal.aborted() {
            let (at, most) = (block.offset + block.length, BLOCK_BYTES - block.length);
            match self.route.splice(way, reader, at, most) {
                Ok(0) => break,
                Ok(moved) => {
                    block.length += moved;
                    image.size += moved;
                    self.signal.bytes.fetch_add(moved, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for(reader)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(block)
    }

    /// Passes blocks on of which every byte is in the file. Those that went past the page cache
    /// wait for the end of the image: reading from the disk would slow the writing to it down.
    fn land(&mut self) {
        let on_their_way = &mut self.on_their_way;
        self.route.landed(&mut |offset, length| {
            let block = on_their_way
                .iter_mut()
                .find(|(block, _)| offset.wrapping_sub(block.offset) < block.length);
            match block {
                Some((_, left)) => {
                    *left = left.saturating_sub(length);
                    true
                }
                None => false,
            }
        });
        for (block, _) in self.on_their_way.extract_if(.., |(_, left)| *left == 0) {
            match block.way {
                Way::Direct => self.direct.push(block),
                Way::Cached => {
                    self.write_back.written(block.offset, block.length);
                    self.digests.push(block);
                }
            }
        }
    }

    /// Waits until there is something in one pipe, or the owner says something.
    fn wait_for(&self, reader: &OwnedFd) -> io::Result<()> {
        let mut polled = [
            PollFd::new(&self.signal.wake, PollFlags::IN),
            PollFd::new(reader, PollFlags::IN),
        ];
        poll(&mut polled, false)?;
        if polled
            .first()
            .is_some_and(|wake| !wake.revents().is_empty())
        {
            self.signal.consume();
        }
        Ok(())
    }
}

/// Waits for an event, or only looks for one.
fn poll(polled: &mut [PollFd<'_>], only_look: bool) -> io::Result<()> {
    let none = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        match rustix::event::poll(polled, only_look.then_some(&none)) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
