//! What goes wrong with archives: our own failures, and what is wrong with somebody else's file.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Failure of an operation on an archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filesystem or the quota is full.
    #[error("no space left while {action}")]
    NoSpace {
        /// What was being done.
        action: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The name that the archive is to have is taken.
    #[error("{} exists already", path.display())]
    Exists {
        /// The archive's path.
        path: PathBuf,
    },
    /// The archive cannot be made there.
    #[error("{} cannot hold an archive: {reason}", path.display())]
    Location {
        /// The archive's path.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
        /// What the kernel said, when it was asked.
        #[source]
        source: Option<io::Error>,
    },
    /// We were asked to write an entry that no reader would accept.
    #[error("{} cannot be an entry of an archive: {reason}", quoted(name.as_bytes()))]
    Name {
        /// The entry's name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The memory did not arrive in time.
    #[error("memory was still arriving at the deadline, after {bytes} bytes")]
    Deadline {
        /// Bytes that had arrived.
        bytes: u64,
    },
    /// The capture was given up by its owner.
    #[error("the capture of memory was cancelled")]
    Cancelled,
    /// The room kept for the largest page image was too small for it.
    #[error("{name} outgrew the {reserved_bytes} bytes kept for it")]
    Outgrown {
        /// The page image.
        name: String,
        /// Bytes kept for it.
        reserved_bytes: u64,
    },
    /// The archive, or a tar inside it, is not what it has to be.
    #[error(transparent)]
    Invalid(#[from] Finding),
    /// The archive has no such entry.
    #[error("the archive has no entry {}", quoted(name.as_bytes()))]
    Missing {
        /// The entry's name.
        name: String,
    },
    /// A file of the container has a property that the archive cannot hold.
    #[error("{} cannot be archived: {reason}", path.display())]
    Unsupported {
        /// The file, relative to the captured directory.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
}

impl Error {
    /// A failed system call; a full disk gets a variant of its own.
    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { action, source }
            }
            _ => Self::Io { action, source },
        }
    }

    pub(crate) fn invalid(entry: impl AsRef<[u8]>, problem: Problem) -> Self {
        Self::Invalid(Finding {
            entry: quoted(entry.as_ref()),
            problem,
        })
    }
}

/// One thing that is wrong with an archive, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{entry}: {problem}")]
pub struct Finding {
    /// Name of the entry, with unusual bytes escaped and cut to a readable length; for headers
    /// without one, their offset.
    pub entry: String,
    /// What is wrong with it.
    #[source]
    pub problem: Problem,
}

/// What can be wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The file does not begin like an uncompressed tar archive.
    NotTar {
        /// What it looks like instead, when that is known.
        looks_like: Option<&'static str>,
    },
    /// The file ends inside this entry, or before the end marker.
    Truncated,
    /// Something other than zeros follows the end marker.
    TrailingData,
    /// The header's checksum does not match.
    Checksum,
    /// A number in the header cannot be read or is out of range.
    Number {
        /// The field.
        field: &'static str,
    },
    /// An extended header is malformed.
    ExtendedHeader {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The name is empty, absolute, too long, has empty, `.` or `..` parts, or unusual bytes.
    UncleanName,
    /// The name is none that an archive has.
    UnknownName,
    /// The name occurred before.
    Duplicate,
    /// Neither a regular file nor a directory where only these are allowed, or a file where a
    /// directory belongs and the other way round.
    WrongType {
        /// What it is.
        found: &'static str,
    },
    /// More entries than allowed.
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// Larger than allowed.
    TooLarge {
        /// Bytes found.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// An entry that has to be there is not.
    Missing,
    /// The manifest does not list this entry.
    NotInManifest,
    /// Size or place differ from the manifest.
    Differs {
        /// `size` or `offset`.
        what: &'static str,
        /// What the manifest says.
        expected: u64,
        /// What the archive has.
        found: u64,
    },
    /// The content's SHA-256 is not the manifest's.
    Digest,
    /// The manifest is not valid.
    Manifest {
        /// What is wrong with it.
        reason: String,
    },
    /// The path's parent is not a directory below the target, or a link leads to it.
    Parent {
        /// What the kernel said.
        reason: String,
    },
    /// A whiteout that names nothing, or has content.
    Whiteout,
    /// The target of a hard link is not a file below the target directory.
    HardLink {
        /// What is wrong with it.
        reason: String,
    },
    /// A map of a sparse file is malformed.
    SparseMap,
    /// An extended attribute that no archive may set.
    Attribute {
        /// Its name.
        name: String,
    },
    /// The kernel refused to make the file as described.
    Refused {
        /// What it said.
        reason: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTar { looks_like: None } => write!(f, "not a tar archive"),
            Self::NotTar {
                looks_like: Some(what),
            } => {
                write!(f, "not an uncompressed tar archive but {what}")
            }
            Self::Truncated => write!(f, "the archive ends in the middle"),
            Self::TrailingData => write!(f, "data after the end of the archive"),
            Self::Checksum => write!(f, "the header's checksum does not match"),
            Self::Number { field } => write!(f, "unreadable or impossible {field}"),
            Self::ExtendedHeader { reason } => write!(f, "bad extended header: {reason}"),
            Self::UncleanName => write!(f, "the name is not a clean relative path"),
            Self::UnknownName => write!(f, "no archive has an entry of this name"),
            Self::Duplicate => write!(f, "the name occurs twice"),
            Self::WrongType { found } => write!(f, "a {found} is not allowed here"),
            Self::TooManyEntries { limit } => write!(f, "more than {limit} entries"),
            Self::TooLarge {
                size_bytes,
                limit_bytes,
            } => {
                write!(f, "{size_bytes} bytes where {limit_bytes} are allowed")
            }
            Self::Missing => write!(f, "the entry is missing"),
            Self::NotInManifest => write!(f, "the manifest does not list it"),
            Self::Differs {
                what,
                expected,
                found,
            } => {
                write!(f, "its {what} is {found}, the manifest says {expected}")
            }
            Self::Digest => write!(f, "the content does not match its digest"),
            Self::Manifest { reason } => write!(f, "invalid manifest: {reason}"),
            Self::Parent { reason } => write!(f, "its directory cannot be used: {reason}"),
            Self::Whiteout => write!(f, "a whiteout that marks nothing"),
            Self::HardLink { reason } => write!(f, "bad hard link: {reason}"),
            Self::SparseMap => write!(f, "bad map of a sparse file"),
            Self::Attribute { name } => write!(f, "the attribute {name} is not allowed"),
            Self::Refused { reason } => write!(f, "cannot be made: {reason}"),
        }
    }
}

impl std::error::Error for Problem {}

/// A name as it can be shown: escaped where it is not printable ASCII, at most 160 characters.
pub(crate) fn quoted(name: &[u8]) -> String {
    const SHOWN: usize = 160;
    let cut = name.get(..SHOWN).unwrap_or(name);
    let mut text = cut.escape_ascii().to_string();
    if cut.len() < name.len() {
        text.push_str("...");
    }
    text
}
