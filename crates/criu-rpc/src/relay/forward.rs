//! The relay's loop: packets of the runtime to CRIU, packets of CRIU to the runtime.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use sys::process::{Child, Command, Deadline, ExitStatus, Stdio};
use sys::socket::{self, Received};

use super::cgroup::{self, Entered};
use super::edit::{ClientNumbers, Request};
use super::hold::{Answer, Connection};
use super::{ConfigError, FAILED, RelayConfig, with_causes};
use crate::proto::{CriuReq, CriuReqType, CriuResp};

/// Longest packet: a request for thousands of mounts fits.
const MAX_BYTES: usize = 16 << 20;
/// How long CRIU may take to undo its work after the runtime has gone away.
const GRACE: Duration = Duration::from_secs(30);
/// Between two tries to reach a holder that is not there.
const RETRY: Duration = Duration::from_millis(50);
/// How CRIU calls the stage at which all tasks are rebuilt, the last that can be refused.
const POST_RESTORE: &[u8] = b"post-restore";
/// The stage after, the last at which no task has run.
const PRE_RESUME: &[u8] = b"pre-resume";

/// Why the relay cannot do its part.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot start {}", path.display())]
    Start {
        path: std::path::PathBuf,
        source: io::Error,
    },
    #[error("cannot open {what}")]
    Open { what: String, source: io::Error },
    #[error("cannot restore into the container's cgroup")]
    Cgroup(#[source] io::Error),
    #[error("the runtime's request cannot be read")]
    Request(#[source] super::wire::Malformed),
    #[error("cannot relay")]
    Socket(#[from] io::Error),
}

/// A relay that has not been asked for anything yet.
#[derive(Debug)]
pub(super) struct Relay {
    client: OwnedFd,
    number: i32,
    inherited: Vec<(i32, OwnedFd)>,
    asked: CriuReqType,
}

impl Relay {
    /// `client` is the runtime's socket, which had this number; `inherited` go to CRIU.
    pub(super) fn new(client: OwnedFd, number: i32, inherited: Vec<(i32, OwnedFd)>) -> Self {
        Self {
            client,
            number,
            inherited,
            asked: CriuReqType::Empty,
        }
    }

    /// Relays until CRIU ends. Returns its exit status.
    pub(super) fn run(mut self, config: Result<RelayConfig, ConfigError>) -> u8 {
        match self.relay(config) {
            Ok(status) => status,
            Err(failure) => {
                self.tell(&failure);
                FAILED
            }
        }
    }

    fn relay(&mut self, config: Result<RelayConfig, ConfigError>) -> Result<u8, Failure> {
        let first = socket::recv(&self.client, MAX_BYTES)?;
        if first.is_end() {
            return Ok(0);
        }
        // Decoded for the answer that a failure gets.
        self.asked = CriuReq::decode(first.bytes.as_slice())
            .unwrap_or_default()
            .r#type();
        let config = config?;
        let entered = match self.asked {
            CriuReqType::Restore => cgroup::enter(&config).map_err(Failure::Cgroup)?,
            _ => Entered::default(),
        };
        let mut talk = Talk::start(self, &config, entered)?;
        talk.pass_request(first)?;
        let status = talk.relay()?;
        Ok(status.code_or_128_plus_signal())
    }

    /// Tells the runtime of a failure the way CRIU would.
    fn tell(&self, failure: &Failure) {
        let response = CriuResp {
            r#type: self.asked.into(),
            success: false,
            cr_errmsg: Some(format!("thawd-criu-relay: {}", with_causes(failure)).into_bytes()),
            ..CriuResp::default()
        };
        // When the runtime has gone away there is nobody to tell.
        socket::send(&self.client, &response.encode_to_vec(), &[]).ok();
    }
}

/// The runtime on one side, CRIU on the other.
struct Talk<'a> {
    client: BorrowedFd<'a>,
    /// Set when the runtime has gone away: until then CRIU may undo its work.
    client_gone: Option<Deadline>,
    criu: OwnedFd,
    criu_open: bool,
    child: Child,
    config: &'a RelayConfig,
    /// What CRIU opens through our `/proc/PID/fd`.
    opened: Vec<OwnedFd>,
    entered: Entered,
    /// The root task, once CRIU told it.
    root: Option<u32>,
    /// Whether the runtime's next packet answers the stage at which all tasks are rebuilt.
    rebuilt: bool,
}

impl Drop for Talk<'_> {
    fn drop(&mut self) {
        // CRIU undoes its work when nobody answers; only if it does not, its guard kills it.
        rustix::net::shutdown(&self.criu, Shutdown::Both).ok();
        self.child.wait(Some(GRACE)).ok();
    }
}

