//! What can go wrong with images, by what the caller can do about it.

use std::io;
use std::path::PathBuf;

/// Why an operation on images, layers or root filesystems failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A reference that names nothing by any rule.
    #[error("invalid image reference {reference:?}: {problem}")]
    Reference {
        /// As given.
        reference: String,
        /// Which rule it breaks.
        problem: &'static str,
    },
    /// The image is not on this node, and there is nothing to fetch it with.
    #[error(
        "image {reference:?} is not on this node; load it with `thaw image load` \
         (there is no registry client yet)"
    )]
    NotPresent {
        /// As asked for.
        reference: String,
    },
    /// There is no root filesystem of that id.
    #[error("no root filesystem {id:?}")]
    NoRootfs {
        /// As asked for.
        id: String,
    },
    /// The input is not an image, or breaks a rule of its format.
    #[error("{entry:?}: {problem}")]
    Malformed {
        /// Entry of the tar, blob, or field of a document.
        entry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The content does not have the digest that it is known by.
    #[error("{entry:?} has digest {actual} instead of {expected}")]
    DigestMismatch {
        /// Entry or blob.
        entry: String,
        /// What it should have.
        expected: String,
        /// What it has.
        actual: String,
    },
    /// No image in the input is for this machine.
    #[error("no image for {wanted} in it, only for {found}")]
    Platform {
        /// This machine, such as `linux/amd64`.
        wanted: String,
        /// What there is, separated by commas.
        found: String,
    },
    /// A limit on hostile input was exceeded.
    #[error("{entry:?}: {what} exceeds the limit of {limit}")]
    Limit {
        /// Entry at which it happened.
        entry: String,
        /// What was counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The filesystem refused something.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The input could not be read.
    #[error("read the image")]
    Read(#[source] io::Error),
    /// The database failed.
    #[error("{action} the records in {}", path.display())]
    Records {
        /// What was being done.
        action: &'static str,
        /// The database's file.
        path: PathBuf,
        /// redb's error.
        #[source]
        source: Box<redb::Error>,
    },
    /// One record cannot be read or written.
    #[error("record {key:?} in table {table:?}: {problem}")]
    Record {
        /// Table.
        table: String,
        /// Key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The task that did the work was lost.
    #[error("the worker thread ended early")]
    Worker(#[source] tokio::task::JoinError),
}

impl Error {
    /// A closure for `map_err` that adds the operands of a file operation.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// An [`Error::Malformed`].
    pub(crate) fn malformed(entry: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed {
            entry: entry.into(),
            problem: problem.into(),
        }
    }
}
