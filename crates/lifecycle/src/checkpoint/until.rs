//! Reading and writing that ends with the checkpoint's permission to go on.
//!
//! What is captured in the freeze can be any size: gigabytes in the root filesystem's changes take
//! longer than a deadline of seconds. Each piece asks before it is moved.

use std::io::{self, Read, Write};

use super::Cancel;

/// A reader or writer that fails once the checkpoint was cancelled.
#[derive(Debug)]
pub(super) struct Until<T> {
    inner: T,
    cancel: Cancel,
}

impl<T> Until<T> {
    pub(super) fn new(inner: T, cancel: &Cancel) -> Self {
        let cancel = cancel.clone();
        Self { inner, cancel }
    }

    pub(super) fn into_inner(self) -> T {
        self.inner
    }

    fn go_on(&self) -> io::Result<()> {
        match self.cancel.reason() {
            // Not `Interrupted`, which callers take for "again".
            Some(reason) => Err(io::Error::other(format!("cancelled: {reason:?}"))),
            None => Ok(()),
        }
    }
}

impl<T: Read> Read for Until<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.go_on()?;
        self.inner.read(bytes)
    }
}

impl<T: Write> Write for Until<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.go_on()?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Reason;

    #[test]
    fn nothing_moves_any_more_once_it_was_cancelled() {
        let cancel = Cancel::new();
        let mut writer = Until::new(Vec::new(), &cancel);
        writer.write_all(b"before").unwrap();
        let mut reader = Until::new(&b"text"[..], &cancel);
        let mut text = [0; 2];
        reader.read_exact(&mut text).unwrap();
        cancel.cancel_because(Reason::Deadline);
        let error = writer.write_all(b"after").unwrap_err();
        assert_eq!(error.to_string(), "cancelled: Deadline");
        assert_eq!(writer.into_inner(), b"before");
        assert!(reader.read_exact(&mut text).is_err());
        assert_eq!(&text, b"te");
    }
}
