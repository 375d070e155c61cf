//! Memory from CRIU into the archive, each page written once.
//!
//! CRIU finds `pages-1.img` to `pages-N.img` in its images directory as named pipes and splices
//! the processes' pages into them, one file after the other. A thread here splices them on to
//! where they stay in the archive, through the page cache or past it, whichever is faster. Other
//! threads digest what they read back: at once where there are processors enough, otherwise after
//! the container runs again.
//!
//! ```text
//!   CRIU ──splice──▶ pages-1.img (pipe) ──splice──▶ archive ──write-back──▶ disk
//!                                                      └──read──▶ BLAKE3
//! ```
//! What lies in a pipe are references to *live* pages. The answer to CRIU's `post-dump`
//! notification therefore waits for [`PageCapture::drained`]: pages are in the file then, or, where the
//! caller made the processes' memory copy-on-write and said so ([`PageCapture::protect`]), parked in
//! pipes of ours, and get into the file while the container runs.
//!
//! # The largest page image begins at byte 4096
//! Then it can be restored from without being unpacked. Images come one after the other and their
//! sizes are known at their end only, so when the largest one (by the caller's expectation) is not
//! the first to come, the others go far behind it into the sparse file, and the gap is taken out
//! afterwards (`FALLOC_FL_COLLAPSE_RANGE`), which moves no data:
//! ```text
//!   0    4096                              4096 + reserved
//!   │dir │ pages-2 ...........  hole ......│header│ pages-1 │header│ pages-3 │
//!   │dir │ pages-2 │header│ pages-1 │header│ pages-3 │                          after `finish`
//! ```
//! Where the filesystem cannot do that, images stay in the order in which they came.
//!
//! # Giving up
//! On any failure the readers are closed, so that CRIU's next write fails and it undoes
//! everything by itself. Pipes that CRIU has not opened yet are replaced by directories first:
//! opening a pipe without reader would block it for ever, opening a directory fails at once.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;

use rustix::fs::AtFlags;
use sys::process::Deadline;

use crate::error::Error;
use crate::format::BLOCK;
use crate::manifest::Entry;
use crate::names;
use crate::writer::{ArchiveWriter, padded_data_offset};

mod begin;
mod digest;
mod lanes;
mod layout;
mod park;
mod pump;
mod route;
mod settle;
mod signal;
mod warm;
mod write_back;

use digest::Digests;
use park::Parking;
use signal::Signal;

/// Capacity asked for each pipe of ours: that of CRIU's own. A process without CAP_SYS_RESOURCE gets no
/// more than `fs.pipe-max-size`, most often 1 MiB, and nor does CRIU then.
const PIPE_BYTES: usize = 2 << 20;
/// Capacity asked for the named pipe that CRIU is writing to: it fills eight pipes before it empties
/// them into this one, and is not to wait for us each time.
const ARRIVAL_BYTES: usize = 8 * PIPE_BYTES;

/// How the memory gets to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sink {
    /// Whichever of the other two turns out faster while it happens; small amounts always go
    /// through the page cache.
    #[default]
    Adaptive,
    /// Through the page cache: fast while memory is warm, and a restore here finds it warm.
    Buffered,
    /// Past the page cache (`O_DIRECT`), where the filesystem can and the data is aligned.
    /// Digests are then read back from the disk.
    Direct,
}

/// What to capture.
#[derive(Debug, Clone, Copy)]
pub struct CaptureOptions<'a> {
    /// How many pipes to make. Page images beyond that become plain files in CRIU's directory.
    pub max_files: u32,
    /// How many bytes to expect in each page image, in the order in which CRIU writes them.
    /// Estimates: they decide which image goes to byte 4096, nothing else.
    pub expected: &'a [u64],
    /// The way to the disk.
    pub sink: Sink,
    /// Whether [`PageCapture::protect`] will probably be called: then nothing is prepared for copying.
    pub protection_expected: bool,
}

/// Bytes of a page image, from `begin` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Number of the page image.
    pub image: u32,
    /// First byte.
    pub begin: u64,
    /// Byte behind the last one; beyond the image's end means all of the rest.
    pub end: u64,
}

/// A running capture. Dropping it gives it up and removes the unfinished archive.
#[derive(Debug)]
pub struct PageCapture {
    images: OwnedFd,
    max_files: u32,
    signal: Arc<Signal>,
    outcome: Outcome,
    reports: Receiver<Result<Vec<Captured>, Error>>,
    pump: Option<JoinHandle<()>>,
    digests: Option<Digests>,
    parking: Option<Parking>,
    writer: Option<ArchiveWriter>,
}

#[derive(Debug)]
enum Outcome {
    Running,
    Drained(Vec<Captured>),
    Failed,
}

/// A page image in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Captured {
    pub(crate) number: u32,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// What has arrived when everything has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Number of page images.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Gives a capture up from another thread.
#[derive(Debug, Clone)]
pub struct AbortHandle(Arc<Signal>);

impl AbortHandle {
    /// Breaks the pipes; CRIU's next write to one fails. After [`PageCapture::drained`] it ends
    /// [`PageCapture::finish`]. May be called any number of times.
    pub fn abort(&self) {
        self.0.abort();
    }
}

impl PageCapture {
    /// Says that what lies in a pipe does not change any more, whatever its process does: memory is
    /// copy-on-write. Then pages may get into the file after the container runs again, but for those
    /// that [`Self::land`] is told of. To be called before CRIU writes the first one; without effect
    /// unless [`CaptureOptions::protection_expected`].
    pub fn protect(&self) {
        if self.parking.is_some() {
            self.signal.protect();
        }
    }

