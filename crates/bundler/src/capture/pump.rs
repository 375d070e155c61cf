//! The thread that moves pages from the pipes into the archive.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::digest::{Block, Queue};
use super::layout::Layout;
use super::park::{Full, Spaces};
use super::route::{Route, Way};
use super::signal::Signal;
use super::warm::Warming;
use super::write_back::EarlyWriteBack;
use super::{ARRIVAL_BYTES, Captured, pipe_name, poison};
use crate::blocks::BLOCK_BYTES;
use crate::error::Error;

impl Captured {
    /// The block that begins where the image ends so far.
    fn next_block(&self, index: usize, way: Way) -> Block {
        Block {
            image: self.number,
            index,
            offset: self.offset + self.size,
            length: 0,
            way,
        }
    }

    /// Makes sure that it is not longer than its place.
    fn check(&self, limit: u64) -> Result<(), Error> {
        if self.size > limit {
            return Err(Error::Outgrown {
                name: pipe_name(self.number),
                reserved_bytes: limit,
            });
        }
        Ok(())
    }
}

pub(super) struct Pump {
    pub(super) route: Route,
    /// Where images go that do not change any more.
    pub(super) spaces: Option<Spaces>,
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
    /// Moves images until it is told that there are no more, and tells what it moved; a failure breaks
    /// all pipes.
    pub(super) fn run(mut self, report: &SyncSender<Result<Vec<Captured>, Error>>) {
        let outcome = self.pump();
        if outcome.is_err() {
            for (number, reader) in &self.pipes {
                if reader.is_some() {
                    poison(self.images.as_fd(), &pipe_name(*number));
                }
            }
            self.pipes.clear();
        }
        // The receiver is there as long as somebody wants to know. What is closed and ended with this
        // value takes time, which the container shall not stand for.
        report.send(outcome).unwrap_or_default();
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
        sys::pipe::set_capacity(reader, ARRIVAL_BYTES).map_err(failed)?;
        let (offset, limit) = self.layout.place(number);
        let mut image = Captured {
            number,
            offset,
            size: 0,
        };
        if let Some(spaces) = self.spaces.clone().filter(|_| self.signal.protected()) {
            return self.park(&spaces, reader, image, limit);
        }
        let warm = self.warming.end();
        self.route.prefer_cache(&warm);
        self.digests.image(number);
        for index in 0.. {
            let block = self.block(reader, index, &mut image).map_err(failed)?;
            if self.signal.aborted() {
                return Err(Error::Cancelled);
            }
            image.check(limit)?;
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

    /// Parks one image from its first byte to its end.
    fn park(
        &mut self,
        spaces: &Spaces,
        reader: &OwnedFd,
        mut image: Captured,
        limit: u64,
    ) -> Result<Captured, Error> {
        let number = image.number;
        let failed = |error| Error::io(format!("park pages-{number}.img"), error);
        spaces.image(number);
        for index in 0.. {
            let mut block = image.next_block(index, Way::Direct);
            let mut pipes = Vec::new();
            while block.length < BLOCK_BYTES {
                let most = BLOCK_BYTES - block.length;
                let pipe = self.fill_pipe(spaces, reader, most).map_err(failed)?;
                let Some(pipe) = pipe else { break };
                block.length += pipe.length;
                pipes.push(pipe);
            }
            if self.signal.aborted() {
                return Err(Error::Cancelled);
            }
            image.size += block.length;
            image.check(limit)?;
            if block.length > 0 {
                spaces.park(block, pipes);
            }
            if block.length < BLOCK_BYTES {
                break;
            }
        }
        Ok(image)
    }

    /// Moves as much as fits, `most` bytes at most, into a pipe of ours; `None` at the end.
    fn fill_pipe(
        &mut self,
        spaces: &Spaces,
        reader: &OwnedFd,
        most: u64,
    ) -> io::Result<Option<Full>> {
        let mut pipe = spaces.pipe()?;
        while pipe.length() < most && pipe.room() > 0 && !self.signal.aborted() {
            match pipe.fill(reader, most - pipe.length()) {
                Ok(0) => break,
                Ok(moved) => {
                    self.signal.bytes.fetch_add(moved, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Pieces of pages have taken all the room there is while more waits.
                    if pipe.length() > 0 && rustix::io::ioctl_fionread(reader)? > 0 {
                        break;
                    }
                    self.wait_for(reader)?;
                }
                Err(error) => return Err(error),
            }
        }
        if pipe.length() > 0 {
            return Ok(Some(pipe.close()));
        }
        spaces.put_back(pipe);
        Ok(None)
    }

    /// Moves one block, a shorter one at the end of the image.
    fn block(&mut self, reader: &OwnedFd, index: usize, image: &mut Captured) -> io::Result<Block> {
        let way = self.route.way(image.offset + image.size);
        let mut block = image.next_block(index, way);
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
