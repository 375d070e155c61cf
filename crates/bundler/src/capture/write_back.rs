//! When what is dirty in the page cache goes to the disk.
//!
//! While the container stands a thread bounds it. Write-back takes a fifth of the writer's speed (measured: 1 GiB in 0.46 s with, 0.38 s without),
//! so it is left for later as far as possible. But from a tenth of the available memory on the kernel
//! starts it anyway, and from a fifth on it makes writers wait (`dirty_background_ratio`,
//! `dirty_ratio`, Documentation/admin-guide/sysctl/vm.rst). Measured at 4 GiB with 22 GB available:
//! 1.19 s frozen when 2 GiB stay dirty, 1.36 s when 1 GiB does.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use sys::pipe::WriteBack;

/// What stays dirty where the kernel does not tell its threshold.
const USUAL_BYTES: u64 = 1 << 30;
/// The part of the kernel's threshold that stays dirty: others write too.
const PART: (u64, u64) = (4, 5);

/// How much may stay dirty.
fn most_dirty() -> u64 {
    let threshold = sys::sysinfo::dirty_background_bytes();
    threshold.map_or(USUAL_BYTES, |bytes| bytes / PART.1 * PART.0)
}

/// Bytes whose writing is started and awaited at a time.
const PIECE_BYTES: u64 = 64 << 20;
/// Pieces that are on their way at once.
const PIECES: u64 = 4;

/// Syncs `file` piece by piece; stops between two of them when `stop` says so.
///
/// # Errors
///
/// What sync_file_range(2) and fdatasync(2) return.
pub(super) fn sync(file: &File, stop: &dyn Fn() -> bool) -> io::Result<()> {
    let pieces = file.metadata()?.len().div_ceil(PIECE_BYTES);
    let range =
        |piece: u64, how| sys::pipe::sync_file_range(file, piece * PIECE_BYTES, PIECE_BYTES, how);
    for piece in 0..pieces.saturating_add(PIECES) {
        if stop() {
            return Ok(());
        }
        if piece < pieces {
            range(piece, WriteBack::Start)?;
        }
        if let Some(earlier) = piece.checked_sub(PIECES) {
            range(earlier, WriteBack::Wait)?;
        }
    }
    file.sync_data()
}

/// What starts the writing of what was written first. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct EarlyWriteBack {
    written: Option<Sender<(u64, u64)>>,
    thread: Option<JoinHandle<()>>,
}

impl EarlyWriteBack {
    pub(super) fn start(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let (written, ranges) = channel();
        let thread = std::thread::Builder::new()
            .name("page-write-back".to_owned())
            .spawn(move || follow(&file, &ranges, most_dirty()))?;
        Ok(Self {
            written: Some(written),
            thread: Some(thread),
        })
    }

    /// `length` bytes at `offset` are in the page cache now.
    pub(super) fn written(&self, offset: u64, length: u64) {
        if let Some(written) = &self.written {
            // Without the thread the kernel decides alone.
            written.send((offset, length)).unwrap_or_default();
        }
    }
}

impl Drop for EarlyWriteBack {
    fn drop(&mut self) {
        self.written = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Starts the writing of the oldest ranges beyond `most` bytes. What fails here fails again, and is
/// reported, when the file is synced.
fn follow(file: &File, ranges: &Receiver<(u64, u64)>, most: u64) {
    let (mut dirty, mut bytes) = (VecDeque::new(), 0);
    for (offset, length) in ranges {
        dirty.push_back((offset, length));
        bytes += length;
        while bytes > most {
            let Some((offset, length)) = dirty.pop_front() else {
                break;
            };
            bytes -= length;
            sys::pipe::sync_file_range(file, offset, length, WriteBack::Start).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn a_file_with_holes_is_synced_and_the_sync_can_be_stopped() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.write_all_at(&[1; 100_000], 3).unwrap();
        file.write_all_at(&[2; 100_000], 9 * PIECE_BYTES).unwrap();
        let asked = Cell::new(0);
        let ask = |after| {
            asked.set(asked.get() + 1);
            asked.get() >= after
        };
        sync(&file, &|| ask(u32::MAX)).unwrap();
        assert_eq!(
            asked.get(),
            10 + 4,
            "once a piece, and for those on their way"
        );
        asked.set(0);
        sync(&file, &|| ask(3)).unwrap();
        assert_eq!(asked.get(), 3);
    }
}
