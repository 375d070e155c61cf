//! The images of a node: see the crate's documentation for the layout.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use crate::catalog::Catalog;
use crate::content::Blobs;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Image;
use crate::layer::Limits;
use crate::layers::Layers;
use crate::reference::Reference;
use crate::snapshot::{Rootfs, Snapshots};
use crate::trash::Trash;
use crate::{adopt, import};

/// What images take up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsInfo {
    /// A directory on the filesystem that holds them.
    pub mountpoint: PathBuf,
    /// Bytes of blobs and unpacked layers.
    pub used_bytes: u64,
    /// Their files and directories.
    pub inodes: u64,
}

/// The image store of one daemon; clones share it.
///
/// Work that touches the disk runs on tokio's blocking threads and goes on when the future is
/// dropped; a second call for the same thing waits for it and finds its result.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    blobs: Blobs,
    layers: Layers,
    catalog: Catalog,
    snapshots: Snapshots,
    trash: Trash,
    /// One import at a time.
    adopting: Mutex<()>,
    /// Read by what adds or uses content, written by what removes unused content.
    content: RwLock<()>,
    /// A removal found the content in use; whoever is done with it collects.
    uncollected: AtomicBool,
}

impl ImageStore {
    /// Opens the store below thawd's root directory, finishing what a crash interrupted.
    ///
    /// # Errors
    ///
    /// [`Error::Records`] when another daemon has it open; [`Error::Io`].
    pub async fn open(root: &Path) -> Result<Self, Error> {
        let root = root.to_owned();
        blocking(move || Inner::open(root)).await.map(|inner| Self {
            inner: Arc::new(inner),
        })
    }

    /// Makes the image called `reference` available: adopts what was prepared for that name, else
    /// returns the image that is there.
    ///
    /// # Errors
    ///
    /// [`Error::NotPresent`] when it is neither; [`Error::Malformed`], [`Error::DigestMismatch`],
    /// [`Error::Limit`], [`Error::Platform`] or [`Error::Io`] when it cannot be adopted, after
    /// which the import is gone.
    pub async fn pull(&self, reference: &str) -> Result<Image, Error> {
        let reference = reference.to_owned();
        self.work(move |inner| inner.pull(&reference)).await
    }

    /// All images, sorted by id.
    ///
    /// # Errors
    ///
    /// None today.
    pub async fn list(&self) -> Result<Vec<Image>, Error> {
        Ok(self.inner.catalog.list())
    }

    /// Finds an image by name, digest reference, id, or unambiguous prefix of an id.
    ///
    /// # Errors
    ///
    /// None today: what is no reference names no image.
    pub async fn resolve(&self, reference: &str) -> Result<Option<Image>, Error> {
        Ok(self.inner.catalog.find(reference).map(|(_, image)| image))
    }

    /// Forgets the image that `reference` finds, under all of its names; absent is fine. Space is
    /// freed but for layers that a root filesystem still uses.
    ///
    /// # Errors
    ///
    /// [`Error::Records`] or [`Error::Io`].
    pub async fn remove(&self, reference: &str) -> Result<(), Error> {
        let reference = reference.to_owned();
        self.work(move |inner| inner.remove(&reference)).await
    }

    /// What images take up.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub async fn fs_info(&self) -> Result<FsInfo, Error> {
        self.work(|inner| inner.fs_info()).await
    }

    /// Mounts a root filesystem for `snapshot_id` upon the image with `image_id`. Calling it again
    /// gives the same one.
    ///
    /// # Errors
    ///
    /// [`Error::NotPresent`] for the image; [`Error::Malformed`] for a checkpoint image, which has
    /// no root filesystem, or a snapshot of another image; [`Error::Io`], [`Error::Records`].
    pub async fn prepare_rootfs(&self, snapshot_id: &str, image_id: &str) -> Result<Rootfs, Error> {
        let (snapshot, image) = (snapshot_id.to_owned(), image_id.to_owned());
        self.work(move |inner| inner.prepare_rootfs(&snapshot, &image))
            .await
    }

    /// Where the root filesystem of `snapshot_id` is; mounts it where a reboot took the mount away.
    ///
    /// # Errors
    ///
    /// [`Error::NoRootfs`], [`Error::Io`], [`Error::Records`].
    pub async fn rootfs(&self, snapshot_id: &str) -> Result<Rootfs, Error> {
        let id = snapshot_id.to_owned();
        self.work(move |inner| {
            inner.using(|| {
                inner
                    .snapshots
                    .mount(inner.catalog.records(), &inner.layers, &id)
            })
        })
        .await
    }

    /// Unmounts and removes a root filesystem with all that was written to it; absent is fine.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Records`]; may be called again.
    pub async fn remove_rootfs(&self, snapshot_id: &str) -> Result<(), Error> {
        let id = snapshot_id.to_owned();
        self.work(move |inner| inner.remove_rootfs(&id)).await
    }

    /// The ids of all root filesystems, for recovery to compare with its containers.
    ///
    /// # Errors
    ///
    /// [`Error::Records`].
    pub async fn rootfs_ids(&self) -> Result<Vec<String>, Error> {
        self.work(|inner| {
            let all = inner.snapshots.list(inner.catalog.records())?;
            Ok(all.into_iter().map(|(id, _)| id).collect())
        })
        .await
    }

    /// The archive of a checkpoint image, an uncompressed tar; `None` for other images.
    #[must_use]
    pub fn checkpoint_blob(&self, image: &Image) -> Option<PathBuf> {
        let checkpoint = image.checkpoint.as_ref()?;
        Some(self.inner.blobs.path(&checkpoint.archive))
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || work(&inner)).await
    }
}

/// Bounded by tokio's pool of blocking threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::Worker)?
}

