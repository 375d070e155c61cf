//! Named and anonymous pipes, splicing and write-back.
//!
//! The way of a checkpoint's memory: CRIU splices pages into a named pipe, [`splice_to_file`]
//! moves them on into the archive's page cache without a copy in this process, and
//! [`sync_file_range`] starts their way to the disk.
#![expect(
    unsafe_code,
    reason = "sync_file_range(2) and FICLONERANGE have no safe wrapper"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, FallocateFlags, FileType, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

/// The smallest pipe that [`set_capacity`] asks for before it gives up: one page.
const MIN_CAPACITY: usize = 4096;

/// Whether [`sync_file_range`] only starts the writing or waits for it as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteBack {
    /// Starts writing what is dirty; may still wait for room in the device's queue.
    Start,
    /// Starts writing and waits until the data is on the device (no metadata, no disk cache).
    Wait,
}

/// Makes the named pipe `name` in `dir` with exactly `mode`.
///
/// # Errors
///
/// `EEXIST` when the name is taken; else what mknodat(2) or fchmodat(2) return.
pub fn fifo(dir: impl AsFd, name: &str, mode: u32) -> io::Result<()> {
    let (dir, mode) = (dir.as_fd(), Mode::from_bits_truncate(mode & 0o7777));
    rustix::fs::mknodat(dir, name, FileType::Fifo, mode, 0)?;
    Ok(rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?)
}

/// Opens the reading end of a named pipe without waiting for a writer; reads do not wait either.
///
/// # Errors
///
/// `InvalidInput` when the name is not a pipe; else what openat(2) returns.
pub fn open_reader(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reader = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let status = rustix::fs::fstat(&reader)?;
    if FileType::from_raw_mode(status.st_mode) == FileType::Fifo {
        Ok(reader)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name} is not a pipe"),
        ))
    }
}

