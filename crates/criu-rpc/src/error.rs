//! What can go wrong between a caller and CRIU.

use std::fmt;
use std::io;
use std::path::PathBuf;

use sys::process::ExitStatus;

use crate::Version;

/// A callback's error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What was asked of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Its version.
    Version,
    /// Its features on this kernel.
    FeatureCheck,
    /// To write `cpuinfo.img`.
    CpuinfoDump,
    /// To compare `cpuinfo.img` with this machine.
    CpuinfoCheck,
    /// A dump.
    Dump,
    /// A restore.
    Restore,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "version",
            Self::FeatureCheck => "feature check",
            Self::CpuinfoDump => "cpuinfo dump",
            Self::CpuinfoCheck => "cpuinfo check",
            Self::Dump => "dump",
            Self::Restore => "restore",
        })
    }
}

/// Why CRIU was asked to stop.
#[derive(Debug)]
pub enum Stop {
    /// The [`CancelToken`](crate::CancelToken).
    Cancelled,
    /// The deadline.
    Deadline,
    /// The callback's error at a stage.
    Refused {
        /// The stage's name.
        stage: String,
        /// The error.
        source: BoxError,
    },
    /// CRIU had answered and did not end.
    Lingering,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::Deadline => f.write_str("deadline passed"),
            Self::Refused { stage, source } => write!(f, "refused at {stage}: {source}"),
            Self::Lingering => f.write_str("it had answered and did not end"),
        }
    }
}

/// A request that CRIU did not fulfil.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such program. See [`Version::requirement`] for the wording.
    #[error("{}, found none at {}", needed.requirement(kernel), binary.display())]
    Missing {
        /// Where it was looked for.
        binary: PathBuf,
        /// The oldest version that would do.
        needed: Version,
        /// This kernel's release.
        kernel: String,
    },
    /// It is too old for this kernel.
    #[error("{}, found {found} at {}", needed.requirement(kernel), binary.display())]
    TooOld {
        /// The program.
        binary: PathBuf,
        /// Its version.
        found: Version,
        /// The oldest version that would do.
        needed: Version,
        /// This kernel's release.
        kernel: String,
    },
    /// It claims a version that is new enough, but cannot dump a process of ours.
    #[error("{} and a working one: {found} at {} cannot dump a process that listens on TCP", needed.requirement(kernel), binary.display())]
    Probe {
        /// The program.
        binary: PathBuf,
        /// Its version.
        found: Version,
        /// The oldest version that would do.
        needed: Version,
        /// This kernel's release.
        kernel: String,
        /// Why it cannot.
        #[source]
        cause: Box<Error>,
    },
    /// The program could not be started.
    #[error("cannot start {}", binary.display())]
    Start {
        /// The program.
        binary: PathBuf,
        /// What execve(2) and its preparation returned.
        #[source]
        source: io::Error,
    },
    /// The socket to CRIU, or waiting for it, failed.
    #[error("cannot talk to criu")]
    Talk(#[source] io::Error),
    /// CRIU sent something that is not its protocol.
    #[error("criu answered {got}")]
    Protocol {
        /// What it sent.
        got: String,
    },
    /// An option that cannot be sent.
    #[error("option {option} must not be {value}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What it was.
        value: String,
    },
    /// CRIU ended without an answer.
    #[error(
        "criu {operation}: {status} without an answer{}",
        quoted(stderr_tail, log_tail)
    )]
    Ended {
        /// What it was doing.
        operation: Operation,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        stderr_tail: String,
        /// The end of its log.
        log_tail: String,
    },
    /// CRIU failed and said so. The tasks run on (dump) or were undone (restore).
    #[error("criu {operation} failed{}", causes(first_errors, message))]
    Criu {
        /// What it was doing.
        operation: Operation,
        /// Its error number, where it told one.
        errno: Option<i32>,
        /// Its message: the first error of the log, which need not be the cause.
        message: Option<String>,
        /// The errors of its log without known noise, in order, bounded.
        first_errors: Vec<String>,
        /// The end of its log.
        log_tail: String,
    },
    /// The callback refused a stage; CRIU undid what it had done.
    #[error("refused at {stage}")]
    Refused {
        /// The stage's name.
        stage: String,
        /// The callback's error.
        #[source]
        source: BoxError,
    },
    /// Cancelled; CRIU undid what it had done.
    #[error("criu {operation} was cancelled")]
    Cancelled {
        /// What it was doing.
        operation: Operation,
    },
    /// The deadline passed; CRIU undid what it had done.
    #[error("criu {operation} did not end by its deadline")]
    Deadline {
        /// What it was doing.
        operation: Operation,
        /// The end of its log.
        log_tail: String,
    },
    /// CRIU was asked to stop, did not, and was killed. Tasks may be frozen, traced or damaged, and
    /// the network locked: look at them.
    #[error("criu {operation} had to be killed: {reason}")]
    Killed {
        /// What it was doing.
        operation: Operation,
        /// Why it should have stopped.
        reason: Stop,
        /// The end of its log.
        log_tail: String,
    },
    /// A preparation of [`Criu::probe`](crate::Criu::probe) failed.
    #[error("cannot prepare criu's test: {what}")]
    Prepare {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How many of the log's errors a message shows.
const SHOWN_ERRORS: usize = 3;

fn causes(first_errors: &[String], message: &Option<String>) -> String {
    let shown: Vec<&str> = if first_errors.is_empty() {
        message.as_deref().into_iter().collect()
    } else {
        first_errors
            .iter()
            .map(String::as_str)
            .take(SHOWN_ERRORS)
            .collect()
    };
    if shown.is_empty() {
        String::new()
    } else {
        format!(": {}", shown.join("; "))
    }
}

fn quoted(stderr_tail: &str, log_tail: &str) -> String {
    let text = if stderr_tail.trim().is_empty() {
        log_tail
    } else {
        stderr_tail
    };
    match text.trim().lines().last() {
        Some(line) => format!(": {line}"),
        None => String::new(),
    }
}
