//! The frozen part of a checkpoint: CRIU's dump, and everything that must be of the same moment.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bundler::{
    ArchiveWriter, CaptureOptions, CaptureReport, LINK_REMAP_PREFIX, PageCapture, Sink, Spool,
    TreeWriter,
};
use criu_rpc::{BoxError, CancelToken, DumpOptions, Notify, NotifyReply};
use rustix::fs::OFlags;
use sys::process::Deadline;

use super::failure::{archive_error, dump_error, keep_log};
use super::log::FrozenLog;
use super::mounts::{self, DumpMounts};
use super::preflight::Scan;
use super::until::Until;
use super::{Job, Subject, metadata, watches};
use crate::context::Context;
use crate::engine::Usable;
use crate::error::{Error, chain};
use crate::sandbox;

/// CRIU's small images and, beyond the pipes, unexpected page images: bytes of the private tmpfs.
const IMAGES_BYTES: u64 = 1 << 30;

/// Pipes beyond one a process, for shared memory segments.
const EXTRA_PIPES: usize = 64;

/// Most pipes; each takes a descriptor.
const MOST_PIPES: usize = 1024;

/// Time for CRIU to freeze the tasks.
const FREEZE: Duration = Duration::from_secs(10);

/// Everything but CRIU's debug messages, of which it writes 17 for each MiB of memory.
const LOG_LEVEL: u8 = 3;

/// A tar of its own within the archive.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) member: String,
    pub(super) content: Spool,
}

/// Everything that was taken while the container stood still.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) pages: PageCapture,
    /// CRIU's images.
    pub(super) images: OwnedFd,
    /// CRIU's log and statistics.
    pub(super) work: OwnedFd,
    pub(super) sides: Vec<Side>,
    /// What the container changed in its root filesystem.
    pub(super) changes: CaptureReport,
    pub(super) mounts: DumpMounts,
    pub(super) descriptors: Vec<String>,
    pub(super) at: SystemTime,
    pub(super) frozen: Duration,
    /// What the container had written to its log.
    pub(super) log: Option<FrozenLog>,
}

/// What a capturing thread brings back.
type SideResult = Result<Captured, Error>;

/// A tar that CRIU may still add names to.
#[derive(Debug)]
struct Captured {
    member: String,
    writer: TreeWriter<Until<Spool>>,
}

/// Dumps the container and captures its files.
///
/// # Errors
///
/// [`Error::Precondition`] with CRIU's reasons, [`Error::Exhausted`], the cancel reason's error, or
/// [`Error::Failed`]. The container runs in every case.
pub(super) fn take(
    ctx: &Context,
    job: &Job,
    subject: &Subject,
    scan: &Scan,
    engine: &Usable,
    deadline: Instant,
) -> Result<Taken, Error> {
    let failed = |what: &'static str| move |error: std::io::Error| Error::failed(what, error);
    let table = sys::mount::mountinfo_of(subject.init)
        .map_err(failed("read the container's mount table"))?;
    let kind = ctx.runtimes.get(&job.sandbox.handler)?.kind;
    let mounts = mounts::plan(&subject.spec, &table, kind);
    let descriptors = metadata::descriptors(subject.init)
        .map_err(failed("read the container's standard descriptors"))?;
    let images = sys::mount::tmpfs(Some(IMAGES_BYTES), 0o700)
        .map_err(failed("make a tmpfs for CRIU's images"))?;
    let work = sys::mount::tmpfs(Some(IMAGES_BYTES), 0o700)
        .map_err(failed("make a tmpfs for CRIU's log"))?;
    let writer = ArchiveWriter::create(&job.request.location).map_err(archive_error)?;
    let pipes = scan.pids.len().saturating_add(EXTRA_PIPES).min(MOST_PIPES);
    let pages = writer
        .capture_pages(
            &images,
            &CaptureOptions {
                max_files: u32::try_from(pipes).unwrap_or(u32::MAX),
                expected: &scan.memory_bytes,
                sink: Sink::default(),
            },
        )
        .map_err(archive_error)?;
    let token = CancelToken::new().map_err(failed("make a cancel token"))?;
    let (hook, abort) = (token.clone(), pages.abort_handle());
    job.cancel.on_cancel(move || {
        hook.cancel();
        abort.abort();
    });
    let options = options(ctx, job, subject, scan, &mounts, (&images, &work))?;
    let mut frame = Frame {
        ctx,
        job,
        subject,
        mounts: &mounts,
        pages,
        deadline,
        outcome: None,
    };
    let dumped = frame.dump(engine, &options, &token);
    let (pages, outcome) = (frame.pages, frame.outcome);
    drop(options);
    match (dumped, outcome) {
        (
            Ok(report),
            Some(Ok(Files {
                sides,
                changes,
                at,
                log,
            })),
        ) => Ok(Taken {
            pages,
            images,
            work,
            sides,
            changes,
            mounts,
            descriptors,
            at,
            frozen: report.frozen,
            log,
        }),
        (dumped, outcome) => {
            pages.abort();
            if let Some(reason) = job.cancel.reason() {
                return Err(reason.error(job.container.id.as_str()));
            }
            let log = keep_log(ctx, job, &work);
            match (outcome, dumped) {
                (Some(Err(error)), _) => Err(error),
                (_, Err(error)) => Err(dump_error(error, log.as_deref())),
                (_, Ok(_)) => Err(Error::failed(
                    "dump the container",
                    "CRIU skipped post-dump",
                )),
            }
        }
    }
}

