//! What is done to one file: owner, mode, attributes, times; links and devices.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::tree::{Dir, Refusal};
use crate::tar_stream::Entry;

/// Owner, then mode (a change of owner clears set-uid bits), then extended attributes (writing and
/// changing the owner remove `security.capability`).
pub(super) fn dress(entry: &Entry, fd: &OwnedFd) -> Result<(), Refusal> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(Refusal::kernel("set the owner of"))?;
    rustix::fs::fchmod(fd, Mode::from(entry.mode)).map_err(Refusal::kernel("set the mode of"))?;
    for (key, value) in entry.xattrs.iter().filter(|(key, _)| is_wanted(key)) {
        match rustix::fs::fsetxattr(fd, key.as_slice(), value, rustix::fs::XattrFlags::empty()) {
            Ok(()) => {}
            // A filesystem may lack users' attributes and ACLs; what gives rights must not get lost.
            Err(Errno::OPNOTSUPP) if key != b"security.capability" => {}
            Err(errno) => return Err(Refusal::Kernel("set an extended attribute of", errno)),
        }
    }
    Ok(())
}

/// Attributes that belong to the image. `trusted.overlay.*` would steer overlayfs to other paths;
/// `security.*` but capabilities are the host's (labels, IMA, EVM).
fn is_wanted(key: &[u8]) -> bool {
    key == b"security.capability"
        || key.starts_with(b"user.")
        || matches!(
            key,
            b"system.posix_acl_access" | b"system.posix_acl_default"
        )
}

pub(super) fn symlink(entry: &Entry, dir: &Dir, name: &OsStr) -> Result<(), Refusal> {
    if entry.link.is_empty() || entry.link.contains(&0) {
        return Err(Refusal::Problem("is a link to nothing".to_owned()));
    }
    rustix::fs::symlinkat(entry.link.as_slice(), &*dir.fd, name)
        .map_err(Refusal::kernel("make the link"))?;
    own(entry, dir, name)?;
    set_times(entry, dir, name)
}

pub(super) fn node(
    entry: &Entry,
    dir: &Dir,
    name: &OsStr,
    kind: FileType,
    device: u64,
) -> Result<(), Refusal> {
    rustix::fs::mknodat(&*dir.fd, name, kind, Mode::empty(), device)
        .map_err(Refusal::kernel("make the device"))?;
    own(entry, dir, name)?;
    // Follows no link: the node was made a moment ago and nobody else may write here.
    rustix::fs::chmodat(&*dir.fd, name, Mode::from(entry.mode), AtFlags::empty())
        .map_err(Refusal::kernel("set the mode of"))?;
    set_times(entry, dir, name)
}

fn own(entry: &Entry, dir: &Dir, name: &OsStr) -> Result<(), Refusal> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(
        &*dir.fd,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(Refusal::kernel("set the owner of"))
}

fn set_times(entry: &Entry, dir: &Dir, name: &OsStr) -> Result<(), Refusal> {
    rustix::fs::utimensat(
        &*dir.fd,
        name,
        &times(entry.mtime),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(Refusal::kernel("set the time of"))
}

pub(super) fn times(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: mtime,
        last_modification: mtime,
    }
}

pub(super) fn opaque(dir: &OwnedFd) -> Result<(), Refusal> {
    rustix::fs::fsetxattr(
        dir,
        c"trusted.overlay.opaque",
        b"y",
        rustix::fs::XattrFlags::empty(),
    )
    .map_err(Refusal::kernel("make opaque the directory of"))
}

pub(super) fn stat(dir: &Dir, name: &OsStr) -> Result<Option<Stat>, Refusal> {
    match rustix::fs::statat(&*dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Refusal::Kernel("look at", errno)),
    }
}

pub(super) fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    is(stat, FileType::CharacterDevice) && stat.st_rdev == 0
}
