//! Unix sequenced-packet sockets: one message per packet, descriptors beside it (unix(7)).
//!
//! Every socket and every received descriptor is close-on-exec. Sockets in the filesystem are named
//! by a directory descriptor and a file name, so that the 107 bytes of `sun_path` never limit the
//! directory's depth.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

/// Most descriptors that the kernel lets one message carry (`SCM_MAX_FD`, unix(7)).
pub const MAX_FDS: usize = 253;

/// One received packet.
#[derive(Debug)]
pub struct Received {
    /// The message; empty both for an empty packet and at the end of the stream.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// Whether the packet was longer than the caller's limit and has been cut there.
    pub truncated: bool,
}

impl Received {
    /// Whether this is the end of the stream: the peer has closed, or sent an empty packet, which
    /// no protocol here does.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.bytes.is_empty() && self.fds.is_empty()
    }
}

/// Who is at the other end (`SO_PEERCRED`): as of connect(2) or socketpair(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCred {
    /// Process, in the caller's PID namespace; 0 when it is not visible there.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// A connected pair.
///
/// # Errors
///
/// What socketpair(2) returns.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one packet, with descriptors. A closed peer is an error, never `SIGPIPE`.
///
/// # Errors
///
/// What sendmsg(2) returns: `EMSGSIZE` when the packet exceeds the send buffer (see
/// [`force_send_buffer`]), `EPIPE` when the peer has closed; `InvalidInput` for more than
/// [`MAX_FDS`] descriptors.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} descriptors in one message, at most {MAX_FDS}",
                fds.len()
            ),
        ));
    }
    let mut space = control_space(fds.len());
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("control buffer too small"));
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(
            &socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("{sent} of {} bytes sent", bytes.len()),
        ))
    }
}

/// Receives one packet, waiting for it on a blocking socket. A packet longer than `max_bytes` is
/// cut there and marked, so that a hostile peer chooses no allocation.
///
/// # Errors
///
/// What recvmsg(2) returns; `InvalidData` when descriptors were lost for want of free numbers.
pub fn recv(socket: impl AsFd, max_bytes: usize) -> io::Result<Received> {
    let waiting = peek(&socket)?;
    let mut bytes = vec![0_u8; waiting.min(max_bytes)];
    let mut space = control_space(MAX_FDS);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = retry(|| {
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::TRUNC,
        )
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "descriptors lost in transit",
        ));
    }
    let truncated = got.bytes > bytes.len();
    bytes.truncate(got.bytes);
    Ok(Received {
        bytes,
        fds,
        truncated,
    })
}

/// The length of the next packet, which stays queued; 0 at the end of the stream.
fn peek(socket: impl AsFd) -> io::Result<usize> {
    let mut none = [0_u8; 0];
    let got = retry(|| rustix::net::recv(&socket, &mut none, RecvFlags::PEEK | RecvFlags::TRUNC))?;
    Ok(got.1)
}

/// Repeats what a signal interrupted, and what tells that the peer closed before it had read all
/// that was sent: the kernel reports that once, ahead of what the peer itself had sent.
fn retry<T>(mut receive: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match receive() {
            Err(Errno::INTR | Errno::CONNRESET) => {}
            other => return other,
        }
    }
}

/// Room for the control data of so many descriptors.
fn control_space(fds: usize) -> Vec<MaybeUninit<u8>> {
    let bytes = if fds == 0 {
        0
    } else {
        rustix::cmsg_space!(ScmRights(fds))
    };
    vec![MaybeUninit::uninit(); bytes]
}

/// Waits until there is something to read or the peer has closed; `None` waits without limit.
/// Returns whether there is.
///
/// # Errors
///
/// What poll(2) returns.
pub fn poll_readable(fd: impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(timespec);
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A `timespec` of that length; what does not fit is a wait without end for all purposes.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    })
}

/// Makes room for packets of at least so many bytes, beyond the system's limit where the caller is
/// privileged (`SO_SNDBUFFORCE`), up to that limit where it is not.
///
/// # Errors
///
/// What setsockopt(2) returns.
pub fn force_send_buffer(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    match sockopt::set_socket_send_buffer_size_force(&socket, bytes) {
        Err(Errno::PERM) => Ok(sockopt::set_socket_send_buffer_size(&socket, bytes)?),
        other => Ok(other?),
    }
}

/// Listens at `name` in `dir`, which must not exist; the socket file gets `mode`. The socket is
/// blocking.
///
/// # Errors
///
/// What bind(2), listen(2) and chmod(2) return; `AddrInUse` when the name is taken;
/// `InvalidInput` when `name` is not one plain path component.
pub fn seqpacket_listen(dir: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<OwnedFd> {
    let address = address(dir, name)?;
    let socket = seqpacket()?;
    rustix::net::bind(&socket, &address)?;
    // Nobody can connect before listen(2): the file's first mode does not matter.
    rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    rustix::net::listen(&socket, 128)?;
    Ok(socket)
}

/// Accepts the next connection.
///
/// # Errors
///
/// What accept4(2) returns.
pub fn seqpacket_accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::retry_on_intr(|| {
        rustix::net::accept_with(&listener, SocketFlags::CLOEXEC)
    })?)
}

/// Connects to the socket `name` in `dir`.
///
/// # Errors
///
/// What connect(2) returns: `NotFound` when there is no such file, `ConnectionRefused` when nobody
/// listens there; `InvalidInput` when `name` is not one plain path component.
pub fn seqpacket_connect(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let address = address(dir, name)?;
    let socket = seqpacket()?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Who is at the other end.
///
/// # Errors
///
/// What getsockopt(2) returns.
pub fn peer_cred(socket: impl AsFd) -> io::Result<PeerCred> {
    let cred = sockopt::socket_peercred(socket)?;
    Ok(PeerCred {
        // rustix has no pid 0, which the kernel reports for a peer outside this namespace.
        pid: u32::try_from(cred.pid.as_raw_pid()).unwrap_or(0),
        uid: cred.uid.as_raw(),
        gid: cred.gid.as_raw(),
    })
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn address(dir: BorrowedFd<'_>, name: &str) -> io::Result<SocketAddrUnix> {
    let mut parts = Path::new(name).components();
    let plain = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(only)), None) if only == name
    );
    if !plain {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is not a plain file name"),
        ));
    }
    Ok(SocketAddrUnix::new(format!(
        "/proc/self/fd/{}/{name}",
        dir.as_raw_fd()
    ))?)
}

#[cfg(test)]
mod tests;
