//! Closing the gap behind the page image that begins at byte 4096.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;

use super::Captured;
use crate::error::Error;
use crate::format::PAGE;
use crate::writer::COPY_BYTES;

/// Whether ranges can be taken out of this file, which is empty but for its first block.
pub(super) fn can_collapse(file: &File) -> Result<bool, Error> {
    let failed = |error| Error::io("try the archive's filesystem", error);
    let length = file.metadata().map_err(failed)?.len();
    file.set_len(4 * PAGE).map_err(failed)?;
    let tried = sys::pipe::collapse_range(file, PAGE, PAGE);
    file.set_len(length).map_err(failed)?;
    Ok(tried.is_ok())
}

/// Moves `images` (the first of them and those behind it) down, so that the first one's data
/// begins at `offset`; nothing happens when it does already.
pub(super) fn close_gap(file: &File, images: &mut [Captured], offset: u64) -> Result<(), Error> {
    let failed = |error| Error::io("move page images together", error);
    let Some(gap) = images
        .first()
        .and_then(|image| image.offset.checked_sub(offset))
    else {
        return Ok(());
    };
    if gap == 0 {
        return Ok(());
    }
    let length = file.metadata().map_err(failed)?.len();
    if offset + gap >= length {
        // Only empty images lie behind it.
        file.set_len(length.min(offset)).map_err(failed)?;
    } else if let Err(error) = sys::pipe::collapse_range(file, offset, gap) {
        match Errno::from_io_error(&error) {
            Some(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                move_down(file, offset, gap, length).map_err(failed)?;
            }
            _ => return Err(failed(error)),
        }
    }
    for image in images {
        image.offset -= gap;
    }
    Ok(())
}

/// Copies everything from `to + gap` on down to `to`.
fn move_down(file: &File, to: u64, gap: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0_u8; COPY_BYTES];
    let mut at = to;
    while at + gap < length {
        let most = usize::try_from(length - gap - at)
            .unwrap_or(usize::MAX)
            .min(COPY_BYTES);
        let part = buffer.get_mut(..most).unwrap_or_default();
        file.read_exact_at(part, at + gap)?;
        file.write_all_at(part, at)?;
        at += u64::try_from(most).map_err(io::Error::other)?;
    }
    file.set_len(length - gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `close_gap` has to do, whichever way the filesystem offers.
    fn check(directory: &str) {
        let file = tempfile::tempfile_in(directory).unwrap();
        let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 253) as u8).collect();
        file.write_all_at(b"head", 0).unwrap();
        file.write_all_at(&large, 1 << 30).unwrap();
        let mut images = [
            Captured {
                number: 1,
                offset: 1 << 30,
                size: 1_000_000,
            },
            Captured {
                number: 3,
                offset: (1 << 30) + 1_003_520,
                size: 1_996_480,
            },
        ];
        close_gap(&file, &mut images, 8192).unwrap();
        assert_eq!(
            (images[0].offset, images[1].offset),
            (8192, 8192 + 1_003_520)
        );
        let mut found = vec![0; large.len()];
        file.read_exact_at(&mut found, 8192).unwrap();
        assert!(found == large);
        assert_eq!(file.metadata().unwrap().len(), 8192 + large.len() as u64);
        close_gap(&file, &mut images, 8192).unwrap();
        assert_eq!(images[0].offset, 8192);
        let mut empty = [Captured {
            number: 9,
            offset: 1 << 40,
            size: 0,
        }];
        close_gap(&file, &mut empty, 1 << 20).unwrap();
        assert_eq!(
            (empty[0].offset, file.metadata().unwrap().len()),
            (1 << 20, 1 << 20)
        );
    }

    #[test]
    fn gaps_are_closed_with_and_without_the_help_of_the_filesystem() {
        check("/var/tmp");
        check("/dev/shm");
        let on_tmpfs = tempfile::tempfile_in("/dev/shm").unwrap();
        assert!(!can_collapse(&on_tmpfs).unwrap());
    }
}
