//! The thread that moves pages from the pipes into the archive.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use super::route::{Route, Way};
use super::{Captured, pipe_name, poison};
use crate::error::Error;
use crate::format::{BLOCK, round_up};
use crate::writer::padded_data_offset;

/// The digesting thread is told after so many bytes.
const PROGRESS_BYTES: u64 = 4 << 20;

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

/// What the digesting thread is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Progress {
    /// These bytes of the image are in the file.
    Bytes { offset: u64, length: u64, way: Way },
    /// The image is complete.
    End { number: u32 },
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
    pub(super) progress: Sender<Progress>,
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
        let mut told = Told {
            offset,
            end: offset,
            way: Way::Cached,
        };
        while !self.signal.aborted() {
            match self.route.splice(reader, offset + image.size) {
                Ok((0, _)) => {
                    told.flush(&self.progress);
                    self.progress
                        .send(Progress::End { number })
                        .unwrap_or_default();
                    return Ok(image);
                }
                Ok((moved, way)) => {
                    image.size += moved;
                    self.signal.bytes.fetch_add(moved, Ordering::Relaxed);
                    told.add(moved, way, &self.progress);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for(reader).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
            if image.size > limit {
                let name = pipe_name(number);
                return Err(Error::Outgrown {
                    name,
                    reserved_bytes: limit,
                });
            }
        }
        Err(Error::Cancelled)
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

/// What the digesting thread is told next: bytes that came the same way.
struct Told {
    offset: u64,
    end: u64,
    way: Way,
}

impl Told {
    fn add(&mut self, moved: u64, way: Way, progress: &Sender<Progress>) {
        if way != self.way {
            self.flush(progress);
            self.way = way;
        }
        self.end += moved;
        if self.end - self.offset >= PROGRESS_BYTES {
            self.flush(progress);
        }
    }

    fn flush(&mut self, progress: &Sender<Progress>) {
        let (offset, length, way) = (self.offset, self.end - self.offset, self.way);
        if length > 0 {
            // Without a receiver the digests have failed, which `finish` reports.
            progress
                .send(Progress::Bytes {
                    offset,
                    length,
                    way,
                })
                .unwrap_or_default();
        }
        self.offset = self.end;
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
