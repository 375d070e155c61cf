//! Unpacked layers by chain id.
//!
//! ```text
//! <root>/images/layers/
//!   .tmp-<random>/          being unpacked
//!   <chain id>/fs/          what overlayfs takes as a lower directory
//!   <chain id>/usage.json   {"version":1,"used_bytes":…,"inodes":…}
//!   empty/                  stands below an image without layers
//! ```

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::content::Blobs;
use crate::digest::{Digest, chain_id};
use crate::documents;
use crate::error::Error;
use crate::layer::{self, Limits, SPACE_CHECK_BYTES};
use crate::trash::Trash;

const VERSION: u32 = 1;
const TEMPORARY: &str = ".tmp-";
const EMPTY: &str = "empty";

/// What a layer's directory takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    version: u32,
    pub(crate) used_bytes: u64,
    pub(crate) inodes: u64,
}

/// The directory of layers.
#[derive(Debug)]
pub(crate) struct Layers {
    dir: PathBuf,
    limits: Limits,
}

/// One layer to have unpacked.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) blob: &'a Path,
    pub(crate) digest: &'a Digest,
    pub(crate) diff_id: &'a Digest,
}

impl Layers {
    /// Opens the directory and removes what a crash left half unpacked.
    pub(crate) fn open(images: &Path, limits: Limits, trash: &Trash) -> Result<Self, Error> {
        let dir = images.join("layers");
        let empty = dir.join(EMPTY);
        sys::fs::make_dir_all(&empty, 0o755).map_err(Error::io("make directory", &empty))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&dir, mode).map_err(Error::io("set the mode of", &dir))?;
        let layers = Self { dir, limits };
        for name in layers.names()? {
            if name.starts_with(TEMPORARY) {
                trash.take(&layers.dir.join(name))?;
            }
        }
        Ok(layers)
    }

    /// The lower directory of a layer.
    pub(crate) fn path(&self, chain: &Digest) -> PathBuf {
        self.directory(chain).join("fs")
    }

    /// The lower directories of a stack, topmost first; never none.
    pub(crate) fn lowers(&self, chains: &[Digest]) -> Vec<PathBuf> {
        if chains.is_empty() {
            return vec![self.dir.join(EMPTY)];
        }
        chains.iter().map(|chain| self.path(chain)).collect()
    }

    pub(crate) fn contains(&self, chain: &Digest) -> bool {
        self.path(chain).is_dir()
    }

    /// Makes sure that the layer upon `below` (topmost first) is unpacked; returns its chain id.
    pub(crate) fn ensure(&self, wanted: &Wanted<'_>, below: &[Digest]) -> Result<Digest, Error> {
        let chain = chain_id(below.first(), wanted.diff_id);
        if self.contains(&chain) {
            return Ok(chain);
        }
        let random = sys::sysinfo::random_hex(8).map_err(Error::io("name", &self.dir))?;
        let temporary = self.dir.join(format!("{TEMPORARY}{random}"));
        let result = self.unpack(wanted, below, &temporary, &chain);
        if result.is_err()
            && let Err(error) = sys::fs::remove_tree(&temporary)
        {
            tracing::warn!(path = %temporary.display(), %error, "a half unpacked layer stays");
        }
        result.map(|()| chain)
    }

    fn unpack(
        &self,
        wanted: &Wanted<'_>,
        below: &[Digest],
        temporary: &Path,
        chain: &Digest,
    ) -> Result<(), Error> {
        let into = temporary.join("fs");
        sys::fs::make_dir_all(&into, 0o700).map_err(Error::io("make directory", &into))?;
        let blob = std::fs::File::open(wanted.blob).map_err(Error::io("open", wanted.blob))?;
        let lowers: Vec<PathBuf> = below.iter().map(|chain| self.path(chain)).collect();
        let found = layer::unpack(blob, &into, &lowers, self.limits)?;
        wanted.digest.expect("the layer's blob", &found.digest)?;
        wanted.diff_id.expect("the layer's tar", &found.diff_id)?;
        let usage = Usage {
            version: VERSION,
            used_bytes: found.used_bytes,
            inodes: found.inodes,
        };
        let text = serde_json::to_vec(&usage)
            .map_err(|error| Error::malformed("usage.json", error.to_string()))?;
        let file = temporary.join("usage.json");
        sys::fs::replace_path(&file, 0o600, &text).map_err(Error::io("write", file))?;
        let target = self.dir.join(chain.hex());
        std::fs::rename(temporary, &target).map_err(Error::io("publish", target))
    }

    /// Stores the tar within a compressed blob under its own digest, for a checkpoint that came
    /// compressed: the archive is restored in place, which needs its plain bytes.
    pub(crate) fn decompress(&self, blobs: &Blobs, wanted: &Wanted<'_>) -> Result<(), Error> {
        let target = blobs.path(wanted.diff_id);
        let dir = target.parent().unwrap_or(Path::new("/"));
        let blob = std::fs::File::open(wanted.blob).map_err(Error::io("open", wanted.blob))?;
        let (kind, reader) = layer::sniff(blob)?;
        let decoder = layer::decoder(kind, reader)?;
        let opened = sys::fs::open_dir(dir).map_err(Error::io("open", dir))?;
        let file = sys::fs::create_unnamed(&opened, 0o600).map_err(Error::io("make", &target))?;
        let mut hashing = crate::digest::HashingReader::new(decoder);
        let (mut bytes, mut ended) = (0_u64, false);
        while !ended {
            let mut part = hashing.by_ref().take(SPACE_CHECK_BYTES);
            let copied =
                io::copy(&mut part, &mut &file).map_err(Error::io("decompress", &target))?;
            ended = copied == 0;
            bytes = bytes.saturating_add(copied);
            if bytes > self.limits.bytes {
                return Err(Error::Limit {
                    entry: wanted.digest.to_string(),
                    what: "the archive's length in bytes",
                    limit: self.limits.bytes,
                });
            }
            self.limits.keep_free(&file, wanted.digest.as_str())?;
        }
        wanted.diff_id.expect("the archive", &hashing.finish().0)?;
        match sys::fs::link_into(&file, &opened, wanted.diff_id.hex()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::io("publish", target)(error))
            }
            _ => Ok(()),
        }
    }

    /// What a layer takes up; one without a readable note counts as nothing.
    pub(crate) fn usage(&self, chain: &Digest) -> Usage {
        let path = self.directory(chain).join("usage.json");
        let read = std::fs::read(path).ok();
        let usage = read.and_then(|bytes| documents::parse::<Usage>("usage.json", &bytes).ok());
        usage
            .filter(|usage| usage.version == VERSION)
            .unwrap_or(Usage {
                version: VERSION,
                used_bytes: 0,
                inodes: 0,
            })
    }

    /// Every layer's chain id.
    pub(crate) fn list(&self) -> Result<Vec<Digest>, Error> {
        Ok(self
            .names()?
            .iter()
            .filter_map(|name| Digest::from_hex(name).ok())
            .collect())
    }

    /// The directory to take away when a layer goes.
    pub(crate) fn directory(&self, chain: &Digest) -> PathBuf {
        self.dir.join(chain.hex())
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let entries = std::fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &self.dir))?;
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::gzip;

    /// Decompresses a megabyte of zeros within limits.
    fn decompress(limits: Limits) -> (Result<(), Error>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::at(dir.path());
        blobs.make().unwrap();
        let trash = Trash::open(dir.path()).unwrap();
        let layers = Layers::open(dir.path(), limits, &trash).unwrap();
        let plain = vec![0; 1 << 20];
        let packed = gzip(&plain);
        let blob = dir.path().join("blob");
        sys::fs::replace_path(&blob, 0o600, &packed).unwrap();
        let wanted = Wanted {
            blob: &blob,
            digest: &Digest::of(&packed),
            diff_id: &Digest::of(&plain),
        };
        let result = layers.decompress(&blobs, &wanted);
        let stored = blobs.list().unwrap().len();
        (result, stored)
    }

    #[test]
    fn a_compressed_archive_is_bounded_and_space_stays_free() {
        let (result, stored) = decompress(Limits::default());
        result.unwrap();
        assert_eq!(stored, 1);
        let (result, stored) = decompress(Limits {
            bytes: (1 << 20) - 1,
            ..Limits::default()
        });
        assert!(matches!(result, Err(Error::Limit { .. })), "{result:?}");
        assert_eq!(stored, 0);
        let (result, stored) = decompress(Limits {
            reserve_bytes: u64::MAX,
            ..Limits::default()
        });
        let Err(Error::Io { source, .. }) = &result else {
            panic!("{result:?}")
        };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(stored, 0);
    }
}
