//! Sockets with their addresses and states.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::text_of;
use crate::model::Images;
use crate::proto::{InetSkEntry, UnixSkEntry};

const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;

/// One socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Socket {
    /// Protocol.
    pub kind: SocketKind,
    /// State in the kernel's word (`LISTEN`, `ESTABLISHED`), `UNCONN` for one without a peer.
    pub state: String,
    /// Own address; for unix sockets the path, `@` and the name when abstract, or empty.
    pub local: String,
    /// The peer's address, where there is one.
    pub remote: Option<String>,
    /// Processes that have it open, and under which descriptor.
    pub owners: Vec<(u32, u32)>,
}

/// Protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SocketKind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Raw IP.
    Raw,
    /// Unix stream or seqpacket.
    UnixStream,
    /// Unix datagram.
    UnixDatagram,
    /// Netlink.
    Netlink,
    /// `AF_PACKET`.
    Packet,
}

pub(super) fn sockets(images: &Images) -> Vec<Socket> {
    let mut all: Vec<Socket> = images
        .files
        .values()
        .filter_map(|file| {
            let mut socket = match (&file.isk, &file.usk, &file.psk, &file.nlsk) {
                (Some(entry), ..) => inet(entry),
                (_, Some(entry), ..) => unix(images, entry),
                (_, _, Some(entry), _) => {
                    plain(SocketKind::Packet, format!("interface {}", entry.ifindex))
                }
                (_, _, _, Some(entry)) => {
                    plain(SocketKind::Netlink, format!("protocol {}", entry.protocol))
                }
                _ => return None,
            };
            socket.owners = owners(images, file.id);
            Some(socket)
        })
        .collect();
    all.sort_by(|a, b| (a.kind, &a.local, &a.remote).cmp(&(b.kind, &b.local, &b.remote)));
    all
}

fn plain(kind: SocketKind, local: String) -> Socket {
    Socket {
        kind,
        state: "UNCONN".to_owned(),
        local,
        remote: None,
        owners: Vec::new(),
    }
}

fn inet(entry: &InetSkEntry) -> Socket {
    let kind = match entry.r#type {
        SOCK_STREAM => SocketKind::Tcp,
        SOCK_DGRAM => SocketKind::Udp,
        _ => SocketKind::Raw,
    };
    let connected = entry.dst_port != 0 || entry.dst_addr.iter().any(|word| *word != 0);
    Socket {
        kind,
        state: state(entry.state).to_owned(),
        local: address(entry.family, &entry.src_addr, entry.src_port),
        remote: connected.then(|| address(entry.family, &entry.dst_addr, entry.dst_port)),
        owners: Vec::new(),
    }
}

/// Address words are the bytes of the address in order, as the machine of the dump (little endian)
/// reads them.
fn address(family: u32, words: &[u32], port: u32) -> String {
    let ip = match (family, words) {
        (AF_INET6, [a, b, c, d]) => {
            let mut bytes = [0; 16];
            for (to, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        (_, [first, ..]) => IpAddr::V4(Ipv4Addr::from(first.to_le_bytes())),
        _ => return format!("?:{port}"),
    };
    match u16::try_from(port) {
        Ok(port) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{ip} port {port}"),
    }
}

fn unix(images: &Images, entry: &UnixSkEntry) -> Socket {
    let kind = if entry.r#type == SOCK_DGRAM {
        SocketKind::UnixDatagram
    } else {
        SocketKind::UnixStream
    };
    let peer = (entry.peer != 0).then(|| {
        let name = images
            .files
            .values()
            .filter_map(|file| file.usk.as_ref())
            .find(|other| other.ino == entry.peer)
            .map(|other| name(other))
            .filter(|name| !name.is_empty());
        name.unwrap_or_else(|| format!("inode {}", entry.peer))
    });
    Socket {
        kind,
        state: state(entry.state).to_owned(),
        local: name(entry),
        remote: peer,
        owners: Vec::new(),
    }
}

fn name(entry: &UnixSkEntry) -> String {
    match entry.name.split_first() {
        Some((0, rest)) => format!("@{}", text_of(rest)),
        _ => {
            let path = entry.name.strip_suffix(b"\0").unwrap_or(&entry.name);
            match &entry.name_dir {
                Some(dir) if !path.is_empty() => format!("{}/{}", text_of(dir), text_of(path)),
                _ => text_of(path),
            }
        }
    }
}

/// Names of the kernel's `TCP_*` states, which other sockets use too.
fn state(number: u32) -> &'static str {
    match number {
        1 => "ESTABLISHED",
        2 => "SYN_SENT",
        3 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        6 => "TIME_WAIT",
        7 => "UNCONN",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        _ => "UNKNOWN",
    }
}

fn owners(images: &Images, id: u32) -> Vec<(u32, u32)> {
    images
        .processes
        .iter()
        .filter_map(|process| Some((process.pid, images.descriptors_of(process.pid)?.1)))
        .flat_map(|(pid, list)| {
            list.iter()
                .filter(move |entry| entry.id == id)
                .map(move |entry| (pid, entry.fd))
        })
        .collect()
}
