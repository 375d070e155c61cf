//! Root filesystems of containers: overlays of an image's layers and a directory of their own.
//!
//! ```text
//! <root>/snapshots/<id>/   0700
//!   upper/                 what the container changed
//!   work/                  overlayfs' own
//!   merged/                the mount
//! ```
//!
//! The record is stored before the first directory is made and removed after the last one is gone,
//! so that whatever a crash leaves can be found again. A record holds the image's layers: they stay
//! until the snapshot is removed, whatever becomes of the image. Mounts do not survive a reboot;
//! [`Snapshots::mount`] makes them again.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Uid};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::layers::Layers;
use crate::records::Records;
use crate::trash::Trash;

const TABLE: &str = "snapshots";
const VERSION: u32 = 1;

/// Where a container's root filesystem is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// The image's layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// What the container changed.
    pub upper: PathBuf,
    /// overlayfs' own directory.
    pub work: PathBuf,
    /// The mount.
    pub merged: PathBuf,
}

/// One snapshot on disk, keyed by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    version: u32,
    pub(crate) image: Digest,
    /// Topmost first.
    pub(crate) chains: Vec<Digest>,
}

/// The directory of snapshots.
#[derive(Debug)]
pub(crate) struct Snapshots {
    dir: PathBuf,
}

impl Snapshots {
    /// Opens the directory and removes snapshots without a record.
    pub(crate) fn open(root: &Path, records: &Records, trash: &Trash) -> Result<Self, Error> {
        let dir = root.join("snapshots");
        sys::fs::make_dir_all(&dir, 0o700).map_err(Error::io("make directory", &dir))?;
        let snapshots = Self { dir };
        let known = snapshots.list(records)?;
        let entries = std::fs::read_dir(&snapshots.dir);
        for entry in entries.map_err(Error::io("list", &snapshots.dir))? {
            let entry = entry.map_err(Error::io("list", &snapshots.dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !known.iter().any(|(id, _)| *id == name) {
                snapshots.remove_files(trash, &name)?;
            }
        }
        Ok(snapshots)
    }

    /// Every snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::Record`] for one that cannot be read, so that nobody takes its layers for unused.
    pub(crate) fn list(&self, records: &Records) -> Result<Vec<(String, SnapshotRecord)>, Error> {
        records.list(TABLE)
    }

    /// Makes and mounts a snapshot; one that is there for the same image is mounted if need be.
    pub(crate) fn prepare(
        &self,
        records: &Records,
        layers: &Layers,
        id: &str,
        wanted: (Digest, Vec<Digest>),
    ) -> Result<Rootfs, Error> {
        check_id(id)?;
        let record = SnapshotRecord {
            version: VERSION,
            image: wanted.0,
            chains: wanted.1,
        };
        match records.get::<SnapshotRecord>(TABLE, id)? {
            Some(found) if found == record => {}
            Some(found) => {
                let problem = format!("is a root filesystem of image {} already", found.image);
                return Err(Error::malformed(id, problem));
            }
            None => records.put(TABLE, id, &record)?,
        }
        let rootfs = self.rootfs(layers, id, &record);
        self.make(&rootfs)?;
        mount(&rootfs)?;
        Ok(rootfs)
    }

    /// Where a snapshot is; mounted again after a reboot.
    pub(crate) fn mount(
        &self,
        records: &Records,
        layers: &Layers,
        id: &str,
    ) -> Result<Rootfs, Error> {
        let missing = || Error::NoRootfs { id: id.to_owned() };
        let record: SnapshotRecord = records.get(TABLE, id)?.ok_or_else(missing)?;
        let rootfs = self.rootfs(layers, id, &record);
        self.make(&rootfs)?;
        mount(&rootfs)?;
        Ok(rootfs)
    }

    /// Unmounts and removes a snapshot and its record; absent is fine.
    pub(crate) fn remove(&self, records: &Records, trash: &Trash, id: &str) -> Result<(), Error> {
        check_id(id)?;
        self.remove_files(trash, id)?;
        records.remove(TABLE, id).map(drop)
    }

    fn rootfs(&self, layers: &Layers, id: &str, record: &SnapshotRecord) -> Rootfs {
        let dir = self.dir.join(id);
        Rootfs {
            lower: layers.lowers(&record.chains),
            upper: dir.join("upper"),
            work: dir.join("work"),
            merged: dir.join("merged"),
        }
    }

    fn make(&self, rootfs: &Rootfs) -> Result<(), Error> {
        let base = rootfs.upper.parent().unwrap_or(&self.dir);
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        sys::fs::make_dir_all(base, 0o700).map_err(Error::io("make directory", base))?;
        std::fs::set_permissions(base, private).map_err(Error::io("set the mode of", base))?;
        for dir in [&rootfs.work, &rootfs.merged] {
            sys::fs::make_dir_all(dir, 0o700).map_err(Error::io("make directory", dir))?;
        }
        if rootfs.upper.is_dir() {
            return Ok(());
        }
        // The root directory that the container sees has the upper directory's owner and mode.
        let Some(top) = rootfs.lower.first() else {
            return Ok(());
        };
        let like = std::fs::metadata(top).map_err(Error::io("look at", top))?;
        let temporary = rootfs.upper.with_file_name("upper.new");
        sys::fs::make_dir_all(&temporary, 0o700)
            .map_err(Error::io("make directory", &temporary))?;
        let fd = sys::fs::open_dir(&temporary).map_err(Error::io("open", &temporary))?;
        let (uid, gid) = (Uid::from_raw(like.uid()), Gid::from_raw(like.gid()));
        rustix::fs::fchown(&fd, Some(uid), Some(gid))
            .and_then(|()| rustix::fs::fchmod(&fd, Mode::from_raw_mode(like.mode())))
            .map_err(|errno| Error::io("set owner and mode of", &temporary)(errno.into()))?;
        std::fs::rename(&temporary, &rootfs.upper).map_err(Error::io("make", &rootfs.upper))
    }

    fn remove_files(&self, trash: &Trash, id: &str) -> Result<(), Error> {
        let dir = self.dir.join(id);
        let merged = dir.join("merged");
        // Several may be stacked; each call takes the topmost one.
        while sys::mount::is_mount_point(&merged).map_err(Error::io("look at", &merged))? {
            sys::mount::unmount(&merged, true).map_err(Error::io("unmount", &merged))?;
        }
        trash.take(&dir)
    }
}

fn mount(rootfs: &Rootfs) -> Result<(), Error> {
    let target = &rootfs.merged;
    if sys::mount::is_mount_point(target).map_err(Error::io("look at", target))? {
        return Ok(());
    }
    let lowers: Vec<&Path> = rootfs.lower.iter().map(PathBuf::as_path).collect();
    sys::mount::overlay(&lowers, &rootfs.upper, &rootfs.work, target)
        .map_err(Error::io("mount an overlay at", target))
}

/// Ids become names of directories.
fn check_id(id: &str) -> Result<(), Error> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if !id.is_empty() && id.len() <= 128 && id.bytes().all(good) {
        return Ok(());
    }
    Err(Error::io("use as a name", id)(
        io::ErrorKind::InvalidInput.into(),
    ))
}
