//! Taking a checkpoint: one pass over the container's memory, straight into the archive.
//!
//! ```text
//! validate  location, time, CRIU           nothing touched yet; every refusal happens here
//! preflight tasks, files, sockets, space
//! dump      ── frozen ─────────────────────────────────────────────────────────────┐
//!           pre-dump: memory is made copy-on-write, where that is possible          │
//!           query-ext-files: threads begin on overlay changes, tmpfs, /dev/shm      │
//!           CRIU ─▶ FIFOs ─▶ archive, or pipes in which pages do not change         │
//!           post-dump: all of them finished, FIFOs drained                          │
//!           ── thawed ────────────────────────────────────────────────────────────┘
//! publish   small images, metadata, digests, manifest, fsync, rename
//! ```
//!
//! Whatever fails, CRIU is cancelled by breaking the FIFOs or refusing its next notification, never
//! by SIGKILL; it then unfreezes the tasks itself. When the daemon is killed, a process that watches for
//! that breaks the FIFOs (`monitor::PipeWatch`). The archive has no name until it is complete.

mod cancel;
mod capture;
mod dump;
mod failure;
mod freezer;
mod log;
mod metadata;
pub(crate) mod mounts;
mod preflight;
mod protection;
mod publish;
mod sides;
mod size;
mod until;
mod validate;
mod watches;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use cancel::{Cancel, CancelOnDrop, Reason};
use sys::process::Deadline;
use tracing::info;

use crate::context::{Context, with};
use crate::error::Error;
use crate::model::CheckpointRequest;
use crate::record::{ContainerRecord, ContainerState, SandboxRecord};

/// One checkpoint to take.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) sandbox: SandboxRecord,
    pub(crate) container: ContainerRecord,
    pub(crate) request: CheckpointRequest,
    /// The RPC's deadline.
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancel: Cancel,
}

/// What the steps share about the container.
#[derive(Debug)]
struct Subject {
    init: u32,
    /// The bundle's `config.json`.
    spec: serde_json::Value,
    /// The overlay's writable directory.
    upper: PathBuf,
    /// The overlay as mounted.
    merged: PathBuf,
}

/// Takes the checkpoint.
///
/// # Errors
///
/// See [`Node::checkpoint_container`](crate::node::Node::checkpoint_container). The container runs
/// on in every case.
pub(crate) async fn run(ctx: &Arc<Context>, job: Job) -> Result<(), Error> {
    let default = ctx.config.checkpoint.default_timeout;
    let deadline = validate::deadline(job.request.timeout, default, job.deadline)?;
    let cancel = job.cancel.clone();
    let id = job.container.id.clone();
    let rootfs = ctx
        .images
        .rootfs(id.as_str())
        .await
        .map_err(|error| Error::failed("find the container's root filesystem", error))?;
    let work = with(ctx, move |ctx| perform(ctx, &job, &rootfs, deadline));
    tokio::pin!(work);
    let result = match tokio::time::timeout_at(deadline.into(), &mut work).await {
        Ok(result) => result,
        Err(_) => {
            cancel.cancel_because(Reason::Deadline);
            work.await
        }
    };
    match (result, cancel.reason()) {
        (Err(Error::Failed { source, .. }), Some(reason)) => {
            tracing::debug!(container = %id, error = &*source as &dyn std::error::Error,
                "the cancelled checkpoint ended");
            Err(reason.error(id.as_str()))
        }
        (result, _) => result,
    }
}

fn perform(
    ctx: &Context,
    job: &Job,
    rootfs: &images::Rootfs,
    deadline: Instant,
) -> Result<(), Error> {
    let location = validate::location(&job.request.location)?;
    let engine = ctx
        .engine
        .usable(&ctx.config, Deadline::at(deadline), &job.cancel)?;
    let ContainerState::Running { init } = job.container.state else {
        return Err(Error::Precondition(format!(
            "container {} is not running",
            job.container.id
        )));
    };
    let bundle = ctx
        .config
        .container_dir(job.container.id.as_str())
        .join("config.json");
    let spec = std::fs::read(&bundle).map_err(|error| Error::io("read", &bundle, error))?;
    let spec = serde_json::from_slice(&spec)
        .map_err(|error| Error::failed(format!("parse {}", bundle.display()), error))?;
    let subject = Subject {
        init: init.pid,
        spec,
        upper: rootfs.upper.clone(),
        merged: rootfs.merged.clone(),
    };
    let scan = preflight::scan(subject.init)?;
    let memory = scan.all_memory_bytes();
    let changes = size::changes(&subject.upper, &job.cancel)
        .map_err(|error| Error::io("look at the changes in", &subject.upper, error))?;
    // Files are spooled while memory streams into the archive, and then go there themselves.
    let wanted = memory.saturating_add(changes.saturating_mul(2));
    validate::space(&location, wanted)?;
    if let Some(reason) = job.cancel.reason() {
        return Err(reason.error(job.container.id.as_str()));
    }
    let _intent = publish::Intent::write(ctx, job)?;
    let taken = capture::take(ctx, job, &subject, &scan, &engine, deadline)?;
    let (frozen, copy_on_write) = (taken.frozen, taken.copy_on_write);
    let bytes = publish::publish(ctx, job, &subject, &engine, taken)?;
    info!(container = %job.container.id, location = %job.request.location.display(),
        frozen_ms = frozen.as_secs_f64() * 1000.0, copy_on_write, bytes, "checkpoint written");
    Ok(())
}

/// Thaws containers that were frozen for copy-on-write when the daemon was killed, and what held them
/// with it: on its own that thaws them when the daemon is gone.
///
/// # Errors
///
/// What writing to a freezer returns, the last failure; all are tried.
pub(crate) fn thaw_leftovers(ctx: &Context, containers: &[ContainerRecord]) -> Result<(), Error> {
    let mut result = Ok(());
    for container in containers {
        if !publish::Intent::is_left(ctx, &container.id) {
            continue;
        }
        match ctx.hierarchies.thaw(&container.cgroup) {
            Ok(true) => info!(container = %container.id, "thawed"),
            Ok(false) => {}
            Err(error) => result = Err(Error::failed("thaw a container", error)),
        }
    }
    result
}

/// Removes what checkpoints that a killed daemon was taking left behind.
///
/// CRIU notices a dead client at its next notification and unfreezes the tasks; what it cannot
/// undo is the archive's unfinished file, where the filesystem needed a name for it.
///
/// # Errors
///
/// What removing a file returns.
pub(crate) fn recover(ctx: &Context) -> Result<(), Error> {
    publish::remove_leftovers(ctx)
}
