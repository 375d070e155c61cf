//! The monitor's program with containers of the real runc. Needs root and runc; fails without.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, and print what they measured"
)]

mod containers;
mod exec;
mod fuse;
mod hold;
mod logs;
mod oom;
mod pause;
mod pipes;
mod starts;
mod support;
