//! Files with holes: PAX sparse format 1.0 (GNU tar manual, "Storing Sparse Files").
//!
//! ```text
//!   data of the entry:   "N\n" "OFFSET\n" "LENGTH\n" ...   padded with zeros to whole blocks
//!                        the segments, one after the other
//! ```

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::error::Problem;
use crate::format::{BLOCK, BLOCK_LEN};

/// Files are written plain when they have fewer bytes of holes.
const MIN_HOLES: u64 = 64 << 10;
/// More segments than this are not read: each costs memory.
const MAX_SEGMENTS: u64 = 1 << 18;

/// A part of a file that is not a hole: offset and length.
pub(super) type Segment = (u64, u64);

/// The data of `file`, which is `size` bytes long; `None` when it is to be written plain.
pub(super) fn segments(file: &File, size: u64, stored: u64) -> io::Result<Option<Vec<Segment>>> {
    if stored.saturating_add(MIN_HOLES) > size {
        return Ok(None);
    }
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin.min(size),
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(begin))?.min(size);
        if end <= begin {
            break;
        }
        found.push((begin, end - begin));
        at = end;
    }
    let data: u64 = found.iter().map(|(_, length)| length).sum();
    let many = u64::try_from(found.len()).is_ok_and(|count| count >= MAX_SEGMENTS);
    if many || data.saturating_add(MIN_HOLES) > size {
        return Ok(None);
    }
    // An empty segment at the end tells readers how long the file is.
    if found
        .last()
        .is_none_or(|(offset, length)| offset + length < size)
    {
        found.push((size, 0));
    }
    Ok(Some(found))
}

/// The map as it is written before the segments.
pub(super) fn encode(segments: &[Segment]) -> Vec<u8> {
    let mut text = format!("{}\n", segments.len()).into_bytes();
    for (offset, length) in segments {
        text.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    text.resize(text.len().next_multiple_of(BLOCK_LEN), 0);
    text
}

/// Reads the map from the beginning of an entry of `stored` bytes; `size` is the file's.
///
/// The segments come in order, do not overlap, lie within the file, and are exactly what follows.
pub(super) fn decode(
    source: &mut impl Read,
    stored: u64,
    size: u64,
) -> io::Result<Result<Vec<Segment>, Problem>> {
    let bad = Ok(Err(Problem::SparseMap));
    let mut lines = Lines {
        source,
        block: [0; BLOCK_LEN],
        at: BLOCK_LEN,
        blocks: 0,
        stored,
    };
    let Some(count) = lines.number()?.filter(|count| *count <= MAX_SEGMENTS) else {
        return bad;
    };
    let mut segments = Vec::new();
    let (mut end, mut data) = (0_u64, 0_u64);
    for _ in 0..count {
        let (Some(offset), Some(length)) = (lines.number()?, lines.number()?) else {
            return bad;
        };
        let Some(next) = offset.checked_add(length).filter(|next| *next <= size) else {
            return bad;
        };
        if offset < end {
            return bad;
        }
        end = next;
        data = data.saturating_add(length);
        segments.push((offset, length));
    }
    let map = lines.blocks * BLOCK;
    Ok(if map.checked_add(data) == Some(stored) {
        Ok(segments)
    } else {
        Err(Problem::SparseMap)
    })
}

/// Decimal numbers, one a line, read block by block.
struct Lines<'a, R> {
    source: &'a mut R,
    block: [u8; BLOCK_LEN],
    at: usize,
    blocks: u64,
    stored: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<Option<u64>> {
        let mut value: Option<u64> = None;
        loop {
            if self.at == BLOCK_LEN {
                if (self.blocks + 1) * BLOCK > self.stored {
                    return Ok(None);
                }
                self.source.read_exact(&mut self.block)?;
                self.blocks += 1;
                self.at = 0;
            }
            let byte = self.block.get(self.at).copied().unwrap_or(0);
            self.at += 1;
            match byte {
                b'\n' => return Ok(value),
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    let next = value
                        .unwrap_or(0)
                        .checked_mul(10)
                        .and_then(|v| v.checked_add(digit));
                    if next.is_none() {
                        return Ok(None);
                    }
                    value = next;
                }
                _ => return Ok(None),
            }
        }
    }
}
