//! The content of an archive against its manifest.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};

use sha2::{Digest as _, Sha256};

use super::scan::{Report, scan};
use super::{Archive, ReadLimits};
use crate::blocks;
use crate::error::{Error, Finding, Problem, quoted};
use crate::manifest::{Entry, Manifest};
use crate::names;

/// Bytes read and digested at a time.
const READ_BYTES: usize = 512 << 10;
/// Most findings of one archive.
const MAX_FINDINGS: usize = 1000;

/// Whether page images are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Their digests are compared too: as slow as the disk.
    Digest,
    /// Only their sizes and places are. Their content decides what the container's memory is, and
    /// nothing else, which its owner may choose anyway.
    SizeOnly,
}

/// Proof that an archive is what its manifest says.
#[derive(Debug, Clone, Copy)]
pub struct Verified<'a> {
    manifest: &'a Manifest,
}

impl<'a> Verified<'a> {
    pub(super) fn new(manifest: &'a Manifest) -> Self {
        Self { manifest }
    }

    /// The manifest, every entry of which has been compared.
    #[must_use]
    pub fn manifest(&self) -> &'a Manifest {
        self.manifest
    }
}

/// Everything that is wrong with an archive, as far as it can be read; at most 1000 findings.
/// None means that the archive is good.
///
/// # Errors
///
/// [`Error::Io`] when the file cannot be read.
pub fn findings(
    file: File,
    limits: &ReadLimits,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Finding>, Error> {
    let mut found = Vec::new();
    let mut collect = |finding| {
        found.push(finding);
        found.len() < MAX_FINDINGS
    };
    let scanned = scan(&file, limits, &mut collect)?;
    let complete = scanned.complete;
    let mut archive = Archive {
        file,
        index: HashMap::new(),
        entries: scanned.entries,
        manifest: None,
    };
    for (index, (name, _)) in archive.entries.iter().enumerate() {
        archive.index.insert(name.clone(), index);
    }
    if archive.location(names::MANIFEST).is_some() {
        let bytes = archive.read_small(names::MANIFEST, crate::MAX_MANIFEST_BYTES)?;
        match Manifest::parse(&bytes) {
            Ok(manifest) => archive.manifest = Some(manifest),
            Err(reason) => {
                let problem = Problem::Manifest { reason };
                collect(Finding {
                    entry: names::MANIFEST.to_owned(),
                    problem,
                });
            }
        }
    }
    verify(&archive, Pages::Digest, progress, &mut collect)?;
    if !complete {
        // What comes after the place where reading ended would be said to be missing.
        found.retain(|finding| finding.problem != Problem::Missing);
    }
    Ok(found)
}

/// Compares everything, as long as `report` wants to go on.
pub(super) fn verify(
    archive: &Archive,
    pages: Pages,
    progress: &mut dyn FnMut(u64),
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let listed = archive.manifest().map(|manifest| &manifest.entries);
    let mut expected: HashMap<&str, &Entry> = HashMap::new();
    for entry in listed.into_iter().flatten() {
        if expected.insert(&entry.name, entry).is_some()
            && !report(finding(&entry.name, Problem::Duplicate))
        {
            return Ok(());
        }
    }
    let mut buffer = vec![0_u8; READ_BYTES];
    let mut bytes = 0;
    for (name, location) in archive.entries() {
        let entry = expected.remove(name);
        let differs = |what, expected: u64, found: u64| {
            (expected != found).then_some(Problem::Differs {
                what,
                expected,
                found,
            })
        };
        let mut problem = match entry {
            Some(entry) => differs("size", entry.size, location.size)
                .or_else(|| differs("offset", entry.offset, location.offset)),
            None if archive.manifest.is_some() && name != names::MANIFEST => {
                Some(Problem::NotInManifest)
            }
            None => None,
        };
        let skip = pages == Pages::SizeOnly && names::page_image_number(name).is_some();
        if problem.is_none() && !skip {
            let scheme = entry.and_then(Entry::scheme);
            let before = bytes;
            let mut told = |read| {
                bytes = before + read;
                progress(bytes);
            };
            let digest = match scheme {
                Some(scheme) => blocks::of_entry(archive.file(), location, scheme, &mut told),
                None => digest(archive, name, &mut buffer, &mut told),
            };
            let digest = digest
                .map_err(|error| Error::io(format!("read {name} from the archive"), error))?;
            problem = match (digest, entry) {
                (None, _) => Some(Problem::Truncated),
                (Some(digest), Some(entry)) if digest != entry.digest() => Some(Problem::Digest),
                _ => None,
            };
        }
        if let Some(problem) = problem
            && !report(finding(name, problem))
        {
            return Ok(());
        }
    }
    let mut missing: Vec<&str> = expected.into_keys().collect();
    missing.sort_unstable();
    for name in missing {
        if !report(finding(name, Problem::Missing)) {
            break;
        }
    }
    Ok(())
}

fn finding(name: &str, problem: Problem) -> Finding {
    Finding {
        entry: quoted(name.as_bytes()),
        problem,
    }
}

/// The digest of an entry as it is, `None` when the file was cut.
fn digest(
    archive: &Archive,
    name: &str,
    buffer: &mut [u8],
    progress: &mut dyn FnMut(u64),
) -> io::Result<Option<String>> {
    let mut reader = archive.reader(name).map_err(io::Error::other)?;
    let mut digest = Sha256::new();
    let mut bytes = 0;
    while reader.remaining() > 0 {
        let read = reader.read(buffer)?;
        if read == 0 {
            return Ok(None);
        }
        digest.update(buffer.get(..read).unwrap_or_default());
        bytes += u64::try_from(read).map_err(io::Error::other)?;
        progress(bytes);
    }
    Ok(Some(hex::encode(digest.finalize())))
}
