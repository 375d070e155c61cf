//! What a container changed in its root filesystem: the overlay's upper directory as an OCI layer.
//!
//! ```text
//!   upper directory                          tar (OCI image-spec, layer.md, "Whiteouts")
//!   dir/name  character device 0:0           dir/.wh.name          empty file: name is deleted
//!   dir/      trusted.overlay.opaque = y     dir/.wh..wh..opq      nothing of the layers below
//!   anything else                            itself
//! ```
//! Overlayfs' own attributes (`trusted.overlay.*`) stay out. The mounts that thawd makes have
//! `redirect_dir`, `metacopy` and `index` off; an upper directory that was used with them is
//! refused, since its files are not complete.
//!
//! The diff is applied to the *mounted* overlay of the new container, so the kernel itself makes
//! the whiteouts there.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use crate::error::Error;
use crate::tree::{ApplyReport, CaptureReport, Dialect, Limits, TreeWriter, apply};

/// Beginning of the names with which CRIU keeps deleted files alive during a dump
/// (`link_remap_ok` in `criu/files-reg.c`).
pub const LINK_REMAP_PREFIX: &[u8] = b"link_remap.";

/// Writes the upper directory of an overlay as an OCI layer.
///
/// For two passes over the same directory use [`TreeWriter::overlay`]: `write_all` while CRIU
/// dumps, then `append_matching` for what CRIU has linked meanwhile.
///
/// # Errors
///
/// [`Error::Unsupported`] for what a layer cannot hold, [`Error::Io`], [`Error::NoSpace`].
pub fn write_overlay_diff(upper: impl AsFd, out: impl Write) -> Result<CaptureReport, Error> {
    let mut writer = TreeWriter::overlay(upper, out)?;
    writer.write_all()?;
    writer.finish().map(|(_, report)| report)
}

/// Applies a layer to the mounted root filesystem of a container that has not run yet.
///
/// # Errors
///
/// [`Error::Invalid`] names the entry that is not as it has to be, [`Error::NoSpace`] and
/// [`Error::Io`] tell what failed here. What was made until then stays: the root filesystem is to
/// be thrown away then.
pub fn apply_overlay_diff(
    tar: impl Read,
    rootfs: impl AsFd,
    limits: &Limits,
) -> Result<ApplyReport, Error> {
    apply(tar, rootfs.as_fd(), limits, Dialect::Overlay)
}
