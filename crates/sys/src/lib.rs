//! The system calls that thawd needs: the lowest layer and the only crate
//! with `unsafe` code.
//!
//! # Invariants
//! - Every descriptor that leaves this crate is an `OwnedFd` made close-on-exec.
//! - Every child started here is reaped on every path and does not outlive its
//!   guard, unless the caller says so with `Child::leave`.
//! - No function here waits without a limit that the caller chose.
//! - Paths that come from outside are opened beneath a directory descriptor,
//!   and links are not followed.
//!
//! Modules follow the kernel's subjects; none of them knows what a container is.

pub mod cgroup;
pub mod confine;
pub mod daemon;
pub mod epoll;
pub mod fs;
pub mod kcmp;
pub mod kernel;
pub mod memory;
pub mod mount;
pub mod ns;
pub mod pidfd;
pub mod pipe;
pub mod proc;
pub mod process;
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
pub mod ptrace;
pub mod pty;
pub mod signal;
pub mod socket;
pub mod sysinfo;
pub mod systemd;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod unix_diag;
