//! Holding a container for a checkpoint: its memory made copy-on-write, its tasks frozen.
//!
//! Writes to memory that lies in pipes as references would change what lies there. Right after a fork
//! they do not: the writer gets a copy (see `sys::memory`). So each process is made to fork a child, which
//! never runs and is killed and reaped at once, and the tasks are frozen by their cgroup before they can
//! write again. What CRIU takes then stays as it is, and the tasks can run on before it is written down.
//!
//! ```text
//!  seize all threads ─▶ fork, kill, reap in each process ─▶ freeze the cgroup ─▶ let go of the threads
//!        (tasks)                   (fork)                        (freezer)
//! ```
//! The contract with the daemon is in the documentation of `monitor::Holder`. Whatever fails, the tasks
//! run on as before; so they do when the daemon is killed. Only this process itself must not be killed
//! within the few milliseconds that this takes.

mod fork;
mod freezer;
mod tasks;

use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use monitor::{HoldReply, HoldRequest, WrittenArea, wire};
use rustix::event::{PollFd, PollFlags, Timespec};
use sys::process::Deadline;
use sys::signal::{self, SignalFd};

use freezer::Freezer;
use tasks::Tasks;

/// Time for all threads to stop. One that sleeps uninterruptibly does not.
const STOP: Duration = Duration::from_millis(200);
/// Time for the cgroup to freeze, which takes a millisecond where all is well: v1 does not freeze a
/// command that is just being started, for instance.
const FREEZE: Duration = Duration::from_millis(200);
/// Between two looks.
const LOOK_NANOSECONDS: i64 = 30_000;

/// Why it cannot be done.
#[derive(Debug)]
pub(crate) struct Refusal(String);

impl Refusal {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What failed, and the cause.
    fn because(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

/// The daemon's end of the channel; without one nothing is heard of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Daemon<'a>(Option<BorrowedFd<'a>>);

impl Daemon<'_> {
    /// For steps that nothing may break off.
    const UNHEARD: Self = Self(None);

    /// Waits a moment for something to change.
    ///
    /// # Errors
    ///
    /// A refusal when the time is up, or the daemon is gone or wants no more.
    fn pause(&self, until: Deadline, what: &dyn Display) -> Result<(), Refusal> {
        if until.passed() {
            return Err(Refusal(format!("{what} took too long")));
        }
        let mut polled: Vec<_> = self
            .0
            .iter()
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK_NANOSECONDS,
        };
        match rustix::event::poll(&mut polled, Some(&moment)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
            _ => Err(Refusal::new("the daemon has given up")),
        }
    }

    fn tell(&self, reply: &HoldReply) -> Result<(), ()> {
        let bytes = wire::encode(reply).map_err(drop)?;
        let channel = self.0.ok_or(())?;
        sys::socket::send(channel, &bytes, &[]).map_err(drop)
    }

    /// The next request; `None` when the daemon is gone or wants no more.
    fn request(&self) -> Option<HoldRequest> {
        let packet = sys::socket::recv(self.0?, wire::MAX_MESSAGE_BYTES).ok()?;
        wire::decode(&packet.bytes).ok()
    }
}

/// `hold PID FREEZER`, with the channel as standard input.
pub(crate) fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let init = args.next().and_then(|word| word.to_str()?.parse().ok());
    let (Some(init), Some(directory)) = (init, args.next()) else {
        return ExitCode::from(2);
    };
    // What ends other programs must not end this one half-way.
    let signals = SignalFd::block(&[signal::TERM, signal::INT, signal::HUP]);
    let stdin = io::stdin();
    let daemon = Daemon(Some(stdin.as_fd()));
    let done = serve(&daemon, init, Path::new(&directory));
    drop(signals);
    super::status(done.is_ok())
}

fn serve(daemon: &Daemon<'_>, init: u32, directory: &Path) -> Result<(), ()> {
    let refuse = |reason| daemon.tell(&HoldReply::Refused { reason });
    let freezer = match ready(directory) {
        Ok(freezer) => freezer,
        Err(Refusal(reason)) => return refuse(reason),
    };
    daemon.tell(&HoldReply::Ready)?;
    if daemon.request() != Some(HoldRequest::Freeze) {
        return Ok(());
    }
    match hold(daemon, init, &freezer) {
        Ok((written, frozen)) => {
            if daemon.tell(&HoldReply::Held { written }).is_ok()
                && daemon.request() == Some(HoldRequest::Release)
            {
                frozen.leave();
            }
            Ok(())
        }
        Err(Refusal(reason)) => refuse(reason),
    }
}

fn ready(directory: &Path) -> Result<Freezer, Refusal> {
    let freezer = Freezer::open(directory)?;
    match sys::memory::forked_pages_keep() {
        Ok(true) => Ok(freezer),
        Ok(false) => Err(Refusal::new(
            "this kernel lets writes through to forked pages that lie in a pipe",
        )),
        Err(error) => Err(Refusal(format!("try copy-on-write: {error}"))),
    }
}

/// Everything between the first thread's stop and the freeze of all.
fn hold<'a>(
    daemon: &Daemon<'_>,
    init: u32,
    freezer: &'a Freezer,
) -> Result<(Vec<WrittenArea>, freezer::Frozen<'a>), Refusal> {
    let tasks = Tasks::seize(daemon, init, Deadline::after(STOP))?;
    freezer.check(&tasks)?;
    let written = tasks.written()?;
    fork::all(daemon, &tasks)?;
    let frozen = freezer.freeze()?;
    frozen.wait(daemon, tasks.let_go(), Deadline::after(FREEZE))?;
    Ok((written, frozen))
}
