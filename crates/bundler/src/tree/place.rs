//! Making one file at one place, beneath a directory that nobody else uses yet.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::error::{Error, Problem, quoted};
use crate::format::decode::Member;
use crate::format::{Kind, Time};

/// A name in an open directory.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a OsStr,
    /// The whole path, for messages.
    pub(super) path: &'a [u8],
}

/// What [`Place::attributes`] could not set, because the filesystem has no such thing.
pub(super) type Lost = Vec<String>;

impl Place<'_> {
    /// A failure at this place: the archive's fault, unless the system has run out of something.
    pub(super) fn failed(&self, error: io::Error) -> Error {
        failed(self.path, error)
    }

    /// What is there now, without following a link.
    pub(super) fn kind(&self) -> Result<Option<FileType>, Error> {
        match rustix::fs::statat(self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => Ok(Some(FileType::from_raw_mode(status.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Removes what is there, with everything below it.
    pub(super) fn clear(&self) -> Result<(), Error> {
        sys::fs::remove_beneath(self.dir, self.name).map_err(|error| self.failed(error))
    }

    pub(super) fn create_file(&self) -> Result<File, Error> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.dir, self.name, flags, Mode::RUSR | Mode::WUSR);
        file.map(File::from)
            .map_err(|error| self.failed(error.into()))
    }

    pub(super) fn create_directory(&self) -> Result<(), Error> {
        let made = rustix::fs::mkdirat(self.dir, self.name, Mode::RWXU);
        made.map_err(|error| self.failed(error.into()))
    }

    pub(super) fn create_symlink(&self, target: &[u8]) -> Result<(), Error> {
        let made = rustix::fs::symlinkat(OsStr::from_bytes(target), self.dir, self.name);
        made.map_err(|error| self.failed(error.into()))
    }

    pub(super) fn create_fifo(&self) -> Result<(), Error> {
        let mode = Mode::RUSR | Mode::WUSR;
        let made = rustix::fs::mknodat(self.dir, self.name, FileType::Fifo, mode, 0);
        made.map_err(|error| self.failed(error.into()))
    }

    /// Makes this a second name of `target`, which is not followed if it is a link.
    pub(super) fn create_link(&self, target: &Place<'_>) -> Result<(), Error> {
        let made = rustix::fs::linkat(
            target.dir,
            target.name,
            self.dir,
            self.name,
            AtFlags::empty(),
        );
        made.map_err(|error| self.failed(error.into()))
    }

    /// Gives what is there the owner, the mode, the extended attributes and the time of `member`.
    pub(super) fn attributes(&self, member: &Member, times: bool) -> Result<Lost, Error> {
        // A directory that was there already may be a mount point, which is not ours to change.
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let opened = sys::fs::open_beneath_same_mount(self.dir, self.name.as_ref(), flags)
            .map_err(|error| self.failed(error))?;
        let lost = attributes_of(&opened, member).map_err(|error| match error {
            AttributeError::Refused(name) => Error::invalid(self.path, Problem::Attribute { name }),
            AttributeError::Failed(error) => self.failed(error),
        })?;
        if times {
            self.time(member.mtime)?;
        }
        Ok(lost)
    }

    pub(super) fn time(&self, time: Time) -> Result<(), Error> {
        let set = rustix::fs::utimensat(
            self.dir,
            self.name,
            &timestamps(time),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        set.map_err(|error| self.failed(error.into()))
    }
}

pub(super) fn timestamps(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// A failure at `path`.
pub(super) fn failed(path: &[u8], error: io::Error) -> Error {
    let ours = [
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::IO,
        Errno::ROFS,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::INTR,
    ];
    match Errno::from_io_error(&error) {
        Some(errno) if !ours.contains(&errno) => Error::invalid(
            path,
            Problem::Refused {
                reason: error.to_string(),
            },
        ),
        _ => Error::io(format!("make {}", quoted(path)), error),
    }
}

pub(super) enum AttributeError {
    /// No archive may set it.
    Refused(String),
    Failed(io::Error),
}

/// Sets everything but the time on what was opened with `O_PATH`.
pub(super) fn attributes_of(opened: &OwnedFd, member: &Member) -> Result<Lost, AttributeError> {
    let fail = |error: Errno| AttributeError::Failed(error.into());
    // 2^32-1 would mean "leave as it is" to the kernel.
    if member.uid == u32::MAX || member.gid == u32::MAX {
        return Err(fail(Errno::INVAL));
    }
    let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
    rustix::fs::chownat(opened, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(fail)?;
    if member.kind() != Kind::Symlink {
        let path = format!("/proc/thread-self/fd/{}", opened.as_fd().as_raw_fd());
        let mode = Mode::from_bits_truncate(member.mode);
        rustix::fs::chmodat(CWD, &*path, mode, AtFlags::empty()).map_err(fail)?;
    }
    let mut lost = Vec::new();
    for (name, value) in &member.xattrs {
        let shown = quoted(name);
        match judge(name) {
            Verdict::Set => {}
            Verdict::Ignore => continue,
            Verdict::Refuse => return Err(AttributeError::Refused(shown)),
        }
        // The magic link of a symbolic link leads to the link itself.
        let set = sys::fs::set_xattr(opened, OsStr::new(""), OsStr::from_bytes(name), value);
        match set.as_ref().map_err(Errno::from_io_error) {
            Ok(()) => {}
            Err(Some(Errno::OPNOTSUPP)) => lost.push(shown),
            Err(_) => set.map_err(AttributeError::Failed)?,
        }
    }
    Ok(lost)
}

enum Verdict {
    Set,
    /// Labels come from the request for the container, not from the archive.
    Ignore,
    Refuse,
}

fn judge(name: &[u8]) -> Verdict {
    let begins = |prefix: &[u8]| name.starts_with(prefix);
    if begins(b"trusted.overlay.") || begins(b"user.overlay.") {
        Verdict::Refuse
    } else if begins(b"user.")
        || begins(b"trusted.")
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
    {
        Verdict::Set
    } else if begins(b"security.") {
        Verdict::Ignore
    } else {
        Verdict::Refuse
    }
}
