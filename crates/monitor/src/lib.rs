//! The process that outlives the daemon, and how to talk to it.
//!
//! One monitor (`thawd-monitor`) stands beside each container. It runs the OCI runtime's `create` or
//! `restore`, becomes the parent of the container's first process, writes its log, and records how it
//! ended. This library is what both sides share and what the daemon uses: [`spawn`] starts a monitor,
//! [`Client`] talks to a running one, [`read_exit`] reads what one left behind.
//!
//! # Contract
//! ```text
//!  daemon ──spawn──▶ thawd-monitor ──runs──▶ runc create | restore
//!    ▲  spec on stdin (seqpacket)  │              └──▶ container's first process, child of the monitor
//!    └───── Started | Failed ──────┘
//!
//!  run directory (one for each container, 0700, on tmpfs):
//!    monitor.sock   seqpacket, 0600; JSON messages ([`wire`]); gone once the monitor ended
//!    monitor.pid    the monitor's pid in decimal
//!    console.sock   while a terminal is awaited from the runtime
//!    exit.json      [`ExitRecord`], 0600; written once, before the monitor ends
//! ```
//! - The monitor ends when the container has ended, its log is written and `exit.json` is in place; or
//!   when the runtime failed, and then without a record. Signals that end other programs (`SIGHUP`,
//!   `SIGINT`, `SIGTERM`) do not end it.
//! - A monitor that is killed leaves a container that the OCI runtime can still kill and delete. Its exit
//!   code is lost and its output has no reader: a write to it ends in `SIGPIPE`.
//! - When the runtime fails, the processes that it left are killed before the failure is told; its state
//!   directory and cgroups are the caller's to remove, with the runtime's `delete --force`.
//! - Nothing the container writes can hold the monitor up, and nothing that the monitor meets (a full
//!   disk, a missing log directory at rotation) holds the container up: output that cannot be stored is
//!   counted and dropped.

mod client;
mod error;
mod exit;
mod helper;
mod hold;
mod pipes;
mod spec;
mod start;
pub mod wire;

pub use client::{Client, probe_alive};
pub use error::Error;
pub use exit::{ExitRecord, read_exit, write_exit};
pub use hold::{HoldReply, HoldRequest, HoldStopper, Holder, WrittenArea};
pub use pipes::{DIRECTORY as PIPES_DIRECTORY, PipeWatch, page_image};
pub use spec::{MonitorSpec, names};
pub use start::{Started, spawn};
pub use wire::{Status, VERSION};
