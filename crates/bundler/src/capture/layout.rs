//! Where page images go in the archive; see the picture in the module above.

use std::fs::File;
use std::ops::Range;

use super::{Captured, sum};
use crate::format::{BLOCK, round_up};
use crate::writer::padded_data_offset;

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
    pub(super) fn place(&self, number: u32) -> (u64, u64) {
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

    pub(super) fn placed(&mut self, image: Captured) {
        if self.first.is_none_or(|(first, ..)| first != image.number) {
            self.end = round_up(image.offset + image.size, BLOCK);
        }
    }
}
