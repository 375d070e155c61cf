//! Holding restored tasks before their first instruction.
//!
//! ```text
//!  relay (at post-restore)                  holder (listens at hold_socket)
//!    connect ─────────────────────────────▶ accept
//!    {"version":1,"pid":4711} ────────────▶
//!            tasks are rebuilt, none has run; minutes or days
//!            ◀───────────────────────────── one byte: 'g' go on, 'x' give up
//! ```
//!
//! A holder that goes away is waited for: the relay connects again until somebody answers, or the
//! runtime or CRIU ends. So the daemon may be restarted meanwhile.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sys::process::Deadline;
use sys::socket;

/// Answer: let the tasks run.
const GO_ON: u8 = b'g';
/// Answer: fail the restore.
const GIVE_UP: u8 = b'x';
/// Longest message of either side.
const MAX_BYTES: usize = 4096;
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    version: u32,
    pid: Option<u32>,
}

/// What the holder decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    GoOn,
    GiveUp,
}

/// A connection to the holder.
#[derive(Debug)]
pub(super) struct Connection(OwnedFd);

impl Connection {
    /// Connects and tells of the root task.
    pub(super) fn open(path: &Path, pid: Option<u32>) -> io::Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        let (Some(dir), Some(name)) = (path.parent(), name) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "hold_socket is no file",
            ));
        };
        let dir = sys::fs::open_dir(dir)?;
        let connection = socket::seqpacket_connect(dir.as_fd(), name)?;
        let hello = serde_json::to_vec(&Hello {
            version: VERSION,
            pid,
        })?;
        socket::send(&connection, &hello, &[])?;
        Ok(Self(connection))
    }

    /// Reads the answer that is there; `None` when the holder has gone away without one.
    pub(super) fn answer(&self) -> Option<Answer> {
        let packet = socket::recv(&self.0, MAX_BYTES).ok()?;
        match packet.bytes.first() {
            Some(&GIVE_UP) => Some(Answer::GiveUp),
            Some(_) => Some(Answer::GoOn),
            None => None,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The holder's side: restored tasks that wait for their release. Dropped without an answer, they
/// go on waiting for a next holder at the same path.
#[derive(Debug)]
pub struct HeldRestore {
    socket: OwnedFd,
    pid: Option<u32>,
}

/// A holder's failure.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Nothing was held by the deadline.
    #[error("no restore was held at {} by the deadline", path.display())]
    Deadline {
        /// The listening socket.
        path: PathBuf,
    },
    /// The socket failed.
    #[error("cannot talk to the relay")]
    Talk(#[from] io::Error),
    /// The relay sent something else, or is a newer one.
    #[error("the relay sent {got:?}")]
    Protocol {
        /// What it sent, cut.
        got: String,
    },
}

impl HeldRestore {
    /// Waits on a listening socket ([`socket::seqpacket_listen`]) for a relay that holds; `path` is
    /// for messages.
    ///
    /// # Errors
    ///
    /// Every variant of [`HoldError`].
    pub fn accept(listener: impl AsFd, path: &Path, deadline: Deadline) -> Result<Self, HoldError> {
        let late = || HoldError::Deadline {
            path: path.to_owned(),
        };
        if !socket::poll_readable(&listener, Some(deadline.remaining().ok_or_else(late)?))? {
            return Err(late());
        }
        let socket = socket::seqpacket_accept(&listener)?;
        if !socket::poll_readable(&socket, Some(deadline.remaining().ok_or_else(late)?))? {
            return Err(late());
        }
        let packet = socket::recv(&socket, MAX_BYTES)?;
        match serde_json::from_slice::<Hello>(&packet.bytes) {
            Ok(Hello {
                version: VERSION,
                pid,
            }) => Ok(Self { socket, pid }),
            _ => Err(HoldError::Protocol {
                got: String::from_utf8_lossy(&packet.bytes).into_owned(),
            }),
        }
    }

    /// The root task in CRIU's PID namespace, where CRIU told it.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Lets the tasks run.
    ///
    /// # Errors
    ///
    /// What sendmsg(2) returns: the relay has gone away, and the tasks with it.
    pub fn release(self) -> io::Result<()> {
        socket::send(&self.socket, &[GO_ON], &[])
    }

    /// Fails the restore: CRIU removes the tasks.
    ///
    /// # Errors
    ///
    /// As [`Self::release`].
    pub fn abort(self) -> io::Result<()> {
        socket::send(&self.socket, &[GIVE_UP], &[])
    }
}
