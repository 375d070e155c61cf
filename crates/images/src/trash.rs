//! Removing without waiting: what goes is renamed away at once and deleted by a thread.
//!
//! Deleting a large layer takes seconds on some disks, which neither RemoveImage nor
//! RemoveContainer should take. A crash loses nothing: the directory is emptied again when the
//! store is opened.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use crate::error::Error;

/// `<root>/images/trash`.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    /// One message stands for any number of things to delete.
    wake: SyncSender<()>,
}

impl Trash {
    /// Opens the directory and begins to delete what is in it.
    pub(crate) fn open(images: &Path) -> Result<Self, Error> {
        let dir = images.join("trash");
        sys::fs::make_dir_all(&dir, 0o700).map_err(Error::io("make directory", &dir))?;
        let (wake, woken) = sync_channel(1);
        let emptied = dir.clone();
        // Ends when the last handle of the store is gone; the process may end without it.
        std::thread::Builder::new()
            .name("trash".to_owned())
            .spawn(move || empty(&emptied, &woken))
            .map_err(Error::io("start the thread that empties", &dir))?;
        let trash = Self { dir, wake };
        trash.wake();
        Ok(trash)
    }

    /// Takes a file or directory away; absent is fine. Nothing may be mounted in it.
    pub(crate) fn take(&self, path: &Path) -> Result<(), Error> {
        let random = sys::sysinfo::random_hex(16).map_err(Error::io("name", &self.dir))?;
        match std::fs::rename(path, self.dir.join(random)) {
            Ok(()) => {
                self.wake();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Somebody mounted a filesystem of its own there.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                sys::fs::remove_tree(path).map_err(Error::io("remove", path))
            }
            Err(error) => Err(Error::io("remove", path)(error)),
        }
    }

    fn wake(&self) {
        match self.wake.try_send(()) {
            // A full channel means that the thread is about to look anyway.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }
}

fn empty(dir: &Path, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            if let Err(error) = sys::fs::remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "rubbish cannot be deleted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_until_empty(dir: &Path) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::fs::read_dir(dir).unwrap().count() > 0 {
            assert!(std::time::Instant::now() < end, "the trash stays full");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_taken_is_gone_at_once_and_deleted_soon() {
        let dir = tempfile::tempdir().unwrap();
        let trash = Trash::open(dir.path()).unwrap();
        let victim = dir.path().join("victim");
        sys::fs::make_dir_all(&victim.join("a/b"), 0o700).unwrap();
        trash.take(&victim).unwrap();
        assert!(!victim.exists());
        trash.take(&victim).unwrap();
        wait_until_empty(&dir.path().join("trash"));
    }

    #[test]
    fn what_a_crash_left_is_deleted_when_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        sys::fs::make_dir_all(&dir.path().join("trash/left/over"), 0o700).unwrap();
        let _trash = Trash::open(dir.path()).unwrap();
        wait_until_empty(&dir.path().join("trash"));
    }
}
