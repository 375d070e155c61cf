//! Talking to a running monitor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use sys::process::Deadline;

use crate::wire::{self, MAX_MESSAGE_BYTES, Reply, Request};
use crate::{Error, ExitRecord, Status, names, read_exit};

/// How long an answer is awaited: a monitor that runs answers at once, one that still creates its
/// container when the runtime has done that.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to one monitor.
///
/// The calls block; as a descriptor it is readable when an answer has come, which is how an event loop
/// waits for the end of a container after [`Self::watch`].
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    run_dir: PathBuf,
    /// The answer to [`Self::watch`], when it came while something else was awaited.
    exited: Option<ExitRecord>,
    watching: bool,
}

impl Client {
    /// Connects to the monitor of a run directory.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] when nobody listens there.
    pub fn connect(run_dir: &Path) -> Result<Self, Error> {
        let connect = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(run_dir, flags, Mode::empty())?;
            sys::socket::seqpacket_connect(directory.as_fd(), names::SOCKET)
        };
        let socket = connect().map_err(|source| Error::Connect {
            run_dir: run_dir.to_owned(),
            source,
        })?;
        Ok(Self {
            socket,
            run_dir: run_dir.to_owned(),
            exited: None,
            watching: false,
        })
    }

    /// Asks for the monitor's state. While the container is still being created the answer is awaited.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] when the monitor ends instead of answering, as it does when the creation fails;
    /// [`Error::NoAnswer`], [`Error::Refused`], [`Error::Protocol`], [`Error::Io`].
    pub fn status(&mut self) -> Result<Status, Error> {
        match self.ask(Request::Status, ANSWER)? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the log file opened anew. Everything written before goes to the old file, everything after
    /// to the new one.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when the new file cannot be opened (the old one stays in use);
    /// [`Error::Ended`], [`Error::NoAnswer`], [`Error::Protocol`], [`Error::Io`].
    pub fn reopen_log(&mut self) -> Result<(), Error> {
        self.done(Request::ReopenLog, ANSWER)
    }

    /// Has everything in the log that the container has written so far, also what still lies in its
    /// pipes and the beginning of a line (with CRI's tag `P`). Of a container that goes on writing at
    /// least 2 MiB are taken.
    ///
    /// # Errors
    ///
    /// [`Error::NoAnswer`] after `limit`; [`Error::Refused`] while the container is still being created,
    /// and by a monitor of an older version; [`Error::Ended`], [`Error::Protocol`], [`Error::Io`].
    pub fn flush(&mut self, limit: Duration) -> Result<(), Error> {
        self.done(Request::Flush, limit)
    }

    /// Says that SIGKILL is about to be sent to the container's first process, which therefore is not
    /// ended by the OOM killer, even where that has ended another one before.
    ///
    /// # Errors
    ///
    /// [`Error::NoAnswer`] after `limit`; [`Error::Refused`] by a monitor of an older version;
    /// [`Error::Ended`], [`Error::Protocol`], [`Error::Io`].
    pub fn killing(&mut self, limit: Duration) -> Result<(), Error> {
        self.done(Request::Killing, limit)
    }

    /// Asks to be told of the container's end; [`Self::poll_exit`] and [`Self::wait_exit`] give it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn watch(&mut self) -> Result<(), Error> {
        if !self.watching {
            self.send(Request::Watch)?;
            self.watching = true;
        }
        Ok(())
    }

    /// The container's end if it has been told; never waits.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_exit`].
    pub fn poll_exit(&mut self) -> Result<Option<ExitRecord>, Error> {
        self.wait_exit(Some(Duration::ZERO))
    }

    /// Waits for the container's end, at most for `limit` (`None`: as long as it takes); `None` when it
    /// still runs. A monitor that has ended already is no error as long as its record is there.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] when the monitor ended without a record (it was killed);
    /// [`Error::Protocol`], [`Error::Io`].
    pub fn wait_exit(&mut self, limit: Option<Duration>) -> Result<Option<ExitRecord>, Error> {
        let deadline = limit.map(Deadline::after);
        match self.watch() {
            Err(Error::Io(error)) if is_end(&error) => return self.recorded(),
            done => done?,
        }
        loop {
            if self.exited.is_some() {
                return Ok(self.exited);
            }
            let left = deadline.map(|deadline| deadline.remaining().unwrap_or_default());
            if !sys::socket::poll_readable(&self.socket, left)? {
                return Ok(None);
            }
            match self.receive() {
                Ok(Reply::Exited(record)) => self.exited = Some(record),
                Ok(other) => return Err(unexpected(&other)),
                Err(Error::Ended) => return self.recorded(),
                Err(error) => return Err(error),
            }
        }
    }

    fn recorded(&self) -> Result<Option<ExitRecord>, Error> {
        read_exit(&self.run_dir)?.map(Some).ok_or(Error::Ended)
    }

    fn done(&mut self, request: Request, limit: Duration) -> Result<(), Error> {
        match self.ask(request, limit)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, request: Request, limit: Duration) -> Result<Reply, Error> {
        self.send(request)?;
        let deadline = Deadline::after(limit);
        loop {
            let left = deadline.remaining().unwrap_or_default();
            if !sys::socket::poll_readable(&self.socket, Some(left))? {
                return Err(Error::NoAnswer { limit });
            }
            match self.receive()? {
                Reply::Exited(record) => self.exited = Some(record),
                Reply::Error { message } => return Err(Error::Refused { message }),
                reply => return Ok(reply),
            }
        }
    }

    fn send(&self, request: Request) -> Result<(), Error> {
        match sys::socket::send(&self.socket, &wire::encode(&request)?, &[]) {
            // Answers that came before the monitor ended can still be read.
            Err(error) if is_end(&error) && request != Request::Watch => Err(Error::Ended),
            done => Ok(done?),
        }
    }

    fn receive(&self) -> Result<Reply, Error> {
        let received = match sys::socket::recv(&self.socket, MAX_MESSAGE_BYTES) {
            Err(error) if is_end(&error) => return Err(Error::Ended),
            done => done?,
        };
        if received.is_end() {
            return Err(Error::Ended);
        }
        wire::decode(&received.bytes)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether a monitor answers in a run directory.
///
/// # Errors
///
/// When one is there but cannot be asked: [`Error::NoAnswer`], [`Error::Protocol`], [`Error::Io`].
pub fn probe_alive(run_dir: &Path) -> Result<bool, Error> {
    match Client::connect(run_dir).and_then(|mut client| client.status()) {
        Ok(_) => Ok(true),
        Err(Error::Connect { .. } | Error::Ended) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn unexpected(reply: &Reply) -> Error {
    Error::Protocol {
        message: format!("an answer to something else: {reply:?}"),
    }
}
