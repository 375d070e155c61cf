//! The first process of a pod's shared pid namespace.
//!
//! The record knows it only once the whole sandbox is made; before that, and when thawd was killed in
//! between, its command line tells whose it is.

use std::io;
use std::path::Path;
use std::time::Duration;

use sys::ns::Kind;
use sys::process::{Child, Command, Stdio};
use tracing::debug;

use super::pin_path;
use crate::config::NodeConfig;
use crate::context::{CLEAN_UP, Context};
use crate::error::Error;
use crate::record::{ProcessId, SandboxRecord};

/// The monitor program's word for it.
const PAUSE: &str = "pause";

/// How long it may take to get ready.
const READY: Duration = Duration::from_secs(10);

/// Starts it in the pod's other namespaces: containers can see it, and some may trace it.
///
/// # Errors
///
/// [`Error::Failed`] when the program cannot be run or does not get ready.
pub(super) fn start(ctx: &Context, record: &SandboxRecord) -> Result<ProcessId, Error> {
    let monitor = &ctx.config.monitor;
    let id = record.id.as_str();
    let config = &ctx.config;
    let pins = config.sandbox_run_dir(id).join("ns");
    let started = within(config, id, &[Kind::Net, Kind::Uts, Kind::Ipc], || {
        sys::ns::create(&[Kind::Pid], &pins, || run(monitor, id))
    });
    let started = started
        .map_err(|error| Error::failed(format!("start {} {PAUSE}", monitor.display()), error))?;
    let group = config.monitors_cgroup();
    if let Err(error) = ctx.hierarchies.move_out_of_service(started.pid, &group) {
        debug!(sandbox = id, %error, "the pod's first process stays in the daemon's cgroup");
    }
    Ok(started)
}

/// Runs `work` in those of the namespaces that the pod has of its own.
fn within<T: Send>(
    config: &NodeConfig,
    id: &str,
    kinds: &[Kind],
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some((kind, rest)) = kinds.split_first() else {
        return work();
    };
    let path = pin_path(config, id, *kind);
    let inner = move || within(config, id, rest, work);
    if path.exists() {
        sys::ns::enter(&path, *kind, inner)
    } else {
        inner()
    }
}

fn run(monitor: &Path, id: &str) -> io::Result<ProcessId> {
    let mut child = Command::new(monitor)
        .args([PAUSE, id])
        .env_clear()
        .new_session()
        .stdout(Stdio::Pipe)
        .spawn()?;
    wait_ready(&mut child)?;
    let id = ProcessId::of(child.pid())?;
    child.leave();
    Ok(id)
}

fn wait_ready(child: &mut Child) -> io::Result<()> {
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    if !sys::socket::poll_readable(&output, Some(READY))? {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it does not get ready",
        ));
    }
    if rustix::io::read(&output, &mut [0_u8; 16])? > 0 {
        return Ok(());
    }
    let status = child.wait(Some(READY))?;
    let status = status.map_or_else(|| "it closed its output".to_owned(), |s| s.to_string());
    Err(io::Error::other(format!("it did not get ready: {status}")))
}

/// Kills it; gone already is fine.
///
/// # Errors
///
/// `TimedOut` when it does not end; what opening and signalling a process return.
pub(super) fn end(record: &SandboxRecord) -> io::Result<()> {
    if let Some(init) = record.init {
        return end_process(init);
    }
    match find(record.id.as_str())? {
        Some(found) => end_process(found),
        None => Ok(()),
    }
}

/// Looks for the process that was started for a sandbox.
fn find(id: &str) -> io::Result<Option<ProcessId>> {
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Those that end meanwhile are not it.
        let Ok(words) = sys::proc::command_line(pid) else {
            continue;
        };
        if let [_, word, whose] = words.as_slice()
            && word == PAUSE
            && whose == id
        {
            return ProcessId::of(pid).map(Some);
        }
    }
    Ok(None)
}

/// Kills a process that thawd started and waits for its end; gone already is fine.
fn end_process(process: ProcessId) -> io::Result<()> {
    if !process.exists() {
        return Ok(());
    }
    let pidfd = match sys::pidfd::open(process.pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    // Between the check and the open the pid may have passed to another process.
    if !process.exists() {
        return Ok(());
    }
    let killed = sys::pidfd::send_signal(&pidfd, rustix::process::Signal::KILL.as_raw());
    if let Err(error) = killed
        && error.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error())
    {
        return Err(error);
    }
    if !sys::pidfd::wait_exit(&pidfd, Some(CLEAN_UP))? {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the process does not end",
        ));
    }
    // Ours to reap only while this daemon is its parent.
    drop(sys::pidfd::wait_child(&pidfd));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_no_record_knows_is_found_by_its_command_line_and_ended() {
        let id = sys::sysinfo::random_hex(32).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join(PAUSE);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        assert!(find(&id).unwrap().is_none());
        // Waits for somebody to write.
        let command = Command::new("cat").cwd(dir.path()).args([PAUSE, &id]);
        let mut child = command.spawn().unwrap();
        // The kernel writes the words down a little after the program's start is reported.
        let deadline = std::time::Instant::now() + READY;
        let found = loop {
            match find(&id).unwrap() {
                Some(found) => break found,
                None => assert!(std::time::Instant::now() < deadline, "it is not found"),
            }
        };
        assert_eq!(found.pid, child.pid());
        // Somebody else's word, or another sandbox's, is not it.
        assert!(find(id.get(..32).unwrap()).unwrap().is_none());
        child.kill_group(9).unwrap();
        child.wait(None).unwrap();
        assert!(find(&id).unwrap().is_none());
    }
}
