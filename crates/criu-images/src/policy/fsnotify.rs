//! Watches of inotify and fanotify.
//!
//! A watch without a path names an inode by file handle, and root may open any inode of a file
//! system by its handle: of the host's disk too, when a directory of it is mounted in the
//! container. In another pod the handle is wrong anyway, so only paths are taken. CRIU writes one
//! whenever it finds the inode on a mount of the container or where `irmap_scan_paths` tells it to
//! look.

use super::{Context, paths};
use crate::proto::{FhEntry, FileEntry, MarkType};
use crate::violation::{Place, Report};

const FILES: Place<'static> = Place {
    task: None,
    image: "files.img",
};
const CAP_SYS_ADMIN: u32 = 21;
/// Words of a file handle in the image, at most.
const HANDLE_WORDS: usize = 64;

pub(super) fn check(context: &Context<'_>, file: &FileEntry, report: &mut Report) {
    for watch in file.ify.iter().flat_map(|entry| &entry.wd) {
        handle(
            context,
            &format!("ify id {} wd {}", file.id, watch.wd),
            &watch.f_handle,
            report,
        );
    }
    let Some(fanotify) = &file.ffy else { return };
    let field = format!("ffy id {}", file.id);
    if !context.request.credentials.bounds(CAP_SYS_ADMIN) {
        report.privilege(FILES, &field, "fanotify without CAP_SYS_ADMIN");
    }
    for mark in &fanotify.mark {
        match (mark.r#type(), &mark.ie, &mark.me) {
            (MarkType::Inode, Some(inode), None) => {
                handle(context, &field, &inode.f_handle, report);
            }
            (MarkType::Mount, None, Some(mount)) => {
                let (_, mounts) = context.images.root_mounts().unwrap_or_default();
                if mount.path.is_some() || !mounts.iter().any(|m| m.mnt_id == mount.mnt_id) {
                    report.privilege(FILES, &field, "marks no mount of the container");
                }
            }
            _ => report.malformed(FILES, &field, "mark does not fit its type"),
        }
    }
}

fn handle(context: &Context<'_>, field: &str, handle: &FhEntry, report: &mut Report) {
    if handle.handle.len() > HANDLE_WORDS {
        report.malformed(FILES, field, "file handle is too long");
    }
    let Some(path) = &handle.path else {
        return report.privilege(FILES, field, "watches a file handle without a path");
    };
    if let Some(fault) = paths::fault(path) {
        return report.privilege(FILES, field, format!("{} {fault}", paths::show(path)));
    }
    let (_, mounts) = context.images.root_mounts().unwrap_or_default();
    let mount = paths::mount_of(mounts, path);
    if mount.is_none_or(|m| handle.mnt_id.is_some_and(|id| id != m.mnt_id)) {
        let detail = format!("{} does not lie on its mount", paths::show(path));
        report.privilege(FILES, field, detail);
    } else if mount.is_some_and(|m| m.filesystem() == Some(crate::proto::Fstype::Proc))
        && paths::is_magic(path)
    {
        let detail = format!("{} goes through a link in proc", paths::show(path));
        report.privilege(FILES, field, detail);
    }
}
