//! What archives are read from: streams, and files at offsets.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

/// What an archive is read from.
pub(crate) trait Source: Read {
    /// Passes over `bytes`; an end before that is `UnexpectedEof`.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

/// A stream: what is passed over is read and dropped.
#[derive(Debug)]
pub(crate) struct Stream<R>(pub(crate) R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Source for Stream<R> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.0).take(bytes), &mut io::sink())?;
        if skipped == bytes {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// A part of a file, read at offsets, so that others may read it at the same time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileRange<'a> {
    pub(crate) file: &'a File,
    pub(crate) at: u64,
    pub(crate) end: u64,
}

impl Read for FileRange<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let read = match buffer.get_mut(..length) {
            Some(part) if length > 0 => self.file.read_at(part, self.at)?,
            _ => 0,
        };
        self.at += u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}

impl Source for FileRange<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match self.at.checked_add(bytes) {
            Some(at) if at <= self.end => {
                self.at = at;
                Ok(())
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
