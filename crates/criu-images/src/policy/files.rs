//! Open files, descriptor tables, working and root directories, deleted files.

use std::collections::BTreeSet;

use super::{Context, credentials, fsnotify, paths, tasks};
use crate::proto::{
    FdTypes, FileEntry, Fstype, GhostFileEntry, MntEntry, RegFileEntry, RemapType, TtyType,
};
use crate::violation::{Place, Report};

const FILES: Place<'static> = Place {
    task: None,
    image: "files.img",
};

const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1000;
const FD_CLOEXEC: u32 = 1;
const MS_RDONLY: u32 = super::mount_options::MS_RDONLY;
const CAP_SYS_CHROOT: u32 = 18;

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    for file in context.images.files.values() {
        entry(context, file, report);
    }
    descriptors(context, report);
    directories(context, report);
    remaps(context, report);
    ghosts(context, report);
    references(context, report);
}

/// One entry: the field that fits its type and no other, then the rules of its kind.
fn entry(context: &Context<'_>, file: &FileEntry, report: &mut Report) {
    let field = |name: &str| format!("{} id {}", name, file.id);
    let present = [
        (FdTypes::Reg, file.reg.as_ref().map(|f| f.id)),
        (FdTypes::Inetsk, file.isk.as_ref().map(|f| f.id)),
        (FdTypes::Ns, file.nsf.as_ref().map(|f| f.id)),
        (FdTypes::Packetsk, file.psk.as_ref().map(|f| f.id)),
        (FdTypes::Netlinksk, file.nlsk.as_ref().map(|f| f.id)),
        (FdTypes::Eventfd, file.efd.as_ref().map(|f| f.id)),
        (FdTypes::Eventpoll, file.epfd.as_ref().map(|f| f.id)),
        (FdTypes::Signalfd, file.sgfd.as_ref().map(|f| f.id)),
        (FdTypes::Tunf, file.tunf.as_ref().map(|f| f.id)),
        (FdTypes::Timerfd, file.tfd.as_ref().map(|f| f.id)),
        (FdTypes::Inotify, file.ify.as_ref().map(|f| f.id)),
        (FdTypes::Fanotify, file.ffy.as_ref().map(|f| f.id)),
        (FdTypes::Ext, file.ext.as_ref().map(|f| f.id)),
        (FdTypes::Unixsk, file.usk.as_ref().map(|f| f.id)),
        (FdTypes::Fifo, file.fifo.as_ref().map(|f| f.id)),
        (FdTypes::Pipe, file.pipe.as_ref().map(|f| f.id)),
        (FdTypes::Tty, file.tty.as_ref().map(|f| f.id)),
        (FdTypes::Memfd, file.memfd.as_ref().map(|f| f.id)),
        (FdTypes::Bpfmap, file.bpf.as_ref().map(|f| f.id)),
        (FdTypes::Pidfd, file.pidfd.as_ref().map(|f| f.id)),
    ];
    let mut kinds = present
        .iter()
        .filter_map(|(kind, id)| id.map(|id| (*kind, id)));
    match (kinds.next(), kinds.next()) {
        (Some((kind, id)), None) if kind == file.r#type() && id == file.id => {}
        _ => {
            let detail = "content does not fit its type and id";
            return report.malformed(FILES, &field("file"), detail);
        }
    }
    match file.r#type() {
        FdTypes::Ext | FdTypes::Tunf | FdTypes::Bpfmap => {
            let detail = format!("{:?} files are not restored", file.r#type());
            report.privilege(FILES, &field("file"), detail);
        }
        FdTypes::Ns => namespace_file(context, file, report),
        FdTypes::Tty => terminal(context, file, report),
        FdTypes::Inotify | FdTypes::Fanotify => fsnotify::check(context, file, report),
        _ => {}
    }
    if let Some(regular) = &file.reg {
        regular_file(context, regular, report);
    }
}

fn regular_file(context: &Context<'_>, file: &RegFileEntry, report: &mut Report) {
    let field = format!("reg id {} {}", file.id, paths::show(&file.name));
    if file.ext == Some(true) {
        return report.privilege(FILES, &field, "asks for a CRIU plugin");
    }
    if let Some(fault) = paths::fault(&file.name) {
        return report.privilege(FILES, &field, fault);
    }
    if file.flags & (O_CREAT | O_EXCL | O_TRUNC) != 0 {
        let detail = format!("flags {:#o} create or truncate", file.flags);
        report.privilege(FILES, &field, detail);
    }
    let (_, mounts) = context.images.root_mounts().unwrap_or_default();
    let number = file.mnt_id.and_then(|id| u32::try_from(id).ok());
    let stand_in = context
        .images
        .remaps
        .iter()
        .any(|remap| paths::is_stand_in(remap, file.id));
    if stand_in && number.is_none() {
        // Written without a mount; `remaps` holds it against the original's.
        return;
    }
    let Some(mount) = mounts.iter().find(|mount| Some(mount.mnt_id) == number) else {
        return report.privilege(FILES, &field, "is on no mount of the container");
    };
    if paths::mount_of(mounts, &file.name).map(|mount| mount.mnt_id) != number {
        let on = paths::show(&mount.mountpoint);
        return report.privilege(FILES, &field, format!("does not lie on its mount {on}"));
    }
    if mount.filesystem() == Some(Fstype::Proc) && paths::is_magic(&file.name) {
        report.privilege(FILES, &field, "goes through a link in proc");
    }
}

