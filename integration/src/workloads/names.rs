//! Names and what is behind them: watches, tmpfs, overlay changes, bind mounts.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::inotify;

use super::{Workload, pattern_bytes};

/// Creates or empties a file and writes it.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)
        .with_context(|| path.display().to_string())?;
    Ok(file.write_all(bytes)?)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// An inotify watch on a directory of the root filesystem.
///
/// CRIU drops events that nobody has read yet (criu/fsnotify.c, `dump_one_inotify`). A freeze may fall
/// between a change and the reading of its event, so one event a freeze may be missing, and no more.
pub(super) struct Watch {
    queue: OwnedFd,
    missing: u32,
}

/// More freezes than a test has.
const MOST_MISSING: u32 = 4;

const WATCHED: &str = "/workload.watched";

impl Watch {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        std::fs::create_dir(WATCHED).context(WATCHED)?;
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&queue, WATCHED, inotify::WatchFlags::CREATE)?;
        Ok(Box::new(Self { queue, missing: 0 }))
    }
}

impl Watch {
    /// Makes and removes a file; whether there is an event of that.
    fn is_told_of(&self, name: &str) -> Result<bool> {
        let path = Path::new(WATCHED).join(name);
        write(&path, b"")?;
        std::fs::remove_file(&path)?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.queue, &mut buffer);
        let event = match reader.next() {
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            event => event.context("the queue of events")?,
        };
        let found = event.file_name().map(|found| found.to_string_lossy());
        ensure!(
            found.as_deref() == Some(name),
            "event for {found:?}, not {name}"
        );
        Ok(true)
    }
}

impl Workload for Watch {
    fn step(&mut self, count: u64) -> Result<String> {
        let name = format!("file-{count}");
        if !self.is_told_of(&name)? {
            self.missing += 1;
            let missing = self.missing;
            ensure!(missing <= MOST_MISSING, "{missing} events are missing");
            ensure!(self.is_told_of(&name)?, "no event, and again none");
        }
        Ok(String::new())
    }
}

/// Files in a tmpfs: the given directory, /dev/shm by default.
pub(super) struct Tmpfs {
    directory: PathBuf,
    open: File,
}

impl Tmpfs {
    pub(super) fn setup(value: &str) -> Result<Box<dyn Workload>> {
        let directory = PathBuf::from(if value.is_empty() { "/dev/shm" } else { value });
        let kind = rustix::fs::statfs(&directory)?.f_type;
        // TMPFS_MAGIC of <linux/magic.h>.
        ensure!(
            kind == 0x0102_1994,
            "{} is no tmpfs but {kind:#x}",
            directory.display()
        );
        write(&directory.join("content"), &pattern_bytes(4, 1024 * 1024))?;
        std::fs::set_permissions(directory.join("content"), Permissions::from_mode(0o640))?;
        std::fs::create_dir(directory.join("sub"))?;
        std::os::unix::fs::symlink("../content", directory.join("sub/link"))?;
        let open = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(directory.join("open"))?;
        open.write_all_at(&0_u64.to_le_bytes(), 0)?;
        Ok(Box::new(Self { directory, open }))
    }
}

impl Workload for Tmpfs {
    fn step(&mut self, count: u64) -> Result<String> {
        let link = self.directory.join("sub/link");
        let content = std::fs::read(&link).context("sub/link")?;
        ensure!(content == pattern_bytes(4, 1024 * 1024), "contents changed");
        let mode = std::fs::metadata(&link)?.mode() & 0o7777;
        ensure!(mode == 0o640, "mode is {mode:o}, not 640");
        let named = std::fs::read(self.directory.join("open")).context("open")?;
        ensure!(
            named == (count - 1).to_le_bytes(),
            "the name shows {named:?}"
        );
        self.open.write_all_at(&count.to_le_bytes(), 0)?;
        Ok(String::new())
    }
}

/// Changes to what the image brought in /srv/data: changed, deleted, replaced, new.
pub(super) struct Overlay;

const DATA: &str = "/srv/data";

impl Overlay {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let data = Path::new(DATA);
        ensure!(
            read(&data.join("change"))? == "change me\n",
            "not the test image"
        );
        write(&data.join("change"), b"changed\n")?;
        std::fs::set_permissions(data.join("change"), Permissions::from_mode(0o600))?;
        std::fs::remove_file(data.join("delete"))?;
        std::fs::remove_dir_all(data.join("replace"))?;
        std::fs::create_dir(data.join("replace"))?;
        write(&data.join("replace/shown"), b"shown\n")?;
        std::os::unix::fs::symlink("replace/shown", data.join("link"))?;
        std::fs::hard_link(data.join("change"), data.join("hard"))?;
        Ok(Box::new(Self))
    }
}

impl Workload for Overlay {
    fn step(&mut self, _: u64) -> Result<String> {
        let data = Path::new(DATA);
        ensure!(read(&data.join("keep"))? == "keep\n", "keep changed");
        ensure!(
            read(&data.join("change"))? == "changed\n",
            "the change is lost"
        );
        ensure!(!data.join("delete").exists(), "the deleted file is back");
        ensure!(
            !data.join("replace/hidden").exists(),
            "the replaced directory's file is back"
        );
        ensure!(read(&data.join("link"))? == "shown\n", "the link is lost");
        let changed = std::fs::metadata(data.join("change"))?;
        let hard = std::fs::metadata(data.join("hard"))?;
        ensure!(changed.ino() == hard.ino(), "the hard link became a copy");
        ensure!(changed.mode() & 0o7777 == 0o600, "the mode is lost");
        Ok(String::new())
    }
}

/// Files in a directory that is mounted from outside.
pub(super) struct Bind {
    path: PathBuf,
    open: File,
}

impl Bind {
    pub(super) fn setup(value: &str) -> Result<Box<dyn Workload>> {
        let path = Path::new(if value.is_empty() { "/data" } else { value }).join("open");
        let open = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        Ok(Box::new(Self { path, open }))
    }
}

impl Workload for Bind {
    fn step(&mut self, count: u64) -> Result<String> {
        // The original goes on writing the same file while a copy is restored elsewhere, so only
        // the identity of name and descriptor is the workload's to check.
        self.open.write_all_at(&count.to_le_bytes(), 0)?;
        let named = std::fs::metadata(&self.path).context("the name")?;
        ensure!(
            named.ino() == self.open.metadata()?.ino(),
            "name and descriptor differ"
        );
        Ok(String::new())
    }
}
