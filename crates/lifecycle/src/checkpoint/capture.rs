//! The frozen part of a checkpoint: CRIU's dump, and everything that must be of the same moment.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bundler::{ArchiveWriter, CaptureOptions, PageCapture, Sink};
use criu_rpc::{CancelToken, DumpOptions};
use monitor::PipeWatch;

use super::dump::{self, Frame, Of};
use super::failure::{archive_error, dump_error, keep_log};
use super::mounts::{self, DumpMounts};
use super::preflight::Scan;
use super::protection::Protection;
use super::sides::Files;
use super::{Job, Subject, metadata};
use crate::context::Context;
use crate::engine::Usable;
use crate::error::Error;

/// CRIU's small images and, beyond the pipes, unexpected page images: bytes of the private tmpfs.
const IMAGES_BYTES: u64 = 1 << 30;

/// Pipes beyond one a process, for shared memory segments.
const EXTRA_PIPES: usize = 64;

/// Most pipes; each takes a descriptor.
const MOST_PIPES: usize = 1024;

/// Everything that was taken while the container stood still.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) pages: PageCapture,
    /// CRIU's images.
    pub(super) images: OwnedFd,
    /// CRIU's log and statistics.
    pub(super) work: OwnedFd,
    pub(super) files: Files,
    pub(super) mounts: DumpMounts,
    pub(super) descriptors: Vec<String>,
    pub(super) frozen: Duration,
    /// Whether it ran on before its memory was in the archive.
    pub(super) copy_on_write: bool,
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
    let protection = Protection::prepare(ctx, job, subject, scan);
    let writer = ArchiveWriter::create(&job.request.location).map_err(archive_error)?;
    let pipes = scan.pids.len().saturating_add(EXTRA_PIPES).min(MOST_PIPES);
    let pipes = u32::try_from(pipes).unwrap_or(u32::MAX);
    let pages = writer
        .capture_pages(
            &images,
            &CaptureOptions {
                max_files: pipes,
                expected: &scan.memory_bytes,
                sink: Sink::default(),
                protection_expected: protection.is_some(),
            },
        )
        .map_err(archive_error)?;
    let watch = PipeWatch::start(&ctx.config.monitor, &images, pipes)
        .map_err(|error| Error::failed("watch over CRIU's pipes", error))?;
    let token = CancelToken::new().map_err(failed("make a cancel token"))?;
    let (hook, abort) = (token.clone(), pages.abort_handle());
    job.cancel.on_cancel(move || {
        hook.cancel();
        abort.abort();
    });
    let freezer = protection.as_ref().map(Protection::path);
    let options = DumpOptions {
        freeze_cgroup: freezer.as_deref(),
        ..dump::options(ctx, job, subject, scan, &mounts, (&images, &work))?
    };
    let mut frame = Frame {
        of: Of {
            ctx,
            job,
            subject,
            mounts: &mounts,
        },
        images: &images,
        pages,
        pipes,
        deadline,
        protection,
        protected: false,
        frozen: Duration::ZERO,
        outcome: None,
    };
    let dumped = frame.dump(engine, options, &token);
    watch.done();
    let (frozen, copy_on_write) = (frame.frozen, frame.protected);
    let (pages, outcome) = (frame.pages, frame.outcome);
    match (dumped, outcome) {
        (Ok(()), Some(Ok(files))) => Ok(Taken {
            pages,
            images,
            work,
            files,
            mounts,
            descriptors,
            frozen,
            copy_on_write,
        }),
        (dumped, outcome) => {
            pages.abort();
            Err(failure(ctx, job, &work, dumped, outcome))
        }
    }
}

/// Why there is no checkpoint.
fn failure(
    ctx: &Context,
    job: &Job,
    work: &OwnedFd,
    dumped: Result<(), criu_rpc::Error>,
    outcome: Option<Result<Files, Error>>,
) -> Error {
    if let Some(reason) = job.cancel.reason() {
        return reason.error(job.container.id.as_str());
    }
    let log = keep_log(ctx, job, work);
    match (outcome, dumped) {
        (Some(Err(error)), _) => error,
        (_, Err(error)) => dump_error(error, log.as_deref()),
        (_, Ok(())) => Error::failed("dump the container", "CRIU skipped post-dump"),
    }
}
