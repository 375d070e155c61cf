//! Open files, descriptors, sockets, deleted files.

use super::{Malformed, Privilege, passes, refused, refused_by};
use crate::proto::{
    FdinfoEntry, FileEntry, FsEntry, GhostFileEntry, MmEntry, RemapFilePathEntry, TtyInfoEntry,
};
use crate::{MemoryImages, testing};

const FILES: &str = "files.img";

/// Changes one entry of files.img.
pub(super) fn file(
    set: &mut MemoryImages,
    which: impl Fn(&FileEntry) -> bool,
    change: impl Fn(&mut FileEntry),
) {
    testing::edit(set, FILES, |files: &mut Vec<FileEntry>| {
        change(
            files
                .iter_mut()
                .find(|file| which(file))
                .expect("such a file"),
        );
    });
}

/// Changes the file that is open at `/var/lock`.
fn lock(set: &mut MemoryImages, change: impl Fn(&mut crate::proto::RegFileEntry)) {
    file(
        set,
        |f| named(f, "/var/lock"),
        |f| change(f.reg.as_mut().unwrap()),
    );
}

fn named(file: &FileEntry, name: &str) -> bool {
    file.reg
        .as_ref()
        .is_some_and(|reg| reg.name == name.as_bytes())
}

pub(super) fn id_of(which: impl Fn(&FileEntry) -> bool) -> u32 {
    let images = testing::decode(&testing::images("python"));
    images
        .files
        .values()
        .find(|file| which(file))
        .expect("such a file")
        .id
}

fn refused_path(path: &str) {
    let id = id_of(|f| named(f, "/var/lock"));
    let field = format!("reg id {id} {path:?}");
    refused(
        |images| lock(images, |reg| reg.name = path.as_bytes().to_vec()),
        (Privilege, None, FILES, &field),
    );
}

#[test]
fn paths_are_absolute_and_clean() {
    for path in [
        "",
        "etc/passwd",
        "/a/../../etc/passwd",
        "/a/./b",
        "/a//b",
        "/a/",
    ] {
        refused_path(path);
    }
}

#[test]
fn paths_do_not_go_through_links_in_proc() {
    let proc = testing::decode(&testing::images("python"))
        .root_mounts()
        .and_then(|(_, mounts)| mounts.iter().find(|m| m.mountpoint == b"/proc"))
        .map(|mount| i32::try_from(mount.mnt_id).unwrap());
    let id = id_of(|f| named(f, "/var/lock"));
    for path in [
        "/proc/self/fd/5/x",
        "/proc/1/root/etc",
        "/proc/7/cwd",
        "/proc/1/map_files/0-1",
    ] {
        let field = format!("reg id {id} {path:?}");
        refused(
            |images| {
                lock(images, |reg| {
                    (reg.name, reg.mnt_id) = (path.as_bytes().to_vec(), proc)
                });
            },
            (Privilege, None, FILES, &field),
        );
    }
    passes(&testing::request("python"), |images| {
        lock(images, |reg| {
            (reg.name, reg.mnt_id) = (b"/proc/1/status".to_vec(), proc)
        });
    });
    // On the wrong mount.
    refused_path("/proc/1/status");
    refused_path("/etc/hosts");
    let id = id_of(|f| named(f, "/var/lock"));
    for number in [None, Some(-1), Some(9999)] {
        refused(
            |images| lock(images, |reg| reg.mnt_id = number),
            (
                Privilege,
                None,
                FILES,
                &format!("reg id {id} \"/var/lock\""),
            ),
        );
    }
}

#[test]
fn files_are_not_created_or_emptied() {
    let id = id_of(|f| named(f, "/var/lock"));
    let field = format!("reg id {id} \"/var/lock\"");
    for flag in [0o100, 0o200, 0o1000] {
        refused(
            |images| lock(images, |reg| reg.flags |= flag),
            (Privilege, None, FILES, &field),
        );
    }
    refused(
        |images| lock(images, |reg| reg.ext = Some(true)),
        (Privilege, None, FILES, &field),
    );
}

#[test]
fn entries_are_of_one_known_kind() {
    let is_eventfd = |f: &FileEntry| f.efd.is_some();
    let id = id_of(is_eventfd);
    let field = format!("file id {id}");
    refused(
        |images| file(images, is_eventfd, |f| f.efd = None),
        (Malformed, None, FILES, &field),
    );
    refused(
        |images| file(images, is_eventfd, |f| f.efd.as_mut().unwrap().id += 1),
        (Malformed, None, FILES, &field),
    );
    refused(
        |images| {
            file(images, is_eventfd, |f| {
                let fown = f.efd.as_ref().unwrap().fown;
                f.ext = Some(Box::new(crate::proto::ExtFileEntry { id: f.id, fown }));
                f.efd = None;
                f.r#type = 16;
            });
        },
        (Privilege, None, FILES, &field),
    );
}

