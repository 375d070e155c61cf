//! Rules for paths in images, and the list of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::model::Images;
use crate::proto::MntEntry;

/// Longest path that the kernel takes, terminating zero included.
const PATH_MAX: usize = 4096;

/// Names below a process's directory in proc that lead out of it.
const MAGIC: [&[u8]; 7] = [
    b"fd",
    b"fdinfo",
    b"root",
    b"cwd",
    b"exe",
    b"map_files",
    b"ns",
];

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathUse {
    /// A mount point.
    MountPoint,
    /// A file or directory that is opened.
    Open,
    /// A symbolic link opened as itself (`O_PATH | O_NOFOLLOW`): the last component may be a link.
    OpenLink,
    /// The name of a deleted file, or of its stand-in: the parent must exist, the name need not.
    Deleted,
    /// The directory of a unix socket's name; the socket is created in it.
    SocketParent,
    /// A watched file or directory.
    Watch,
}

/// A path that CRIU will use, absolute in the container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePath {
    /// The path.
    pub path: PathBuf,
    /// Mount point of the mount it lies on.
    pub mountpoint: PathBuf,
    /// What for.
    pub purpose: PathUse,
}

/// Says what is wrong with a path that must be absolute and clean.
pub(super) fn fault(path: &[u8]) -> Option<&'static str> {
    let Some(relative) = path.strip_prefix(b"/") else {
        return Some("is not absolute");
    };
    if path.len() >= PATH_MAX {
        return Some("is too long");
    }
    if path.contains(&0) {
        return Some("contains a zero byte");
    }
    if relative.is_empty() {
        return None;
    }
    relative
        .split(|byte| *byte == b'/')
        .find_map(|component| match component {
            b"" => Some("has an empty component"),
            b"." | b".." => Some("has a component that is not a name"),
            _ if component.len() > 255 => Some("has a component that is too long"),
            _ => None,
        })
}

/// Whether `path` is `base` or below it.
pub(super) fn is_below(path: &[u8], base: &[u8]) -> bool {
    if base == b"/" {
        return path.first() == Some(&b'/');
    }
    path.strip_prefix(base)
        .is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
}

/// The mount that `path` lies on: the one with the longest mount point.
pub(super) fn mount_of<'m>(mounts: &'m [MntEntry], path: &[u8]) -> Option<&'m MntEntry> {
    mounts
        .iter()
        .filter(|mount| is_below(path, &mount.mountpoint))
        .max_by_key(|mount| mount.mountpoint.len())
}

/// Whether a path on a proc filesystem goes through a link of some process.
pub(super) fn is_magic(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|component| {
        MAGIC.contains(&component) || component == b"self" || component == b"thread-self"
    })
}

/// The directory of a clean absolute path.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    match path.get(..end) {
        Some(parent) if !parent.is_empty() => parent,
        _ => b"/",
    }
}

/// The last component.
pub(super) fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Text for messages.
pub(super) fn show(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}

/// Every path in the images, sorted, each once.
pub(super) fn collect(images: &Images) -> Vec<FilePath> {
    let (_, mounts) = images.root_mounts().unwrap_or_default();
    let mut all = Vec::new();
    let mut add = |path: &[u8], purpose: PathUse| {
        let mountpoint = mount_of(mounts, path).map_or(&b"/"[..], |mount| &mount.mountpoint);
        all.push(FilePath {
            path: to_path(path),
            mountpoint: to_path(mountpoint),
            purpose,
        });
    };
    for mount in mounts {
        add(&mount.mountpoint, PathUse::MountPoint);
    }
    for file in images.files.values() {
        if let Some(regular) = &file.reg {
            add(&regular.name, use_of(images, file.id, regular.flags));
        }
        if let Some(socket) = &file.usk
            && let Some(path) = socket_path(socket)
        {
            add(parent(&path), PathUse::SocketParent);
        }
        let handles = file
            .ify
            .iter()
            .flat_map(|file| &file.wd)
            .map(|watch| &watch.f_handle)
            .chain(
                file.ffy
                    .iter()
                    .flat_map(|file| &file.mark)
                    .filter_map(|mark| mark.ie.as_ref().map(|inode| &inode.f_handle)),
            );
        for path in handles.filter_map(|handle| handle.path.as_deref()) {
            add(path, PathUse::Watch);
        }
    }
    all.sort();
    all.dedup();
    all
}

fn use_of(images: &Images, id: u32, flags: u32) -> PathUse {
    const LINK_ITSELF: u32 = 0o10_000_000 | 0o400_000;
    if images
        .remaps
        .iter()
        .any(|remap| remap.orig_id == id || is_stand_in(remap, id))
    {
        PathUse::Deleted
    } else if flags & LINK_ITSELF == LINK_ITSELF {
        PathUse::OpenLink
    } else {
        PathUse::Open
    }
}

/// Whether the file `id` stands in for a deleted name.
pub(super) fn is_stand_in(remap: &crate::proto::RemapFilePathEntry, id: u32) -> bool {
    remap.remap_type() == crate::proto::RemapType::Linked && remap.remap_id == id
}

/// The file system name of a unix socket, joined with its directory. `None` for unnamed and
/// abstract sockets.
pub(super) fn socket_path(socket: &crate::proto::UnixSkEntry) -> Option<Vec<u8>> {
    let name = socket.name.strip_suffix(b"\0").unwrap_or(&socket.name);
    match (name.first()?, &socket.name_dir) {
        (0, _) => None,
        (b'/', _) => Some(name.to_vec()),
        (_, Some(dir)) if dir.as_slice() == b"/" => Some([b"/", name].concat()),
        (_, Some(dir)) => Some([dir.as_slice(), b"/", name].concat()),
        (_, None) => Some(name.to_vec()),
    }
}

fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::{fault, is_below, is_magic, name, parent};

    #[test]
    fn clean_absolute_paths_pass() {
        for path in ["/", "/a", "/a/b.c", "/a/..b", "/a/b..."] {
            assert_eq!(fault(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn others_are_told_why() {
        for path in [
            "", "a", "/a/", "//a", "/a//b", "/./a", "/a/..", "/a/../b", "/a\0b",
        ] {
            assert!(fault(path.as_bytes()).is_some(), "{path:?}");
        }
        assert!(fault(&[b"/", vec![b'a'; 256].as_slice()].concat()).is_some());
        assert!(fault(&b"/a".repeat(3000)).is_some());
    }

    #[test]
    fn paths_relate_by_components() {
        assert!(is_below(b"/a/b", b"/a") && is_below(b"/a", b"/a") && is_below(b"/a", b"/"));
        assert!(!is_below(b"/ab", b"/a") && !is_below(b"/", b"/a"));
        assert_eq!((parent(b"/a/b"), name(b"/a/b")), (&b"/a"[..], &b"b"[..]));
        assert_eq!((parent(b"/a"), parent(b"/")), (&b"/"[..], &b"/"[..]));
        assert!(is_magic(b"/proc/self/fd/5/x") && is_magic(b"/proc/1/root"));
        assert!(!is_magic(b"/proc/1/status") && !is_magic(b"/proc/meminfo"));
    }
}
