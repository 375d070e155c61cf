//! Waiting for what another process does, never longer than a deadline.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

/// The longest wait of a step that is expected to take less than a second: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Probes until there is a value. For conditions that no event tells of.
///
/// # Errors
/// When the time is over, or when the probe fails.
pub(crate) fn until<T>(
    what: &str,
    patience: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {patience:?}");
        }
        pause(Duration::from_millis(10));
    }
}

/// Probes at each change of a file in the directory, until there is a value.
///
/// # Errors
/// When the time is over, or when the probe or the watch fails.
pub(crate) fn until_changed<T>(
    what: &str,
    directory: &Path,
    patience: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::DELETE;
    inotify::add_watch(&watch, directory, events)?;
    loop {
        // The watch stands before the first look, so that no change falls in between.
        if let Some(value) = probe()? {
            return Ok(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("{what}: not within {patience:?}");
        }
        let mut fds = [PollFd::new(&watch, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::try_from(left)?))?;
        let mut buffer = [0; 4096];
        // Which event it was does not matter; an empty queue is no error.
        while rustix::io::read(&watch, &mut buffer).is_ok_and(|length| length > 0) {}
    }
}

/// Lets time pass on purpose: the thing under test is that nothing happens meanwhile.
#[expect(clippy::disallowed_methods, reason = "the interval itself is wanted")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
