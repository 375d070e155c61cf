//! The tar format as far as archives need it: ustar headers and pax extended headers.
//!
//! Written from POSIX.1-2017 (`pax`, "ustar Interchange Format" and "pax Header Block") and the
//! manual of GNU tar (base-256 numbers, `SCHILY.xattr`, PAX sparse format 1.0, long names).
//!
//! ```text
//!   512 bytes   header of type x (pax), only when the entry needs records
//!   n * 512     records "LEN KEY=VALUE\n", padded with zeros
//!   512 bytes   header of the entry
//!   size        data, padded to 512
//!   ...
//!   1024 bytes  of zeros at the end
//! ```

pub(crate) mod decode;
pub(crate) mod encode;
mod numbers;
pub(crate) mod records;
pub(crate) mod source;

/// Size of a header, and the unit of everything.
pub(crate) const BLOCK: u64 = 512;
/// [`BLOCK`] as a length.
pub(crate) const BLOCK_LEN: usize = 512;
/// Alignment of page images, the unit in which filesystems share blocks and CRIU reads.
pub(crate) const PAGE: u64 = 4096;
/// Key of the pax record that holds an extended attribute.
pub(crate) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Keys and values of pax records.
pub(crate) type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// A type flag that nothing here understands.
    Other(u8),
}

impl Kind {
    pub(crate) fn flag(self) -> u8 {
        match self {
            Self::Regular => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::CharDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
            Self::Other(flag) => flag,
        }
    }

    pub(crate) fn from_flag(flag: u8) -> Self {
        match flag {
            b'0' | 0 | b'7' => Self::Regular,
            b'1' => Self::HardLink,
            b'2' => Self::Symlink,
            b'3' => Self::CharDevice,
            b'4' => Self::BlockDevice,
            b'5' => Self::Directory,
            b'6' => Self::Fifo,
            other => Self::Other(other),
        }
    }

    /// The word for it in messages.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Regular => "regular file",
            Self::HardLink => "hard link",
            Self::Symlink => "symbolic link",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Directory => "directory",
            Self::Fifo => "named pipe",
            Self::Other(b'g') => "global extended header",
            Self::Other(b'S') => "sparse file in the old GNU format",
            Self::Other(_) => "member of unknown type",
        }
    }
}

/// Seconds since 1970 and nanoseconds within the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// The next multiple of `unit`; saturates.
pub(crate) fn round_up(value: u64, unit: u64) -> u64 {
    value.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
