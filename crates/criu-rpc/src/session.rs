//! One CRIU process and the talk with it.
//!
//! ```text
//!            request                 notification (n times)           response
//!  Talking ───────────▶ Talking ─────────────────────────▶ Talking ───────────▶ Ending ──▶ reaped
//!     │ cancel, deadline, callback's error                    ▲                    │
//!     └──▶ Stopping: the next notification is refused ────────┘                    │
//!              └── grace over, or nothing notified yet: killed ────────────────────┘
//! ```
//!
//! The end is seen on the process's descriptor: a killed CRIU can leave a child that keeps the
//! socket open, so the socket's end proves nothing.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use sys::process::{Child, Command, Deadline, ExitStatus, Stdio};
use sys::socket;

use crate::notify::{Notify, NotifyReply};
use crate::options::RestoreStdio;
use crate::proto::{CriuOpts, CriuReq, CriuReqType, CriuResp};
use crate::{BoxError, CancelToken, Error, LogReport, Operation, Stop};

/// The number of the socket in the CRIU process.
const SOCKET_NUMBER: i32 = 3;
/// The first number for descriptors that restored tasks inherit.
const FIRST_INHERITED: i32 = 10;
/// Longest message taken from CRIU; a version is 12 bytes, an error message some hundred.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// How much of what CRIU prints is kept.
const STDERR_BYTES: u64 = 4096;
/// SIGKILL.
const KILL: i32 = 9;

/// The callback at each stage.
pub(crate) type OnNotify<'a> = &'a mut dyn FnMut(Notify) -> Result<NotifyReply, BoxError>;

/// What bounds a talk and who is asked during it.
pub(crate) struct Control<'a> {
    pub(crate) operation: Operation,
    pub(crate) deadline: Deadline,
    pub(crate) cancel: Option<&'a CancelToken>,
    pub(crate) on_notify: OnNotify<'a>,
    pub(crate) log: Option<(BorrowedFd<'a>, &'a str)>,
}

impl Control<'_> {
    fn log(&self) -> LogReport {
        let read = self
            .log
            .and_then(|(dir, name)| LogReport::read(dir, name).ok());
        read.unwrap_or_default()
    }
}

/// Numbers that inherited descriptors get in the CRIU process.
pub(crate) fn inherited_numbers(count: usize) -> Vec<i32> {
    (FIRST_INHERITED..).take(count).collect()
}

/// A CRIU process that waits for its request. Dropped, it is left to undo what it did as after a
/// refusal, and killed only when it does not end.
pub(crate) struct Session {
    socket: OwnedFd,
    child: Child,
    stderr: OwnedFd,
    grace: Duration,
}

impl Drop for Session {
    fn drop(&mut self) {
        // CRIU takes a broken socket for a refusal. It has ended already on most paths.
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).ok();
        self.child.wait(Some(self.grace)).ok();
    }
}

/// What one wait brought.
enum Event {
    Message(Box<CriuResp>, Vec<OwnedFd>),
    Ended(ExitStatus),
    Cancelled,
    TimedOut,
}

impl Session {
    pub(crate) fn start(
        binary: &Path,
        inherited: &[BorrowedFd<'_>],
        stdio: &RestoreStdio,
        grace: Duration,
    ) -> Result<Self, Error> {
        Self::spawn(binary, inherited, stdio, grace).map_err(|source| Error::Start {
            binary: binary.to_owned(),
            source,
        })
    }

    fn spawn(
        binary: &Path,
        inherited: &[BorrowedFd<'_>],
        stdio: &RestoreStdio,
        grace: Duration,
    ) -> io::Result<Self> {
        let (socket, theirs) = socket::seqpacket_pair()?;
        let stderr = rustix::fs::memfd_create("criu-stderr", MemfdFlags::CLOEXEC)?;
        let mut command = Command::new(binary)
            .args(["--no-default-config", "swrk"])
            .arg(SOCKET_NUMBER.to_string())
            .fd(theirs, SOCKET_NUMBER)
            .new_process_group();
        for (fd, number) in inherited.iter().zip(inherited_numbers(inherited.len())) {
            command = command.fd(fd.try_clone_to_owned()?, number);
        }
        command = match stdio {
            RestoreStdio::Null => command.stderr(Stdio::Fd(stderr.try_clone()?)),
            RestoreStdio::Fds([stdin, stdout, stderr]) => command
                .stdin(Stdio::Fd(stdin.try_clone()?))
                .stdout(Stdio::Fd(stdout.try_clone()?))
                .stderr(Stdio::Fd(stderr.try_clone()?)),
        };
        Ok(Self {
            socket,
            child: command.spawn()?,
            stderr,
            grace,
        })
    }

    /// Sends the request, answers the notifications, and waits for the process's end. Success may
    /// come with a request to stop that CRIU did not heed.
    pub(crate) fn run(
        mut self,
        request: &CriuReq,
        control: Control<'_>,
    ) -> Result<(CriuResp, Option<Stop>), Error> {
        // A CRIU that has ended already shows as such below.
        match self.send(request) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(Error::Talk(error));
            }
            Ok(()) | Err(_) => {}
        }
        let mut control = control;
        let (response, stop) = self.talk(&mut control)?;
        match (response, stop) {
            (Some(response), stop) if response.success => Ok((response, stop)),
            (_, Some(stop)) => Err(stopped(stop, &control)),
            (Some(response), None) => Err(failure(&response, &control)),
            (None, None) => Err(Error::Protocol {
                got: "nothing".to_owned(),
            }),
        }
    }

