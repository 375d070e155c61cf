//! ExecSync: one command in a running container, its output kept, its end awaited.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use sys::process::{Deadline, OutputLimits};

use crate::context::Context;
use crate::error::Error;
use crate::model::ExecOutput;
use crate::record::ContainerRecord;

/// Bytes kept of each of stdout and stderr; the kubelet's own limit for ExecSync.
const OUTPUT_BYTES: usize = 16 * 1024 * 1024;

/// Time for a command whose caller sets none.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A command to run.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) command: Vec<String>,
    pub(crate) timeout: Option<Duration>,
    /// The command is killed when the other end of this pipe is closed: nobody waits any more.
    pub(crate) wanted: OwnedFd,
}

/// Runs a command beside the container's program, with its user, environment and limits.
///
/// # Errors
///
/// [`Error::Precondition`] unless the container runs, [`Error::Deadline`] after the time limit with
/// the command killed, [`Error::Failed`] when the OCI runtime cannot run it.
pub(crate) fn run(
    ctx: &Context,
    handler: &str,
    record: &ContainerRecord,
    job: Job,
) -> Result<ExecOutput, Error> {
    let Job {
        command,
        timeout,
        wanted,
    } = job;
    let id = record.id.as_str();
    if !matches!(record.state, crate::record::ContainerState::Running { .. }) {
        return Err(Error::Precondition(format!(
            "container {id} is not running"
        )));
    }
    if command.is_empty() {
        return Err(Error::invalid("cmd", "a command is needed"));
    }
    let token = sys::sysinfo::random_hex(8).map_err(|e| Error::failed("name an exec", e))?;
    let run_dir = ctx.config.container_run_dir(id);
    let (process, pid_file) = (
        run_dir.join(format!("exec-{token}.json")),
        run_dir.join(format!("exec-{token}.pid")),
    );
    let log = run_dir.join(format!("exec-{token}.log"));
    let spec = process_spec(ctx, record, command)?;
    sys::fs::replace_path(&process, 0o600, &spec)
        .map_err(|error| Error::io("write", &process, error))?;
    let runtime = ctx.runtimes.get(handler)?;
    let result = runtime.exec_output(
        &oci_runtime::ExecArgs {
            id,
            process: &process,
            pid_file: &pid_file,
            log: &log,
            cancel: Some(wanted.as_fd()),
        },
        OutputLimits {
            max_stdout_bytes: OUTPUT_BYTES,
            max_stderr_bytes: OUTPUT_BYTES,
        },
        Deadline::after(timeout.unwrap_or(LONGEST)),
    );
    for file in [&process, &pid_file, &log] {
        drop(std::fs::remove_file(file));
    }
    match result {
        Ok(output) => Ok(ExecOutput {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.status.code_or_128_plus_signal(),
        }),
        Err(oci_runtime::Error::Deadline { .. }) => Err(Error::Deadline(format!(
            "the command did not end within {} s in container {id} and was killed",
            timeout.unwrap_or(LONGEST).as_secs_f64()
        ))),
        Err(error) => Err(Error::failed(
            format!("run a command in container {id}"),
            error,
        )),
    }
}

/// The bundle's own `process`, with other arguments and no terminal (runtime-spec `process`).
fn process_spec(
    ctx: &Context,
    record: &ContainerRecord,
    command: Vec<String>,
) -> Result<Vec<u8>, Error> {
    let path = ctx
        .config
        .container_dir(record.id.as_str())
        .join("config.json");
    let bytes = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    let bad = |error: serde_json::Error| Error::failed(format!("parse {}", path.display()), error);
    let mut spec: serde_json::Value = serde_json::from_slice(&bytes).map_err(bad)?;
    let process = spec
        .get_mut("process")
        .and_then(serde_json::Value::as_object_mut);
    let Some(process) = process else {
        return Err(Error::failed(
            "read the bundle",
            format!("{} has no process", path.display()),
        ));
    };
    process.insert("args".into(), serde_json::json!(command));
    process.insert("terminal".into(), serde_json::json!(false));
    process.remove("consoleSize");
    serde_json::to_vec(process).map_err(bad)
}
