//! Open files: appended, deleted, linked, locked.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::FlockOperation;

use super::raw::try_description_lock;
use super::{Workload, pattern_bytes};

/// Opens a file of the root filesystem that no workload before used.
fn create(path: &str) -> Result<File> {
    OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .open(path)
        .context(path.to_owned())
}

/// A log that is appended to.
pub(super) struct Append {
    file: File,
    written: u64,
}

impl Append {
    pub(super) fn setup(value: &str) -> Result<Box<dyn Workload>> {
        let path = if value.is_empty() {
            "/workload.log"
        } else {
            value
        };
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .read(true)
            .open(path)
            .context(path.to_owned())?;
        Ok(Box::new(Self { file, written: 0 }))
    }
}

impl Workload for Append {
    fn step(&mut self, count: u64) -> Result<String> {
        let size = self.file.metadata()?.len();
        ensure!(
            size == self.written,
            "the file has {size} bytes, not {}",
            self.written
        );
        let line = format!("{count:>15}\n");
        self.file.write_all(line.as_bytes())?;
        self.written += 16;
        // The line before this one, if there is one, and this one.
        let from = self.written.saturating_sub(32);
        let mut tail = vec![0; usize::try_from(self.written - from)?];
        self.file.read_exact_at(&mut tail, from)?;
        let wanted = (count.max(2) - 1..=count)
            .map(|n| format!("{n:>15}\n"))
            .collect::<String>();
        ensure!(
            tail.ends_with(wanted.as_bytes()),
            "the file ends with {:?}",
            String::from_utf8_lossy(&tail)
        );
        Ok(String::new())
    }
}

/// A large file that was deleted while open.
pub(super) struct Deleted {
    file: File,
    length: usize,
}

impl Deleted {
    pub(super) fn setup(value: &str) -> Result<Box<dyn Workload>> {
        let mib: usize = if value.is_empty() { 8 } else { value.parse()? };
        let length = mib * 1024 * 1024;
        let file = create("/workload.deleted")?;
        file.write_all_at(&pattern_bytes(3, length), 0)?;
        std::fs::remove_file("/workload.deleted")?;
        Ok(Box::new(Self { file, length }))
    }
}

impl Workload for Deleted {
    fn step(&mut self, count: u64) -> Result<String> {
        let size = self.file.metadata()?.len();
        let wanted = u64::try_from(self.length)? + if count > 1 { 8 } else { 0 };
        ensure!(size == wanted, "the file has {size} bytes, not {wanted}");
        ensure!(self.file.metadata()?.nlink() == 0, "the file has a name");
        ensure!(!Path::new("/workload.deleted").exists(), "the name is back");
        if count.is_multiple_of(8) {
            let mut found = vec![0; self.length];
            self.file.read_exact_at(&mut found, 0)?;
            ensure!(found == pattern_bytes(3, self.length), "contents changed");
        }
        if count > 1 {
            let mut last = [0; 8];
            self.file
                .read_exact_at(&mut last, u64::try_from(self.length)?)?;
            ensure!(
                u64::from_le_bytes(last) == count - 1,
                "the last write is lost"
            );
        }
        self.file
            .write_all_at(&count.to_le_bytes(), u64::try_from(self.length)?)?;
        Ok(String::new())
    }
}

/// A file opened by a name that was deleted, while another name stays.
pub(super) struct Linked {
    file: File,
}

/// The name that stays.
const KEPT: &str = "/workload.kept";

impl Linked {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let file = create("/workload.dropped")?;
        std::fs::hard_link("/workload.dropped", KEPT)?;
        std::fs::remove_file("/workload.dropped")?;
        file.write_all_at(&0_u64.to_le_bytes(), 0)?;
        Ok(Box::new(Self { file }))
    }
}

impl Workload for Linked {
    fn step(&mut self, count: u64) -> Result<String> {
        let mut last = [0; 8];
        File::open(KEPT)
            .context(KEPT)?
            .read_exact_at(&mut last, 0)?;
        let last = u64::from_le_bytes(last);
        ensure!(
            last == count - 1,
            "the kept name shows {last}, not {}",
            count - 1
        );
        ensure!(
            !Path::new("/workload.dropped").exists(),
            "the dropped name is back"
        );
        self.file.write_all_at(&count.to_le_bytes(), 0)?;
        let open = self.file.metadata()?.ino();
        let named = std::fs::metadata(KEPT)?.ino();
        ensure!(
            open == named,
            "open file is inode {open}, the kept name {named}"
        );
        Ok(String::new())
    }
}

/// One lock of each kind, and a second description of each file that must not get it.
pub(super) struct Locks {
    _held: [File; 3],
    flock: File,
    description: File,
    process: File,
}

impl Locks {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let names = ["/workload.flock", "/workload.ofd", "/workload.posix"];
        let [flock, description, process] = names.map(create);
        let held = [flock?, description?, process?];
        let [flock, description, process] = &held;
        rustix::fs::flock(flock, FlockOperation::NonBlockingLockExclusive)?;
        try_description_lock(description)?;
        rustix::fs::fcntl_lock(process, FlockOperation::NonBlockingLockExclusive)?;
        // Never closed: closing any descriptor of the file would drop the process's lock.
        let [flock, description, process] =
            names.map(|path| OpenOptions::new().read(true).write(true).open(path));
        Ok(Box::new(Self {
            _held: held,
            flock: flock?,
            description: description?,
            process: process?,
        }))
    }
}

impl Workload for Locks {
    fn step(&mut self, _: u64) -> Result<String> {
        let got = rustix::fs::flock(&self.flock, FlockOperation::NonBlockingLockExclusive);
        ensure!(
            got == Err(rustix::io::Errno::WOULDBLOCK),
            "flock is lost: {got:?}"
        );
        for (file, kind) in [
            (&self.description, "description"),
            (&self.process, "process"),
        ] {
            let refused = try_description_lock(file).is_err_and(|error| {
                matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
            });
            ensure!(refused, "{kind} lock is lost");
        }
        Ok(String::new())
    }
}