fn namespace_file(context: &Context<'_>, file: &FileEntry, report: &mut Report) {
    let Some(entry) = &file.nsf else { return };
    let ids = context
        .images
        .root()
        .and_then(|root| context.images.ids_of(root.pid));
    let known = ids.is_some_and(|ids| {
        [
            ids.pid_ns_id,
            ids.net_ns_id,
            ids.ipc_ns_id,
            ids.uts_ns_id,
            ids.mnt_ns_id,
            ids.user_ns_id,
            ids.cgroup_ns_id,
            ids.time_ns_id,
        ]
        .contains(&Some(entry.ns_id))
    });
    if !known {
        let field = format!("nsf id {}", entry.id);
        report.privilege(FILES, &field, "is no namespace of the root task");
    }
}

fn terminal(context: &Context<'_>, file: &FileEntry, report: &mut Report) {
    const CONTROL_CHARACTERS: usize = 19;
    let Some(entry) = &file.tty else { return };
    let field = format!("tty id {}", entry.id);
    let Some(info) = context.images.terminals.get(&entry.tty_info_id) else {
        return report.malformed(FILES, &field, "has no entry in tty-info.img");
    };
    if !matches!(info.r#type(), TtyType::Pty | TtyType::Ctty) {
        let detail = format!("terminal of the kind {:?}", info.r#type());
        report.privilege(FILES, &field, detail);
    }
    if info.r#type() == TtyType::Pty && info.pty.is_none() {
        report.malformed(Place::image("tty-info.img"), "pty", "is missing");
    }
    let settings = info.termios.iter().chain(&info.termios_locked);
    if settings
        .into_iter()
        .any(|termios| termios.c_cc.len() < CONTROL_CHARACTERS)
    {
        report.malformed(Place::image("tty-info.img"), "termios.c_cc", "is too short");
    }
    if entry.regf_id.is_some_and(|id| !is_regular(context, id)) {
        report.malformed(FILES, &field, "has no file of its own");
    }
}

fn descriptors(context: &Context<'_>, report: &mut Report) {
    let mut used = BTreeSet::new();
    for process in &context.images.processes {
        if !tasks::is_alive(context, process.pid) {
            continue;
        }
        let Some(id) = context.images.ids_of(process.pid).map(|ids| ids.files_id) else {
            continue;
        };
        used.insert(id);
        let image = format!("fdinfo-{id}.img");
        if !context.images.descriptors.contains_key(&id) {
            report.malformed(Place::task(process.pid, &image), "", "is missing");
        }
    }
    for (id, list) in &context.images.descriptors {
        let image = format!("fdinfo-{id}.img");
        let place = Place::image(&image);
        if !used.contains(id) {
            report.malformed(place, "", "belongs to no task");
        }
        let mut numbers = BTreeSet::new();
        for entry in list {
            let field = format!("fd {}", entry.fd);
            if entry.fd >= context.request.limits.max_fd {
                report.malformed(place, &field, "number is out of range");
            }
            if !numbers.insert(entry.fd) {
                report.malformed(place, &field, "appears twice");
            }
            if entry.flags & !FD_CLOEXEC != 0 {
                report.malformed(place, &field, format!("unknown flags {:#x}", entry.flags));
            }
            let label = entry.xattr_security_selinux.as_deref();
            if label.is_some_and(|l| !credentials::is_granted(&context.request.label, l)) {
                report.privilege(place, &field, "sets an SELinux label");
            }
            match context.images.files.get(&entry.id) {
                Some(file) if file.r#type == entry.r#type => {}
                Some(_) => report.malformed(place, &field, "type differs from files.img"),
                None => report.malformed(place, &field, format!("no file {}", entry.id)),
            }
        }
    }
}

/// Working and root directories, executables and mapped files are regular entries.
fn directories(context: &Context<'_>, report: &mut Report) {
    for (pid, entry) in &context.images.roots {
        let image = format!("fs-{pid}.img");
        let place = Place::task(*pid, &image);
        for (field, id) in [("cwd_id", entry.cwd_id), ("root_id", entry.root_id)] {
            if !is_regular(context, id) {
                report.malformed(place, field, format!("no path with the id {id}"));
            }
        }
        let root = context
            .images
            .files
            .get(&entry.root_id)
            .and_then(|file| file.reg.as_ref());
        let moved = root.is_some_and(|root| root.name != b"/");
        if moved && !context.request.credentials.bounds(CAP_SYS_CHROOT) {
            report.privilege(place, "root_id", "another root without CAP_SYS_CHROOT");
        }
        if entry.umask.is_some_and(|umask| umask > 0o777) {
            report.malformed(place, "umask", "is no mask");
        }
    }
}

