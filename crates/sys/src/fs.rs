//! Files, directories and extended attributes beneath descriptors.
//!
//! # Invariants
//! - What is published under a name is complete and synced: [`replace`] writes a temporary file
//!   beside it and renames.
//! - A name that comes from outside is resolved beneath a directory by openat2(2) and no link on
//!   the way is followed.
//! - Modes are exact: the process's umask does not change them.
//!
//! Functions that take a directory accept `rustix::fs::CWD` as well.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

mod links;
mod tree;
mod xattr;

pub use links::follow_in_root;
pub use tree::{make_dir_all, remove_beneath, remove_tree};
pub use xattr::{get_xattr, list_xattrs, remove_xattr, set_xattr};

/// How often openat2(2) is asked again when a rename somewhere made it answer `EAGAIN`.
const RESOLVE_ATTEMPTS: usize = 64;

/// Replaces the file `name` in `dir` by one that holds `bytes`: readers see the old content or the
/// new one, also after a power failure.
///
/// # Errors
///
/// `EINVAL` when `name` is not a single component; else what openat(2), write(2), fsync(2) or
/// rename(2) return. The temporary file does not stay.
pub fn replace(dir: impl AsFd, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let dir = dir.as_fd();
    let temporary = temporary_name(name)?;
    let mut file = create_new(dir, &temporary, mode)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| Ok(rustix::fs::renameat(dir, &*temporary, dir, name)?));
    if let Err(error) = written {
        // The first error is the one that tells; see `remove_temporaries` for a leftover.
        rustix::fs::unlinkat(dir, &*temporary, AtFlags::empty()).unwrap_or_default();
        return Err(error);
    }
    sync_dir(dir)
}

/// [`replace`] for a path of our own; links in its parent are followed.
///
/// # Errors
///
/// `EINVAL` when the path does not end in a name that is UTF-8; else what [`replace`] and
/// [`open_dir`] return.
pub fn replace_path(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or(Errno::INVAL)?;
    replace(open_dir(parent_of(path))?, name, mode, bytes)
}

/// Makes a new file for reading and writing; whatever has the name already is an error.
///
/// # Errors
///
/// `EEXIST` when the name is taken, also by a dangling link; `EINVAL` when it is not a single
/// component; else what openat(2) or fchmod(2) return.
pub fn create_new(dir: impl AsFd, name: &str, mode: u32) -> io::Result<File> {
    check_component(name)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, mode_bits(mode))?;
    rustix::fs::fchmod(&file, mode_bits(mode))?;
    Ok(file.into())
}

/// Makes a file without a name in `dir`'s filesystem, for reading and writing; [`link_into`] can
/// give it one.
///
/// # Errors
///
/// `EOPNOTSUPP` when the filesystem has no `O_TMPFILE`; else what openat(2) returns.
pub fn create_unnamed(dir: impl AsFd, mode: u32) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, c".", flags, mode_bits(mode))?;
    rustix::fs::fchmod(&file, mode_bits(mode))?;
    Ok(file.into())
}

