//! Building, starting, ending and forgetting one container.
//!
//! Each function is work of the owner task: it gets a record, does one thing, and returns the
//! record that follows. Everything is found again from the record's id alone, so each of stop,
//! remove and clean-up can be repeated at any time.

mod ending;
mod spawn;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sys::process::Deadline;
use tracing::warn;

pub(crate) use ending::{clean_up, exit_of, remove, stop, wait_exit};
pub(crate) use spawn::{Run, spawn_monitor};

use crate::cgroups::CgroupDriver;
use crate::context::{Context, STEP, with};
use crate::error::{Error, Failed};
use crate::model::{ContainerConfig, ContainerId};
use crate::record::{ContainerRecord, ContainerState, SandboxRecord, VERSION};
use crate::{bundle, restore};
use ending::{forget, forget_processes};

/// The record of a container that is about to be made.
///
/// # Errors
///
/// [`Error::Invalid`] for a log path that leaves the sandbox's log directory; [`Error::Failed`]
/// without randomness.
pub(crate) fn intent(
    ctx: &Context,
    sandbox: &SandboxRecord,
    config: ContainerConfig,
) -> Result<ContainerRecord, Error> {
    let id = sys::sysinfo::random_hex(32)
        .map_err(|error| Error::failed("make a container id", error))?;
    let log_path = log_path(&sandbox.config.log_directory, &config.log_path)?;
    Ok(ContainerRecord {
        version: VERSION,
        sandbox_id: sandbox.id.clone(),
        cgroup: CgroupDriver::of_pod(&sandbox.cgroup_parent).container(&sandbox.cgroup_parent, &id),
        id: ContainerId::new(id),
        stop_signal: config.stop_signal.unwrap_or(15),
        config,
        image_id: String::new(),
        image_ref: String::new(),
        state: ContainerState::Creating,
        created_at: SystemTime::now(),
        started_at: None,
        log_path,
        restore: None,
        user: (0, 0, Vec::new()),
        monitor: None,
        boot_id: ctx.boot_id.clone(),
    })
}

fn log_path(directory: &Path, name: &Path) -> Result<Option<PathBuf>, Error> {
    if directory.as_os_str().is_empty() || name.as_os_str().is_empty() {
        return Ok(None);
    }
    let plain = name
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if !plain {
        let problem = format!(
            "{} is not a path below the pod's log directory",
            name.display()
        );
        return Err(Error::invalid("log_path", problem));
    }
    Ok(Some(directory.join(name)))
}

/// Makes root filesystem, bundle and, unless it will be restored, the waiting first process.
///
/// # Errors
///
/// The step that failed; everything made before it is undone.
pub(crate) async fn create(
    ctx: &Arc<Context>,
    sandbox: &SandboxRecord,
    record: ContainerRecord,
) -> Result<ContainerRecord, Failed> {
    let intent = record.clone();
    match build(ctx, sandbox, record).await {
        Ok(record) => Ok(record),
        Err(error) => {
            let undone = undo(ctx, &sandbox.handler, &intent).await;
            Err(Failed { error, undone })
        }
    }
}

/// Undoes a container that was not, or not quite, made; whether nothing of it is left.
pub(crate) async fn undo(ctx: &Arc<Context>, handler: &str, record: &ContainerRecord) -> bool {
    let undone = forget(ctx, handler, record).await;
    if let Err(error) = &undone {
        warn!(container = %record.id, error = error as &dyn std::error::Error,
            "undoing a container left something behind; the next start of thawd tries again");
    }
    undone.is_ok()
}

async fn build(
    ctx: &Arc<Context>,
    sandbox: &SandboxRecord,
    record: ContainerRecord,
) -> Result<ContainerRecord, Error> {
    let source = restore::find(ctx, &record.config).await?;
    let mut record = record;
    let image = match source {
        Some(source) => {
            let prepared = restore::verify(ctx, &record, source).await?;
            record.restore = Some(prepared.plan);
            prepared.base
        }
        None => find_image(ctx, &record.config.image).await?,
    };
    record.image_id.clone_from(&image.id);
    record.image_ref = image
        .repo_digests
        .first()
        .cloned()
        .unwrap_or_else(|| image.id.clone());
    let rootfs = ctx
        .images
        .prepare_rootfs(record.id.as_str(), &image.id)
        .await
        .map_err(|error| Error::failed("prepare the root filesystem", error))?;
    let sandbox = sandbox.clone();
    with(ctx, move |ctx| {
        let made = bundle::write(ctx, &sandbox, &record, &image, &rootfs)?;
        record.user = made.user;
        if record.config.stop_signal.is_none()
            && let Some(signal) = made.stop_signal
        {
            record.stop_signal = signal;
        }
        let init = if record.restore.is_some() {
            restore::check(ctx, &sandbox, &record, &made.spec, &rootfs)?;
            None
        } else {
            let started = spawn_monitor(ctx, &sandbox, &record, Run::Create)?;
            record.monitor = Some(started.monitor);
            Some(started.init)
        };
        record.state = ContainerState::Created { init };
        Ok(record)
    })
    .await
}

async fn find_image(ctx: &Arc<Context>, reference: &str) -> Result<images::Image, Error> {
    if reference.is_empty() {
        return Err(Error::invalid("image", "an image reference is needed"));
    }
    let found = ctx
        .images
        .resolve(reference)
        .await
        .map_err(|error| Error::failed(format!("look up image {reference:?}"), error))?;
    found.ok_or_else(|| Error::NotFound {
        kind: "image",
        id: reference.to_owned(),
    })
}

/// Lets the waiting first process run its program.
///
/// # Errors
///
/// The OCI runtime's words, for instance a missing program.
pub(crate) async fn start(
    ctx: &Arc<Context>,
    sandbox: &SandboxRecord,
    record: ContainerRecord,
) -> Result<ContainerRecord, Error> {
    let handler = sandbox.handler.clone();
    with(ctx, move |ctx| {
        let mut record = record;
        let ContainerState::Created { init: Some(init) } = record.state else {
            return Err(Error::Precondition(format!(
                "container {} has no process",
                record.id
            )));
        };
        let runtime = ctx.runtimes.get(&handler)?;
        // Before: a short program has ended when the runtime returns, and must not end before it began.
        let started_at = SystemTime::now();
        if let Err(error) = runtime.start(record.id.as_str(), Deadline::after(STEP)) {
            if let Err(left) = forget_processes(ctx, &handler, record.id.as_str()) {
                warn!(container = %record.id, error = &left as &dyn std::error::Error,
                    "a container that failed to start left something behind");
            }
            return Err(Error::failed(
                format!("start container {}", record.id),
                error,
            ));
        }
        record.state = ContainerState::Running { init };
        record.started_at = Some(started_at);
        Ok(record)
    })
    .await
}