/// Asks for a pipe of `bytes`, or as near as the system lets us (`/proc/sys/fs/pipe-max-size`
/// binds those without CAP_SYS_RESOURCE, pipe(7)), and tells what it has now.
///
/// # Errors
///
/// `EBADF` when `pipe` is not a pipe; else what fcntl(2) returns.
pub fn set_capacity(pipe: impl AsFd, bytes: usize) -> io::Result<usize> {
    let pipe = pipe.as_fd();
    let mut wanted = bytes;
    while wanted >= MIN_CAPACITY {
        match rustix::pipe::fcntl_setpipe_size(pipe, wanted) {
            Ok(capacity) => return Ok(capacity),
            Err(Errno::PERM | Errno::NOMEM) => wanted /= 2,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rustix::pipe::fcntl_getpipe_size(pipe)?)
}

/// Moves at most `max` bytes that lie in `pipe` to `file` at `offset`; 0 means that every writer
/// has closed the pipe and that it is empty.
///
/// # Errors
///
/// `WouldBlock` when the pipe is empty and somebody may still write to it; `ENOSPC` and what else
/// splice(2) returns.
pub fn splice_to_file(
    pipe: impl AsFd,
    file: impl AsFd,
    offset: u64,
    max: usize,
) -> io::Result<u64> {
    let (pipe, file) = (pipe.as_fd(), file.as_fd());
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        let mut at = offset;
        match rustix::pipe::splice(pipe, None, file, Some(&mut at), max, flags) {
            Ok(moved) => return u64::try_from(moved).map_err(io::Error::other),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Moves at most `max` bytes that lie in `pipe` to the end of what lies in `target`, another pipe;
/// 0 means that every writer has closed `pipe` and that it is empty. Pages are moved, not copied.
///
/// # Errors
///
/// `WouldBlock` when `pipe` is empty and somebody may still write to it, or when `target` is full;
/// what else splice(2) returns.
pub fn splice_to_pipe(pipe: impl AsFd, target: impl AsFd, max: usize) -> io::Result<u64> {
    let (pipe, target) = (pipe.as_fd(), target.as_fd());
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        match rustix::pipe::splice(pipe, None, target, None, max, flags) {
            Ok(moved) => return u64::try_from(moved).map_err(io::Error::other),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Starts the write-back of `length` bytes of `file` at `offset`.
///
/// This is about time only: it makes nothing durable (sync_file_range(2)), fsync(2) does.
///
/// # Errors
///
/// What sync_file_range(2) returns.
pub fn sync_file_range(
    file: impl AsFd,
    offset: u64,
    length: u64,
    how: WriteBack,
) -> io::Result<()> {
    let flags = match how {
        WriteBack::Start => libc::SYNC_FILE_RANGE_WRITE,
        WriteBack::Wait => {
            libc::SYNC_FILE_RANGE_WAIT_BEFORE
                | libc::SYNC_FILE_RANGE_WRITE
                | libc::SYNC_FILE_RANGE_WAIT_AFTER
        }
    };
    let (offset, length) = (signed(offset)?, signed(length)?);
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the call takes numbers only, and `file` keeps the descriptor open meanwhile.
    let result = unsafe { libc::sync_file_range(fd, offset, length, flags) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets `length` bytes of `target` at `target_offset` share the blocks of `source` at
/// `source_offset` (`FICLONERANGE`, ioctl_ficlonerange(2)); offsets and length are multiples of
/// the filesystem's block size, or the range ends with `source`.
///
/// # Errors
///
/// `EOPNOTSUPP` when the filesystem cannot share blocks, `EXDEV` across filesystems, `EINVAL` for
/// offsets that are not aligned.
pub fn reflink_range(
    source: impl AsFd,
    source_offset: u64,
    length: u64,
    target: impl AsFd,
    target_offset: u64,
) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: i64::from(source.as_fd().as_raw_fd()),
        src_offset: source_offset,
        src_length: length,
        dest_offset: target_offset,
    };
    let fd = target.as_fd().as_raw_fd();
    // SAFETY: `range` is the structure that FICLONERANGE reads and lives across the call; both
    // descriptors are kept open by `source` and `target`.
    let result = unsafe { libc::ioctl(fd, libc::FICLONERANGE as _, &raw const range) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A file in memory without a name; `name` shows up in /proc only (memfd_create(2)).
///
/// # Errors
///
/// What memfd_create(2) returns.
pub fn memfd(name: &str) -> io::Result<File> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// Takes `length` bytes at `offset` out of `file` and closes the gap, without moving data: both
/// are multiples of the filesystem's block size and lie inside the file
/// (`FALLOC_FL_COLLAPSE_RANGE`, fallocate(2)).
///
/// # Errors
///
/// `EOPNOTSUPP` where the filesystem cannot (tmpfs, btrfs, overlayfs over them), `EINVAL` for
/// ranges that are not aligned or reach the end of the file.
pub fn collapse_range(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(
        file,
        FallocateFlags::COLLAPSE_RANGE,
        offset,
        length,
    )?)
}

/// Gives `file` blocks for `length` bytes at `offset`, and that size when it is smaller; they read
/// as zeros (fallocate(2)). Cutting the file gives back what was not used.
///
/// # Errors
///
/// `EOPNOTSUPP` where the filesystem cannot, `ENOSPC`, `EFBIG`.
pub fn preallocate(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::empty();
    Ok(rustix::fs::fallocate(file, flags, offset, length)?)
}

fn signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from(Errno::OVERFLOW))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

    #[test]
    fn a_named_pipe_ends_in_a_file_at_the_offset() {
        let dir = tempfile::tempdir().unwrap();
        let fd = crate::fs::open_dir(dir.path()).unwrap();
        fifo(&fd, "p", 0o600).unwrap();
        let mode = dir
            .path()
            .join("p")
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(
            fifo(&fd, "p", 0o600).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        let reader = open_reader(&fd, "p").unwrap();
        assert!(set_capacity(&reader, 1 << 20).unwrap() >= 1 << 16);
        let file = crate::fs::create_new(&fd, "f", 0o600).unwrap();
        let mut writer = std::fs::OpenOptions::new()
            .write(true)
            .open(dir.path().join("p"))
            .unwrap();
        let empty = splice_to_file(&reader, &file, 4096, 1 << 20).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        writer.write_all(b"hello").unwrap();
        assert_eq!(splice_to_file(&reader, &file, 4096, 1 << 20).unwrap(), 5);
        drop(writer);
        assert_eq!(splice_to_file(&reader, &file, 4101, 1 << 20).unwrap(), 0);
        sync_file_range(&file, 0, 4101, WriteBack::Start).unwrap();
        sync_file_range(&file, 0, 4101, WriteBack::Wait).unwrap();
        let mut bytes = [0_u8; 5];
        file.read_exact_at(&mut bytes, 4096).unwrap();
        assert_eq!(&bytes, b"hello");
        assert_eq!(
            open_reader(&fd, "f").unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn pages_move_from_pipe_to_pipe() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (second, target) = rustix::pipe::pipe().unwrap();
        let empty = splice_to_pipe(&reader, &target, 100).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        let mut writer = File::from(writer);
        writer.write_all(b"hello, ").unwrap();
        writer.write_all(b"world").unwrap();
        drop(writer);
        assert_eq!(splice_to_pipe(&reader, &target, 5).unwrap(), 5);
        while splice_to_pipe(&reader, &target, 100).unwrap() > 0 {}
        drop(target);
        let mut text = String::new();
        File::from(second).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello, world");
    }

    #[test]
    fn preallocated_space_is_given_back_with_the_size() {
        use std::os::unix::fs::MetadataExt as _;
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        preallocate(&file, 4096, 8 << 20).unwrap();
        let taken = file.metadata().unwrap();
        assert_eq!(taken.len(), 4096 + (8 << 20));
        assert!(taken.blocks() * 512 >= 8 << 20, "{}", taken.blocks());
        file.write_all_at(b"x", 5000).unwrap();
        file.set_len(8192).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 <= 16 << 10);
    }

    #[test]
    fn a_full_device_is_said_so() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        File::from(writer).write_all(b"x").unwrap();
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let error = splice_to_file(&reader, &full, 0, 1).unwrap_err();
        assert!(matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::InvalidInput
        ));
    }

    #[test]
    fn memory_files_hold_what_is_written() {
        let mut file = memfd("spool").unwrap();
        file.write_all(b"abc").unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "");
        let mut bytes = [0_u8; 3];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"abc");
        let error = collapse_range(&file, 1, 1).unwrap_err();
        assert!(Errno::from_io_error(&error).is_some());
        reflink_range(&file, 0, 3, &file, 4096).unwrap_err();
    }
}
