//! A process that does one thing for the daemon, and ends when it is gone.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use sys::process::{Child, Command, Stdio};

use crate::Error;

/// How long it may take to end once the channel is closed. It is left alone afterwards, never killed.
const GRACE: Duration = Duration::from_secs(10);

/// The process. Dropping it closes the channel and waits for its end.
#[derive(Debug)]
pub(crate) struct Helper {
    channel: Option<OwnedFd>,
    child: Option<Child>,
}

impl Helper {
    /// Starts `thawd-monitor` with its end of the channel as standard input; `with` says the rest.
    pub(crate) fn start(
        monitor_binary: &Path,
        with: impl FnOnce(Command) -> Command,
    ) -> Result<Self, Error> {
        let (ours, theirs) = sys::socket::seqpacket_pair()?;
        let child = with(Command::new(monitor_binary))
            .cwd("/")
            .stdin(Stdio::Fd(theirs))
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

    /// The daemon's end of the channel.
    pub(crate) fn channel(&self) -> Result<&OwnedFd, Error> {
        self.channel.as_ref().ok_or(Error::Ended)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.channel = None;
        if let Some(mut child) = self.child.take()
            && !matches!(child.wait(Some(GRACE)), Ok(Some(_)))
        {
            child.leave();
        }
    }
}
