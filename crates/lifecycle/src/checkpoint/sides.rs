//! The files of the frozen moment: what the container changed in its root filesystem, its private tmpfs,
//! and the pod's /dev/shm. A thread each captures them while CRIU takes the memory.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::ScopedJoinHandle;
use std::time::SystemTime;

use bundler::{CaptureReport, LINK_REMAP_PREFIX, Spool, TreeWriter};
use rustix::fs::OFlags;

use super::failure::archive_error;
use super::log::FrozenLog;
use super::until::Until;
use super::{Job, Subject};
use crate::error::Error;

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
    job: &Job,
    at: SystemTime,
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
    // Taken last: the monitor has read by now what the container wrote before it was frozen.
    let log = job.container.log_path.as_deref().map(FrozenLog::open);
    Ok(Files {
        sides,
        changes,
        at,
        log: log.transpose()?.flatten(),
    })
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