    /// The loop: its last message, and why it was asked to stop if it was. The process has been
    /// reaped when this returns without an error.
    fn talk(
        &mut self,
        control: &mut Control<'_>,
    ) -> Result<(Option<CriuResp>, Option<Stop>), Error> {
        let mut stop: Option<(Stop, Deadline)> = None;
        // Until its first notification, which it waits on, CRIU has touched no task: a kill is safe.
        let mut notified = false;
        loop {
            let until = stop.as_ref().map_or(control.deadline, |(_, limit)| *limit);
            let cancel = if stop.is_none() { control.cancel } else { None };
            match self.wait(cancel, until).map_err(Error::Talk)? {
                Event::Message(message, fds) if message.r#type() == CriuReqType::Notify => {
                    notified = true;
                    let refusal = self.answer(&message, fds, stop.is_some(), control)?;
                    if let (Some(reason), None) = (refusal, &stop) {
                        stop = Some((reason, Deadline::after(self.grace)));
                    }
                }
                Event::Message(response, _) => {
                    self.finish(control)?;
                    return Ok((Some(*response), stop.map(|(reason, _)| reason)));
                }
                Event::Ended(status) => {
                    if let Some((reason, _)) = stop {
                        return Ok((None, Some(reason)));
                    }
                    return Err(self.ended(status, control));
                }
                Event::Cancelled if !notified => return self.abandon(Stop::Cancelled),
                Event::Cancelled => {
                    stop = Some((Stop::Cancelled, Deadline::after(self.grace)));
                }
                Event::TimedOut if !notified => return self.abandon(Stop::Deadline),
                Event::TimedOut => match stop.take() {
                    None => stop = Some((Stop::Deadline, Deadline::after(self.grace))),
                    Some((reason, _)) => return Err(self.kill(reason, control)),
                },
            }
        }
    }

    /// Ends a CRIU that has done nothing yet.
    fn abandon(&mut self, reason: Stop) -> Result<(Option<CriuResp>, Option<Stop>), Error> {
        self.child
            .kill_group(KILL)
            .and_then(|()| self.child.wait(Some(self.grace)))
            .map_err(Error::Talk)?;
        Ok((None, Some(reason)))
    }

    /// Asks the callback and answers the notification; why CRIU was told to give up, if it was.
    fn answer(
        &mut self,
        message: &CriuResp,
        fds: Vec<OwnedFd>,
        stopping: bool,
        control: &mut Control<'_>,
    ) -> Result<Option<Stop>, Error> {
        let notify = Notify::from_proto(&message.notify.clone().unwrap_or_default(), fds);
        let stage = notify.name().to_owned();
        let cleanup = matches!(notify, Notify::NetworkUnlock);
        let mut refusal = stop_now(control);
        let mut external = Vec::new();
        // A caller that has given up is not asked again, but hears of the clean-up.
        if cleanup || (refusal.is_none() && !stopping) {
            match (control.on_notify)(notify) {
                Ok(NotifyReply::Continue) => {}
                Ok(NotifyReply::ContinueWithExternal(more)) => external = more,
                Err(source) => refusal = Some(Stop::Refused { stage, source }),
            }
            // The callback may have taken long.
            refusal = refusal.or_else(|| stop_now(control));
        }
        let success = cleanup || (refusal.is_none() && !stopping);
        let opts = (!external.is_empty()).then(|| CriuOpts {
            images_dir_fd: -1,
            external: external.into_iter().map(String::into_bytes).collect(),
            ..CriuOpts::default()
        });
        let answer = CriuReq {
            r#type: CriuReqType::Notify.into(),
            notify_success: Some(success),
            opts,
            ..CriuReq::default()
        };
        match self.send(&answer) {
            // Its end is seen on its descriptor.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Talk(error)),
            Ok(()) | Err(_) => Ok(refusal),
        }
    }

    fn send(&self, request: &CriuReq) -> io::Result<()> {
        let bytes = request.encode_to_vec();
        // The buffer is charged for more than the bytes; its default holds some 200 KiB.
        if bytes.len() > 64 << 10 {
            socket::force_send_buffer(&self.socket, bytes.len() * 2)?;
        }
        socket::send(&self.socket, &bytes, &[])
    }

    /// Waits for the next thing to happen. A message is preferred to the end that may follow it.
    fn wait(&mut self, cancel: Option<&CancelToken>, until: Deadline) -> io::Result<Event> {
        loop {
            let Some(left) = until.remaining() else {
                return Ok(Event::TimedOut);
            };
            let (message, ended, cancelled) = self.poll(cancel, left)?;
            if message {
                let packet = socket::recv(&self.socket, MAX_MESSAGE_BYTES)?;
                if !packet.is_end() {
                    return decode(&packet)
                        .map(|message| Event::Message(Box::new(message), packet.fds));
                }
            }
            if ended && let Some(status) = self.child.wait(None)? {
                return Ok(Event::Ended(status));
            }
            if cancelled {
                return Ok(Event::Cancelled);
            }
            // The socket's end without the process's: only the process is waited for.
            if message && let Some(status) = self.child.wait(until.remaining())? {
                return Ok(Event::Ended(status));
            }
        }
    }

    /// Which of socket, process and token are ready.
    fn poll(&self, cancel: Option<&CancelToken>, left: Duration) -> io::Result<(bool, bool, bool)> {
        let mut fds = vec![
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::from_borrowed_fd(self.child.pidfd(), PollFlags::IN),
        ];
        fds.extend(cancel.map(|cancel| PollFd::new(cancel, PollFlags::IN)));
        let left = Timespec::try_from(left).ok();
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || ready.next().unwrap_or(false);
        Ok((next(), next(), next()))
    }

    /// Closes the talk after the response and reaps the process.
    fn finish(&mut self, control: &Control<'_>) -> Result<(), Error> {
        // The response is there whatever becomes of the socket.
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).ok();
        match self.child.wait(Some(self.grace)).map_err(Error::Talk)? {
            Some(_) => Ok(()),
            None => Err(self.kill(Stop::Lingering, control)),
        }
    }

    fn kill(&mut self, reason: Stop, control: &Control<'_>) -> Error {
        let operation = control.operation;
        let killed = self
            .child
            .kill_group(KILL)
            .and_then(|()| self.child.wait(Some(self.grace)))
            .map_err(Error::Talk);
        match killed {
            Err(error) => error,
            Ok(_) => Error::Killed {
                operation,
                reason,
                log_tail: control.log().tail,
            },
        }
    }

    fn ended(&self, status: ExitStatus, control: &Control<'_>) -> Error {
        Error::Ended {
            operation: control.operation,
            status,
            stderr_tail: self.stderr_tail(),
            log_tail: control.log().tail,
        }
    }

    fn stderr_tail(&self) -> String {
        let size = rustix::fs::fstat(&self.stderr).ok();
        let size = size
            .and_then(|stat| u64::try_from(stat.st_size).ok())
            .unwrap_or(0);
        let mut buffer = [0; 4096];
        let from = size.saturating_sub(STDERR_BYTES);
        let read = rustix::io::pread(&self.stderr, &mut buffer, from).unwrap_or(0);
        String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()).into_owned()
    }
}

