//! Holding a container's memory for a checkpoint: made copy-on-write, then frozen.
//!
//! A process of its own does it, because it must be finished once it was begun: a thread that was made to
//! fork has the wrong registers for a moment, and the forked child is a copy of the program that must
//! never run. Killing the daemon at any instruction ends neither.
//!
//! ```text
//!  daemon ──spawn──▶ thawd-monitor hold PID FREEZER      (standard input: the channel)
//!     ◀── "ready" ─────────────── it has tried that the kernel keeps forked pages as they are
//!     ──▶ "freeze" ─────────────▶ seizes all threads, forks each process, reaps the children, freezes
//!     ◀── {"held":{…}} or {"refused":{…}}, and then everything is as before
//!     ──▶ "release" ────────────▶ ends; CRIU has seized the tasks and thawed the cgroup
//!     ─── channel closed ───────▶ thaws, ends
//! ```

use std::os::fd::OwnedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sys::process::Deadline;

use crate::Error;
use crate::helper::Helper;
use crate::wire::{self, MAX_MESSAGE_BYTES};

/// What the daemon asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldRequest {
    /// Begin.
    Freeze,
    /// End, and leave the cgroup as it is.
    Release,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReply {
    /// This kernel can do it.
    Ready,
    /// The container is frozen, and its memory copy-on-write.
    Held {
        /// What is not, because the kernel writes to it when the process is made to run for the dump.
        written: Vec<WrittenArea>,
    },
    /// It was not possible; nothing is frozen.
    Refused {
        /// Why.
        reason: String,
    },
}

/// A place in a process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenArea {
    /// The process, in its own pid namespace.
    pub pid: u32,
    /// Where it begins.
    pub address: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// Ends the holding of a container from another thread, unless it was released.
#[derive(Debug)]
pub struct HoldStopper(OwnedFd);

impl HoldStopper {
    /// Has the container thawed.
    pub fn stop(&self) {
        // It fails when nobody is there any more.
        rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both).unwrap_or_default();
    }
}

/// The process that holds a container. Dropping it thaws the container, unless it was released.
#[derive(Debug)]
pub struct Holder(Helper);

impl Holder {
    /// Starts it for the processes from `init` down, which are in the freezer cgroup `freezer` (a
    /// directory of a v1 freezer or of v2). It gets ready meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`], [`Error::Io`].
    pub fn start(monitor_binary: &Path, init: u32, freezer: &Path) -> Result<Self, Error> {
        let arguments = |command: sys::process::Command| {
            let command = command.arg("hold").arg(init.to_string());
            command.arg(freezer)
        };
        Helper::start(monitor_binary, arguments).map(Self)
    }

    /// Freezes the container with its memory copy-on-write.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with its reason, [`Error::Ended`], [`Error::NoAnswer`] at the deadline,
    /// [`Error::Protocol`], [`Error::Io`]. Nothing is frozen once this was dropped.
    pub fn freeze(&mut self, deadline: Deadline) -> Result<Vec<WrittenArea>, Error> {
        match self.reply(deadline)? {
            HoldReply::Ready => {}
            reply => return Err(unexpected(reply)),
        }
        self.ask(HoldRequest::Freeze)?;
        match self.reply(deadline)? {
            HoldReply::Held { written } => Ok(written),
            reply => Err(unexpected(reply)),
        }
    }

    /// Lets it end without thawing: somebody else holds the tasks, and has thawed the cgroup.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it has ended already, and has thawed.
    pub fn release(&self) -> Result<(), Error> {
        self.ask(HoldRequest::Release)
    }

    /// Something with which another thread can end it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] without a free descriptor.
    pub fn stopper(&self) -> Result<HoldStopper, Error> {
        Ok(HoldStopper(self.0.channel()?.try_clone()?))
    }

    fn ask(&self, request: HoldRequest) -> Result<(), Error> {
        sys::socket::send(self.0.channel()?, &wire::encode(&request)?, &[])?;
        Ok(())
    }

    fn reply(&self, deadline: Deadline) -> Result<HoldReply, Error> {
        let channel = self.0.channel()?;
        let left = deadline.remaining().unwrap_or_default();
        if !sys::socket::poll_readable(channel, Some(left))? {
            return Err(Error::NoAnswer { limit: left });
        }
        let packet = sys::socket::recv(channel, MAX_MESSAGE_BYTES)?;
        if packet.is_end() {
            return Err(Error::Ended);
        }
        wire::decode(&packet.bytes)
    }
}

fn unexpected(reply: HoldReply) -> Error {
    match reply {
        HoldReply::Refused { reason } => Error::Refused { message: reason },
        reply => Error::Protocol {
            message: format!("{reply:?}"),
        },
    }
}
