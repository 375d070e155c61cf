//! The files of an image tar, each stored once by number while its digest is computed.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::error::Error;
use crate::layer::Limits;
use crate::tar_stream::{Entry, Kind, TarLimits, TarReader};

/// Where they are stored below the staging directory.
pub(super) const DIRECTORY: &str = "input";

/// Most entries of an image tar: layers, documents and directories of a few hundred images.
const MAX_ENTRIES: u64 = 100_000;
/// Most links to follow from one name to another.
const MAX_LINKS: usize = 8;

/// One file of the input.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) path: PathBuf,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// All files of the input by name.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<String, Stored>,
    digests: BTreeMap<Digest, Stored>,
    /// From the name of a link to the name of its target.
    links: BTreeMap<String, String>,
}

impl Files {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A file by its name in the input; links lead to other names only.
    pub(super) fn get(&self, name: &str) -> Option<&Stored> {
        let mut name = name;
        for _ in 0..=MAX_LINKS {
            if let Some(stored) = self.files.get(name) {
                return Some(stored);
            }
            name = self.links.get(name)?;
        }
        None
    }

    pub(super) fn by_digest(&self, digest: &Digest) -> Option<&Stored> {
        self.digests.get(digest)
    }

    /// The bytes of a document.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, Error> {
        let missing = || Error::malformed(name, "is missing");
        self.get(name).ok_or_else(missing).and_then(Stored::read)
    }
}

impl Stored {
    /// The bytes of a document, bounded.
    pub(super) fn read(&self) -> Result<Vec<u8>, Error> {
        let file = std::fs::File::open(&self.path).map_err(Error::io("open", &self.path))?;
        let limit = crate::documents::MAX_DOCUMENT_BYTES;
        sys::fs::read_bounded(file, limit).map_err(Error::io("read", &self.path))
    }
}

/// Reads a whole tar; what is named after a digest must have it.
pub(super) fn read(input: impl Read, staging: &Path, limits: Limits) -> Result<Files, Error> {
    let dir = staging.join(DIRECTORY);
    sys::fs::make_dir_all(&dir, 0o700).map_err(Error::io("make directory", &dir))?;
    let limits = TarLimits {
        entries: MAX_ENTRIES,
        ..limits.tar()
    };
    let mut tar = TarReader::new(input, limits);
    let mut all = Files::default();
    let mut number = 0_u64;
    while let Some(entry) = tar.next()? {
        let name = clean(&entry.display(), "")?;
        match entry.kind {
            Kind::Directory => {}
            Kind::Regular => {
                let path = dir.join(number.to_string());
                number += 1;
                let stored = store(&entry, &mut tar, &path)?;
                keep(&mut all, name, stored)?;
            }
            Kind::Symlink | Kind::Hardlink => {
                let target = String::from_utf8_lossy(&entry.link).into_owned();
                let base = match entry.kind {
                    Kind::Symlink => name.rsplit_once('/').map_or("", |(parent, _)| parent),
                    _ => "",
                };
                let target = clean(&target, base).map_err(|_| {
                    Error::malformed(entry.display(), "is a link that leads out of the archive")
                })?;
                all.links.insert(name, target);
            }
            Kind::Char { .. } | Kind::Block { .. } | Kind::Fifo => {
                return Err(Error::malformed(
                    entry.display(),
                    "is no file, directory or link",
                ));
            }
        }
    }
    Ok(all)
}

fn store<R: Read>(entry: &Entry, tar: &mut TarReader<R>, path: &Path) -> Result<Stored, Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("make", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = tar.read_data(&mut buffer)?;
        let Some(data) = buffer.get(..count).filter(|data| !data.is_empty()) else {
            break;
        };
        hash.update(data);
        file.write_all(data).map_err(Error::io("write", path))?;
    }
    let digest = Digest::from_hex(&hex::encode(hash.finalize()))?;
    Ok(Stored {
        path: path.to_owned(),
        digest,
        size: entry.size,
    })
}

fn keep(all: &mut Files, name: String, stored: Stored) -> Result<(), Error> {
    if let Some(hex) = name.strip_prefix("blobs/sha256/") {
        Digest::from_hex(hex)?.expect(&name, &stored.digest)?;
    } else if name.starts_with("blobs/") {
        return Err(Error::malformed(
            name,
            "is no sha256 blob, the only kind known",
        ));
    }
    if let Some(other) = all.files.get(&name)
        && other.digest != stored.digest
    {
        return Err(Error::malformed(
            name,
            "is there twice with different contents",
        ));
    }
    all.digests.insert(stored.digest.clone(), stored.clone());
    all.files.insert(name, stored);
    Ok(())
}

/// A name within the archive, `.` and `..` resolved; `base` is the directory it is relative to.
fn clean(name: &str, base: &str) -> Result<String, Error> {
    let escapes = || Error::malformed(name, "leads out of the archive");
    if name.starts_with('/') {
        return Err(escapes());
    }
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(escapes)?),
            part => parts.push(part),
        }
    }
    // Only links may climb, and only within the archive.
    if base.is_empty() && name.split('/').any(|part| part == "..") {
        return Err(escapes());
    }
    Ok(parts.join("/"))
}
