//! The crate against real CRIU, as root, and against programs that are not a CRIU that works.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod dump;
mod program;
mod relay;
mod stop;
mod support;
