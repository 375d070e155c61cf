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
    let got = rustix::io::retry_on_intr(|| {
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
    let got = rustix::io::retry_on_intr(|| {
        rustix::net::recv(&socket, &mut none, RecvFlags::PEEK | RecvFlags::TRUNC)
    })?;
    Ok(got.1)
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
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn packets_keep_their_borders_and_carry_descriptors() {
        let (left, right) = seqpacket_pair().unwrap();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        send(&left, b"one", &[]).unwrap();
        send(&left, b"second", &[writer.as_fd(), reader.as_fd()]).unwrap();
        let first = recv(&right, 1024).unwrap();
        assert_eq!(first.bytes, b"one");
        assert!(first.fds.is_empty() && !first.truncated);
        let second = recv(&right, 1024).unwrap();
        assert_eq!(second.bytes, b"second");
        let [theirs, _]: [OwnedFd; 2] = second.fds.try_into().unwrap();
        let flags = rustix::io::fcntl_getfd(&theirs).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        File::from(theirs).write_all(b"through").unwrap();
        writer.write_all(b"!").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through!");
    }

    #[test]
    fn a_packet_beyond_the_limit_is_cut_and_the_next_one_is_whole() {
        let (left, right) = seqpacket_pair().unwrap();
        send(&left, &[7; 5000], &[]).unwrap();
        send(&left, b"next", &[]).unwrap();
        let cut = recv(&right, 1000).unwrap();
        assert!(cut.truncated);
        assert_eq!(cut.bytes, vec![7; 1000]);
        assert_eq!(recv(&right, 1000).unwrap().bytes, b"next");
    }

    #[test]
    fn the_end_of_the_stream_is_seen_and_sending_there_fails() {
        let (left, right) = seqpacket_pair().unwrap();
        assert!(!poll_readable(&right, Some(Duration::from_millis(1))).unwrap());
        drop(left);
        assert!(poll_readable(&right, None).unwrap());
        assert!(recv(&right, 10).unwrap().is_end());
        let error = send(&right, b"x", &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_large_packet_passes_once_the_buffer_is_forced() {
        let (left, right) = seqpacket_pair().unwrap();
        let large = vec![1; 1 << 20];
        let error = send(&left, &large, &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::MSGSIZE.raw_os_error()));
        force_send_buffer(&left, 2 << 20).unwrap();
        let sent = send(&left, &large, &[]);
        if sent.is_ok() {
            assert_eq!(recv(&right, 1 << 21).unwrap().bytes.len(), 1 << 20);
        } else {
            assert_ne!(
                rustix::process::geteuid().as_raw(),
                0,
                "root can force it: {sent:?}"
            );
        }
    }

    #[test]
    fn a_socket_deep_in_the_tree_is_reached_through_its_directory() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("d".repeat(200)).join("e".repeat(200));
        std::fs::create_dir_all(&deep).unwrap();
        let dir = File::open(&deep).unwrap();
        let listener = seqpacket_listen(dir.as_fd(), "monitor.sock", 0o600).unwrap();
        let mode = std::fs::metadata(deep.join("monitor.sock"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o600);
        let client = seqpacket_connect(dir.as_fd(), "monitor.sock").unwrap();
        let server = seqpacket_accept(&listener).unwrap();
        assert_eq!(peer_cred(&server).unwrap().pid, std::process::id());
        send(&client, b"hello", &[]).unwrap();
        assert_eq!(recv(&server, 100).unwrap().bytes, b"hello");
        let taken = seqpacket_listen(dir.as_fd(), "monitor.sock", 0o600).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let refused = seqpacket_connect(dir.as_fd(), "monitor.sock").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn names_with_a_path_in_them_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        for name in ["", ".", "..", "a/b", "/a", "a/"] {
            let error = seqpacket_connect(dir.as_fd(), name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
