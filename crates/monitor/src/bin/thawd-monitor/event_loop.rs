//! The monitor's one loop.
//!
//! ```text
//!  Starting ──runtime succeeded──▶ Running ──first process reaped──▶ Draining ──both streams ended,
//!     │                                                                 │        or 2 s──▶ Recording
//!     └─ runtime failed, or deadline ──▶ Failed: what it left is killed, the channel told ──▶ end
//!                                                                       │                     │
//!        Recording ──exit.json written──▶ watchers told ──▶ end ◀───────┘ (cannot be written: again
//!                                                                          each second, while the run
//!                                                                          directory exists)
//! ```
//!
//! While the runtime runs, nothing is read from the pipes: what it says itself is wanted for the error if
//! it fails. A container that is restored may already write then; the pipe holds that, and after that
//! holds the container, until the runtime has ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use monitor::wire::{Reply, Request, StartFailure, Startup};
use monitor::{ExitRecord, Status};
use sys::epoll::{Epoll, Interest};
use sys::process::{Child, Deadline, ExitStatus};
use sys::pty::ConsoleSocket;
use sys::signal::{self, SignalFd};

use crate::cri_log::{Log, Stream};
use crate::descendants;
use crate::oom::OomCounter;
use crate::outputs::Outputs;
use crate::server::Server;
use crate::setup::{self, Prepared, failed};

/// How long output is awaited after the container's end, where a process that it left behind holds it.
const DRAIN: Duration = Duration::from_secs(2);

/// How long the terminal may take to come from a runtime that has ended.
const TERMINAL: Duration = Duration::from_secs(5);

/// How long after a failure the record is written again.
const RETRY: Duration = Duration::from_secs(1);

const SIGNALS: u64 = 0;
const RUNTIME: u64 = 1;
const CONTAINER: u64 = 2;
const STDOUT: u64 = 3;
const STDERR: u64 = 4;
const LISTENER: u64 = 5;
const MEMORY: u64 = 6;

/// The code of a container whose end could not be learnt.
const UNKNOWN: ExitStatus = ExitStatus::Code(255);

#[derive(Debug)]
enum Phase {
    /// The runtime creates or restores the container.
    Starting { runtime: Child, deadline: Deadline },
    /// It did not; all that is left to do is to end.
    Failed,
    /// The container's first process runs. The descriptor's registration ends with it.
    Running { pid: u32, _pidfd: OwnedFd },
    /// It has ended; its last output is awaited.
    Draining {
        pid: u32,
        record: ExitRecord,
        until: Deadline,
    },
    /// Its log is complete; the record is to be written at this time.
    Recording {
        pid: u32,
        record: ExitRecord,
        at: Deadline,
    },
}

#[derive(Debug)]
struct Monitor {
    epoll: Epoll,
    signals: SignalFd,
    run_dir: OwnedFd,
    server: Server,
    log: Log,
    outputs: Outputs,
    /// Held so that the container sees no end of file, and for an attach.
    _stdin: Option<OwnedFd>,
    console: Option<ConsoleSocket>,
    oom: OomCounter,
    pid_file: PathBuf,
    /// To the daemon that started us, until it has been told how that went.
    channel: Option<OwnedFd>,
    phase: Phase,
}

/// Runs until the container has ended and its end is recorded, or could not be started.
///
/// # Errors
///
/// What epoll(7), signalfd(2) and wait4(2) return where nothing can be done about it.
pub(crate) fn run(prepared: Prepared, channel: OwnedFd) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(&prepared.signals, SIGNALS, Interest::Readable)?;
    epoll.add(prepared.runtime.pidfd(), RUNTIME, Interest::Readable)?;
    prepared.server.register(&epoll, LISTENER)?;
    Monitor {
        epoll,
        signals: prepared.signals,
        run_dir: prepared.run_dir,
        server: prepared.server,
        log: prepared.log,
        outputs: prepared.outputs,
        _stdin: prepared.stdin,
        console: prepared.console,
        oom: prepared.oom,
        pid_file: prepared.pid_file,
        channel: Some(channel),
        phase: Phase::Starting {
            runtime: prepared.runtime,
            deadline: prepared.deadline,
        },
    }
    .run()
}

