//! What can be refused before a container is touched: the place for the archive, and the time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use crate::error::Error;

/// Free space beyond the memory's size that an archive may need, in bytes.
const SLACK_BYTES: u64 = 16 * 1024 * 1024;

/// Kept back of an RPC's deadline, so that the answer still arrives.
const ANSWER: Duration = Duration::from_millis(250);

/// A location whose parent directory is open and whose name is free.
#[derive(Debug)]
pub(crate) struct Location {
    pub(crate) path: PathBuf,
    pub(crate) parent: std::os::fd::OwnedFd,
}

/// Checks where the archive shall go.
///
/// # Errors
///
/// [`Error::Invalid`] for an empty or relative path, one with `.` or `..`, a missing parent or one
/// behind a symbolic link, and a directory as target; [`Error::AlreadyExists`] for anything else
/// that is there.
pub(crate) fn location(path: &Path) -> Result<Location, Error> {
    let invalid = |problem: String| Error::invalid("location", problem);
    if path.as_os_str().is_empty() {
        return Err(invalid(
            "is empty: give the absolute path of the archive".into(),
        ));
    }
    let shown = path.display();
    if !path.is_absolute() {
        return Err(invalid(format!(
            "{shown} is relative: give an absolute path"
        )));
    }
    let text = path.to_string_lossy();
    if text.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(invalid(format!(
            "{shown} has \".\" or \"..\" in it: give the plain path"
        )));
    }
    if text.ends_with('/') {
        return Err(invalid(format!(
            "{shown} ends in \"/\": name a file, not a directory"
        )));
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(invalid(format!("{shown} names no file")));
    };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let parent = sys::fs::open_no_symlinks(directory, flags).map_err(|error| {
        let directory = directory.display();
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => invalid(format!(
                "its directory {directory} does not exist: make it first"
            )),
            Some(Errno::LOOP) => invalid(format!(
                "its directory {directory} is reached through a symbolic link: give the real path"
            )),
            Some(Errno::NAMETOOLONG) => {
                invalid("is longer than paths can be: choose a shorter one".into())
            }
            Some(Errno::NOTDIR) => invalid(format!("{directory} is no directory")),
            _ => Error::failed(format!("open directory {directory}"), error),
        }
    })?;
    match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(Location {
            path: path.to_path_buf(),
            parent,
        }),
        Err(Errno::NAMETOOLONG) => Err(invalid(
            "its file name is longer than 255 bytes: choose a shorter one".into(),
        )),
        Err(error) => Err(Error::failed(format!("look at {shown}"), error)),
        Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => Err(invalid(
            format!("{shown} is a directory: name a file that does not exist"),
        )),
        Ok(_) => Err(Error::AlreadyExists {
            what: format!(
                "location {shown} (an archive never replaces a file: remove it or choose another name)"
            ),
        }),
    }
}

/// Whether the filesystem can take an archive of about `bytes`.
///
/// # Errors
///
/// [`Error::Exhausted`] with both sizes.
pub(crate) fn space(location: &Location, bytes: u64) -> Result<(), Error> {
    let free = sys::fs::free_bytes(&location.parent)
        .map_err(|error| Error::failed("ask for the free space at the location", error))?;
    let wanted = bytes.saturating_add(SLACK_BYTES);
    if free >= wanted {
        return Ok(());
    }
    Err(Error::Exhausted(format!(
        "location {}: {free} bytes are free, but the checkpoint needs about {wanted}",
        location.path.display()
    )))
}

/// The moment at which a checkpoint must be finished: the sooner of the request's `timeout` (or the
/// default) and the RPC's deadline less the time for the answer.
///
/// # Errors
///
/// [`Error::Deadline`] when it has passed already.
pub(crate) fn deadline(
    timeout: Option<Duration>,
    default: Duration,
    rpc: Option<Instant>,
) -> Result<Instant, Error> {
    let now = Instant::now();
    let own = now.checked_add(timeout.unwrap_or(default));
    let rpc = rpc.map(|at| at.checked_sub(ANSWER).unwrap_or(at));
    let at = match (own, rpc) {
        (Some(own), Some(rpc)) => own.min(rpc),
        (Some(at), None) | (None, Some(at)) => at,
        (None, None) => return Err(Error::invalid("timeout", "is longer than this clock goes")),
    };
    if at <= now {
        return Err(Error::Deadline(
            "the deadline passed before the checkpoint began".into(),
        ));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: impl AsRef<Path>, part: &str) {
        let error = location(path.as_ref()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }

    #[test]
    fn each_bad_location_is_told_with_its_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        std::os::unix::fs::symlink(base, base.join("link")).unwrap();
        check("", "empty");
        check("a/b.tar", "relative");
        check(base.join("../x.tar"), "\"..\"");
        check(base.join("none/x.tar"), "does not exist");
        check(base.join("link/x.tar"), "symbolic link");
        check(base, "is a directory");
        check(format!("{}/x/", base.display()), "ends in");
        check(base.join("x".repeat(256)), "longer than 255");
    }

    #[test]
    fn an_existing_file_is_never_replaced() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = location(file.path()).unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
    }

    #[test]
    fn too_little_space_is_told_in_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let location = location(&dir.path().join("x.tar")).unwrap();
        assert!(space(&location, 1).is_ok());
        let error = space(&location, u64::MAX).unwrap_err();
        assert!(matches!(error, Error::Exhausted(_)), "{error:?}");
    }

    #[test]
    fn the_sooner_deadline_counts() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let at = deadline(None, minute, Some(now + Duration::from_secs(5))).unwrap();
        assert!(at < now + Duration::from_secs(5));
        let at = deadline(Some(Duration::from_secs(2)), minute, None).unwrap();
        assert!(at < now + Duration::from_secs(3));
        assert!(matches!(
            deadline(None, minute, Some(now)),
            Err(Error::Deadline(_))
        ));
    }
}
