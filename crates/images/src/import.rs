//! Images on their way in: read, checked and laid out by `thaw`, adopted by the daemon's pull.
//!
//! ```text
//! <root>/imports/
//!   .tmp-<random>/        being prepared; locked (flock) by the process that prepares it
//!   <random>/             complete
//!     blobs/sha256/<hex>  as in an OCI image layout
//!     import.json         {"version":1,"created_ns":…,"images":[{"names":[…],"manifest":…,"target":…}]}
//! ```
//!
//! `thaw` has no private way into the daemon: it publishes a directory here and calls PullImage with
//! the name. The daemon trusts nothing in it: it verifies every digest again. A registry client
//! will produce the same directory.
//!
//! # Invariants
//! - A directory without a leading dot is complete. What a dead process left is removed by the next
//!   one; what nobody pulled for a day is removed when the daemon starts.
//! - Blobs are files named by the digest of their bytes; nothing from the input is ever a path.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::content::Blobs;
use crate::digest::Digest;
use crate::documents::{self, Config, MAX_DOCUMENT_BYTES, Manifest};
use crate::error::Error;
use crate::layer::{self, Limits};
use crate::reference::Reference;

mod checkpoint;
mod docker;
mod input;
mod layout;

pub(crate) use checkpoint::container_name;
pub use checkpoint::{CheckpointFacts, prepare_checkpoint};

const VERSION: u32 = 1;
const FILE: &str = "import.json";
const TEMPORARY: &str = ".tmp-";
/// How long a complete import waits for its pull.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// What was prepared; pull one of the names, or the id where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Every image of the input that is for this machine.
    pub images: Vec<PreparedImage>,
}

/// One image that waits for its pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedImage {
    /// Its id: `sha256:…` of its configuration.
    pub id: String,
    /// Its normalised names.
    pub names: Vec<String>,
}

impl PreparedImage {
    /// The reference to give to PullImage.
    #[must_use]
    pub fn reference(&self) -> &str {
        self.names.first().unwrap_or(&self.id)
    }
}

/// `import.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportFile {
    pub(crate) version: u32,
    pub(crate) created_ns: u64,
    pub(crate) images: Vec<ImportedImage>,
}

/// One image in an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportedImage {
    /// Id, which is the digest of the configuration.
    pub(crate) id: Digest,
    /// Normalised references with a tag.
    pub(crate) names: Vec<String>,
    /// The manifest for this machine.
    pub(crate) manifest: Digest,
    /// What the names stand for: that manifest, or the index it was chosen from.
    pub(crate) target: Digest,
}

/// Reads an OCI image layout or a `docker save` archive, plain or compressed, from a tar stream
/// and publishes it for the daemon.
///
/// `root` is thawd's root directory. `names` replace the names in the input; they need an input
/// with a single image.
///
/// # Errors
///
/// [`Error::Malformed`], [`Error::DigestMismatch`], [`Error::Limit`] or [`Error::Platform`] for
/// what is wrong with the input, [`Error::Reference`] for a name, [`Error::Read`] and
/// [`Error::Io`]. Nothing is left behind.
pub fn prepare(root: &Path, input: impl Read, names: &[String]) -> Result<Prepared, Error> {
    let names = names
        .iter()
        .map(|name| tagged(name))
        .collect::<Result<Vec<_>, _>>()?;
    let staging = Staging::new(root)?;
    let (kind, reader) = layer::sniff(input)?;
    let files = input::read(
        layer::decoder(kind, reader)?,
        &staging.dir,
        Limits::default(),
    )?;
    let mut found = if files.contains("index.json") {
        layout::images(&files)?
    } else if files.contains("manifest.json") {
        docker::images(&files, &staging)?
    } else {
        return Err(Error::malformed(
            "the input",
            "is neither an OCI image layout (no index.json) nor a docker archive (no manifest.json)",
        ));
    };
    if !names.is_empty() {
        let [only] = found.as_mut_slice() else {
            let problem = format!(
                "holds {} images, so that they cannot be renamed",
                found.len()
            );
            return Err(Error::malformed("the input", problem));
        };
        only.names = names;
    }
    for image in &found {
        collect(&staging, &files, image)?;
    }
    drop(files);
    staging.publish(found)
}

