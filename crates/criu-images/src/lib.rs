//! criu-images

pub mod describe;
mod image;
mod limits;
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
pub use source::{ImageSource, MemoryImages};
pub use violation::{Violation, ViolationKind};