/// Whether the caller wants it to stop by now.
fn stop_now(control: &Control<'_>) -> Option<Stop> {
    if control.cancel.is_some_and(CancelToken::is_cancelled) {
        Some(Stop::Cancelled)
    } else {
        control.deadline.passed().then_some(Stop::Deadline)
    }
}

fn decode(packet: &socket::Received) -> io::Result<CriuResp> {
    if packet.truncated {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message from criu too long",
        ));
    }
    CriuResp::decode(packet.bytes.as_slice())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn failure(response: &CriuResp, control: &Control<'_>) -> Error {
    let LogReport { first_errors, tail } = control.log();
    let message = response.cr_errmsg.as_deref();
    Error::Criu {
        operation: control.operation,
        errno: response.cr_errno,
        message: message.map(|text| String::from_utf8_lossy(text).trim_end().to_owned()),
        first_errors,
        log_tail: tail,
    }
}

fn stopped(stop: Stop, control: &Control<'_>) -> Error {
    let operation = control.operation;
    match stop {
        Stop::Cancelled => Error::Cancelled { operation },
        Stop::Refused { stage, source } => Error::Refused { stage, source },
        Stop::Deadline | Stop::Lingering => Error::Deadline {
            operation,
            log_tail: control.log().tail,
        },
    }
}
