//! The beginning of a capture: pipes, threads, and where everything will go.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use rustix::process::Resource;

use super::digest::Digests;
use super::layout::Layout;
use super::park::Parking;
use super::pump::Pump;
use super::route::Route;
use super::signal::Signal;
use super::warm::Warming;
use super::write_back::EarlyWriteBack;
use super::{CaptureOptions, Outcome, PageCapture, Sink, pipe_name, settle, sum};
use crate::error::Error;
use crate::format::round_up;
use crate::writer::{ArchiveWriter, padded_data_offset};

/// What is kept at least for the largest page image when it is not the first; a hole, no space.
const MIN_RESERVED: u64 = 16 << 30;
/// What is kept at most: files of 4 KiB-block ext4 end at 16 TiB.
const MAX_RESERVED: u64 = 4 << 40;

impl ArchiveWriter {
    /// Makes the named pipes in `images`, CRIU's images directory, and begins to read them.
    ///
    /// Call it before anything is appended: only then can a page image begin at byte 4096.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a pipe cannot be made or a thread not be started, [`Error::NoSpace`].
    pub fn capture_pages(
        self,
        images: impl AsFd,
        options: &CaptureOptions<'_>,
    ) -> Result<PageCapture, Error> {
        let failed = |error| Error::io("prepare the capture of memory", error);
        let images = images.as_fd().try_clone_to_owned().map_err(failed)?;
        let mut pipes = Vec::new();
        for number in 1..=options.max_files {
            let name = pipe_name(number);
            sys::pipe::fifo(&images, &name, 0o600).map_err(failed)?;
            let reader = sys::pipe::open_reader(&images, &name).map_err(failed)?;
            pipes.push((number, Some(reader)));
        }
        let layout = self.layout(options.expected)?;
        let range = layout.preallocate(&self.target.file, options.expected);
        let signal = Arc::new(Signal::new().map_err(failed)?);
        let digests = Digests::start(&self.target.file, &signal).map_err(failed)?;
        let parking = options
            .protection_expected
            .then(|| Parking::start(&self.target.file, &signal))
            .transpose()
            .map_err(failed)?;
        let warming = match options.sink {
            Sink::Adaptive | Sink::Buffered if !options.protection_expected => {
                Warming::start(&self.target.file, &range).map_err(failed)?
            }
            _ => Warming::default(),
        };
        let pump = Pump {
            spaces: parking.as_ref().map(Parking::spaces),
            route: Route::new(&self.target.file, options.sink).map_err(failed)?,
            images: images.try_clone().map_err(failed)?,
            pipes,
            layout,
            warming,
            signal: Arc::clone(&signal),
            digests: digests.queue(),
            write_back: EarlyWriteBack::start(&self.target.file).map_err(failed)?,
            on_their_way: Vec::new(),
            direct: Vec::new(),
        };
        let (report, reports) = sync_channel(1);
        let pump = std::thread::Builder::new()
            .name("pages".to_owned())
            .spawn(move || pump.run(&report))
            .map_err(failed)?;
        Ok(PageCapture {
            images,
            max_files: options.max_files,
            signal,
            outcome: Outcome::Running,
            reports,
            pump: Some(pump),
            digests: Some(digests),
            parking,
            writer: Some(self),
        })
    }

    /// Decides which image goes first, and how much is kept for it.
    fn layout(&self, expected: &[u64]) -> Result<Layout, Error> {
        let plain = Layout {
            first: None,
            end: self.position,
        };
        // Of equal ones the earliest: then nothing has to be moved.
        let largest = expected
            .iter()
            .enumerate()
            .rev()
            .max_by_key(|(_, bytes)| **bytes);
        let Some((index, _)) = largest.filter(|(index, _)| *index > 0) else {
            return Ok(plain);
        };
        let reserved = sum(expected)
            .saturating_mul(2)
            .clamp(MIN_RESERVED, MAX_RESERVED);
        let reserved = round_up(reserved, crate::format::PAGE);
        let limit = rustix::process::getrlimit(Resource::Fsize).current;
        let allowed = limit.is_none_or(|limit| limit / 2 > reserved);
        if !self.entries.is_empty() || !allowed || !settle::can_collapse(&self.target.file)? {
            return Ok(plain);
        }
        let number = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
        let data = padded_data_offset(self.position);
        Ok(Layout {
            first: Some((number, data, reserved)),
            end: data + reserved,
        })
    }
}