impl Monitor {
    fn run(mut self) -> io::Result<()> {
        loop {
            let next = match &self.phase {
                Phase::Starting { deadline, .. } => Some(*deadline),
                Phase::Failed | Phase::Running { .. } => None,
                Phase::Draining { until, .. } => Some(*until),
                Phase::Recording { at, .. } => Some(*at),
            };
            let limit = next.map(|next| next.remaining().unwrap_or_default());
            for event in self.epoll.wait(limit)? {
                self.handle(event.token)?;
            }
            if self.advance()? {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, token: u64) -> io::Result<()> {
        match token {
            SIGNALS => self.take_signals(),
            // Looked at in `advance`.
            RUNTIME => Ok(()),
            CONTAINER => self.container_ended(),
            MEMORY => {
                self.oom.changed();
                Ok(())
            }
            STDOUT => {
                self.outputs.pump(Stream::Stdout, &mut self.log);
                Ok(())
            }
            STDERR => {
                self.outputs.pump(Stream::Stderr, &mut self.log);
                Ok(())
            }
            LISTENER => {
                self.server.accept(&self.epoll);
                Ok(())
            }
            client => {
                if let Some(request) = self.server.receive(client) {
                    self.serve(client, request);
                }
                Ok(())
            }
        }
    }

    fn serve(&mut self, client: u64, request: Request) {
        match request {
            Request::Status => match self.status() {
                Some(status) => self.server.answer(client, &Reply::Status(status)),
                None => self.server.defer_status(client),
            },
            Request::ReopenLog => {
                let reply = match self.log.reopen() {
                    Ok(()) => Reply::Done,
                    Err(error) => Reply::Error {
                        message: format!("reopen the log: {error}"),
                    },
                };
                self.server.answer(client, &reply);
            }
            Request::Flush => {
                let reply = match self.phase {
                    // Until then the pipes carry the runtime's own words.
                    Phase::Starting { .. } | Phase::Failed => Reply::Error {
                        message: "the container is still being created".to_owned(),
                    },
                    _ => {
                        self.outputs.flush(&mut self.log);
                        Reply::Done
                    }
                };
                self.server.answer(client, &reply);
            }
            Request::Killing => {
                // It lives: none of the kills so far was its own.
                self.oom.start();
                self.server.answer(client, &Reply::Done);
            }
            Request::Watch => self.server.watch(client),
        }
    }

    fn status(&self) -> Option<Status> {
        let (container_pid, exited) = match &self.phase {
            Phase::Starting { .. } | Phase::Failed => return None,
            Phase::Running { pid, .. } => (*pid, None),
            Phase::Draining { pid, record, .. } | Phase::Recording { pid, record, .. } => {
                (*pid, Some(*record))
            }
        };
        Some(Status {
            monitor_pid: std::process::id(),
            container_pid,
            exited,
            log_bytes: self.log.written_bytes(),
            log_dropped_bytes: self.log.dropped_bytes(),
        })
    }

    /// `SIGCHLD` means children to reap; the others are only kept from ending us.
    fn take_signals(&mut self) -> io::Result<()> {
        let mut children = false;
        while let Some(number) = self.signals.read()? {
            children |= number == signal::CHLD;
        }
        if children { self.reap() } else { Ok(()) }
    }

    /// Reaps orphans that were given to us, and the container's first process with its status.
    fn reap(&mut self) -> io::Result<()> {
        // The runtime's end is `Child`'s to take.
        if matches!(self.phase, Phase::Starting { .. }) {
            return Ok(());
        }
        while let Some((pid, status)) = sys::pidfd::reap_any()? {
            self.ended(pid, status);
        }
        Ok(())
    }

    /// The first process's descriptor says that it has ended. When it was not ours to reap after all,
    /// how it ended is not to be learnt, but that it did must not be missed.
    fn container_ended(&mut self) -> io::Result<()> {
        self.reap()?;
        if let Phase::Running { pid, .. } = &self.phase {
            let pid = *pid;
            self.ended(pid, UNKNOWN);
        }
        Ok(())
    }

    fn ended(&mut self, ended: u32, status: ExitStatus) {
        match &self.phase {
            Phase::Running { pid, .. } if *pid == ended => {}
            _ => return,
        }
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let finished_at_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let record = ExitRecord::new(status, finished_at_ns, self.oom.ended(status));
        self.phase = Phase::Draining {
            pid: ended,
            record,
            until: Deadline::after(DRAIN),
        };
    }

    /// Does what the phase waits for, if it has come; whether the monitor is done.
    fn advance(&mut self) -> io::Result<bool> {
        match &mut self.phase {
            Phase::Starting { runtime, deadline } => {
                let (ended, late) = (runtime.wait(Some(Duration::ZERO))?, deadline.passed());
                self.runtime_ended(ended, late)
            }
            Phase::Running { .. } => Ok(false),
            Phase::Failed => Ok(true),
            Phase::Draining { pid, record, until } => {
                if !self.outputs.ended() && !until.passed() {
                    return Ok(false);
                }
                self.outputs.close(&mut self.log);
                let at = Deadline::after(Duration::ZERO);
                self.phase = Phase::Recording {
                    pid: *pid,
                    record: *record,
                    at,
                };
                Ok(self.record())
            }
            Phase::Recording { at, .. } => Ok(at.passed() && self.record()),
        }
    }

    fn runtime_ended(&mut self, ended: Option<ExitStatus>, late: bool) -> io::Result<bool> {
        let failure = match ended {
            Some(status) if status.success() => match self.adopt() {
                // It may have ended while nothing was reaped.
                Ok(()) => return self.reap().map(|()| false),
                Err(failure) => failure,
            },
            Some(status) => self.runtime_failed(status),
            None if late => StartFailure::Timeout,
            None => return Ok(false),
        };
        // The runtime if it still runs, then what it left: `runc init`, a relay, CRIU, restored tasks.
        self.phase = Phase::Failed;
        descendants::end();
        if let Some(channel) = self.channel.take() {
            setup::tell_failure(&channel, failure);
        }
        Ok(true)
    }

    /// The runtime has ended well: finds the container's first process and takes its output.
    fn adopt(&mut self) -> Result<(), StartFailure> {
        let pid = read_pid(&self.pid_file).map_err(failed("read the runtime's pid file"))?;
        let pidfd = sys::pidfd::open(pid).map_err(failed("open the container's first process"))?;
        if let Some(console) = self.console.take() {
            let master = console
                .receive(TERMINAL)
                .map_err(failed("receive the terminal"))?;
            self.outputs.use_terminal(master);
        }
        let registered = self
            .outputs
            .register(&self.epoll, STDOUT, STDERR)
            .and_then(|()| self.epoll.add(&pidfd, CONTAINER, Interest::Readable));
        registered.map_err(failed("wait for the container"))?;
        self.oom.start();
        self.oom.watch(&self.epoll, MEMORY);
        spare_from_oom();
        self.phase = Phase::Running { pid, _pidfd: pidfd };
        if let Some(channel) = self.channel.take() {
            // A daemon that died meanwhile will find us by the socket.
            drop(setup::tell(
                &channel,
                &Startup::Started { container_pid: pid },
            ));
        }
        if let Some(status) = self.status() {
            self.server.tell_status(&Reply::Status(status));
        }
        Ok(())
    }

    fn runtime_failed(&mut self, status: ExitStatus) -> StartFailure {
        let (code, signal) = match status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal(signal) => (None, Some(signal)),
        };
        StartFailure::Runtime {
            code,
            signal,
            stderr_tail: self.outputs.runtime_words(),
        }
    }

    /// Writes the record and tells it; false when it is to be tried again.
    fn record(&mut self) -> bool {
        let Phase::Recording { record, at, .. } = &mut self.phase else {
            return false;
        };
        match monitor::write_exit(self.run_dir.as_fd(), record) {
            Ok(()) => {
                let reply = Reply::Exited(*record);
                self.server.tell_end(&reply);
                true
            }
            // The run directory was removed: nobody wants to know any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(_) => {
                *at = Deadline::after(RETRY);
                false
            }
        }
    }
}

fn read_pid(path: &Path) -> io::Result<u32> {
    let text = std::fs::read_to_string(path)?;
    let pid = text.trim().parse();
    pid.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a pid"))
}

/// Asks the kernel to spare the monitor when memory runs out: it would cost the container's exit code and
/// free nothing. Not before the runtime has ended, whose children would inherit it. Lowering the score
/// needs CAP_SYS_RESOURCE; without it the monitor stays where the daemon is.
fn spare_from_oom() {
    use std::io::Write;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/oom_score_adj");
    drop(file.and_then(|mut file| file.write_all(b"-999")));
}
