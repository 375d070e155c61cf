//! Taking over what an earlier daemon left: the store's intent against the kernel's truth.
//!
//! | stored | found | becomes |
//! |---|---|---|
//! | sandbox `Creating` | anything | undone and forgotten |
//! | sandbox `Ready` | made on another boot, or its namespaces are gone | `Stopped`, what is left taken down |
//! | sandbox `Stopped` | not quite taken down | taken down |
//! | container `Creating` | anything | undone and forgotten |
//! | `Created`, `Running` | first process or its monitor alive | as stored; `Running` if its program has begun |
//! | `Created`, `Running` | exit record | `Exited` with that code |
//! | `Created`, `Running` | neither | `Exited`, code 255, reason `Unknown` |
//! | container without sandbox, root filesystem without container | | cleaned away |
//! | record of a version that is not known | | left alone, for the version that knows it |
//!
//! One bad object is logged and passed over; the daemon always starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{info, warn};

use crate::context::{Context, with};
use crate::error::Error;
use crate::model::{Exit, SandboxId};
use crate::record::{ContainerRecord, ContainerState, ProcessId, SandboxRecord, SandboxState};
use crate::{checkpoint, container, sandbox};

/// Sandboxes with their containers, reconciled.
type Recovered = Vec<(SandboxRecord, Vec<ContainerRecord>)>;

/// Reconciles everything in the store.
///
/// # Errors
///
/// Only when the store itself cannot be read.
pub(crate) async fn recover(ctx: &Arc<Context>) -> Result<Recovered, Error> {
    let (sandboxes, bad_sandboxes) = ctx.store.sandboxes().await?;
    let (containers, bad_containers) = ctx.store.containers().await?;
    for id in bad_sandboxes.iter().chain(&bad_containers) {
        warn!(id, "a record of an unknown version was passed over");
    }
    // Before anything is asked of a container.
    if let Err(error) = checkpoint::thaw_leftovers(ctx, &containers) {
        warn!(
            error = &error as &dyn std::error::Error,
            "a container may be frozen"
        );
    }
    let mut known: BTreeSet<String> = bad_containers.into_iter().collect();
    let mut by_sandbox: BTreeMap<SandboxId, Vec<ContainerRecord>> = BTreeMap::new();
    for record in containers {
        known.insert(record.id.to_string());
        by_sandbox
            .entry(record.sandbox_id.clone())
            .or_default()
            .push(record);
    }
    for record in &sandboxes {
        let users = &ctx.cgroup_users;
        users.adopt(record.id.as_str(), &record.cgroup_parent);
    }
    let mut recovered = Vec::new();
    for record in sandboxes {
        let owned = by_sandbox.remove(&record.id).unwrap_or_default();
        let id = record.id.clone();
        match recover_sandbox(ctx, record, owned).await {
            Ok(Some(found)) => recovered.push(found),
            Ok(None) => {}
            Err(error) => warn!(sandbox = %id, error = &error as &dyn std::error::Error,
                "a sandbox could not be recovered"),
        }
    }
    for record in by_sandbox.into_values().flatten() {
        if bad_sandboxes
            .iter()
            .any(|id| id == record.sandbox_id.as_str())
        {
            continue;
        }
        // Which handler its sandbox had is not known; to the others its id means nothing.
        for handler in ctx.runtimes.usable() {
            discard(ctx, &handler, &record).await;
        }
    }
    remove_strange_rootfs(ctx, &known).await;
    let swept = with(ctx, |ctx| {
        let swept = ctx.cgroup_users.clear(&ctx.hierarchies);
        swept.map_err(|error| Error::failed("remove cgroups without a pod", error))
    });
    if let Err(error) = swept.await {
        warn!(
            error = &error as &dyn std::error::Error,
            "cgroups that were made for pods stay"
        );
    }
    if let Err(error) = with(ctx, |ctx| checkpoint::recover(ctx)).await {
        warn!(
            error = &error as &dyn std::error::Error,
            "leftovers of checkpoints stay"
        );
    }
    Ok(recovered)
}

async fn recover_sandbox(
    ctx: &Arc<Context>,
    mut record: SandboxRecord,
    containers: Vec<ContainerRecord>,
) -> Result<Option<(SandboxRecord, Vec<ContainerRecord>)>, Error> {
    if record.state == SandboxState::Creating {
        info!(sandbox = %record.id, "undoing a sandbox whose creation was interrupted");
        for container in &containers {
            discard(ctx, &record.handler, container).await;
        }
        if sandbox::undo(ctx, &record).await {
            ctx.store.remove_sandbox(&record.id).await?;
        }
        return Ok(None);
    }
    let lost = record.boot_id != ctx.boot_id
        || sandbox::netns_path(&ctx.config, &record).is_some_and(|path| !path.exists())
        || record.init.is_some_and(|init| !init.exists());
    if record.state == SandboxState::Ready && lost {
        warn!(sandbox = %record.id, "the namespaces of a sandbox are gone; it counts as stopped");
        record.state = SandboxState::Stopped;
    }
    if record.state == SandboxState::Stopped && !record.torn_down {
        match sandbox::tear_down(ctx, &record).await {
            Ok(()) => record.torn_down = true,
            Err(error) => warn!(sandbox = %record.id, error = &error as &dyn std::error::Error,
                "a stopped sandbox is not quite taken down; its next stop tries again"),
        }
        ctx.store.put_sandbox(&record).await?;
    }
    let mut kept = Vec::new();
    for container in containers {
        if container.state == ContainerState::Creating {
            info!(container = %container.id, "undoing a container whose creation was interrupted");
            discard(ctx, &record.handler, &container).await;
        } else {
            kept.push(recover_container(ctx, &record.handler, container).await);
        }
    }
    Ok(Some((record, kept)))
}