#[test]
fn descriptors_lead_to_files_of_their_type() {
    const FDINFO: &str = "fdinfo-2.img";
    type Forge = fn(&mut Vec<FdinfoEntry>);
    let cases: [(Forge, &str); 4] = [
        (|d| d[0].id = 9999, "fd 0"),
        (|d| d[0].r#type = 2, "fd 0"),
        (|d| d[1].fd = 0, "fd 0"),
        (|d| d[0].flags = 2, "fd 0"),
    ];
    for (forge, field) in cases {
        refused(
            |images| testing::edit(images, FDINFO, forge),
            (Malformed, None, FDINFO, field),
        );
    }
}

#[test]
fn working_and_root_directories_are_paths() {
    let fs = |images: &mut MemoryImages, change: fn(&mut FsEntry)| {
        testing::edit(images, "fs-1.img", |all: &mut Vec<FsEntry>| {
            change(&mut all[0])
        });
    };
    refused(
        |i| fs(i, |fs| fs.cwd_id = 9999),
        (Malformed, Some(1), "fs-1.img", "cwd_id"),
    );
    refused(
        |i| fs(i, |fs| fs.umask = Some(0o1000)),
        (Malformed, Some(1), "fs-1.img", "umask"),
    );
    let lock = id_of(|f| named(f, "/var/lock"));
    let chroot = |images: &mut MemoryImages| {
        testing::edit(images, "fs-1.img", |all: &mut Vec<FsEntry>| {
            all[0].root_id = lock
        });
    };
    passes(&testing::request("python"), chroot);
    let mut request = testing::request("python");
    request.credentials.bounding &= !(1 << 18);
    refused_by(
        &request,
        chroot,
        (Privilege, Some(1), "fs-1.img", "root_id"),
    );
}

#[test]
fn deleted_files_are_ordinary_and_on_writable_mounts() {
    const GHOST: &str = "ghost-file-1.img";
    let ghost = |images: &mut MemoryImages, change: fn(&mut GhostFileEntry)| {
        // The content follows the entry; an entry without content will do.
        let bytes = images.0.get_mut(GHOST).unwrap();
        let length = usize::try_from(u32::from_le_bytes(bytes[8..12].try_into().unwrap())).unwrap();
        bytes.truncate(12 + length);
        testing::edit(images, GHOST, |all: &mut Vec<GhostFileEntry>| {
            change(&mut all[0])
        });
    };
    refused(
        |i| ghost(i, |g| (g.mode, g.rdev) = (0o060_666, Some(0x800))),
        (Privilege, None, GHOST, "mode"),
    );
    refused(
        |i| ghost(i, |g| g.mode = 0o104_755),
        (Privilege, None, GHOST, "mode"),
    );
    refused(
        |i| ghost(i, |g| g.mode = 0o666),
        (Malformed, None, GHOST, "mode"),
    );
    refused(
        |i| ghost(i, |g| g.symlnk_target = Some(b"/etc".to_vec())),
        (Malformed, None, GHOST, "symlnk_target"),
    );
}

#[test]
fn stand_ins_of_deleted_files_are_what_criu_makes() {
    const GHOST: &str = "ghost-file-1.img";
    let images = testing::decode(&testing::images("python"));
    let remap = |kind: i32| {
        images
            .remaps
            .iter()
            .find(|r| r.remap_type == Some(kind))
            .unwrap()
    };
    let (linked, gone) = (remap(0).orig_id, remap(1).orig_id);
    refused(
        |i| drop(i.0.remove(GHOST)),
        (
            Malformed,
            None,
            "remap-fpath.img",
            &format!("orig_id {gone}"),
        ),
    );
    refused(
        |i| {
            let other = id_of(|f| named(f, "/var/lock"));
            testing::edit(i, "remap-fpath.img", |all: &mut Vec<RemapFilePathEntry>| {
                all.iter_mut()
                    .find(|r| r.orig_id == linked)
                    .unwrap()
                    .remap_id = other;
            });
        },
        (
            Privilege,
            None,
            "remap-fpath.img",
            &format!("orig_id {linked}"),
        ),
    );
    // On a read-only volume CRIU would make the mount writable for it.
    let (_, mounts) = images.root_mounts().unwrap();
    let volume = mounts
        .iter()
        .find(|m| m.mountpoint == b"/var/cfg")
        .unwrap()
        .mnt_id;
    refused(
        |i| {
            file(
                i,
                |f| f.id == gone,
                |f| {
                    let reg = f.reg.as_mut().unwrap();
                    reg.name = b"/var/cfg/gone".to_vec();
                    reg.mnt_id = i32::try_from(volume).ok();
                },
            );
        },
        (
            Privilege,
            None,
            "remap-fpath.img",
            &format!("orig_id {gone}"),
        ),
    );
}

#[test]
fn watches_have_paths() {
    let is_inotify = |f: &FileEntry| f.ify.is_some();
    let id = id_of(is_inotify);
    let field = format!("ify id {id} wd 1");
    for path in [
        None,
        Some(b"/../etc".to_vec()),
        Some(b"/proc/1/root".to_vec()),
    ] {
        refused(
            |images| {
                file(images, is_inotify, |f| {
                    let watch = &mut f.ify.as_mut().unwrap().wd[0];
                    watch.f_handle.path = path.clone();
                    watch.f_handle.mnt_id = None;
                });
            },
            (Privilege, None, FILES, &field),
        );
    }
}

#[test]
fn terminals_are_pseudo_terminals() {
    let id = id_of(|f| f.tty.is_some());
    refused(
        |i| {
            testing::edit(i, "tty-info.img", |all: &mut Vec<TtyInfoEntry>| {
                all.iter_mut().for_each(|tty| tty.r#type = 3);
            });
        },
        (Privilege, None, FILES, &format!("tty id {id}")),
    );
    refused(
        |i| {
            testing::edit(i, "tty-info.img", |all: &mut Vec<TtyInfoEntry>| {
                for tty in all {
                    tty.termios.as_mut().unwrap().c_cc.truncate(3);
                }
            });
        },
        (Malformed, None, "tty-info.img", "termios.c_cc"),
    );
}

#[test]
fn a_mapped_file_must_be_a_file() {
    let eventfd = id_of(|f| f.efd.is_some());
    let images = testing::decode(&testing::images("python"));
    let field = format!("vma {:#x}", images.memory[&1].vmas[0].start);
    refused(
        |i| {
            testing::edit(i, "mm-1.img", |all: &mut Vec<MmEntry>| {
                all[0].vmas[0].shmid = eventfd.into();
            });
        },
        (Malformed, Some(1), "mm-1.img", &field),
    );
}
