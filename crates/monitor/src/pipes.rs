//! Keeping CRIU from waiting for a daemon that is gone.
//!
//! CRIU writes memory to named pipes that the daemon reads. Opening one that nobody reads blocks for
//! ever (`fifo_open` in fs/pipe.c), and a CRIU that is blocked keeps the container's tasks stopped. So a
//! process beside it has nothing to do but to notice that the daemon was killed, and to end the pipes.
//!
//! ```text
//!  daemon ──spawn──▶ thawd-monitor pipes COUNT     (standard input: the channel; 3: the directory)
//!     ──▶ one packet ───────────▶ ends: CRIU has ended
//!     ─── channel closed ───────▶ who waits at a pipe is let in and finds it broken, the names of all are
//!                                 taken by directories: CRIU fails, and lets the tasks run by itself
//! ```

use std::os::fd::AsFd;
use std::path::Path;

use crate::Error;
use crate::helper::Helper;

/// The directory's number in the process.
pub const DIRECTORY: i32 = 3;

/// The process. Dropping it ends the pipes, unless CRIU has ended.
#[derive(Debug)]
pub struct PipeWatch(Helper);

/// The name of page image `number` in CRIU's images directory.
#[must_use]
pub fn page_image(number: u32) -> String {
    format!("pages-{number}.img")
}

impl PipeWatch {
    /// Watches over the named pipes `pages-1.img` to `pages-COUNT.img` in `directory`.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`], [`Error::Io`].
    pub fn start(monitor_binary: &Path, directory: impl AsFd, count: u32) -> Result<Self, Error> {
        let directory = directory.as_fd().try_clone_to_owned()?;
        let arguments = |command: sys::process::Command| {
            let command = command.arg("pipes").arg(count.to_string());
            command.fd(directory, DIRECTORY)
        };
        Helper::start(monitor_binary, arguments).map(Self)
    }

    /// CRIU has ended: nobody opens a pipe any more.
    pub fn done(self) {
        if let Ok(channel) = self.0.channel() {
            // One that was killed has nothing to do either.
            sys::socket::send(channel, b"done", &[]).unwrap_or_default();
        }
    }
}