impl Inner {
    fn open(root: PathBuf) -> Result<Self, Error> {
        let images = root.join("images");
        sys::fs::make_dir_all(&images, 0o700).map_err(Error::io("make directory", &images))?;
        let blobs = Blobs::at(&images);
        blobs.make()?;
        // The database is locked from here on: nothing below disturbs another daemon.
        let catalog = Catalog::open(&images, &blobs)?;
        let trash = Trash::open(&images)?;
        let layers = Layers::open(&images, Limits::default(), &trash)?;
        let snapshots = Snapshots::open(&root, catalog.records(), &trash)?;
        import::sweep(&root)?;
        let inner = Self {
            root,
            blobs,
            layers,
            catalog,
            snapshots,
            trash,
            adopting: Mutex::new(()),
            content: RwLock::new(()),
            uncollected: AtomicBool::new(true),
        };
        inner.tidy();
        Ok(inner)
    }

    /// Runs `work` while no content is removed; then removes what became unused meanwhile.
    fn using<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let result = {
            let _use = self.content.read().unwrap_or_else(PoisonError::into_inner);
            work()
        };
        self.tidy();
        result
    }

    /// Collects where a failure is nobody's: the next removal tries again.
    fn tidy(&self) {
        if let Err(error) = self.collect() {
            tracing::warn!(%error, "unused images take up space");
        }
    }

    fn pull(&self, reference: &str) -> Result<Image, Error> {
        {
            let _one = self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
            self.using(|| self.adopt_all(reference))?;
        }
        match self.catalog.find(reference) {
            Some((_, image)) => Ok(image),
            None => {
                // Tells apart what cannot name an image from what is not there.
                if Digest::parse(reference).is_err() {
                    Reference::parse(reference)?;
                }
                Err(Error::NotPresent {
                    reference: reference.to_owned(),
                })
            }
        }
    }

    /// Adopts every import that has an image of this name or id, the oldest first.
    fn adopt_all(&self, reference: &str) -> Result<(), Error> {
        let name = Reference::parse(reference)
            .map(|name| name.to_string())
            .ok();
        for (dir, file) in import::complete(&self.root)? {
            let wanted = file.images.iter().any(|image| {
                image.id.as_str() == reference
                    || name.as_ref().is_some_and(|name| image.names.contains(name))
            });
            if !wanted {
                continue;
            }
            let result = adopt::records(&dir, &file, &self.blobs, &self.layers)
                .and_then(|records| self.catalog.add(records, &self.blobs));
            // A bad import would be in the way of the next pull.
            sys::fs::remove_tree(&dir).map_err(Error::io("remove", dir))?;
            self.uncollected.store(true, Ordering::Release);
            result?;
        }
        Ok(())
    }

    fn remove(&self, reference: &str) -> Result<(), Error> {
        if let Some((record, _)) = self.catalog.find(reference) {
            self.catalog.remove(&record.id)?;
            self.uncollected.store(true, Ordering::Release);
        }
        self.tidy();
        Ok(())
    }

    fn prepare_rootfs(&self, snapshot: &str, image: &str) -> Result<Rootfs, Error> {
        self.using(|| {
            let missing = || Error::NotPresent {
                reference: image.to_owned(),
            };
            let (record, _) = self.catalog.find(image).ok_or_else(missing)?;
            if record.checkpoint.is_some() {
                let problem = "is a checkpoint, which has no root filesystem of its own";
                return Err(Error::malformed(image, problem));
            }
            let wanted = (record.id.clone(), record.chains());
            self.snapshots
                .prepare(self.catalog.records(), &self.layers, snapshot, wanted)
        })
    }

    fn remove_rootfs(&self, id: &str) -> Result<(), Error> {
        self.snapshots
            .remove(self.catalog.records(), &self.trash, id)?;
        self.uncollected.store(true, Ordering::Release);
        self.tidy();
        Ok(())
    }

    /// Removes blobs and layers that no image and no root filesystem needs. When they are being
    /// added to or used right now, whoever does that collects afterwards.
    fn collect(&self) -> Result<(), Error> {
        while self.uncollected.load(Ordering::Acquire) {
            let _alone = match self.content.try_write() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            self.uncollected.store(false, Ordering::Release);
            self.remove_unused()
                .inspect_err(|_| self.uncollected.store(true, Ordering::Release))?;
        }
        Ok(())
    }

    fn remove_unused(&self) -> Result<(), Error> {
        let records = self.catalog.stored()?;
        let snapshots = self.snapshots.list(self.catalog.records())?;
        let blobs: BTreeSet<&Digest> = records.iter().flat_map(|record| record.blobs()).collect();
        let mut chains: BTreeSet<Digest> =
            records.iter().flat_map(|record| record.chains()).collect();
        chains.extend(
            snapshots
                .into_iter()
                .flat_map(|(_, snapshot)| snapshot.chains),
        );
        for (digest, _) in self.blobs.list()? {
            if !blobs.contains(&digest) {
                self.trash.take(&self.blobs.path(&digest))?;
            }
        }
        for chain in self.layers.list()? {
            if !chains.contains(&chain) {
                self.trash.take(&self.layers.directory(&chain))?;
            }
        }
        Ok(())
    }

    fn fs_info(&self) -> Result<FsInfo, Error> {
        let blobs = self.blobs.list()?;
        let mut used_bytes: u64 = blobs.iter().map(|(_, size)| size).sum();
        let mut inodes = blobs.len() as u64;
        for chain in self.layers.list()? {
            let usage = self.layers.usage(&chain);
            used_bytes = used_bytes.saturating_add(usage.used_bytes);
            inodes = inodes.saturating_add(usage.inodes);
        }
        Ok(FsInfo {
            mountpoint: self.root.join("images"),
            used_bytes,
            inodes,
        })
    }
}

#[cfg(test)]
mod tests;
