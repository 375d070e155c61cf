//! Ending what is below this process: as the subreaper it is given every orphan of what it started.

use std::time::Duration;

use sys::process::Deadline;
use sys::signal;

/// How often those that begin while others are being ended are looked for.
const KILL_ROUNDS: u32 = 8;

/// How long one round waits for what it has killed.
const KILL_WAIT: Duration = Duration::from_millis(500);

/// Kills everything below us, over and over until there is nothing: a process that is being killed may
/// have begun another one just before.
pub(crate) fn end() {
    for _ in 0..KILL_ROUNDS {
        let mut killed = sys::pidfd::open_below(std::process::id()).unwrap_or_default();
        killed.retain(|pidfd| sys::pidfd::send_signal(pidfd, signal::KILL).is_ok());
        if killed.is_empty() {
            return;
        }
        let deadline = Deadline::after(KILL_WAIT);
        for pidfd in &killed {
            let left = deadline.remaining().unwrap_or_default();
            drop(sys::pidfd::wait_exit(pidfd, Some(left)));
        }
        while let Ok(Some(_)) = sys::pidfd::reap_any() {}
    }
}