fn is_regular(context: &Context<'_>, id: u32) -> bool {
    context
        .images
        .files
        .get(&id)
        .is_some_and(|file| file.reg.is_some())
}

/// Stand-ins of deleted files. CRIU makes read-only mounts writable for them.
fn remaps(context: &Context<'_>, report: &mut Report) {
    let place = Place::image("remap-fpath.img");
    let images = context.images;
    let (_, mounts) = images.root_mounts().unwrap_or_default();
    for remap in &images.remaps {
        let field = format!("orig_id {}", remap.orig_id);
        let original = images
            .files
            .get(&remap.orig_id)
            .and_then(|file| file.reg.as_ref());
        let Some(original) = original else {
            if images
                .files
                .get(&remap.orig_id)
                .is_none_or(|file| file.usk.is_none())
            {
                report.malformed(place, &field, "names no path");
            }
            continue;
        };
        match remap.remap_type() {
            RemapType::Ghost if !images.ghosts.contains_key(&remap.remap_id) => {
                report.malformed(place, &field, format!("no ghost file {}", remap.remap_id));
            }
            RemapType::Linked => {
                let file = images
                    .files
                    .get(&remap.remap_id)
                    .and_then(|file| file.reg.as_ref());
                let named = file.filter(|f| paths::name(&f.name).starts_with(b"link_remap."));
                let on = |file: &RegFileEntry| {
                    paths::mount_of(mounts, &file.name).and_then(|m| i32::try_from(m.mnt_id).ok())
                };
                if named.is_none_or(|file| on(file).is_none() || on(file) != original.mnt_id) {
                    report.privilege(place, &field, "stand-in is no link_remap file beside it");
                }
            }
            RemapType::Procfs => {
                let mount = paths::mount_of(mounts, &original.name);
                if mount.is_none_or(|mount| mount.filesystem() != Some(Fstype::Proc)) {
                    report.malformed(place, &field, "is not on a proc file system");
                }
            }
            RemapType::Ghost => {}
        }
        if remap.remap_type() != RemapType::Procfs && read_only(mounts, original) {
            report.privilege(place, &field, "deleted file on a read-only mount");
        }
    }
}

fn read_only(mounts: &[MntEntry], file: &RegFileEntry) -> bool {
    let number = file.mnt_id.and_then(|id| u32::try_from(id).ok());
    mounts
        .iter()
        .filter(|mount| Some(mount.mnt_id) == number)
        .any(|mount| (mount.flags | mount.sb_flags.unwrap_or(0)) & MS_RDONLY != 0)
}

fn ghosts(context: &Context<'_>, report: &mut Report) {
    const FORMAT: u32 = 0o170_000;
    const DEVICES: [u32; 2] = [0o020_000, 0o060_000];
    const KNOWN: [u32; 5] = [0o010_000, 0o040_000, 0o100_000, 0o120_000, 0o140_000];
    const SET_ID: u32 = 0o6_000;
    for (id, ghost) in &context.images.ghosts {
        let image = format!("ghost-file-{id:x}.img");
        let place = Place::image(&image);
        let format = ghost.mode & FORMAT;
        if DEVICES.contains(&format) {
            report.privilege(place, "mode", "is a device");
        } else if !KNOWN.contains(&format) || ghost.mode > 0o177_777 {
            report.malformed(place, "mode", format!("{:#o} is no file", ghost.mode));
        }
        if ghost.mode & SET_ID != 0 && format == 0o100_000 {
            report.privilege(place, "mode", "is set-user-id or set-group-id");
        }
        ghost_fields(place, ghost, report);
    }
}

fn ghost_fields(place: Place<'_>, ghost: &GhostFileEntry, report: &mut Report) {
    if ghost.atim.is_some() != ghost.mtim.is_some() {
        report.malformed(place, "atim", "has one time of two");
    }
    let link = ghost.mode & 0o170_000 == 0o120_000;
    if link != ghost.symlnk_target.is_some() {
        report.malformed(place, "symlnk_target", "does not fit the mode");
    }
}

/// Other numbers that point from image to image.
fn references(context: &Context<'_>, report: &mut Report) {
    let images = context.images;
    for file in images.files.values() {
        if let Some(fifo) = &file.fifo
            && fifo.regf_id.is_none_or(|id| !is_regular(context, id))
        {
            report.malformed(FILES, &format!("fifo id {}", fifo.id), "has no path");
        }
        if let Some(memfd) = &file.memfd {
            let inode = u64::from(memfd.inode_id);
            if !images.memfds.iter().any(|entry| entry.inode_id == inode) {
                report.malformed(FILES, &format!("memfd id {}", memfd.id), "has no inode");
            }
        }
    }
    for memfd in &images.memfds {
        if memfd.size > context.request.limits.max_page_bytes {
            report.malformed(Place::image("memfd.img"), "size", memfd.size.to_string());
        }
    }
    for id in &images.rights_in_flight {
        if !images.files.contains_key(id) {
            report.malformed(
                Place::image("sk-queues.img"),
                "rights",
                format!("no file {id}"),
            );
        }
    }
}
