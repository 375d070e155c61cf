//! Building, starting, ending and forgetting one container.
//!
//! Each function is work of the owner task: it gets a record, does one thing, and returns the
//! record that follows. Everything is found again from the record's id alone, so each of stop,
//! remove and clean-up can be repeated at any time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sys::process::Deadline;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::context::{CLEAN_UP, Context, STEP, with};
use crate::error::Error;
use crate::model::{ContainerConfig, ContainerId, Exit};
use crate::record::{ContainerRecord, ContainerState, ProcessId, SandboxRecord, VERSION};
use crate::{bundle, restore};

/// How long a container may take to vanish after SIGKILL.
const KILL_WAIT: Duration = Duration::from_secs(20);

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
        cgroup: format!("{}/{id}", sandbox.cgroup_parent.trim_end_matches('/')),
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
) -> Result<ContainerRecord, Error> {
    let id = record.id.clone();
    match build(ctx, sandbox, record).await {
        Ok(record) => Ok(record),
        Err(error) => {
            let (handler, undone) = (sandbox.handler.clone(), id.clone());
            let undo = with(ctx, move |ctx| forget(ctx, &handler, undone.as_str())).await;
            let rootfs = ctx.images.remove_rootfs(id.as_str()).await;
            if let Err(leftover) = undo {
                warn!(container = %id, error = &leftover as &dyn std::error::Error,
                    "undoing a failed creation left something behind");
            }
            if let Err(leftover) = rootfs {
                warn!(container = %id, error = &leftover as &dyn std::error::Error,
                    "the root filesystem of a failed creation stays");
            }
            Err(error)
        }
    }
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

/// What the monitor is to run.
#[derive(Debug, Clone)]
pub(crate) enum Run {
    /// `create`.
    Create,
    /// `restore`, with the images and CRIU's work directory, and the environment of the relay.
    Restore {
        images: PathBuf,
        work: PathBuf,
        env: Vec<(String, String)>,
    },
}

/// A monitor and its container's first process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spawned {
    pub(crate) monitor: ProcessId,
    pub(crate) init: ProcessId,
}

/// Starts the monitor, which runs the OCI runtime.
///
/// # Errors
///
/// The monitor's own report: which stage failed, with the runtime's words.
pub(crate) fn spawn_monitor(
    ctx: &Context,
    sandbox: &SandboxRecord,
    record: &ContainerRecord,
    run: Run,
) -> Result<Spawned, Error> {
    let id = record.id.as_str();
    let runtime = ctx.runtimes.get(&sandbox.handler)?;
    let run_dir = ctx.config.container_run_dir(id);
    sys::fs::make_dir_all(&run_dir, 0o700)
        .map_err(|error| Error::io("make directory", &run_dir, error))?;
    let bundle = ctx.config.container_dir(id);
    let (pid_file, log) = (run_dir.join("pid"), run_dir.join("runtime.log"));
    let console = record.config.tty.then(|| run_dir.join("console.sock"));
    let private_mounts = matches!(run, Run::Restore { .. });
    let patience = if private_mounts {
        ctx.config.checkpoint.restore_timeout
    } else {
        STEP
    };
    let (argv, env) = match run {
        Run::Create => (
            runtime.create_args(id, &bundle, &pid_file, console.as_deref(), &log),
            Vec::new(),
        ),
        Run::Restore { images, work, env } => {
            let argv = runtime.restore_args(&oci_runtime::RestoreArgs {
                id,
                bundle: &bundle,
                pid_file: &pid_file,
                image_path: &images,
                work_path: &work,
                console_socket: console.as_deref(),
                log: &log,
            });
            (argv, env)
        }
    };
    let spec = monitor::MonitorSpec {
        version: monitor::VERSION,
        container_id: id.to_owned(),
        runtime_argv: argv
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        runtime_env: env,
        runtime_log: log,
        pid_file,
        bundle,
        log_path: record.log_path.clone(),
        terminal: record.config.tty,
        stdin: record.config.stdin,
        run_dir,
        oom_files: ctx.hierarchies.oom_files(&record.cgroup),
        private_mounts,
    };
    let started = monitor::spawn(&ctx.monitor(), &spec, Deadline::after(patience))
        .map_err(|error| Error::failed(format!("start container {id}"), error))?;
    let identity = |pid| {
        ProcessId::of(pid).map_err(|error| Error::failed(format!("find process {pid}"), error))
    };
    let spawned = Spawned {
        monitor: identity(started.monitor_pid)?,
        init: identity(started.container_pid)?,
    };
    let group = ctx.config.monitors_cgroup();
    let out = ctx
        .hierarchies
        .move_out_of_service(spawned.monitor.pid, &group);
    if let Err(error) = out {
        debug!(container = id, %error, "the monitor stays in the daemon's cgroup");
    }
    Ok(spawned)
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
        record.started_at = Some(SystemTime::now());
        Ok(record)
    })
    .await
}

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
        signal(ctx, handler, record, 9).await?;
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
    let reason = match (exit.oom_killed, exit.code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    };
    Exit {
        code: exit.code,
        finished_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(exit.finished_at_ns),
        oom_killed: exit.oom_killed,
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

fn forget_processes(ctx: &Context, handler: &str, id: &str) -> Result<(), Error> {
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
        signal(ctx, handler, record, 9).await?;
        drop(tokio::time::timeout(KILL_WAIT, ended.wait_for(|ended| *ended)).await);
    }
    let (owned_handler, id) = (handler.to_owned(), record.id.clone());
    let processes = with(ctx, move |ctx| forget(ctx, &owned_handler, id.as_str())).await;
    let rootfs = ctx
        .images
        .remove_rootfs(record.id.as_str())
        .await
        .map_err(|error| {
            Error::failed(
                format!("remove the files of container {}", record.id),
                error,
            )
        });
    processes.and(rootfs)
}

fn forget(ctx: &Context, handler: &str, id: &str) -> Result<(), Error> {
    let mut result = forget_processes(ctx, handler, id);
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
