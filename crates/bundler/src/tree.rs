//! Directories into tars and back: private tmpfs, /dev/shm, and what a container changed in its
//! root filesystem.
//!
//! The tar is plain pax: names without `./` in front (the directory itself is `./`), parents
//! before children, times to the nanosecond, extended attributes as `SCHILY.xattr.*`, hard links,
//! files with large holes in PAX sparse format 1.0. Sockets are left out: they end with the
//! process that bound them, and CRIU makes them again.
//!
//! Coming back, the tar is a stranger's: names, types, numbers and sizes are checked one by one,
//! and every path is opened beneath the target without following a link or leaving its mount.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::error::Error;

mod apply;
mod paths;
mod place;
mod report;
mod sparse;
mod walk;

pub use report::{ApplyReport, CaptureReport, Devices, Limits, Skipped};
pub use walk::TreeWriter;

pub(crate) use apply::apply;

/// How a captured directory is to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Everything is what it looks like.
    Plain,
    /// An upper directory of overlayfs, which becomes an OCI layer and back: deletions are device
    /// nodes 0:0 there and names beginning with `.wh.` here.
    Overlay,
}

/// Writes everything in `dir` as a tar.
///
/// Nobody may change the directory meanwhile: its container is frozen. Device nodes are written
/// but [`restore_tree`] does not make them.
///
/// # Errors
///
/// [`Error::Io`] and [`Error::NoSpace`] for reading and writing, [`Error::Unsupported`] for trees
/// that are too deep.
pub fn capture_tree(dir: impl AsFd, out: impl Write) -> Result<CaptureReport, Error> {
    let mut writer = TreeWriter::plain(dir, out)?;
    writer.write_all()?;
    writer.finish().map(|(_, report)| report)
}

/// Puts what [`capture_tree`] has written into `dir`.
///
/// # Errors
///
/// [`Error::Invalid`] names the entry that is not as it has to be, [`Error::NoSpace`] and
/// [`Error::Io`] tell what failed here. What was made until then stays.
pub fn restore_tree(
    tar: impl std::io::Read,
    dir: impl AsFd,
    limits: &Limits,
) -> Result<ApplyReport, Error> {
    apply(tar, dir.as_fd(), limits, Dialect::Plain)
}

/// A path from its bytes.
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(bytes)).to_owned()
}

#[cfg(test)]
mod tests;