impl<'a> Talk<'a> {
    fn start(
        relay: &'a mut Relay,
        config: &'a RelayConfig,
        entered: Entered,
    ) -> Result<Self, Failure> {
        let (criu, theirs) = socket::seqpacket_pair()?;
        let mut command = Command::new(&config.criu)
            .args(["--no-default-config", "swrk"])
            .arg(relay.number.to_string())
            .stdin(Stdio::Inherit)
            .stdout(Stdio::Inherit)
            .stderr(Stdio::Inherit)
            .fd(theirs, relay.number);
        for (number, fd) in relay.inherited.drain(..) {
            command = command.fd(fd, number);
        }
        let child = command.spawn().map_err(|source| Failure::Start {
            path: config.criu.clone(),
            source,
        })?;
        Ok(Self {
            client: relay.client.as_fd(),
            client_gone: None,
            criu,
            criu_open: true,
            child,
            config,
            opened: Vec::new(),
            entered,
            root: None,
            rebuilt: false,
        })
    }

    fn relay(&mut self) -> Result<ExitStatus, Failure> {
        loop {
            let (client, criu, ended) = self.poll()?;
            if criu {
                let packet = socket::recv(&self.criu, MAX_BYTES)?;
                if packet.is_end() {
                    self.criu_open = false;
                } else {
                    self.pass_answer(packet)?;
                }
            } else if client {
                let packet = socket::recv(self.client, MAX_BYTES)?;
                if packet.is_end() {
                    self.lose_client();
                } else {
                    self.pass_request(packet)?;
                }
            } else if ended && let Some(status) = self.child.wait(None)? {
                return Ok(status);
            } else if self.client_gone.is_some_and(Deadline::passed) {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
        }
    }

    /// Which of runtime, CRIU's socket and CRIU itself have something new.
    fn poll(&self) -> io::Result<(bool, bool, bool)> {
        let client_open = self.client_gone.is_none();
        let mut fds = vec![PollFd::from_borrowed_fd(self.child.pidfd(), PollFlags::IN)];
        if client_open {
            fds.push(PollFd::from_borrowed_fd(self.client, PollFlags::IN));
        }
        if self.criu_open {
            fds.push(PollFd::new(&self.criu, PollFlags::IN));
        }
        let mut ready = poll(&mut fds, self.client_gone.map(left))?.into_iter();
        let mut next = |open: bool| open && ready.next().unwrap_or(false);
        let ended = next(true);
        let client = next(client_open);
        Ok((client, next(self.criu_open), ended))
    }

    fn lose_client(&mut self) {
        self.client_gone = Some(Deadline::after(GRACE));
        rustix::net::shutdown(&self.criu, Shutdown::Both).ok();
    }

    /// A packet of the runtime: edited and passed on, held before tasks run.
    fn pass_request(&mut self, packet: Received) -> Result<(), Failure> {
        if packet.truncated {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "request too long").into());
        }
        if std::mem::take(&mut self.rebuilt)
            && let Some(path) = &self.config.hold_socket
            && self.hold(path)? == Answer::GiveUp
        {
            return self.refuse();
        }
        let request = Request::parse(&packet.bytes).map_err(Failure::Request)?;
        let numbers = self.open_all(&request)?;
        let bytes = request.edited(numbers, self.config);
        match pass(self.criu.as_fd(), &bytes, &packet.fds) {
            // Its end is seen on its descriptor.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Opens here what the request names by numbers in the runtime; returns our numbers.
    fn open_all(&mut self, request: &Request<'_>) -> Result<ClientNumbers, Failure> {
        let restore = request.is_restore();
        let images = self.config.images_dir.as_deref().filter(|_| restore);
        let work = self.config.work_dir.as_deref().filter(|_| restore);
        let theirs = request.numbers;
        Ok(ClientNumbers {
            images_dir: self.open(images, theirs.images_dir)?,
            work_dir: self.open(work, theirs.work_dir)?,
            status: self.open(None, theirs.status)?,
            pidfd_store: self.open(None, theirs.pidfd_store)?,
        })
    }

    fn open(&mut self, path: Option<&Path>, theirs: Option<i32>) -> Result<Option<i32>, Failure> {
        let fd = match (path, theirs) {
            (Some(path), _) => sys::fs::open_dir(path).map_err(|source| Failure::Open {
                what: path.display().to_string(),
                source,
            })?,
            (None, Some(number)) => self.fetch(number).map_err(|source| Failure::Open {
                what: format!("descriptor {number} of the runtime"),
                source,
            })?,
            (None, None) => return Ok(None),
        };
        let number = fd.as_raw_fd();
        self.opened.push(fd);
        Ok(Some(number))
    }

    /// The runtime's descriptor of that number, as one of ours.
    fn fetch(&self, number: i32) -> io::Result<OwnedFd> {
        // Who made the socket pair is who CRIU would have asked.
        let runtime = socket::peer_cred(self.client)?.pid;
        let runtime = sys::pidfd::open(runtime)?;
        Ok(pidfd_getfd(&runtime, number, PidfdGetfdFlags::empty())?)
    }

    /// A packet of CRIU: passed on, and remembered where it matters.
    fn pass_answer(&mut self, packet: Received) -> Result<(), Failure> {
        if packet.truncated {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "answer too long").into());
        }
        let message = CriuResp::decode(packet.bytes.as_slice()).unwrap_or_default();
        if message.r#type() == CriuReqType::Notify
            && let Some(notify) = &message.notify
        {
            let pid = notify.pid.and_then(|pid| u32::try_from(pid).ok());
            self.root = pid.filter(|pid| *pid > 0).or(self.root);
            self.rebuilt = notify.script() == POST_RESTORE;
            if notify.script() == PRE_RESUME {
                let criu = self.child.pid();
                self.entered.stand_still(criu).map_err(Failure::Cgroup)?;
            }
        }
        match pass(self.client, &packet.bytes, &packet.fds) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.lose_client(),
            other => other?,
        }
        Ok(())
    }

    /// Answers a notification ourselves: CRIU gives up.
    fn refuse(&self) -> Result<(), Failure> {
        let answer = CriuReq {
            r#type: CriuReqType::Notify.into(),
            notify_success: Some(false),
            ..CriuReq::default()
        };
        Ok(socket::send(&self.criu, &answer.encode_to_vec(), &[])?)
    }

    /// Waits for the holder's answer, or for the end of runtime or CRIU, which is no release.
    fn hold(&self, path: &Path) -> Result<Answer, Failure> {
        let mut connection = connect(path, self.root)?;
        loop {
            let mut fds = vec![
                PollFd::from_borrowed_fd(self.child.pidfd(), PollFlags::IN),
                // The runtime owes CRIU an answer for nothing: what comes from it is its end.
                PollFd::from_borrowed_fd(self.client, PollFlags::IN),
            ];
            fds.extend(
                connection
                    .as_ref()
                    .map(|held| PollFd::new(held, PollFlags::IN)),
            );
            // Without a connection, the next try comes after a while.
            let ready = poll(&mut fds, connection.is_none().then_some(RETRY))?;
            drop(fds);
            let mut ready = ready.into_iter();
            let mut next = || ready.next().unwrap_or(false);
            let (ended, client_gone, answered) = (next(), next(), next());
            if ended || client_gone {
                return Ok(Answer::GiveUp);
            }
            if answered {
                if let Some(answer) = connection.as_ref().and_then(Connection::answer) {
                    return Ok(answer);
                }
                connection = None;
            } else if connection.is_none() {
                connection = connect(path, self.root)?;
            }
        }
    }
}

/// A connection to the holder, if there is one.
fn connect(path: &Path, root: Option<u32>) -> Result<Option<Connection>, Failure> {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, NotFound};
    match Connection::open(path, root) {
        Ok(connection) => Ok(Some(connection)),
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused | BrokenPipe) => Ok(None),
        Err(source) => Err(Failure::Open {
            what: path.display().to_string(),
            source,
        }),
    }
}

fn left(deadline: Deadline) -> Duration {
    deadline.remaining().unwrap_or_default()
}

/// Which descriptors are ready, in order.
fn poll(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<Vec<bool>> {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match rustix::event::poll(fds, limit.as_ref()) {
        Ok(_) => Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect()),
        Err(Errno::INTR) => Ok(vec![false; fds.len()]),
        Err(error) => Err(error.into()),
    }
}

/// Sends a packet with its descriptors.
fn pass(to: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    if bytes.len() > 64 << 10 {
        socket::force_send_buffer(to, bytes.len().saturating_mul(2))?;
    }
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    socket::send(to, bytes, &fds)
}
