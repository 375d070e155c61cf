//! The image files of CRIU, read by someone who does not trust them.
//!
//! ```text
//!  directory or archive ──ImageSource──▶ names.rs   which file is it, which messages are in it
//!                                        image.rs   header, entries, raw data, within limits
//!                                        wire.rs    is it in the one form that CRIU writes
//!                                        load/      all of it, decoded (model.rs)
//!                                          ├─▶ describe   for people: text and JSON
//!                                          └─▶ policy     against the live request
//!                                                └─ seccomp   filters, run symbolically
//!                       repair   edits of bytes, before the check
//!                       live     of a dump: what must be copied before its tasks run again
//! ```
//!
//! CRIU restores what its images say with root's rights and checks next to nothing, so a forged
//! archive is code with whatever rights it names. [`policy::check`] compares all of it with what
//! the request grants; it is meant to run on the very files that CRIU opens next.
//!
//! Invariants:
//! - Bytes in, facts out: the crate opens no file but through [`ImageSource`], starts nothing, and
//!   knows nothing of containers' records.
//! - Every loop, list and recursion over a stranger's data is bounded ([`Limits`]).
//! - CRIU's protobuf types stay inside.
//!
//! ```
//! use criu_images::{MemoryImages, describe::describe};
//!
//! let description = describe(&MemoryImages::default());
//! assert!(description.processes.is_empty());
//! ```

pub mod describe;
mod image;
mod limits;
pub mod live;
mod load;
mod model;
mod names;
pub mod policy;
mod proto;
pub mod repair;
mod schema;
pub mod seccomp;
mod source;
#[cfg(test)]
mod testing;
mod violation;
mod wire;

pub use limits::Limits;
pub use names::has_tracked_connections;
pub use source::{ImageSource, MemoryImages};
pub use violation::{Violation, ViolationKind};
