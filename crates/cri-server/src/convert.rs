//! From the interface's messages to the domain's types, and back.
//!
//! A request is checked in full before anything is done with it: what comes out of here can be
//! stored and acted upon. Absent messages are as good as empty ones wherever the interface has a
//! meaning for that, because crictl leaves most of them out.

pub(crate) mod check;
pub(crate) mod container;
pub(crate) mod filter;
pub(crate) mod image;
pub(crate) mod resources;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod signal;
pub(crate) mod snapshot;
pub(crate) mod sysctl;
pub(crate) mod time;

#[cfg(test)]
mod tests;
