//! The checkpoint archive.

mod capture;
mod error;
mod format;
mod manifest;
pub mod names;
mod reader;
mod rootfs_diff;
mod spool;
mod tree;
mod writer;

pub use capture::{AbortHandle, CaptureOptions, Drained, PageCapture, Sink};
pub use error::{Error, Finding, Problem};
pub use manifest::{
    Container, Engine, Entry, FORMAT_MINOR, FORMAT_VERSION, Image, MAX_MANIFEST_BYTES, Manifest,
    MountNeed, Pod, Runtime, TmpfsContent,
};
pub use reader::{
    Archive, EntryReader, Location, Pages, ReadLimits, Verified, findings,
};
pub use rootfs_diff::{LINK_REMAP_PREFIX, apply_overlay_diff, write_overlay_diff};
pub use spool::Spool;
pub use tree::{
    ApplyReport, CaptureReport, Devices, Limits, Skipped, TreeWriter, capture_tree, restore_tree,
};
pub use writer::{ArchiveWriter, CompleteArchive, remove_unfinished};
