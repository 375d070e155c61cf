//! Images of a node: content, unpacked layers, and the root filesystems made of them.
//!
//! ```text
//! <root>/                       thawd's root directory
//!   images/                     0700
//!     images.redb               which images there are, which root filesystems use what
//!     blobs/sha256/<hex>        manifests, configurations, layers as they came, checkpoint archives
//!     layers/<chain id>/fs      unpacked layers: lower directories of overlays
//!     trash/                    renamed away, being deleted
//!   imports/<random>/           prepared by `thaw`, adopted by a pull (module [`import`])
//!   snapshots/<id>/             root filesystems: upper, work, merged
//! ```
//!
//! # Invariants
//! - A blob has the digest that it is named by: it was verified when it was taken in.
//! - A layer directory is complete: it is unpacked under a temporary name and renamed.
//! - A record is stored after the content that it names, and removed before it. What no record
//!   names is removed, at the latest when the store is opened.
//! - Whatever comes from an image stays inside its layer's directory, and is bounded.
//!
//! The work is synchronous; [`ImageStore`] runs it on blocking threads. A registry client will
//! produce the same directories as [`import::prepare`] does and have them adopted the same way.

mod adopt;
mod catalog;
mod content;
mod digest;
mod documents;
mod error;
mod image;
pub mod import;
mod layer;
mod layers;
pub mod records;
mod reference;
mod snapshot;
mod store;
mod tar_stream;
#[cfg(test)]
mod test_support;
mod trash;

pub use digest::Digest;
pub use documents::Annotations;
pub use error::Error;
pub use image::{CheckpointImage, Image, RawConfig};
pub use reference::Reference;
pub use snapshot::Rootfs;
pub use store::{FsInfo, ImageStore};
