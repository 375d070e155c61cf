//! Blobs by digest: `<root>/images/blobs/sha256/<hex>`, mode 0600, never changed once there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::digest::Digest;
use crate::documents::MAX_DOCUMENT_BYTES;
use crate::error::Error;

/// A directory of blobs: the store's own or an import's.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    /// The blobs of `base` (an OCI layout or the store).
    pub(crate) fn at(base: &Path) -> Self {
        Self {
            dir: base.join("blobs/sha256"),
        }
    }

    /// Makes the directory.
    pub(crate) fn make(&self) -> Result<(), Error> {
        sys::fs::make_dir_all(&self.dir, 0o700).map_err(Error::io("make directory", &self.dir))
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// The length of a blob, or `None` when it is not there.
    pub(crate) fn size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let path = self.path(digest);
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => Ok(Some(found.len())),
            Ok(_) => Err(Error::malformed(
                digest.as_str(),
                "is stored as something else than a file",
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("look at", path)(error)),
        }
    }

    pub(crate) fn open(&self, digest: &Digest) -> Result<File, Error> {
        let path = self.path(digest);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
            .map(File::from)
            .map_err(|errno| Error::io("open", path)(errno.into()))
    }

    /// The bytes of a document, verified.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let bytes = sys::fs::read_bounded(self.open(digest)?, MAX_DOCUMENT_BYTES)
            .map_err(Error::io("read", self.path(digest)))?;
        digest.expect(digest.as_str(), &Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// Stores a document made here.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let path = self.path(&digest);
        sys::fs::replace_path(&path, 0o600, bytes).map_err(Error::io("write", path))?;
        Ok(digest)
    }

    /// Takes a file of the same filesystem in under a digest that the caller has verified.
    pub(crate) fn link_from(&self, source: &Path, digest: &Digest) -> Result<(), Error> {
        let path = self.path(digest);
        match std::fs::hard_link(source, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::io("link", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Every blob's digest and length; other files are left out.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, u64)>, Error> {
        let entries = std::fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))?;
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &self.dir))?;
            let digest = entry
                .file_name()
                .to_str()
                .and_then(|name| Digest::from_hex(name).ok());
            if let (Some(digest), Ok(found)) = (digest, entry.metadata()) {
                all.push((digest, found.len()));
            }
        }
        Ok(all)
    }
}
