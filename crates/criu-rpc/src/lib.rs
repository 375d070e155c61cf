//! A client of CRIU's request protocol: dumps and restores process trees.
//!
//! ```text
//!  caller ── DumpOptions ──▶ Criu::dump ──▶ session ══ seqpacket ══ criu --no-default-config swrk N
//!                               ▲                                    │
//!              Fn(Notify) ──────┘◀────────── one message a stage ────┘
//! ```
//!
//! # What it promises
//! - One CRIU process per request, in a process group of its own, without a parent-death signal,
//!   and free of the host's configuration files: the options are all there is.
//! - Every call ends by its [`Deadline`](sys::process::Deadline), plus [`Criu::grace`] for CRIU's
//!   own undoing.
//! - Whoever wants CRIU to stop refuses its next notification ([`CancelToken`], the deadline, or an
//!   error of the callback). CRIU then lets the tasks run on by itself. It is killed only when it
//!   has not ended [`Criu::grace`] later, because a SIGKILL in the middle of a dump can damage the
//!   tasks and leave them frozen; [`Error::Killed`] says that this happened.
//! - After a request to stop, no notification is answered with success, except `network-unlock`,
//!   which only tells of clean-up.
//! - Errors carry the lines of CRIU's log that tell the cause, not just the first.
//!
//! What is dumped, where images go and what a container is, it does not know.
//!
//! # Example
//!
//! `examples/dump_restore.rs` dumps a process, kills it and restores it:
//!
//! ```no_run
//! use std::{fs::File, os::fd::AsFd, time::Duration};
//! use criu_rpc::{CancelToken, Criu, DumpOptions, NotifyReply};
//! use sys::process::Deadline;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let images = File::open("/var/tmp/images")?;
//! let options = DumpOptions {
//!     leave_running: true,
//!     ..DumpOptions::new(4711, images.as_fd(), images.as_fd())
//! };
//! let deadline = Deadline::after(Duration::from_secs(30));
//! Criu::new("/usr/sbin/criu").dump(&options, deadline, &CancelToken::new()?, &mut |stage| {
//!     eprintln!("{stage}");
//!     Ok(NotifyReply::Continue)
//! })?;
//! # Ok(())
//! # }
//! ```

mod cancel;
mod client;
mod error;
mod log;
mod notify;
mod options;
mod probe;
pub mod relay;
mod session;
mod version;

/// What `proto/criu/rpc.proto` compiles to.
#[expect(unreachable_pub, reason = "generated")]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}

pub use cancel::CancelToken;
pub use client::{Criu, DumpReport, Features, Restored};
pub use error::{BoxError, Error, Operation, Stop};
pub use log::LogReport;
pub use notify::{Notify, NotifyReply};
pub use options::{
    CgroupMode, CgroupRoot, CpuCheck, DumpOptions, InheritFd, JoinNamespace, NetworkLock,
    RestoreOptions, RestoreStdio,
};
pub use probe::Probe;
pub use version::Version;
