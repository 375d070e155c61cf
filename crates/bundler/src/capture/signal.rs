//! What the owner of a capture tells its threads, and what he can see of them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use rustix::event::EventfdFlags;

const RUN: u8 = 0;
const DRAIN: u8 = 1;
const ABORT: u8 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Signal {
    command: AtomicU8,
    pub(super) wake: OwnedFd,
    /// What lies in pipes does not change any more.
    protected: AtomicBool,
    /// Bytes moved so far.
    pub(super) bytes: AtomicU64,
}

impl Signal {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags)?;
        Ok(Self {
            command: AtomicU8::new(RUN),
            wake,
            protected: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
        })
    }

    /// Everything has been written to the pipes: end when they are empty.
    pub(super) fn drain(&self) {
        self.command.fetch_max(DRAIN, Ordering::SeqCst);
        self.notify();
    }

    pub(super) fn abort(&self) {
        self.command.fetch_max(ABORT, Ordering::SeqCst);
        self.notify();
    }

    pub(super) fn protect(&self) {
        self.protected.store(true, Ordering::SeqCst);
    }

    pub(super) fn protected(&self) -> bool {
        self.protected.load(Ordering::SeqCst)
    }

    pub(super) fn aborted(&self) -> bool {
        self.command.load(Ordering::SeqCst) == ABORT
    }

    pub(super) fn draining(&self) -> bool {
        self.command.load(Ordering::SeqCst) != RUN
    }

    fn notify(&self) {
        // It fails only when the counter is full, and then it wakes as well.
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).unwrap_or_default();
    }

    pub(super) fn consume(&self) {
        rustix::io::read(&self.wake, &mut [0_u8; 8]).unwrap_or_default();
    }
}
