//! Child processes: started with a known environment, ended with their guard.
//!
//! # Invariants
//! - A child has the descriptors it was given and no others: everything above its standard three
//!   and its mapped ones is closed in it, whatever flags it has here.
//! - Its signal handlers are the default ones and no signal is blocked.
//! - It leads a process group of its own unless it leads a session.
//! - It is reaped on every path. Dropping a [`Child`] that has not been waited for kills its group;
//!   [`Child::leave`] is the one way out.
//!
//! ```text
//!  Command ──spawn──▶ Child ──wait──▶ ExitStatus
//!     └──────output(stdin, limits, deadline)──▶ Output | RunError
//! ```
//!
//! posix_spawn(3) starts them: no code of ours runs between fork and exec, the parent's memory is
//! not copied, and a failed exec is reported as the error of `spawn`.

mod child;
mod command;
mod inherit;
mod output;
mod schedule;
mod spawn;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use child::Child;
pub use command::{Command, Stdio};
pub use inherit::take_inherited;
pub use output::{Output, OutputLimits, RunError, RunErrorKind};
pub use schedule::{Weight, set_weight};
pub(crate) use spawn::try_close_range;

/// A point in time by which something must be done. Passed down and shortened, never extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// The longest deadline there is: what is asked for beyond it cannot be told from "never".
const LONGEST: Duration = Duration::from_secs(60 * 60 * 24 * 365);

impl Deadline {
    /// So long from now, at most a year.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(duration.min(LONGEST)).unwrap_or(now))
    }

    /// At this instant.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The instant.
    #[must_use]
    pub fn instant(self) -> Instant {
        self.0
    }

    /// Time left; `None` when it has passed.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        self.0
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(self) -> bool {
        self.remaining().is_none()
    }

    /// The earlier of the two.
    #[must_use]
    pub fn sooner(self, other: Self) -> Self {
        self.min(other)
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it.
    Signal(i32),
}

impl ExitStatus {
    /// The exit code as shells and container runtimes show it: 128 + number for a signal.
    #[must_use]
    pub fn code_or_128_plus_signal(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => {
                u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128))
            }
        }
    }

    /// Whether it exited with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// From what waitid(2) told; `None` when the process has not ended.
    #[must_use]
    pub fn from_waitid(status: &rustix::process::WaitIdStatus) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            // The kernel keeps the low eight bits of what was passed to exit(2).
            return Some(Self::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
        }
        status.terminating_signal().map(Self::Signal)
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}
