//! What can go wrong, by what the caller can do about it.

use std::path::PathBuf;

/// Why an operation on sandboxes or containers failed. `cri-server` maps each variant to one gRPC code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such object (`NotFound`).
    #[error("{kind} {id:?} not found")]
    NotFound {
        /// `container`, `sandbox` or `image`.
        kind: &'static str,
        /// As asked for.
        id: String,
    },
    /// The name is taken (`AlreadyExists`).
    #[error("{what} already exists")]
    AlreadyExists {
        /// What, with its name.
        what: String,
    },
    /// The request itself is wrong (`InvalidArgument`).
    #[error("{field}: {problem}")]
    Invalid {
        /// The request's field, or the archive's entry.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The object is in a state that does not allow it (`FailedPrecondition`).
    #[error("{0}")]
    Precondition(String),
    /// Another operation is under way (`Aborted`).
    #[error("{0}")]
    Busy(String),
    /// Not allowed (`PermissionDenied`).
    #[error("{0}")]
    Denied(String),
    /// Not enough of something, usually disk (`ResourceExhausted`).
    #[error("{0}")]
    Exhausted(String),
    /// The deadline passed (`DeadlineExceeded`).
    #[error("{0}")]
    Deadline(String),
    /// The caller went away (`Cancelled`).
    #[error("{0}")]
    Cancelled(String),
    /// thawd is stopping (`Unavailable`).
    #[error("thawd is shutting down")]
    ShuttingDown,
    /// Something outside failed (`Unknown`/`Internal`): runtime, CNI, kernel, store.
    #[error("{context}")]
    Failed {
        /// What was being done, with operands.
        context: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// An [`Error::Failed`] with its context.
    pub fn failed(
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed {
            context: context.into(),
            source: source.into(),
        }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// An [`Error::Failed`] for a path.
    #[must_use]
    pub fn io(action: &str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::failed(format!("{action} {}", path.into().display()), source)
    }
}

/// An [`Error::NotFound`].
pub(crate) fn not_found(kind: &'static str, id: &str) -> Error {
    Error::NotFound {
        kind,
        id: id.to_owned(),
    }
}

/// A creation that failed, and whether anything of it is left.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Why.
    pub(crate) error: Error,
    /// Nothing is left. Otherwise the record of the intent must stay, so that the next start of
    /// the daemon finds what is.
    pub(crate) undone: bool,
}

/// An error and its causes in one line, outermost first.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
