//! The monitor's socket: few clients, small messages, nothing that waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use monitor::names;
use monitor::wire::{self, MAX_MESSAGE_BYTES, Reply, Request};
use rustix::fs::AtFlags;
use sys::epoll::{Epoll, Interest};

/// Connections at a time; more are closed at once. The daemon holds one or two.
const MAX_CLIENTS: usize = 32;

/// The first token of a client.
pub(crate) const FIRST_CLIENT: u64 = 16;

/// The socket and its clients.
#[derive(Debug)]
pub(crate) struct Server {
    listener: OwnedFd,
    run_dir: OwnedFd,
    clients: Vec<Client>,
    next_token: u64,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    token: u64,
    /// Asked for the status before there was one.
    wants_status: bool,
    /// Asked for the container's end.
    watches: bool,
}

impl Server {
    /// Listens in the run directory. What a killed monitor left there is replaced; a living one is not.
    pub(crate) fn listen(run_dir: BorrowedFd<'_>) -> io::Result<Self> {
        match sys::socket::seqpacket_connect(run_dir, names::SOCKET) {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another monitor answers here",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => rustix::fs::unlinkat(run_dir, names::SOCKET, AtFlags::empty())?,
        }
        let listener = sys::socket::seqpacket_listen(run_dir, names::SOCKET, 0o600)?;
        rustix::io::ioctl_fionbio(&listener, true)?;
        Ok(Self {
            listener,
            run_dir: run_dir.try_clone_to_owned()?,
            clients: Vec::new(),
            next_token: FIRST_CLIENT,
        })
    }

    /// Has connections reported under this token.
    pub(crate) fn register(&self, epoll: &Epoll, token: u64) -> io::Result<()> {
        epoll.add(&self.listener, token, Interest::Readable)
    }

    /// Takes one connection. One that fails, or is one too many, is closed.
    pub(crate) fn accept(&mut self, epoll: &Epoll) {
        let Ok(socket) = sys::socket::seqpacket_accept(&self.listener) else {
            return;
        };
        let token = self.next_token;
        let ready = self.clients.len() < MAX_CLIENTS
            && may_ask(&socket)
            && rustix::io::ioctl_fionbio(&socket, true).is_ok()
            && epoll.add(&socket, token, Interest::Readable).is_ok();
        if ready {
            self.next_token += 1;
            self.clients.push(Client {
                socket,
                token,
                wants_status: false,
                watches: false,
            });
        }
    }

    /// Reads a client's request; answers what is none, forgets a client that has gone.
    pub(crate) fn receive(&mut self, token: u64) -> Option<Request> {
        let client = self.clients.iter().find(|client| client.token == token)?;
        let received = match sys::socket::recv(&client.socket, MAX_MESSAGE_BYTES) {
            Ok(received) if !received.is_end() => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Ok(_) | Err(_) => {
                self.clients.retain(|client| client.token != token);
                return None;
            }
        };
        match wire::decode(&received.bytes) {
            Ok(request) => Some(request),
            Err(error) => {
                self.answer(
                    token,
                    &Reply::Error {
                        message: error.to_string(),
                    },
                );
                None
            }
        }
    }

    /// Answers a client; one that does not read its answers is forgotten.
    pub(crate) fn answer(&mut self, token: u64, reply: &Reply) {
        self.clients
            .retain(|client| client.token != token || client.tell(reply));
    }

    /// Remembers that the client is to be told of the end.
    pub(crate) fn watch(&mut self, token: u64) {
        for client in self
            .clients
            .iter_mut()
            .filter(|client| client.token == token)
        {
            client.watches = true;
        }
    }

    /// Remembers that the client is to be told the status once there is one.
    pub(crate) fn defer_status(&mut self, token: u64) {
        for client in self
            .clients
            .iter_mut()
            .filter(|client| client.token == token)
        {
            client.wants_status = true;
        }
    }

    /// Answers those who asked for the status too early.
    pub(crate) fn tell_status(&mut self, reply: &Reply) {
        self.clients
            .retain_mut(|client| !std::mem::take(&mut client.wants_status) || client.tell(reply));
    }

    /// Tells the end to those who watch for it.
    pub(crate) fn tell_end(&mut self, reply: &Reply) {
        self.clients
            .retain(|client| !client.watches || client.tell(reply));
    }
}

impl Client {
    fn tell(&self, reply: &Reply) -> bool {
        wire::encode(reply)
            .is_ok_and(|message| sys::socket::send(&self.socket, &message, &[]).is_ok())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for name in [names::SOCKET, names::PID] {
            // The run directory may be gone; then so are they.
            rustix::fs::unlinkat(self.run_dir.as_fd(), name, AtFlags::empty()).ok();
        }
    }
}

/// The socket's mode keeps others out; this does so also where the directory was opened up.
fn may_ask(socket: &OwnedFd) -> bool {
    let own = rustix::process::geteuid().as_raw();
    sys::socket::peer_cred(socket).is_ok_and(|peer| peer.uid == 0 || peer.uid == own)
}
