//! What CRIU cannot dump. Each sets one such thing up and then only counts.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result};

use super::Workload;
use super::raw;
use super::tasks::idle_child;

/// Holds something without ever using it again.
struct Held<T>(T);

impl<T> Workload for Held<T> {
    fn step(&mut self, _: u64) -> Result<String> {
        Ok(String::new())
    }
}

/// An io_uring instance; needs seccomp off.
pub(super) struct IoUring;

impl IoUring {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let ring: OwnedFd = raw::io_uring().context("io_uring_setup")?;
        Ok(Box::new(Held(ring)))
    }
}

/// A child in a pid namespace of its own; needs CAP_SYS_ADMIN.
pub(super) struct NestedPid;

impl NestedPid {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        raw::unshare_pid().context("unshare")?;
        Ok(Box::new(Held(idle_child()?)))
    }
}

/// A connection to a listener outside the container, through a path that is mounted.
pub(super) struct OutsideUnix;

impl OutsideUnix {
    pub(super) fn setup(value: &str) -> Result<Box<dyn Workload>> {
        Ok(Box::new(Held(
            UnixStream::connect(value).context(value.to_owned())?,
        )))
    }
}

/// A child that is traced.
pub(super) struct Traced;

impl Traced {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let child = idle_child()?;
        raw::trace(child.id()).context("PTRACE_SEIZE")?;
        Ok(Box::new(Held(child)))
    }
}