/// A name that can be given to an image: one with a tag.
fn tagged(name: &str) -> Result<String, Error> {
    let reference = Reference::parse(name)?;
    if reference.tag().is_none() {
        let problem = "a name for an image ends with a tag, not with a digest";
        return Err(Error::Reference {
            reference: name.to_owned(),
            problem,
        });
    }
    Ok(reference.to_string())
}

/// Checks that an image is whole and moves its blobs to where they belong.
fn collect(staging: &Staging, files: &input::Files, image: &ImportedImage) -> Result<(), Error> {
    let blobs = &staging.blobs;
    let take = |digest: &Digest, size: Option<u64>, what: &str| {
        let shown = format!("blobs/sha256/{}", digest.hex());
        let file = files
            .by_digest(digest)
            .ok_or_else(|| Error::malformed(shown.clone(), format!("{what} is missing")))?;
        if let Some(size) = size
            && size != file.size
        {
            let problem = format!("has {} bytes where {size} were announced", file.size);
            return Err(Error::malformed(shown, problem));
        }
        blobs.link_from(&file.path, digest)
    };
    if blobs.size(&image.manifest)?.is_none() {
        take(&image.manifest, None, "the manifest")?;
    }
    let manifest = Manifest::parse(image.manifest.as_str(), &blobs.document(&image.manifest)?)?;
    take(
        &manifest.config.digest,
        Some(manifest.config.size),
        "the configuration",
    )?;
    for layer in &manifest.layers {
        take(&layer.digest, Some(layer.size), "a layer")?;
    }
    check(
        &manifest,
        &Config::parse(image.id.as_str(), &blobs.document(&image.id)?)?,
    )
}

/// Rules that manifest and configuration keep together.
pub(crate) fn check(manifest: &Manifest, config: &Config) -> Result<(), Error> {
    config.check_platform()?;
    let entry = manifest.config.digest.as_str();
    let (layers, ids) = (manifest.layers.len(), config.diff_ids().len());
    if layers != ids {
        let problem = format!("names {ids} layers where the manifest has {layers}");
        return Err(Error::malformed(entry, problem));
    }
    if container_name(&manifest.annotations).is_some() && layers != 1 {
        let problem = format!("is marked as a checkpoint, which has one layer, and has {layers}");
        return Err(Error::malformed(entry, problem));
    }
    Ok(())
}

/// A directory that becomes an import, or goes away.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    blobs: Blobs,
    /// Open and locked: shows other processes that it is in use.
    _lock: OwnedFd,
    published: bool,
}

impl Staging {
    fn new(root: &Path) -> Result<Self, Error> {
        let imports = root.join("imports");
        sys::fs::make_dir_all(&imports, 0o700).map_err(Error::io("make directory", &imports))?;
        sweep_temporary(&imports)?;
        let name = sys::sysinfo::random_hex(16).map_err(Error::io("name", &imports))?;
        let dir = imports.join(format!("{TEMPORARY}{name}"));
        sys::fs::make_dir_all(&dir, 0o700).map_err(Error::io("make directory", &dir))?;
        let lock = sys::fs::open_dir(&dir).map_err(Error::io("open", &dir))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| Error::io("lock", &dir)(errno.into()))?;
        let blobs = Blobs::at(&dir);
        let staging = Self {
            dir,
            blobs,
            _lock: lock,
            published: false,
        };
        staging.blobs.make()?;
        Ok(staging)
    }

    fn publish(mut self, images: Vec<ImportedImage>) -> Result<Prepared, Error> {
        let input = self.dir.join(input::DIRECTORY);
        sys::fs::remove_tree(&input).map_err(Error::io("remove", input))?;
        let prepared = images.iter().map(|image| PreparedImage {
            id: image.id.to_string(),
            names: image.names.clone(),
        });
        let prepared = Prepared {
            images: prepared.collect(),
        };
        let age = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let created_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let file = ImportFile {
            version: VERSION,
            created_ns,
            images,
        };
        let bytes =
            serde_json::to_vec(&file).map_err(|error| Error::malformed(FILE, error.to_string()))?;
        let path = self.dir.join(FILE);
        sys::fs::replace_path(&path, 0o600, &bytes).map_err(Error::io("write", path))?;
        let name = self
            .dir
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let target = self.dir.with_file_name(name.trim_start_matches(TEMPORARY));
        std::fs::rename(&self.dir, &target).map_err(Error::io("publish", &target))?;
        self.published = true;
        Ok(prepared)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = sys::fs::remove_tree(&self.dir)
        {
            tracing::warn!(path = %self.dir.display(), %error, "an unfinished import stays");
        }
    }
}

