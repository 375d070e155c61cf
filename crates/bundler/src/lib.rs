//! The checkpoint archive: written in one pass over a container's memory, read as a stranger's.
//!
//! # Layout
//! An uncompressed tar (pax where needed) of regular files and two known directories, mode 0600,
//! owner root. Nothing in it is a link, a device or a sparse member.
//! ```text
//!   byte 0      checkpoint/                     directory entry, 512 bytes
//!        512    header, records                 filled up with a pax comment to byte 4096
//!       4096    checkpoint/pages-N.img          the largest page image, uncompressed pages
//!               header, records                 filled up to a multiple of 4096
//!   n * 4096    checkpoint/pages-M.img          ... every other page image, in CRIU's order
//!               checkpoint/*.img                CRIU's small images, 512-aligned from here on
//!               checkpoint/descriptors.json     where descriptors 0 to 2 led
//!               config.dump, spec.dump, ...     names and schemas that checkpointctl knows
//!               rootfs-diff.tar, deleted.files  what the container changed: an OCI layer
//!               tmpfs-I.tar, devshm-checkpoint.tar
//!               manifest.json                   facts, and for every entry before it: name,
//!                                               size, offset, SHA-256
//!       end     1024 zeros
//! ```
//! The first page image can be restored from without being unpacked: a hard link of the archive is
//! shown to CRIU as `pages-N.img`, and its page map begins with one page that is skipped.
//! [`Archive::in_place`] tells whether an archive has this form. The names are in [`names`].
//!
//! # Writing
//! [`ArchiveWriter`] makes a temporary file beside the target; memory streams into it through
//! [`PageCapture`] while the container stands; what is captured at the same time waits in a
//! [`Spool`]; [`CompleteArchive::sync`] brings it to the disk, and
//! [`SyncedArchive::publish`] gives it its name.
//!
//! # Reading
//! [`Archive`] and [`findings`] trust nothing: see there for what is checked, [`Problem`] for what
//! can be wrong. [`apply_overlay_diff`] and [`restore_tree`] unpack the tars inside, beneath a
//! directory and never through a link.
//!
//! # Invariants
//! - An archive exists under its name complete and synced, or not at all.
//! - Each page of memory is written once; digests are taken of what is in the file, by blocks on all
//!   processors, and gaps are closed without moving data.
//! - A capture that fails breaks the pipes, so that CRIU undoes everything by itself.
//! - No read allocates what a stranger's number says before the bytes are there.
//! - Every failure of a stranger's file names the entry.

mod blocks;
mod capture;
mod error;
mod format;
mod location;
mod manifest;
pub mod names;
mod reader;
mod rootfs_diff;
mod spool;
mod tree;
mod writer;

pub use capture::{AbortHandle, CaptureOptions, Drained, PageCapture, Part, Sink};
pub use error::{Error, Finding, Problem};
pub use location::remove_unfinished;
pub use manifest::{
    Container, Engine, Entry, FORMAT_MINOR, FORMAT_VERSION, Image, MAX_MANIFEST_BYTES, Manifest,
    MountNeed, Pod, Runtime, TmpfsContent,
};
pub use reader::{Archive, EntryReader, Location, Pages, ReadLimits, Verified, findings};
pub use rootfs_diff::{LINK_REMAP_PREFIX, apply_overlay_diff, write_overlay_diff};
pub use spool::Spool;
pub use tree::{
    ApplyReport, CaptureReport, Devices, Limits, Skipped, TreeWriter, capture_tree, restore_tree,
};
pub use writer::{ArchiveWriter, CompleteArchive, SyncedArchive};
