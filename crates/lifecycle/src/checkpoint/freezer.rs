//! The freezer's directory, as CRIU knows it for a while.
//!
//! CRIU opens `DIRECTORY/cgroup.freeze` anew each time that it changes the state, also at its end, when it
//! shall not. So it is told of the directory by a number of this process's descriptor table, and that
//! number leads to an empty directory without a name from then on. It is never free while CRIU lives:
//! behind a number that another file has taken, CRIU would find another container's freezer, or a link
//! of that name in a container's directory, and write to what it leads to.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::DupFlags;

/// One container's. It must live until CRIU was reaped.
#[derive(Debug)]
pub(super) struct KnownFreezer {
    /// The freezer's directory; later the empty one.
    known: OwnedFd,
    /// Empty, and removed: nothing can be made in it.
    nowhere: OwnedFd,
}

impl KnownFreezer {
    /// Opens the freezer's directory. A directory for a moment is made in `scratch`.
    ///
    /// # Errors
    ///
    /// What mkdir(2), open(2) and rmdir(2) return.
    pub(super) fn open(freezer: &Path, scratch: &Path) -> io::Result<Self> {
        let open = |path: &Path| -> io::Result<OwnedFd> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            Ok(rustix::fs::open(path, flags, Mode::empty())?)
        };
        let known = open(freezer)?;
        let name = format!("nowhere-{}", sys::sysinfo::random_hex(16)?);
        let empty = scratch.join(name);
        sys::fs::make_dir_all(&empty, 0o700)?;
        let nowhere = open(&empty);
        std::fs::remove_dir(&empty)?;
        Ok(Self {
            known,
            nowhere: nowhere?,
        })
    }

    /// The path that CRIU is told.
    pub(super) fn path(&self) -> PathBuf {
        let (pid, fd) = (std::process::id(), self.known.as_raw_fd());
        PathBuf::from(format!("/proc/{pid}/fd/{fd}"))
    }

    /// From now on the path leads to nothing.
    ///
    /// # Errors
    ///
    /// What dup3(2) returns; the path leads to the freezer then.
    pub(super) fn lead_nowhere(&mut self) -> io::Result<()> {
        // The number changes hands in one step.
        Ok(rustix::io::dup3(
            &self.nowhere,
            &mut self.known,
            DupFlags::CLOEXEC,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leads_nowhere_never_leads_to_another_file() {
        let temp = tempfile::tempdir().unwrap();
        let [freezer, other] = ["freezer", "other"].map(|name| temp.path().join(name));
        for directory in [&freezer, &other] {
            std::fs::create_dir(directory).unwrap();
            sys::fs::replace_path(&directory.join("cgroup.freeze"), 0o600, b"0").unwrap();
        }
        let mut known = KnownFreezer::open(&freezer, temp.path()).unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 2);
        let path = known.path();
        let switch = path.join("cgroup.freeze");
        assert_eq!(std::fs::read_link(&path).unwrap(), freezer);
        assert_eq!(std::fs::read(&switch).unwrap(), b"0");
        known.lead_nowhere().unwrap();
        // Whoever opens directories meanwhile, as every other checkpoint does.
        let opened: Vec<_> = (0..200)
            .map(|_| std::fs::File::open(&other).unwrap())
            .collect();
        for _ in 0..2 {
            let options = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&switch);
            assert_eq!(options.unwrap_err().kind(), io::ErrorKind::NotFound);
            assert_eq!(known.path(), path);
            known.lead_nowhere().unwrap();
        }
        drop(opened);
    }
}
