//! The end of a container: signals, its exit record, and what it leaves behind.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sys::process::Deadline;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use crate::cgroups::CgroupDriver;
use crate::context::{CLEAN_UP, Context, STEP, with};
use crate::error::Error;
use crate::model::Exit;
use crate::record::{ContainerRecord, ContainerState, ProcessId};
use crate::restore;

/// How long a container may take to vanish after SIGKILL.
const KILL_WAIT: Duration = Duration::from_secs(20);
/// How long a monitor may take to hear of it. It answers at once.
const ANNOUNCE: Duration = Duration::from_secs(2);
/// SIGKILL.
const KILL: i32 = sys::signal::KILL;

/// Ends a container: its stop signal, then SIGKILL at `kill_at`.
///
/// # Errors
///
/// [`Error::Deadline`] when it does not even end on SIGKILL.
pub(crate) async fn stop(
    ctx: &Arc<Context>,
    handler: &str,
    record: &ContainerRecord,
    mut kill_at: watch::Receiver<Instant>,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Error> {
    let created = matches!(record.state, ContainerState::Created { .. });
    if !created && *kill_at.borrow() > Instant::now() {
        signal(ctx, handler, record, record.stop_signal).await?;
        loop {
            let until = *kill_at.borrow_and_update();
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => break,
                () = tokio::time::sleep_until(until) => break,
                changed = kill_at.changed() => if changed.is_err() { break },
            }
        }
    }
    if !*ended.borrow() {
        signal(ctx, handler, record, KILL).await?;
        let wait = tokio::time::timeout(KILL_WAIT, ended.wait_for(|ended| *ended)).await;
        let known = record.init().is_some_and(ProcessId::exists);
        if wait.is_err() && known {
            return Err(Error::Deadline(format!(
                "container {} did not end within {} s of SIGKILL",
                record.id,
                KILL_WAIT.as_secs()
            )));
        }
    }
    clean_up(ctx, handler, record).await;
    Ok(())
}

async fn signal(
    ctx: &Arc<Context>,
    handler: &str,
    record: &ContainerRecord,
    signal: i32,
) -> Result<(), Error> {
    let (handler, record) = (handler.to_owned(), record.clone());
    with(ctx, move |ctx| {
        let Some(init) = record.init() else {
            return Ok(());
        };
        if !init.exists() {
            return Ok(());
        }
        let runtime = ctx.runtimes.get(&handler)?;
        if signal == KILL {
            announce_kill(ctx, &record);
        }
        let sent = runtime.kill(record.id.as_str(), signal, false, Deadline::after(STEP));
        match sent {
            Err(error) if init.exists() => Err(Error::failed(
                format!("send signal {signal} to container {}", record.id),
                error,
            )),
            _ => Ok(()),
        }
    })
    .await
}

/// Tells the monitor that it is not the OOM killer that ends the container.
fn announce_kill(ctx: &Context, record: &ContainerRecord) {
    let run_dir = ctx.config.container_run_dir(record.id.as_str());
    let told = monitor::Client::connect(&run_dir).and_then(|mut client| client.killing(ANNOUNCE));
    if let Err(error) = told {
        // A monitor that is gone, or older than this request. The container is killed all the same.
        tracing::debug!(container = %record.id, %error, "the monitor was not told of a SIGKILL");
    }
}

/// Waits until the container's monitor, or without one its first process, has ended.
///
/// Returns what the monitor recorded; `None` when it left no record.
pub(crate) async fn wait_exit(ctx: &Arc<Context>, record: &ContainerRecord) -> Option<Exit> {
    for process in [record.monitor, record.init()].into_iter().flatten() {
        if !process.exists() {
            continue;
        }
        if let Err(error) = wait_process(process).await {
            warn!(container = %record.id, pid = process.pid, %error, "cannot wait for a process");
        }
    }
    let run_dir = ctx.config.container_run_dir(record.id.as_str());
    match monitor::read_exit(&run_dir) {
        Ok(exit) => exit.map(|exit| exit_of(&exit)),
        Err(error) => {
            warn!(container = %record.id, %error, "the exit record cannot be read");
            None
        }
    }
}

async fn wait_process(process: ProcessId) -> std::io::Result<()> {
    let pidfd = sys::pidfd::open(process.pid)?;
    if !process.exists() {
        return Ok(());
    }
    #[expect(
        deprecated,
        reason = "its hole is a type whose descriptor changes; OwnedFd's cannot"
    )]
    let pidfd = AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE)?;
    drop(pidfd.readable().await?);
    // Ours to reap only while this daemon is its parent.
    drop(sys::pidfd::wait_child(pidfd.get_ref()));
    Ok(())
}