/// Opens the same file once more, with flags and a position of its own.
///
/// # Errors
///
/// `EINVAL` for `O_DIRECT` where the filesystem has no such access; else what openat(2) returns.
pub fn reopen(file: impl AsFd, flags: OFlags) -> io::Result<File> {
    let path = descriptor_path(file.as_fd());
    Ok(rustix::fs::open(&*path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Opens `path` below `dir`. It cannot leave `dir`, and no symbolic or magic link is followed, not
/// even as its last component (openat2(2): `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS`).
///
/// With `O_CREAT` the new file has mode 0600 less the umask. Close-on-exec is always set.
///
/// # Errors
///
/// `EXDEV` when the path is absolute or leaves `dir`, `ELOOP` when a component is a link; else
/// what openat2(2) returns.
pub fn open_beneath(dir: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    resolve_open(dir.as_fd(), path, flags, resolve)
}

/// Opens `path` with `dir` as the root directory: links are followed, absolute ones and `..` stay
/// inside (openat2(2): `RESOLVE_IN_ROOT`). For files of an image, which may have links.
///
/// # Errors
///
/// `ELOOP` for a magic link; else what openat2(2) returns.
pub fn open_in_root(dir: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    resolve_open(dir.as_fd(), path, flags, resolve)
}

/// [`open_beneath`] that also refuses to enter another mount.
///
/// # Errors
///
/// `EXDEV` when the path leaves `dir` or its mount, `ELOOP` when a component is a link; else what
/// openat2(2) returns.
pub fn open_beneath_same_mount(dir: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    resolve_open(dir.as_fd(), path, flags, resolve)
}

/// Opens the absolute `path`; a symbolic or magic link anywhere in it is an error.
///
/// # Errors
///
/// `EINVAL` when the path is not absolute, `ELOOP` when a component is a link; else what
/// openat2(2) returns.
pub fn open_no_symlinks(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    if !path.is_absolute() {
        return Err(Errno::INVAL.into());
    }
    resolve_open(
        CWD,
        path,
        flags,
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens a directory of our own for reading; links are followed.
///
/// # Errors
///
/// What open(2) returns.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Bytes that an unprivileged process could still write to the filesystem of `file`.
///
/// # Errors
///
/// What fstatvfs(3) returns.
pub fn free_bytes(file: impl AsFd) -> io::Result<u64> {
    let status = rustix::fs::fstatvfs(file)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

/// Reads to the end, at most `max` bytes.
///
/// # Errors
///
/// `FileTooLarge` when there are more than `max` bytes; else what reading returns.
pub fn read_bounded(reader: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= max) {
        Ok(bytes)
    } else {
        Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {max} bytes"),
        ))
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
///
/// What fsync(2) returns.
pub fn sync_dir(dir: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsync(dir)?)
}

/// Gives an open file one more name, `name` in `dir`, on the same filesystem: for files made with
/// `O_TMPFILE`, and for hard links of a file that is held open whatever its name is by now.
///
/// # Errors
///
/// `EEXIST` when the name is taken, `EXDEV` on another filesystem, `EINVAL` when `name` is not a
/// single component; else what linkat(2) returns.
pub fn link_into(file: impl AsFd, dir: impl AsFd, name: &str) -> io::Result<()> {
    check_component(name)?;
    let (file, dir) = (file.as_fd(), dir.as_fd());
    match rustix::fs::linkat(file, c"", dir, name, AtFlags::EMPTY_PATH) {
        // Without CAP_DAC_READ_SEARCH, linkat(2) answers ENOENT and wants the way round by /proc.
        Err(Errno::NOENT) => {
            let path = descriptor_path(file);
            Ok(rustix::fs::linkat(
                CWD,
                &*path,
                dir,
                name,
                AtFlags::SYMLINK_FOLLOW,
            )?)
        }
        other => Ok(other?),
    }
}

/// Renames without replacing anything (`RENAME_NOREPLACE`, rename(2)).
///
/// # Errors
///
/// `EEXIST` when the new name is taken; else what renameat2(2) returns.
pub fn rename_noreplace(
    old_dir: impl AsFd,
    old: &str,
    new_dir: impl AsFd,
    new: &str,
) -> io::Result<()> {
    let (old_dir, new_dir) = (old_dir.as_fd(), new_dir.as_fd());
    match rustix::fs::renameat_with(old_dir, old, new_dir, new, RenameFlags::NOREPLACE) {
        // Filesystems without the flag say EINVAL; a link and an unlink do the same for files.
        Err(Errno::INVAL) => {
            rustix::fs::linkat(old_dir, old, new_dir, new, AtFlags::empty())?;
            Ok(rustix::fs::unlinkat(old_dir, old, AtFlags::empty())?)
        }
        other => Ok(other?),
    }
}

/// A name for a temporary file beside `name`: `.NAME.tmp-` and 16 random digits.
///
/// # Errors
///
/// `EINVAL` when `name` is not a single component; what reading random bytes returns.
pub fn temporary_name(name: &str) -> io::Result<String> {
    check_component(name)?;
    let random = crate::sysinfo::random_hex(8)?;
    // NAME_MAX is 255; the decoration takes 22 of it.
    let mut end = name.len().min(255 - 22);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Ok(format!(
        ".{}.tmp-{random}",
        name.get(..end).unwrap_or_default()
    ))
}

/// Removes files that have a [`temporary_name`]: a process that was killed left them. Only for a
/// directory in which nobody writes now; an absent one is fine. Returns how many there were.
///
/// # Errors
///
/// What listing the directory or unlink(2) return.
pub fn remove_temporaries(directory: &Path) -> io::Result<usize> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let random = name
            .to_str()
            .filter(|name| name.starts_with('.'))
            .and_then(|name| name.rsplit_once(".tmp-"));
        let ours = random.is_some_and(|(_, digits)| {
            digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if ours && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The path by which /proc names an open descriptor.
pub(crate) fn descriptor_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd())
}

/// The directory that holds the last component of `path`.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

fn check_component(name: &str) -> io::Result<()> {
    let bad = name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']);
    if bad {
        Err(Errno::INVAL.into())
    } else {
        Ok(())
    }
}

fn mode_bits(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}

fn resolve_open(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let creates = flags.intersects(OFlags::CREATE) || flags.contains(OFlags::TMPFILE);
    // openat2(2) refuses a mode where nothing is made.
    let mode = if creates {
        Mode::RUSR | Mode::WUSR
    } else {
        Mode::empty()
    };
    let flags = flags | OFlags::CLOEXEC;
    let mut last = Errno::AGAIN;
    for _ in 0..RESOLVE_ATTEMPTS {
        match rustix::fs::openat2(dir, path, flags, mode, resolve) {
            Ok(fd) => return Ok(fd),
            Err(error @ (Errno::AGAIN | Errno::INTR)) => last = error,
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.into())
}

#[cfg(test)]
mod tests;
