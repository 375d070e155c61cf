//! Opening an archive that a request names by path.
//!
//! An archive becomes code that runs, so who may place one is decided by directories: the path must
//! lie below a configured one, no link may be on the way, and neither the file nor a directory
//! between may be writable by anyone but root.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::error::Error;

/// An archive, opened.
#[derive(Debug)]
pub(crate) struct Source {
    /// Where it was found.
    pub(crate) path: PathBuf,
    /// What the request called it.
    pub(crate) name: String,
    /// Its content.
    pub(crate) file: File,
}

/// Opens the archive at `path`.
///
/// # Errors
///
/// [`Error::NotFound`] for an absent file; [`Error::Invalid`] for something that is no regular
/// file; [`Error::Denied`] outside the allowed directories, behind a symbolic link, or for a file or
/// directory that others may write to.
pub(crate) fn open(path: &Path, allowed: &[PathBuf]) -> Result<Source, Error> {
    let shown = path.display().to_string();
    let plain = path
        .components()
        .skip(1)
        .all(|part| matches!(part, Component::Normal(_)));
    if !path.is_absolute() || !plain || shown.contains("/../") || shown.ends_with("/..") {
        return Err(Error::Denied(format!(
            "archive {shown}: give its plain absolute path"
        )));
    }
    let Some((directory, inner)) = allowed
        .iter()
        .filter_map(|directory| Some((directory, path.strip_prefix(directory).ok()?)))
        .find(|(_, inner)| !inner.as_os_str().is_empty())
    else {
        let list: Vec<String> = allowed.iter().map(|d| d.display().to_string()).collect();
        return Err(Error::Denied(format!(
            "archive {shown} lies in none of the directories that archives may be restored from ({}): move it there or extend checkpoint.restore_directories",
            list.join(", ")
        )));
    };
    let opened = sys::fs::open_no_symlinks(directory, OFlags::DIRECTORY | OFlags::CLOEXEC);
    let root = opened.map_err(|error| explain(&shown, &error))?;
    owned_by_root(root.as_fd(), directory)?;
    let mut walked = PathBuf::new();
    let parents = inner.parent().into_iter().flat_map(Path::components);
    for part in parents {
        walked.push(part);
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = sys::fs::open_beneath(&root, &walked, flags);
        let fd = opened.map_err(|error| explain(&shown, &error))?;
        owned_by_root(fd.as_fd(), &directory.join(&walked))?;
    }
    // NONBLOCK: a FIFO must not hold the open.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = sys::fs::open_beneath(&root, inner, flags).map_err(|error| explain(&shown, &error))?;
    let stat = rustix::fs::fstat(&fd)
        .map_err(|error| Error::failed(format!("look at archive {shown}"), error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid(
            "image",
            format!("archive {shown} is no regular file"),
        ));
    }
    owned_by_root(fd.as_fd(), path)?;
    Ok(Source {
        path: path.to_path_buf(),
        name: shown,
        file: File::from(fd),
    })
}

fn explain(shown: &str, error: &std::io::Error) -> Error {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => Error::NotFound {
            kind: "archive",
            id: shown.to_owned(),
        },
        Some(Errno::LOOP | Errno::XDEV) => Error::Denied(format!(
            "archive {shown} is reached through a symbolic link: give its real path"
        )),
        _ => Error::failed(format!("open archive {shown}"), error.to_string()),
    }
}

fn owned_by_root(fd: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let shown = path.display();
    let stat =
        rustix::fs::fstat(fd).map_err(|error| Error::failed(format!("look at {shown}"), error))?;
    if stat.st_uid != 0 {
        let uid = stat.st_uid;
        return Err(Error::Denied(format!(
            "{shown} belongs to user {uid}, not to root"
        )));
    }
    if stat.st_mode & 0o022 != 0 {
        let mode = stat.st_mode & 0o7777;
        return Err(Error::Denied(format!(
            "{shown} is writable by others (mode {mode:04o}): chmod go-w it"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Place {
        _dir: tempfile::TempDir,
        base: PathBuf,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap().join("archives");
        std::fs::create_dir(&base).unwrap();
        std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o700)).unwrap();
        sys::fs::replace_path(&base.join("a.tar"), 0o600, b"x").unwrap();
        Place { _dir: dir, base }
    }

    fn denied(path: &Path, allowed: &Path, part: &str) {
        let error = open(path, &[allowed.to_path_buf()]).unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }

    #[test]
    fn a_root_owned_archive_below_an_allowed_directory_opens() {
        let place = place();
        let source = open(&place.base.join("a.tar"), std::slice::from_ref(&place.base)).unwrap();
        assert_eq!(source.path, place.base.join("a.tar"));
    }

    #[test]
    fn everything_else_is_denied_with_its_reason() {
        let place = place();
        let base = &place.base;
        let parent = base.parent().unwrap();
        sys::fs::replace_path(&parent.join("b.tar"), 0o600, b"x").unwrap();
        denied(&parent.join("b.tar"), base, "none of the directories");
        denied(&base.join("../b.tar"), base, "plain absolute path");
        std::os::unix::fs::symlink(parent.join("b.tar"), base.join("link.tar")).unwrap();
        denied(&base.join("link.tar"), base, "symbolic link");
        let archive = base.join("a.tar");
        std::fs::set_permissions(&archive, std::fs::Permissions::from_mode(0o620)).unwrap();
        denied(&archive, base, "writable by others");
        std::fs::set_permissions(&archive, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::set_permissions(base, std::fs::Permissions::from_mode(0o777)).unwrap();
        denied(&archive, base, "writable by others");
    }

    #[test]
    fn a_fifo_is_refused_without_waiting_and_an_absent_file_is_not_found() {
        let place = place();
        let fifo = place.base.join("fifo.tar");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let allowed = std::slice::from_ref(&place.base);
        assert!(matches!(open(&fifo, allowed), Err(Error::Invalid { .. })));
        assert!(matches!(
            open(&place.base.join("no.tar"), allowed),
            Err(Error::NotFound { .. })
        ));
    }
}