pub(crate) fn exit_of(exit: &monitor::ExitRecord) -> Exit {
    // An older monitor tells of any process that the OOM killer ended.
    let oom_killed = exit.oom_killed && exit.signal == Some(KILL);
    let reason = match (oom_killed, exit.code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    };
    Exit {
        code: exit.code,
        finished_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(exit.finished_at_ns),
        oom_killed,
        reason: reason.to_owned(),
        message: String::new(),
    }
}

/// Frees what an ended container still holds in the kernel: leftover processes, its cgroup, the
/// OCI runtime's state. Failures are logged; removal tries again.
pub(crate) async fn clean_up(ctx: &Arc<Context>, handler: &str, record: &ContainerRecord) {
    let (handler, id) = (handler.to_owned(), record.id.clone());
    let result = with(ctx, move |ctx| forget_processes(ctx, &handler, id.as_str())).await;
    if let Err(error) = result {
        warn!(container = %record.id, error = &error as &dyn std::error::Error,
            "cleaning up after a container failed");
    }
}

pub(super) fn forget_processes(ctx: &Context, handler: &str, id: &str) -> Result<(), Error> {
    let runtime = ctx.runtimes.get(handler)?;
    runtime
        .delete(id, true, Deadline::after(CLEAN_UP))
        .map_err(|error| Error::failed(format!("delete container {id}"), error))?;
    restore::drop_mounts(&ctx.config.container_run_dir(id))
}

/// Ends a container if it has not ended, and removes everything it had but its record.
///
/// # Errors
///
/// The steps that failed; all are tried.
pub(crate) async fn remove(
    ctx: &Arc<Context>,
    handler: &str,
    record: &ContainerRecord,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Error> {
    if record.init().is_some() && !*ended.borrow() {
        signal(ctx, handler, record, KILL).await?;
        drop(tokio::time::timeout(KILL_WAIT, ended.wait_for(|ended| *ended)).await);
    }
    forget(ctx, handler, record).await
}

/// Kills what runs and removes everything but the record.
///
/// # Errors
///
/// The first step that failed; all are tried.
pub(super) async fn forget(
    ctx: &Arc<Context>,
    handler: &str,
    record: &ContainerRecord,
) -> Result<(), Error> {
    let (handler, owned) = (handler.to_owned(), record.clone());
    let processes = with(ctx, move |ctx| forget_files(ctx, &handler, &owned)).await;
    let id = &record.id;
    let rootfs = ctx
        .images
        .remove_rootfs(id.as_str())
        .await
        .map_err(|error| Error::failed(format!("remove the files of container {id}"), error));
    processes.and(rootfs)
}

fn forget_files(ctx: &Context, handler: &str, record: &ContainerRecord) -> Result<(), Error> {
    let id = record.id.as_str();
    let mut result = forget_processes(ctx, handler, id);
    // crun leaves directories behind when it fails; a scope goes with its last process.
    if CgroupDriver::of_container(&record.cgroup) == CgroupDriver::Cgroupfs
        && let Err(error) = ctx.hierarchies.kill(&record.cgroup, CLEAN_UP)
    {
        result = result.and(Err(Error::io("remove cgroup", &record.cgroup, error)));
    }
    for directory in [
        ctx.config.container_run_dir(id),
        ctx.config.container_dir(id),
    ] {
        if let Err(error) = sys::fs::remove_tree(&directory) {
            result = result.and(Err(Error::io("remove", directory, error)));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::process::ExitStatus;

    #[test]
    fn only_a_container_whose_first_process_was_killed_for_memory_says_so() {
        for (status, oom_killed, reason) in [
            (ExitStatus::Signal(KILL), true, "OOMKilled"),
            (ExitStatus::Signal(KILL), false, "Error"),
            // As an older monitor records a child's end.
            (ExitStatus::Code(3), true, "Error"),
            (ExitStatus::Code(137), true, "Error"),
            (ExitStatus::Code(0), true, "Completed"),
            (ExitStatus::Code(0), false, "Completed"),
        ] {
            let record = monitor::ExitRecord::new(status, 5, oom_killed);
            let exit = exit_of(&record);
            assert_eq!(exit.reason, reason, "{record:?}");
            assert_eq!(exit.oom_killed, reason == "OOMKilled", "{record:?}");
            assert_eq!(exit.code, status.code_or_128_plus_signal());
        }
    }
}
