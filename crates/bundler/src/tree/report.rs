//! What was captured or made, and how much may be made.

use std::path::PathBuf;

use crate::error::Error;

/// How many left-out files a report lists.
pub(super) const MAX_SKIPPED: usize = 1000;

/// What went into the tar, and what did not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureReport {
    /// Number of files that are not directories.
    pub files: u64,
    /// Number of directories.
    pub directories: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Paths (absolute in the container) that the container deleted.
    pub deleted: Vec<PathBuf>,
    /// Directories (absolute in the container) that hide what the layers below have in them.
    pub opaque: Vec<PathBuf>,
    /// What was left out; the first 1000.
    pub skipped: Vec<Skipped>,
}

impl CaptureReport {
    /// The content of `deleted.files`: a JSON array of the deleted paths, and of the names that
    /// mark them in the layer. Engines that do not know whiteouts unpack these as files, and then
    /// delete what is listed here, so that both ways of reading end in the same tree. Paths that
    /// are not UTF-8 cannot be said in JSON and are marked in the layer only.
    ///
    /// # Errors
    ///
    /// None in practice: strings can always be written.
    pub fn deleted_files(&self) -> Result<Vec<u8>, Error> {
        let mark = |path: &PathBuf, prefix: &str| {
            let name = path.file_name()?.to_str()?;
            Some(path.with_file_name(format!("{prefix}{name}")))
        };
        let marks = self.deleted.iter().filter_map(|path| mark(path, ".wh."));
        let opaque = self.opaque.iter().map(|path| path.join(".wh..wh..opq"));
        let all: Vec<PathBuf> = self
            .deleted
            .iter()
            .cloned()
            .chain(marks)
            .chain(opaque)
            .collect();
        let texts: Vec<&str> = all.iter().filter_map(|path| path.to_str()).collect();
        serde_json::to_vec(&texts).map_err(|error| Error::io("list deleted files", error.into()))
    }
}

/// A file that is not in the tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its path, relative to the directory.
    pub path: PathBuf,
    /// Why it was left out.
    pub reason: &'static str,
}

/// What is done with device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// They make the tar invalid.
    Refuse,
    /// They are left out and listed: the container's devices come from its request.
    Skip,
}

/// How much a tar may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of entries.
    pub entries: u64,
    /// Bytes of content of all files.
    pub bytes: u64,
    /// Size of one file; the holes of sparse files count.
    pub file_bytes: u64,
    /// What is done with device nodes.
    pub devices: Devices,
}

impl Limits {
    /// For the content of a tmpfs, which also has a size of its own.
    #[must_use]
    pub fn tmpfs() -> Self {
        Self {
            entries: 1 << 20,
            bytes: 64 << 30,
            file_bytes: 1 << 40,
            devices: Devices::Skip,
        }
    }

    /// For a root filesystem. Archives are not compressed, so their content takes no more space
    /// than they do.
    #[must_use]
    pub fn rootfs() -> Self {
        Self {
            entries: 4 << 20,
            bytes: 1 << 42,
            file_bytes: 1 << 43,
            devices: Devices::Skip,
        }
    }
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Number of files that are not directories.
    pub files: u64,
    /// Number of directories.
    pub directories: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Number of deletions, of names that existed or not.
    pub deleted: u64,
    /// What was left out; the first 1000.
    pub skipped: Vec<Skipped>,
}
