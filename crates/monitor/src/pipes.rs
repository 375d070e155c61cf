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

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use sys::process::{Child, Command, Stdio};

use crate::Error;

/// The directory's number in the process.
pub const DIRECTORY: i32 = 3;
/// How long it may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// The process. Dropping it ends the pipes, unless CRIU has ended.
#[derive(Debug)]
pub struct PipeWatch {
    channel: Option<OwnedFd>,
    child: Option<Child>,
}

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
        let (ours, theirs) = sys::socket::seqpacket_pair()?;
        let child = Command::new(monitor_binary)
            .arg("pipes")
            .arg(count.to_string())
            .cwd("/")
            .stdin(Stdio::Fd(theirs))
            .fd(directory.as_fd().try_clone_to_owned()?, DIRECTORY)
            .new_process_group()
            .spawn()
            .map_err(|source| Error::Spawn {
                binary: monitor_binary.to_owned(),
                source,
            })?;
        Ok(Self {
            channel: Some(ours),
            child: Some(child),
        })
    }

    /// CRIU has ended: nobody opens a pipe any more.
    pub fn done(self) {
        if let Some(channel) = &self.channel {
            // One that was killed has nothing to do either.
            sys::socket::send(channel, b"done", &[]).unwrap_or_default();
        }
    }
}

impl Drop for PipeWatch {
    fn drop(&mut self) {
        self.channel = None;
        if let Some(mut child) = self.child.take()
            && !matches!(child.wait(Some(GRACE)), Ok(Some(_)))
        {
            child.leave();
        }
    }
}