    /// Waits until these parts, which are not protected, are in the file. Does nothing unless
    /// [`Self::protect`] was called: then everything is there.
    ///
    /// To be called after [`Self::drained`], before the container runs again.
    ///
    /// # Errors
    ///
    /// As [`Self::drained`].
    pub fn land(&self, parts: &[Part], deadline: Deadline) -> Result<(), Error> {
        match &self.parking {
            Some(parking) if self.signal.protected() => parking.land(parts, deadline),
            _ => Ok(()),
        }
    }

    /// Waits until every page image that CRIU opened has arrived completely: in the file, or where it
    /// cannot change any more.
    ///
    /// To be called when CRIU waits for the answer to `post-dump`: then it opens no more.
    ///
    /// # Errors
    ///
    /// [`Error::Deadline`], after which the capture is still running and has to be given up;
    /// [`Error::NoSpace`], [`Error::Io`] or [`Error::Outgrown`] when it failed, [`Error::Cancelled`]
    /// when it was given up or has failed before.
    pub fn drained(&mut self, deadline: Deadline) -> Result<Drained, Error> {
        if let Outcome::Running = self.outcome {
            self.signal.drain();
            let left = deadline.remaining().unwrap_or_default();
            let report = match self.reports.recv_timeout(left) {
                Ok(report) => report,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::Deadline {
                        bytes: self.bytes(),
                    });
                }
                Err(RecvTimeoutError::Disconnected) => Err(Error::Cancelled),
            };
            self.outcome = match report {
                Ok(captured) => Outcome::Drained(captured),
                Err(error) => {
                    self.outcome = Outcome::Failed;
                    return Err(error);
                }
            };
        }
        match &self.outcome {
            Outcome::Drained(captured) => Ok(Drained {
                files: captured.len(),
                bytes: captured.iter().map(|image| image.size).sum(),
            }),
            Outcome::Running | Outcome::Failed => Err(Error::Cancelled),
        }
    }

    /// Bytes that have arrived so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.signal.bytes.load(Ordering::Relaxed)
    }

    /// Something with which another thread can give this capture up.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle(Arc::clone(&self.signal))
    }

    /// Gives the capture up: CRIU's next write fails, the unfinished archive is removed.
    pub fn abort(self) {
        drop(self);
    }

    /// Completes the page images in the archive, after the container runs again: waits for their
    /// digests, closes gaps, writes headers, and removes the pipes, used or not.
    ///
    /// Returns the writer, and the page images in the order of the archive.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`] unless [`Self::drained`] succeeded before, and when it is given up
    /// meanwhile through an [`AbortHandle`]; [`Error::NoSpace`]; [`Error::Io`].
    pub fn finish(mut self) -> Result<(ArchiveWriter, Vec<Entry>), Error> {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Failed);
        let Outcome::Drained(mut captured) = outcome else {
            return Err(Error::Cancelled);
        };
        self.join_pump();
        let mut digests = self.digested()?;
        self.remove_pipes()?;
        let mut writer = self.writer.take().ok_or(Error::Cancelled)?;
        // The first one may have come later than others.
        captured.sort_by_key(|image| image.offset);
        let first_new = writer.entries.len();
        for index in 0..captured.len() {
            let begin = writer.position;
            let offset = padded_data_offset(begin);
            settle::close_gap(
                &writer.target.file,
                captured.get_mut(index..).unwrap_or_default(),
                offset,
            )?;
            let Some(image) = captured.get(index) else {
                break;
            };
            let name = names::image(&pipe_name(image.number));
            writer.write_header(&name, begin, offset, image.size)?;
            let blake3 = digests.remove(&image.number).ok_or(Error::Cancelled)?;
            writer.record(Entry {
                name,
                size: image.size,
                offset,
                blake3,
                ..Entry::default()
            });
        }
        let entries = writer.entries.get(first_new..).unwrap_or_default().to_vec();
        Ok((writer, entries))
    }

    /// Waits for the digests of all page images, by their number.
    fn digested(&mut self) -> Result<HashMap<u32, String>, Error> {
        let parking = self.parking.take().filter(|_| self.signal.protected());
        let digests = self.digests.take().ok_or(Error::Cancelled)?;
        match parking {
            Some(parking) => parking.finish(),
            None => digests.finish(),
        }
    }

    fn remove_pipes(&self) -> Result<(), Error> {
        for number in 1..=self.max_files {
            match rustix::fs::unlinkat(&self.images, &*pipe_name(number), AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(Error::io("remove a pipe", error.into())),
            }
        }
        Ok(())
    }

    fn join_pump(&mut self) {
        if let Some(pump) = self.pump.take() {
            // A panic there has closed the channel, and that was reported as `Cancelled`.
            drop(pump.join());
        }
    }
}

impl Drop for PageCapture {
    fn drop(&mut self) {
        if self.pump.is_some() {
            self.signal.abort();
            self.join_pump();
        }
        // All threads have the file open: its space is free when they have ended.
        self.digests = None;
        self.parking = None;
    }
}

/// Of bytes, as a caller expects them.
fn sum(expected: &[u64]) -> u64 {
    expected
        .iter()
        .fold(0, |sum, bytes| sum.saturating_add(*bytes))
}

/// CRIU's name for the page image with this number.
pub(crate) fn pipe_name(number: u32) -> String {
    format!("pages-{number}.img")
}

/// Replaces what has `name` in `images` by a directory, so that opening it for writing fails.
pub(crate) fn poison(images: BorrowedFd<'_>, name: &str) {
    // Both may fail when CRIU is faster; then it writes a plain file, and is told to stop at its
    // next notification.
    rustix::fs::unlinkat(images, name, AtFlags::empty()).unwrap_or_default();
    rustix::fs::mkdirat(images, name, rustix::fs::Mode::RWXU).unwrap_or_default();
}

const _: () = assert!(BLOCK * 8 == crate::format::PAGE);
