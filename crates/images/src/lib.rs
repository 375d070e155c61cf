//! images
pub mod records;
mod error;
pub use error::Error;
