//! Who a unix socket is connected to: `sock_diag(7)` for `AF_UNIX`.
//!
//! ```text
//! request:  nlmsghdr(16) unix_diag_req(24): family=1, protocol, pad, states, ino, show, cookie
//! answer:   nlmsghdr(16) unix_diag_msg(16): family, type, state, pad, ino, cookie  rtattr*
//! ```
//! Numbers: `linux/unix_diag.h`, `linux/sock_diag.h`, `linux/netlink.h`.

use std::collections::BTreeMap;
use std::io;

use rustix::net::netlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const AF_UNIX: u8 = 1;
const UDIAG_SHOW_NAME: u32 = 0x01;
const UDIAG_SHOW_PEER: u32 = 0x04;
const UDIAG_SHOW_ICONS: u32 = 0x08;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_ICONS: u16 = 3;
const UNIX_DIAG_SHUTDOWN: u16 = 6;
const HEADER: usize = 16;
const ANSWER: usize = 32;

/// One unix socket of the network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnixSocket {
    /// `SOCK_STREAM` 1, `SOCK_DGRAM` 2, `SOCK_SEQPACKET` 5.
    pub kind: u8,
    /// Kernel state: 1 connected, 7 unconnected, 10 listening.
    pub state: u8,
    /// Inode of the socket at the other end; it may be in another network namespace.
    pub peer: Option<u32>,
    /// Of a listener: inodes of the sockets that have connected and not been accepted. Such a
    /// socket has no peer yet.
    pub pending: Vec<u32>,
    /// Which directions are shut down: 1 receiving, 2 sending. A socket whose peer was closed has
    /// both, and no peer.
    pub shutdown: u8,
    /// Bound name; an abstract one begins with `@`.
    pub name: String,
}

/// All unix sockets of the calling thread's network namespace, by inode.
///
/// # Errors
///
/// What socket(2), send(2) or recv(2) return; `NotFound` where the kernel has no `unix_diag`.
pub fn sockets() -> io::Result<BTreeMap<u32, UnixSocket>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::send(&socket, &request(), SendFlags::empty())?;
    let mut found = BTreeMap::new();
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        let (_, length) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if parse(buffer.get(..length).unwrap_or_default(), &mut found)? {
            return Ok(found);
        }
    }
}

fn request() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend_from_slice(&40_u32.to_ne_bytes());
    bytes.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[AF_UNIX, 0, 0, 0]);
    bytes.extend_from_slice(&u32::MAX.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    let show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS;
    bytes.extend_from_slice(&show.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads one datagram of messages; `true` when the dump is complete.
fn parse(mut bytes: &[u8], found: &mut BTreeMap<u32, UnixSocket>) -> io::Result<bool> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "a netlink message is cut short");
    while bytes.len() >= HEADER {
        let length = usize::try_from(u32_at(bytes, 0).ok_or_else(short)?).map_err(|_| short())?;
        let message = bytes
            .get(..length)
            .filter(|_| length >= HEADER)
            .ok_or_else(short)?;
        match u16_at(message, 4).ok_or_else(short)? {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let raw = u32_at(message, HEADER).ok_or_else(short)?.cast_signed();
                return Err(io::Error::from_raw_os_error(raw.saturating_neg()));
            }
            SOCK_DIAG_BY_FAMILY => {
                let inode = u32_at(message, HEADER + 4).ok_or_else(short)?;
                found.insert(inode, parse_socket(message).ok_or_else(short)?);
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn parse_socket(message: &[u8]) -> Option<UnixSocket> {
    let mut socket = UnixSocket {
        kind: *message.get(HEADER + 1)?,
        state: *message.get(HEADER + 2)?,
        ..UnixSocket::default()
    };
    let mut attributes = message.get(ANSWER..)?;
    while attributes.len() >= 4 {
        let length = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..length)?;
        match u16_at(attributes, 2)? {
            UNIX_DIAG_NAME => {
                let text = String::from_utf8_lossy(value);
                socket.name = text.trim_end_matches('\0').replacen('\0', "@", 1);
            }
            UNIX_DIAG_PEER => socket.peer = u32_at(value, 0).filter(|inode| *inode != 0),
            UNIX_DIAG_SHUTDOWN => socket.shutdown = value.first().copied().unwrap_or(0),
            UNIX_DIAG_ICONS => {
                socket.pending = (0..value.len() / 4)
                    .filter_map(|index| u32_at(value, index * 4))
                    .collect();
            }
            _ => {}
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn inode(socket: &impl AsRawFd) -> u32 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap().to_owned();
        text.trim_start_matches("socket:[")
            .trim_end_matches(']')
            .parse()
            .unwrap()
    }

    #[test]
    fn both_ends_of_a_pair_name_each_other() {
        let (a, b) = UnixStream::pair().unwrap();
        let all = sockets().unwrap();
        assert_eq!(all[&inode(&a)].peer, Some(inode(&b)));
        assert_eq!(all[&inode(&b)].peer, Some(inode(&a)));
        assert_eq!((all[&inode(&a)].kind, all[&inode(&a)].state), (1, 1));
    }

    #[test]
    fn a_listener_names_the_connections_that_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let all = sockets().unwrap();
        assert_eq!(all[&inode(&client)].peer, None);
        let found = &all[&inode(&listener)];
        assert_eq!(found.state, 10);
        assert_eq!(found.name, path.to_str().unwrap());
        assert_eq!(found.pending, [inode(&client)]);
    }

    #[test]
    fn a_socket_whose_peer_is_gone_is_shut_down() {
        let (a, b) = UnixStream::pair().unwrap();
        assert_eq!(sockets().unwrap()[&inode(&a)].shutdown, 0);
        drop(b);
        let found = sockets().unwrap()[&inode(&a)].clone();
        assert_eq!((found.peer, found.shutdown), (None, 3));
    }

    #[test]
    fn a_cut_message_is_an_error() {
        let mut found = BTreeMap::new();
        let mut bytes = request();
        bytes[0] = 200;
        assert!(parse(&bytes, &mut found).is_err());
    }
}
