//! Symbolic links of a foreign root directory.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Most links on one way (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// Where `path` leads with `root` as the root directory: an absolute path without a link. Absolute links
/// and `..` stay inside. What does not exist keeps its name, also behind a link that dangles.
///
/// Only what nobody changes meanwhile leads where this says.
///
/// # Errors
///
/// `ELOOP` for more than 40 links; else what openat2(2) and readlinkat(2) return.
pub fn follow_in_root(root: impl AsFd, path: &Path) -> io::Result<PathBuf> {
    let root = root.as_fd();
    let mut found = PathBuf::from("/");
    let mut left: VecDeque<OsString> = names(path).collect();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            found.pop();
            continue;
        }
        let Some(target) = target(root, &found, &name)? else {
            found.push(name);
            continue;
        };
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::LOOP.into());
        }
        if target.is_absolute() {
            found = PathBuf::from("/");
        }
        for name in names(&target).rev() {
            left.push_front(name);
        }
    }
    Ok(found)
}

/// Names on the way, `..` among them.
fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// What the link `name` in `directory` says; `None` for what is no link or not there.
fn target(root: BorrowedFd<'_>, directory: &Path, name: &OsString) -> io::Result<Option<PathBuf>> {
    let inner = directory.strip_prefix("/").unwrap_or(directory);
    let inner = if inner.as_os_str().is_empty() {
        Path::new(".")
    } else {
        inner
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let directory = match super::open_beneath(root, inner, flags) {
        Ok(directory) => directory,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    match rustix::fs::readlinkat(directory, name.as_os_str(), Vec::new()) {
        Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()).into())),
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_where_they_do_inside() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for directory in ["run", "var", "usr/lib", "etc"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        std::fs::File::create_new(at("etc/file")).unwrap();
        for (target, name) in [
            ("../run", "var/run"),
            ("/usr/lib", "lib"),
            ("../../../run/resolv.conf", "etc/resolv.conf"),
            ("/lib/../var/run/x", "etc/far"),
            ("round", "round"),
        ] {
            symlink(target, at(name)).unwrap();
        }
        let directory = crate::fs::open_dir(root.path()).unwrap();
        let follow = |path: &str| follow_in_root(&directory, Path::new(path));
        for (path, leads) in [
            ("/", "/"),
            ("/var/run/secrets/token", "/run/secrets/token"),
            ("/lib", "/usr/lib"),
            ("/lib/new/one", "/usr/lib/new/one"),
            ("/etc/resolv.conf", "/run/resolv.conf"),
            ("/etc/far/y", "/usr/var/run/x/y"),
            ("/etc/file/below", "/etc/file/below"),
            ("/absent/../var/run", "/run"),
            ("/../../var/./run/", "/run"),
        ] {
            assert_eq!(follow(path).unwrap(), Path::new(leads), "{path}");
        }
        let error = follow("/round/x").unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP));
    }
}
