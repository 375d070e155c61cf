//! Where archives are made, and what crashes leave there.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use rustix::io::Errno;

use crate::error::Error;

/// Removes temporary files of an archive `location` that was never finished; returns how many.
///
/// For recovery after a crash, when nobody writes to that location.
///
/// # Errors
///
/// [`Error::Location`] as for [`crate::ArchiveWriter::create`], but a directory that does not exist is
/// fine; [`Error::Io`].
pub fn remove_unfinished(location: &Path) -> Result<usize, Error> {
    let failed = |error: Errno| Error::io("remove an unfinished archive", error.into());
    let (directory, name) = match open_parent(location) {
        Err(Error::Location {
            source: Some(error),
            ..
        }) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(0);
        }
        other => other?,
    };
    let example = sys::fs::temporary_name(&name)
        .map_err(|error| Error::io("remove an unfinished archive", error))?;
    let random = example.rfind('-').map_or(0, |at| at + 1);
    let prefix = example.get(..random).unwrap_or_default().as_bytes();
    let mut found = Vec::new();
    for entry in Dir::read_from(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        let digits = name.strip_prefix(prefix).unwrap_or_default();
        if digits.len() == example.len() - random && digits.iter().all(u8::is_ascii_hexdigit) {
            found.push(entry.file_name().to_owned());
        }
    }
    let mut removed = 0;
    for name in found {
        let status = rustix::fs::statat(&directory, &*name, AtFlags::SYMLINK_NOFOLLOW);
        let status = status.map_err(failed)?;
        if FileType::from_raw_mode(status.st_mode).is_file() {
            rustix::fs::unlinkat(&directory, &*name, AtFlags::empty()).map_err(failed)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Opens the directory of `location` without following links, and returns the name in it.
pub(crate) fn open_parent(location: &Path) -> Result<(OwnedFd, String), Error> {
    let refuse = |reason, source| Error::Location {
        path: location.to_owned(),
        reason,
        source,
    };
    if !location.is_absolute() {
        return Err(refuse("the path is not absolute", None));
    }
    let name = location.file_name().and_then(|name| name.to_str());
    let slash_at_end = location.as_os_str().as_bytes().ends_with(b"/");
    let (Some(name), Some(parent), false) = (name, location.parent(), slash_at_end) else {
        return Err(refuse("the path has no file name, or none in UTF-8", None));
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let directory = sys::fs::open_no_symlinks(parent, flags).map_err(|error| {
        let reason = match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => "its directory does not exist",
            Some(Errno::LOOP) => "a link leads to its directory",
            Some(Errno::NOTDIR) => "its parent is not a directory",
            _ => "its directory cannot be opened",
        };
        refuse(reason, Some(error))
    })?;
    Ok((directory, name.to_owned()))
}
