//! What can go wrong, by what the caller can do about it.

use std::ffi::OsString;
use std::path::PathBuf;

use sys::process::{ExitStatus, RunError};

use crate::state::Status;

/// Why a call of the OCI runtime failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime knows no such container.
    #[error("container {id} does not exist below {}", root.display())]
    NotFound {
        /// The container.
        id: String,
        /// The runtime's state directory.
        root: PathBuf,
    },
    /// The container has no running process.
    #[error("container {id} is {status}")]
    NotRunning {
        /// The container.
        id: String,
        /// What it is instead.
        status: Status,
    },
    /// The runtime ended with an error.
    #[error("{0}")]
    Failed(Box<Failure>),
    /// The runtime, or the process that it was asked to run, did not end in time and was killed.
    #[error("{} did not end by its deadline and was killed", words(argv))]
    Deadline {
        /// Program and arguments.
        argv: Vec<OsString>,
    },
    /// The runtime could not be started or waited for.
    #[error("the OCI runtime could not be run")]
    Run(#[source] Box<RunError>),
    /// The program could not be started, or talking to it failed.
    #[error("{}", words(argv))]
    Io {
        /// Program and arguments.
        argv: Vec<OsString>,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The runtime succeeded but printed something else than was expected.
    #[error("{} printed what is no {expected}: {printed:?}", words(argv))]
    Output {
        /// Program and arguments.
        argv: Vec<OsString>,
        /// What was expected.
        expected: &'static str,
        /// The beginning of what it printed.
        printed: String,
    },
}

/// A runtime that ended with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// How it ended.
    pub status: ExitStatus,
    /// Its own error messages, bounded (see [`crate::log::errors`]).
    pub errors: Vec<String>,
    /// The end of its standard error, for when it died without a message.
    pub stderr_tail: String,
}

impl std::fmt::Display for Failure {
    /// The runtime's words if it had any; what it printed otherwise.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", words(&self.argv), self.status)?;
        if !self.errors.is_empty() {
            write!(f, ": {}", self.errors.join("; "))
        } else if !self.stderr_tail.is_empty() {
            write!(f, ": {}", self.stderr_tail)
        } else {
            Ok(())
        }
    }
}

/// A command line for people: the words, separated by spaces.
pub(crate) fn words(argv: &[OsString]) -> String {
    let words: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_quotes_the_runtime_and_falls_back_to_what_it_printed() {
        let mut failure = Failure {
            argv: vec!["runc".into(), "start".into(), "c1".into()],
            status: ExitStatus::Code(1),
            errors: vec!["one".into(), "two".into()],
            stderr_tail: "panic".into(),
        };
        assert_eq!(
            failure.to_string(),
            "runc start c1: exit status 1: one; two"
        );
        failure.errors.clear();
        assert_eq!(failure.to_string(), "runc start c1: exit status 1: panic");
        failure.stderr_tail.clear();
        assert_eq!(failure.to_string(), "runc start c1: exit status 1");
    }
}