/// The files of the frozen moment.
#[derive(Debug)]
struct Files {
    sides: Vec<Side>,
    changes: CaptureReport,
    at: SystemTime,
    log: Option<FrozenLog>,
}

struct Frame<'a> {
    ctx: &'a Context,
    job: &'a Job,
    subject: &'a Subject,
    mounts: &'a DumpMounts,
    pages: PageCapture,
    deadline: Instant,
    /// What happened between `network-lock` and `post-dump`.
    outcome: Option<Result<Files, Error>>,
}

impl Frame<'_> {
    fn dump(
        &mut self,
        engine: &Usable,
        options: &DumpOptions<'_>,
        token: &CancelToken,
    ) -> Result<criu_rpc::DumpReport, criu_rpc::Error> {
        let (ctx, job, subject, mounts) = (self.ctx, self.job, self.subject, self.mounts);
        let (pages, outcome, until) = (&mut self.pages, &mut self.outcome, self.deadline);
        std::thread::scope(|scope| {
            let mut at = SystemTime::now();
            let mut sides: Vec<ScopedJoinHandle<'_, SideResult>> = Vec::new();
            engine
                .criu
                .dump(options, Deadline::at(until), token, &mut |stage| {
                    match stage {
                        Notify::NetworkLock => {
                            at = SystemTime::now();
                            sides.push(scope.spawn(move || rootfs(job, subject)));
                            for tmpfs in &mounts.tmpfs {
                                let (path, member) = (&tmpfs.destination, tmpfs.member.clone());
                                sides.push(
                                    scope.spawn(move || tree(job, subject.init, path, member)),
                                );
                            }
                            let shm = sandbox::shm_path(&ctx.config, &job.sandbox);
                            if shm != Path::new("/dev/shm") {
                                sides.push(scope.spawn(move || pod_shm(job, &shm)));
                            }
                        }
                        Notify::PostDump => {
                            let files =
                                finish(std::mem::take(&mut sides), job, at).and_then(|files| {
                                    pages.drained(Deadline::at(until)).map_err(archive_error)?;
                                    Ok(files)
                                });
                            let refused = files.as_ref().err().map(|error| chain(error));
                            *outcome = Some(files);
                            if let Some(problem) = refused {
                                return Err(BoxError::from(problem));
                            }
                        }
                        _ => {}
                    }
                    Ok(NotifyReply::Continue)
                })
        })
    }
}

/// Waits for the captures and adds the names that CRIU made for files that have another name; it
/// removes them right after `post-dump`.
fn finish(
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
fn rootfs(job: &Job, subject: &Subject) -> SideResult {
    let content = spool(job)?;
    let upper = open(&subject.upper)?;
    let writer = TreeWriter::overlay(&upper, content).map_err(archive_error)?;
    written(bundler::names::ROOTFS_DIFF.to_owned(), writer)
}

/// One tmpfs of the container, reached through its first process.
fn tree(job: &Job, init: u32, destination: &Path, member: String) -> SideResult {
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
fn pod_shm(job: &Job, path: &Path) -> SideResult {
    let writer = TreeWriter::plain(open(path)?, spool(job)?).map_err(archive_error)?;
    written(bundler::names::DEVSHM.to_owned(), writer)
}

fn written(member: String, mut writer: TreeWriter<Until<Spool>>) -> SideResult {
    writer.write_all().map_err(archive_error)?;
    Ok(Captured { member, writer })
}

fn options<'a>(
    ctx: &Context,
    job: &Job,
    subject: &'a Subject,
    scan: &Scan,
    mounts: &DumpMounts,
    (images, work): (&'a OwnedFd, &'a OwnedFd),
) -> Result<DumpOptions<'a>, Error> {
    let mut external = Vec::new();
    for (kind, key) in [("net", "extRootNetNS"), ("pid", "extRootPidNS")] {
        let name = if kind == "net" { "network" } else { kind };
        if given_by_path(&subject.spec, name) {
            let path = PathBuf::from(format!("/proc/{}/ns/{kind}", subject.init));
            let inode =
                sys::ns::inode(&path).map_err(|error| Error::io("look at", &path, error))?;
            external.push(format!("{kind}[{inode}]:{key}"));
        }
    }
    let ghost = ctx.config.checkpoint.ghost_limit_bytes;
    Ok(DumpOptions {
        root: Some(&subject.merged),
        leave_running: true,
        external,
        ext_mounts: mounts.external.clone(),
        ext_masters: true,
        ghost_limit_bytes: u32::try_from(ghost).unwrap_or(u32::MAX),
        irmap_scan_paths: watches::find(&subject.merged, &scan.watches),
        timeout: Some(FREEZE),
        orphan_pts_master: job.container.config.tty,
        log_level: LOG_LEVEL,
        ..DumpOptions::new(subject.init, images.as_fd(), work.as_fd())
    })
}

/// Whether the spec takes a namespace from a path.
fn given_by_path(spec: &serde_json::Value, kind: &str) -> bool {
    let list = spec
        .pointer("/linux/namespaces")
        .and_then(serde_json::Value::as_array);
    list.into_iter().flatten().any(|namespace| {
        namespace.get("type").and_then(serde_json::Value::as_str) == Some(kind)
            && namespace
                .get("path")
                .and_then(serde_json::Value::as_str)
                .is_some()
    })
}