async fn recover_container(
    ctx: &Arc<Context>,
    handler: &str,
    record: ContainerRecord,
) -> ContainerRecord {
    let before = record.clone();
    let handler = handler.to_owned();
    let result = with(ctx, move |ctx| Ok(reconcile(ctx, &handler, record))).await;
    let record = result.unwrap_or_else(|error| {
        warn!(container = %before.id, error = &error as &dyn std::error::Error,
            "a container could not be reconciled");
        ContainerRecord {
            state: ContainerState::Unknown,
            ..before.clone()
        }
    });
    if record != before
        && let Err(error) = ctx.store.put_container(&record).await
    {
        warn!(container = %record.id, error = &error as &dyn std::error::Error,
            "the recovered state of a container is not on disk");
    }
    record
}

fn reconcile(ctx: &Context, handler: &str, mut record: ContainerRecord) -> ContainerRecord {
    let same_boot = record.boot_id == ctx.boot_id;
    if let ContainerState::Created { init: None } = record.state {
        // A restore that was interrupted may have left processes; the archive is still there.
        if same_boot && let Some(found) = interrupted_restore(ctx, handler, &record) {
            record = found;
        }
        return record;
    }
    let Some(init) = record.init() else {
        return record;
    };
    let run_dir = ctx.config.container_run_dir(record.id.as_str());
    let ended = match monitor::read_exit(&run_dir) {
        Ok(exit) => exit.filter(|_| same_boot),
        Err(error) => {
            warn!(container = %record.id, %error, "the exit record cannot be read");
            None
        }
    };
    // A monitor that outlives the first process is about to record its end.
    let monitored = record.monitor.is_some_and(ProcessId::exists);
    if same_boot && ended.is_none() && (init.exists() || monitored) {
        let runtime = ctx.runtimes.get(handler).ok();
        let state = runtime.and_then(|runtime| {
            let deadline = sys::process::Deadline::after(crate::context::STEP);
            runtime.state(record.id.as_str(), deadline).ok().flatten()
        });
        let created = matches!(record.state, ContainerState::Created { .. });
        if created && state.is_some_and(|state| state.status == oci_runtime::Status::Running) {
            record.state = ContainerState::Running { init };
            record.started_at = Some(SystemTime::now());
        }
        return record;
    }
    let exit = ended.map_or_else(
        || Exit {
            code: 255,
            finished_at: SystemTime::now(),
            oom_killed: false,
            reason: "Unknown".into(),
            message: "it ended while nobody could see its exit code".into(),
        },
        |exit| container::exit_of(&exit),
    );
    info!(container = %record.id, code = exit.code, "a container ended while thawd was away");
    record.state = ContainerState::Exited(exit);
    record.monitor = None;
    record
}

/// A restore that finished while the daemon was killed: the container runs already.
fn interrupted_restore(
    ctx: &Context,
    handler: &str,
    record: &ContainerRecord,
) -> Option<ContainerRecord> {
    let run_dir = ctx.config.container_run_dir(record.id.as_str());
    let status = monitor::Client::connect(&run_dir)
        .and_then(|mut client| client.status())
        .ok()?;
    let init = ProcessId::of(status.container_pid).ok()?;
    // Its tasks may still stand where the relay left them.
    if let Err(error) = crate::restore::let_run(ctx, record) {
        warn!(container = %record.id, error = &error as &dyn std::error::Error,
            "restored tasks may stand still");
    }
    let runtime = ctx.runtimes.get(handler).ok()?;
    let deadline = sys::process::Deadline::after(crate::context::STEP);
    let state = runtime.state(record.id.as_str(), deadline).ok().flatten()?;
    (state.status == oci_runtime::Status::Running).then(|| ContainerRecord {
        state: ContainerState::Running { init },
        monitor: ProcessId::of(status.monitor_pid).ok(),
        started_at: Some(SystemTime::now()),
        ..record.clone()
    })
}

/// Removes root filesystems that belong to no container: whatever should have removed them failed.
async fn remove_strange_rootfs(ctx: &Arc<Context>, known: &BTreeSet<String>) {
    let ids = ctx.images.rootfs_ids().await.unwrap_or_else(|error| {
        warn!(
            error = &error as &dyn std::error::Error,
            "root filesystems cannot be listed; those without a container stay"
        );
        Vec::new()
    });
    for id in ids.iter().filter(|id| !known.contains(*id)) {
        info!(id, "removing a root filesystem without a container");
        if let Err(error) = ctx.images.remove_rootfs(id).await {
            warn!(
                id,
                error = &error as &dyn std::error::Error,
                "a root filesystem without a container stays"
            );
        }
    }
}

/// Cleans a container away that nobody was told of.
async fn discard(ctx: &Arc<Context>, handler: &str, record: &ContainerRecord) {
    // A monitor may still be at its creation: what it makes must not come after the clean-up.
    let run_dir = ctx.config.container_run_dir(record.id.as_str());
    let created = crate::context::blocking(move || Ok(monitor::probe_alive(&run_dir))).await;
    if let Ok(Err(error)) = created {
        warn!(container = %record.id, error = &error as &dyn std::error::Error,
            "a monitor does not say how the creation ended");
    }
    let ended = tokio::sync::watch::Sender::new(true);
    let result = match container::remove(ctx, handler, record, ended.subscribe()).await {
        Ok(()) => ctx.store.remove_container(&record.id).await,
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        warn!(container = %record.id, error = &error as &dyn std::error::Error,
            "a container that was never reported could not be cleaned away");
    }
}
