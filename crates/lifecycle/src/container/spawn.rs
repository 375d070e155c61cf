//! Starting the monitor of a container, which runs the OCI runtime.

use std::path::PathBuf;

use oci_runtime::OciRuntime;
use sys::process::Deadline;
use tracing::debug;

use crate::cgroups::CgroupDriver;
use crate::context::{Context, STEP};
use crate::error::Error;
use crate::record::{ContainerRecord, ProcessId, SandboxRecord};

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
    let runtime = OciRuntime {
        systemd_cgroup: CgroupDriver::of_container(&record.cgroup) == CgroupDriver::Systemd,
        ..ctx.runtimes.get(&sandbox.handler)?.clone()
    };
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
