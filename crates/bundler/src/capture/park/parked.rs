//! A block of a page image on its way into the file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Cursor, Read as _};
use std::os::fd::OwnedFd;

use super::super::Part;
use super::super::digest::Block;

/// A block of a page image.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) block: Block,
    pub(super) pieces: VecDeque<Piece>,
}

/// A piece of a block.
#[derive(Debug)]
pub(super) enum Piece {
    /// As references to memory of the container.
    Pipe(Full),
    /// As a copy, where references would not do.
    Copy(Cursor<Vec<u8>>),
}

/// A pipe that nothing is added to, and the bytes in it.
#[derive(Debug)]
pub(in super::super) struct Full {
    pub(in super::super) reader: OwnedFd,
    pub(in super::super) length: u64,
}

/// Whether a block has bytes of one of these parts.
pub(super) fn touches(block: &Block, parts: &[Part]) -> bool {
    overlaps(block.image, block.begin(), block.length, parts)
}

fn overlaps(image: u32, begin: u64, length: u64, parts: &[Part]) -> bool {
    let end = begin.saturating_add(length);
    parts
        .iter()
        .any(|part| part.image == image && part.begin < end && begin < part.end)
}

impl Parked {
    /// Whether references are left to what one of these parts has.
    pub(super) fn is_open(&self, parts: &[Part]) -> bool {
        let mut begin = self.block.begin();
        self.pieces.iter().any(|piece| {
            let length = piece.length();
            let open =
                matches!(piece, Piece::Pipe(_)) && overlaps(self.block.image, begin, length, parts);
            begin = begin.saturating_add(length);
            open
        })
    }

    /// Takes bytes from its beginning, as many as `place` has room for; fewer at the end only.
    pub(super) fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(piece) = self.pieces.front_mut()
            && filled < place.len()
        {
            filled += piece.take(place.get_mut(filled..).unwrap_or_default())?;
            if piece.length() == 0 {
                self.pieces.pop_front();
            }
        }
        Ok(filled)
    }

    /// Copies what these parts have, as long as no more than `left` bytes are copied in all; tells
    /// whether nothing is left.
    pub(super) fn copy(&mut self, parts: &[Part], left: &mut u64) -> io::Result<bool> {
        let (image, mut begin) = (self.block.image, self.block.begin());
        for piece in &mut self.pieces {
            let length = piece.length();
            if overlaps(image, begin, length, parts) && length <= *left {
                *left -= length;
                piece.copy()?;
            }
            begin = begin.saturating_add(length);
        }
        Ok(!self.is_open(parts))
    }
}

impl Piece {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Pipe(pipe) => pipe.length,
            Self::Copy(bytes) => {
                let all = u64::try_from(bytes.get_ref().len()).unwrap_or(u64::MAX);
                all.saturating_sub(bytes.position())
            }
        }
    }

    /// Takes bytes from its beginning, as many as there are or `place` has room for.
    fn take(&mut self, place: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.length()).unwrap_or(usize::MAX);
        let most = place.len().min(length);
        let place = place.get_mut(..most).unwrap_or_default();
        match self {
            Self::Copy(bytes) => bytes.read_exact(place)?,
            Self::Pipe(Full { reader, length }) => {
                let mut left = &mut *place;
                while !left.is_empty() {
                    let read =
                        rustix::io::retry_on_intr(|| rustix::io::read(&*reader, &mut *left))?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    left = left.get_mut(read..).unwrap_or_default();
                }
                *length -= u64::try_from(most).map_err(io::Error::other)?;
            }
        }
        Ok(most)
    }

    fn copy(&mut self) -> io::Result<()> {
        if let Self::Pipe(pipe) = self {
            let length = usize::try_from(pipe.length).map_err(io::Error::other)?;
            let mut bytes = vec![0; length];
            File::from(pipe.reader.try_clone()?).read_exact(&mut bytes)?;
            *self = Self::Copy(Cursor::new(bytes));
        }
        Ok(())
    }
}
