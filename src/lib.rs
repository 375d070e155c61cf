//! What the two programs `thawd` and `thaw` share: configuration and logging.

pub mod config;
pub mod telemetry;
