//! The files of the frozen moment: what the container changed in its root filesystem, its private tmpfs,
//! and the pod's /dev/shm. A thread each captures them while CRIU takes the memory.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, SystemTime};

use bundler::{CaptureReport, LINK_REMAP_PREFIX, Spool, TreeWriter};
use monitor::Client;
use rustix::fs::OFlags;
use sys::process::Deadline;
use tracing::warn;

use super::dump::Of;
use super::failure::archive_error;
use super::log::FrozenLog;
use super::until::Until;
use super::{Job, Subject};
use crate::error::{Error, chain};

/// How long the container stands at most for its monitor to read what it has written.
const FLUSH: Duration = Duration::from_secs(1);

/// A tar of its own within the archive.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) member: String,
    pub(super) content: Spool,
}

/// What a capturing thread brings back.
pub(super) type SideResult = Result<Captured, Error>;

/// A tar that CRIU may still add names to.
#[derive(Debug)]
pub(super) struct Captured {
    member: String,
    writer: TreeWriter<Until<Spool>>,
}

/// The files of the frozen moment.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) sides: Vec<Side>,
    /// What the container changed in its root filesystem.
    pub(super) changes: CaptureReport,
    pub(super) at: SystemTime,
    /// What the container had written to its log.
    pub(super) log: Option<FrozenLog>,
}

/// Waits for the captures and adds the names that CRIU made for files that have another name; it
/// removes them right after `post-dump`.
pub(super) fn finish(
    threads: Vec<ScopedJoinHandle<'_, SideResult>>,
    of: Of<'_>,
    at: SystemTime,
    until: Deadline,
) -> Result<Files, Error> {
    let (mut sides, mut changes, mut result) = (Vec::new(), CaptureReport::default(), Ok(()));
    // All are joined, so that none outlives the failure of another.
    for thread in threads {
        let joined = thread.join().unwrap_or_else(|_| {
            Err(Error::failed(
                "capture files",
                "a capturing thread panicked",
            ))
        });
        let side = joined.and_then(|Captured { member, mut writer }| {
            writer
                .append_matching(LINK_REMAP_PREFIX)
                .map_err(archive_error)?;
            let (content, report) = writer.finish().map_err(archive_error)?;
            if member == bundler::names::ROOTFS_DIFF {
                changes = report;
            }
            let content = content.into_inner();
            Ok(Side { member, content })
        });
        match side {
            Ok(side) => sides.push(side),
            Err(error) => result = Err(error),
        }
    }
    result?;
    let log = log(of, until)?;
    Ok(Files {
        sides,
        changes,
        at,
        log,
    })
}

/// The log with all that the container wrote before it was frozen.
fn log(of: Of<'_>, until: Deadline) -> Result<Option<FrozenLog>, Error> {
    let container = &of.job.container;
    let Some(path) = &container.log_path else {
        return Ok(None);
    };
    let run_dir = of.ctx.config.container_run_dir(container.id.as_str());
    let limit = FLUSH.min(until.remaining().unwrap_or_default());
    let flushed = Client::connect(&run_dir).and_then(|mut monitor| monitor.flush(limit));
    if let Err(error) = flushed {
        warn!(container = %container.id, error = %chain(&error),
            "the archive's log may lack what the container wrote last");
    }
    FrozenLog::open(path)
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    sys::fs::open_dir(path).map_err(|error| Error::io("open", path, error))
}

fn spool(job: &Job) -> Result<Until<Spool>, Error> {
    let parent = job.request.location.parent().unwrap_or(Path::new("/"));
    let directory = open(parent)?;
    let spool = Spool::new(&directory)
        .map_err(|error| Error::failed("make a spool for captured files", error))?;
    Ok(Until::new(spool, &job.cancel))
}

/// The overlay's changes.
pub(super) fn rootfs(job: &Job, subject: &Subject) -> SideResult {
    let content = spool(job)?;
    let upper = open(&subject.upper)?;
    let writer = TreeWriter::overlay(&upper, content).map_err(archive_error)?;
    written(bundler::names::ROOTFS_DIFF.to_owned(), writer)
}

/// One tmpfs of the container, reached through its first process.
pub(super) fn tree(job: &Job, init: u32, destination: &Path, member: String) -> SideResult {
    let root = open(Path::new(&format!("/proc/{init}/root")))?;
    let inner = destination.strip_prefix("/").unwrap_or(destination);
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = sys::fs::open_beneath(&root, inner, flags)
        .map_err(|error| Error::io("open the container's", destination, error))?;
    written(
        member,
        TreeWriter::plain(&directory, spool(job)?).map_err(archive_error)?,
    )
}

/// The pod's /dev/shm.
pub(super) fn pod_shm(job: &Job, path: &Path) -> SideResult {
    let writer = TreeWriter::plain(open(path)?, spool(job)?).map_err(archive_error)?;
    written(bundler::names::DEVSHM.to_owned(), writer)
}

fn written(member: String, mut writer: TreeWriter<Until<Spool>>) -> SideResult {
    writer.write_all().map_err(archive_error)?;
    Ok(Captured { member, writer })
}
