//! From the program's start to a running OCI runtime.
//!
//! The order matters: the monitor leaves its parent before it has anything to lose, tells its pid before
//! it starts anything that would have to be found again, and becomes the subreaper before the runtime
//! can leave it a child.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use monitor::wire::{self, MAX_START_BYTES, Start, StartFailure, Startup};
use monitor::{MonitorSpec, VERSION, names};
use rustix::fs::{AtFlags, Mode, OFlags};
use sys::process::{Child, Command, Deadline, Stdio};
use sys::pty::ConsoleSocket;
use sys::signal::{self, SignalFd};

use crate::cri_log::Log;
use crate::oom::OomCounter;
use crate::outputs::Outputs;
use crate::server::Server;

/// How long the daemon may take to say what is to be done.
const INSTRUCTIONS: Duration = Duration::from_secs(30);

/// Everything the event loop begins with.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) run_dir: OwnedFd,
    pub(crate) signals: SignalFd,
    pub(crate) server: Server,
    pub(crate) log: Log,
    pub(crate) outputs: Outputs,
    /// Our end of the container's standard input. Held so that the container sees no end of file.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) console: Option<ConsoleSocket>,
    pub(crate) oom: OomCounter,
    pub(crate) pid_file: PathBuf,
    pub(crate) runtime: Child,
    pub(crate) deadline: Deadline,
}

/// Takes the channel to the daemon off standard input and puts `/dev/null` there.
pub(crate) fn take_channel() -> io::Result<OwnedFd> {
    let channel = sys::daemon::take_stdin()?;
    sys::daemon::close_inherited()?;
    Ok(channel)
}

/// Reads what is to be done, detaches, and starts the runtime.
pub(crate) fn prepare(channel: &OwnedFd) -> Result<Prepared, StartFailure> {
    let start = receive(channel).map_err(failed("read the specification"))?;
    let deadline = Deadline::after(Duration::from_millis(start.timeout_ms));
    sys::daemon::detach().map_err(failed("detach"))?;
    tell(
        channel,
        &Startup::Monitor {
            pid: std::process::id(),
        },
    )
    .map_err(failed("report"))?;
    sys::pidfd::set_subreaper().map_err(failed("become the subreaper"))?;
    let signals = SignalFd::block(&[
        signal::CHLD,
        signal::HUP,
        signal::INT,
        signal::TERM,
        signal::PIPE,
    ])
    .map_err(failed("block signals"))?;
    // No mount is kept busy, and files get the modes that are asked for.
    rustix::process::chdir("/").map_err(failed("enter the root directory"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    with_resources(start.spec, signals, deadline)
}

fn with_resources(
    spec: MonitorSpec,
    signals: SignalFd,
    deadline: Deadline,
) -> Result<Prepared, StartFailure> {
    let run_dir = open_directory(&spec.run_dir).map_err(failed_at("open", &spec.run_dir))?;
    let server = Server::listen(run_dir.as_fd()).map_err(failed_at("listen in", &spec.run_dir))?;
    // Of an earlier container in this directory, if there was one: it must not be taken for ours.
    match rustix::fs::unlinkat(&run_dir, names::EXIT, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(failed_at("remove an old record in", &spec.run_dir)(error)),
    }
    let pid = format!("{}\n", std::process::id());
    sys::fs::replace(&run_dir, names::PID, 0o600, pid.as_bytes())
        .map_err(failed_at("write the pid in", &spec.run_dir))?;
    let log_path = spec.log_path.clone();
    let log = Log::open(log_path).map_err(failed_at(
        "open the log",
        spec.log_path.as_deref().unwrap_or(Path::new("")),
    ))?;
    let console = spec
        .terminal
        .then(|| ConsoleSocket::listen(&run_dir, names::CONSOLE))
        .transpose()
        .map_err(failed_at("listen for a terminal in", &spec.run_dir))?;
    let (outputs, ends) = Outputs::pipes().map_err(failed("make pipes"))?;
    let mut stdin = None;
    let mut container_stdin = Stdio::Null;
    if spec.stdin && !spec.terminal {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(failed("make a pipe"))?;
        (stdin, container_stdin) = (Some(writer), Stdio::Fd(reader));
    }
    let argv = runtime_argv(&spec, console.as_ref());
    let program = argv.first().cloned().unwrap_or_default();
    let command = spec
        .runtime_env
        .iter()
        .fold(Command::new(program.clone()), |command, (key, value)| {
            command.env(key, value)
        })
        .args(argv.into_iter().skip(1))
        .cwd(&spec.bundle)
        .stdin(container_stdin)
        .stdout(Stdio::Fd(ends.stdout))
        .stderr(Stdio::Fd(ends.stderr));
    let runtime = if spec.private_mounts {
        sys::ns::with_private_mounts(|| command.spawn())
    } else {
        command.spawn()
    };
    let runtime = runtime.map_err(failed_at("run", Path::new(&program)))?;
    Ok(Prepared {
        run_dir,
        signals,
        server,
        log,
        outputs,
        stdin,
        console,
        oom: OomCounter::new(spec.oom_files),
        pid_file: spec.pid_file,
        runtime,
        deadline,
    })
}

/// The runtime's command line with the console socket's path made short.
fn runtime_argv(spec: &MonitorSpec, console: Option<&ConsoleSocket>) -> Vec<String> {
    let long = spec.run_dir.join(names::CONSOLE);
    let replace = |word: &String| match console {
        Some(console) if Path::new(word) == long => {
            console.short_path().to_string_lossy().into_owned()
        }
        _ => word.clone(),
    };
    spec.runtime_argv.iter().map(replace).collect()
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn receive(channel: &OwnedFd) -> io::Result<Start> {
    if !sys::socket::poll_readable(channel, Some(INSTRUCTIONS))? {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "none came"));
    }
    let received = sys::socket::recv(channel, MAX_START_BYTES)?;
    let start: Start = wire::decode(&received.bytes).map_err(io::Error::other)?;
    if start.spec.version != VERSION {
        let problem = format!("version {} where {VERSION} is known", start.spec.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(start)
}

/// Tells the daemon something.
pub(crate) fn tell(channel: &OwnedFd, message: &Startup) -> io::Result<()> {
    let bytes = wire::encode(message).map_err(io::Error::other)?;
    sys::socket::send(channel, &bytes, &[])
}

/// Tells the daemon why it ends. A daemon that is gone finds no container and cleans up.
pub(crate) fn tell_failure(channel: &OwnedFd, failure: StartFailure) {
    drop(tell(channel, &Startup::Failed(failure)));
}

/// A failure of the monitor's own.
pub(crate) fn failed<E: std::fmt::Display>(
    action: impl Into<String>,
) -> impl FnOnce(E) -> StartFailure {
    let action = action.into();
    move |error| StartFailure::Setup {
        action,
        message: error.to_string(),
    }
}

fn failed_at<E: std::fmt::Display>(action: &str, path: &Path) -> impl FnOnce(E) -> StartFailure {
    failed(format!("{action} {}", path.display()))
}
