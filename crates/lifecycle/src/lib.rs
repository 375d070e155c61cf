//! What exists on a node, and what may happen to it: sandboxes, containers, checkpoints, restores.
//!
//! ```text
//!  cri-server ──▶ node::Node ──Request──▶ owner (one task a sandbox) ──▶ work:
//!                    ▲                        │                          sandbox, container,
//!                    └───── SandboxView ◀─────┘                          checkpoint, restore, exec
//!                                             │
//!                                          store (redb)
//! ```
//!
//! # Invariants
//! - Only the owner task of a sandbox changes it and its containers; others send requests and read
//!   snapshots.
//! - Intent is stored before an effect, outcome after it; whatever a killed daemon left is found
//!   again from the store or the kernel (`recovery`).
//! - A checkpoint that fails leaves the container running and no file; an archive is hostile until
//!   it has been verified and its images held against the request (`restore`).

pub mod cgroups;
pub mod cni;
pub mod config;
pub mod dns;
pub mod error;
pub mod model;
pub mod node;
pub mod signals;
pub mod spec;
pub mod users;

mod apparmor;
mod bundle;
mod checkpoint;
mod container;
mod context;
mod criu_logs;
mod engine;
mod exec;
mod owner;
mod record;
mod recovery;
mod restore;
mod runtimes;
mod sandbox;
mod store;

pub use error::Error;
