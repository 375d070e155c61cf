//! Sockets.

use super::{Context, paths};
use crate::proto::{FileEntry, Fstype, InetSkEntry, PacketSockEntry, SkOptsEntry, UnixSkEntry};
use crate::violation::{Place, Report};

const FILES: Place<'static> = Place {
    task: None,
    image: "files.img",
};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
/// Bytes of `sockaddr_un.sun_path`.
const UNIX_PATH_MAX: usize = 108;
/// Longest hardware address in a packet socket's membership.
const HARDWARE_ADDRESS: usize = 8;
/// `BPF_MAXINSNS`.
const MAX_FILTER: usize = 4096;
/// Largest priority that takes no capability.
const MAX_PRIORITY: u32 = 6;

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    for file in context.images.files.values() {
        if let Some(socket) = &file.isk {
            inet(context, socket, report);
        }
        if let Some(socket) = &file.usk {
            unix(context, socket, report);
        }
        if let Some(socket) = &file.psk {
            packet(context, socket, report);
        }
        if let Some((name, socket)) = options_of(file) {
            options(context, &name, socket, report);
        }
    }
    streams(context, report);
}

fn options_of(file: &FileEntry) -> Option<(String, &SkOptsEntry)> {
    let (name, options) = match (&file.isk, &file.usk, &file.psk, &file.nlsk) {
        (Some(socket), ..) => ("isk", &socket.opts),
        (_, Some(socket), ..) => ("usk", &socket.opts),
        (_, _, Some(socket), _) => ("psk", &socket.opts),
        (_, _, _, Some(socket)) => ("nlsk", &socket.opts),
        _ => return None,
    };
    Some((format!("{name} id {}", file.id), options))
}

fn inet(context: &Context<'_>, socket: &InetSkEntry, report: &mut Report) {
    let field = format!("isk id {}", socket.id);
    let words = match socket.family {
        AF_INET => 1,
        AF_INET6 => 4,
        other => return report.malformed(FILES, &field, format!("unknown family {other}")),
    };
    // Listening IPv4 sockets have four words too: CRIU reads as many as it needs.
    let fits = |found: usize| found == words || words == 1 && found == 4;
    if !fits(socket.src_addr.len()) || !fits(socket.dst_addr.len()) {
        report.malformed(FILES, &field, "address is not of its family's length");
    }
    if socket.src_port > 0xffff || socket.dst_port > 0xffff {
        report.malformed(FILES, &field, "port is out of range");
    }
    match socket.r#type {
        SOCK_STREAM | SOCK_DGRAM => {}
        SOCK_RAW if context.request.credentials.bounds(CAP_NET_RAW) => {}
        SOCK_RAW => report.privilege(FILES, &field, "raw socket without CAP_NET_RAW"),
        other => report.malformed(FILES, &field, format!("unknown type {other}")),
    }
    let filter = socket
        .ip_opts
        .as_ref()
        .and_then(|options| options.raw.as_ref());
    if filter.is_some_and(|raw| raw.icmpv_filter.len() > 8) {
        report.malformed(FILES, &field, "ICMP filter is too long");
    }
}

fn unix(context: &Context<'_>, socket: &UnixSkEntry, report: &mut Report) {
    let field = format!("usk id {}", socket.id);
    if socket.uflags != 0 {
        // External, inherited or plugin sockets: CRIU would connect to the host's.
        report.privilege(FILES, &field, "is connected outside the container");
    }
    if socket.name.len() > UNIX_PATH_MAX {
        return report.malformed(FILES, &field, "name is too long");
    }
    if let Some(dir) = &socket.name_dir
        && let Some(fault) = paths::fault(dir)
    {
        return report.privilege(FILES, &field, format!("directory {fault}"));
    }
    let Some(path) = paths::socket_path(socket) else {
        return;
    };
    if let Some(fault) = paths::fault(&path) {
        let detail = format!("{} {fault}", paths::show(&path));
        return report.privilege(FILES, &field, detail);
    }
    let (_, mounts) = context.images.root_mounts().unwrap_or_default();
    let mount = paths::mount_of(mounts, &path);
    let number = socket.mnt_id.and_then(|id| u32::try_from(id).ok());
    if mount.is_none_or(|mount| number.is_some_and(|id| id != mount.mnt_id)) {
        let detail = format!("{} does not lie on its mount", paths::show(&path));
        report.privilege(FILES, &field, detail);
    } else if mount.is_some_and(|mount| mount.filesystem() == Some(Fstype::Proc)) {
        let detail = format!("{} is on a proc file system", paths::show(&path));
        report.privilege(FILES, &field, detail);
    }
    if socket
        .file_perms
        .as_ref()
        .is_some_and(|perms| perms.mode & !0o140_777 != 0)
    {
        report.malformed(FILES, &field, "mode is not a socket's");
    }
}

fn packet(context: &Context<'_>, socket: &PacketSockEntry, report: &mut Report) {
    let field = format!("psk id {}", socket.id);
    if !context.request.credentials.bounds(CAP_NET_RAW) {
        report.privilege(FILES, &field, "packet socket without CAP_NET_RAW");
    }
    if socket
        .mclist
        .iter()
        .any(|entry| entry.addr.len() > HARDWARE_ADDRESS)
    {
        report.malformed(FILES, &field, "hardware address is too long");
    }
}

fn options(context: &Context<'_>, field: &str, options: &SkOptsEntry, report: &mut Report) {
    let admin = context.request.credentials.bounds(CAP_NET_ADMIN);
    if options.so_mark.is_some_and(|mark| mark != 0) && !admin {
        report.privilege(FILES, field, "has a mark without CAP_NET_ADMIN");
    }
    if options
        .so_priority
        .is_some_and(|priority| priority > MAX_PRIORITY)
        && !admin
    {
        report.privilege(FILES, field, "has a priority without CAP_NET_ADMIN");
    }
    if options.so_filter.len() > MAX_FILTER {
        report.malformed(FILES, field, "filter is too long");
    }
    if options
        .so_bound_dev
        .as_ref()
        .is_some_and(|name| name.len() > 15)
    {
        report.malformed(FILES, field, "device name is too long");
    }
}

/// A connection's image belongs to a socket.
fn streams(context: &Context<'_>, report: &mut Report) {
    for inode in &context.images.tcp_streams {
        let known = context
            .images
            .files
            .values()
            .filter_map(|file| file.isk.as_ref())
            .any(|socket| socket.ino == *inode);
        if !known {
            let image = format!("tcp-stream-{inode:x}.img");
            report.malformed(Place::image(&image), "", "belongs to no socket");
        }
    }
}