/// Complete imports, the oldest first; what cannot be read is removed.
pub(crate) fn complete(root: &Path) -> Result<Vec<(PathBuf, ImportFile)>, Error> {
    let mut all = Vec::new();
    for dir in directories(&root.join("imports"), |name| !name.starts_with('.'))? {
        match read(&dir) {
            Ok(file) => all.push((dir, file)),
            // A pull that ended a moment ago has removed it.
            Err(_) if !dir.exists() => {}
            Err(error) => {
                tracing::warn!(path = %dir.display(), %error, "an unreadable import is removed");
                sys::fs::remove_tree(&dir).map_err(Error::io("remove", dir))?;
            }
        }
    }
    all.sort_by_key(|(_, file)| file.created_ns);
    Ok(all)
}

fn read(dir: &Path) -> Result<ImportFile, Error> {
    let path = dir.join(FILE);
    let file = std::fs::File::open(&path).map_err(Error::io("open", &path))?;
    let bytes =
        sys::fs::read_bounded(file, MAX_DOCUMENT_BYTES).map_err(Error::io("read", &path))?;
    let file: ImportFile = documents::parse(FILE, &bytes)?;
    if file.version != VERSION {
        return Err(Error::malformed(
            FILE,
            format!("has version {}", file.version),
        ));
    }
    Ok(file)
}

/// Removes what is left of dead processes and of imports that nobody pulled.
pub(crate) fn sweep(root: &Path) -> Result<(), Error> {
    let imports = root.join("imports");
    sys::fs::make_dir_all(&imports, 0o700).map_err(Error::io("make directory", &imports))?;
    sweep_temporary(&imports)?;
    for (dir, file) in complete(root)? {
        let created = UNIX_EPOCH + Duration::from_nanos(file.created_ns);
        if SystemTime::now()
            .duration_since(created)
            .is_ok_and(|age| age > KEPT)
        {
            sys::fs::remove_tree(&dir).map_err(Error::io("remove", dir))?;
        }
    }
    Ok(())
}

fn sweep_temporary(imports: &Path) -> Result<(), Error> {
    for dir in directories(imports, |name| name.starts_with(TEMPORARY))? {
        let Ok(lock) = sys::fs::open_dir(&dir) else {
            continue;
        };
        // Whoever prepares it holds the lock until it is published or removed. One that was made
        // a moment ago may not be locked yet: it is empty, which no dead process leaves for long.
        let free = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        let young = dir
            .metadata()
            .and_then(|found| found.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < Duration::from_secs(2)));
        if free && !young {
            sys::fs::remove_tree(&dir).map_err(Error::io("remove", dir))?;
        }
    }
    Ok(())
}

fn directories(parent: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(parent).map_err(Error::io("list", parent))?;
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", parent))?;
        if entry.file_name().to_str().is_some_and(&wanted) {
            all.push(entry.path());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
