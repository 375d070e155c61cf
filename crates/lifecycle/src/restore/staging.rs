//! A private copy of what CRIU reads: `<container>/checkpoint/`, 0700.
//!
//! Small images are extracted. The page image whose data begins at byte 4096 is not: the archive
//! itself gets a hard link under its name, and the page map a first entry that skips the tar header
//! (`criu_images::repair`). Where a link is not possible, it is extracted too. What the old pod's network
//! tracked stays in the archive.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use bundler::Archive;
use criu_images::ImageSource;
use rustix::fs::OFlags;

use super::{archive_error, source::Source};
use crate::error::Error;

/// CRIU's images of a restore, below the container's directory.
pub(crate) fn images(directory: &Path) -> PathBuf {
    directory.join("checkpoint")
}

/// Verifies the archive to its end and stages it.
///
/// # Errors
///
/// [`Error::Invalid`] naming the entry that is wrong; [`Error::Exhausted`]; [`Error::Failed`].
pub(crate) fn stage(source: Source, directory: &Path) -> Result<bundler::Manifest, Error> {
    let name = source.name.clone();
    let wrong = |error| archive_error(&name, error);
    let failed = |what: &Path, error| Error::io("prepare", what, error);
    let archive = Archive::open(source.file).map_err(wrong)?;
    let verified = archive.verify().map_err(wrong)?;
    let manifest = verified.manifest().clone();
    let images = images(directory);
    sys::fs::make_dir_all(&images, 0o700).map_err(|error| failed(&images, error))?;
    let target = sys::fs::open_dir(&images).map_err(|error| failed(&images, error))?;
    for entry in &manifest.entries {
        let Some(file) = entry
            .name
            .strip_prefix(bundler::names::CHECKPOINT_DIRECTORY)
        else {
            continue;
        };
        // Archives of others have them, and older ones of thawd.
        if criu_images::has_tracked_connections(file) {
            continue;
        }
        let page_image = bundler::names::page_image_number(&entry.name).is_some();
        let linked =
            page_image && archive.in_place(&entry.name) && archive.link(&target, file).is_ok();
        if !linked && !file.is_empty() {
            archive.extract(&entry.name, &target, file).map_err(wrong)?;
        }
    }
    let outer = sys::fs::open_dir(directory).map_err(|error| failed(directory, error))?;
    let tars = manifest.tmpfs.iter().map(|tmpfs| tmpfs.entry.as_str());
    let others = [
        bundler::names::ROOTFS_DIFF,
        bundler::names::DEVSHM,
        "container.log",
    ];
    for name in tars.chain(others) {
        if manifest.entries.iter().any(|entry| entry.name == name) {
            archive.extract(name, &outer, name).map_err(wrong)?;
        }
    }
    let path = directory.join(bundler::names::MANIFEST);
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|error| Error::failed("encode the manifest", error))?;
    sys::fs::replace_path(&path, 0o600, &bytes).map_err(|error| failed(&path, error))?;
    Ok(manifest)
}

/// The manifest that [`stage`] kept.
///
/// # Errors
///
/// [`Error::Failed`] when it cannot be read.
pub(crate) fn manifest(directory: &Path) -> Result<bundler::Manifest, Error> {
    let path = directory.join(bundler::names::MANIFEST);
    let bytes = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    bundler::Manifest::parse(&bytes)
        .map_err(|problem| Error::failed(format!("parse {}", path.display()), problem))
}

/// Paths on tmpfs mounts that CRIU will open; they can be checked once the mounts are filled.
const TMPFS_PATHS: &str = "tmpfs-paths.json";

/// Keeps paths for [`free_of_links`]: the tmpfs's mount point, and the path within it.
///
/// # Errors
///
/// [`Error::Failed`].
pub(crate) fn keep_tmpfs_paths(
    directory: &Path,
    paths: &[(PathBuf, PathBuf)],
) -> Result<(), Error> {
    let path = directory.join(TMPFS_PATHS);
    let bytes = serde_json::to_vec(paths)
        .map_err(|error| Error::failed("encode paths of the checkpoint", error))?;
    sys::fs::replace_path(&path, 0o600, &bytes).map_err(|error| Error::io("write", &path, error))
}

/// Checks that no path which CRIU opens on a rebuilt tmpfs leads through a link.
///
/// # Errors
///
/// [`Error::Denied`] naming the path.
pub(crate) fn free_of_links(directory: &Path, mounts: &[(String, String)]) -> Result<(), Error> {
    let path = directory.join(TMPFS_PATHS);
    let bytes = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    let paths: Vec<(PathBuf, PathBuf)> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::failed(format!("parse {}", path.display()), error))?;
    for (mount_point, inner) in paths {
        let host = mounts
            .iter()
            .find(|(inside, _)| Path::new(inside) == mount_point);
        if let Some((_, host)) = host {
            super::check::no_link(Path::new(host), &inner, &mount_point.join(&inner))?;
        }
    }
    Ok(())
}

/// A staged file that the archive may not have.
///
/// # Errors
///
/// [`Error::Failed`] when it is there and cannot be opened.
pub(crate) fn open(directory: &Path, name: &str) -> Result<Option<File>, Error> {
    let path = directory.join(name);
    match File::open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", &path, error)),
    }
}

/// Forgets the staged files once the container runs.
pub(crate) fn drop_staged(directory: &Path) -> io::Result<()> {
    sys::fs::remove_tree(&images(directory))?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".tar") || name == "container.log" {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Where the data of a page image begins that is the archive itself.
const IN_PLACE: u64 = 4096;

/// The page image that is a hard link to the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Linked {
    file: String,
    number: u32,
    bytes: u64,
}

/// The staged images as `criu-images` reads them.
#[derive(Debug)]
pub(crate) struct Staged {
    images: OwnedFd,
    linked: Option<Linked>,
}

impl Staged {
    /// Opens the directory.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`].
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        let path = images(directory);
        let images = sys::fs::open_dir(&path).map_err(|error| Error::io("open", &path, error))?;
        let mut staged = Self {
            images,
            linked: None,
        };
        for entry in manifest(directory)?.entries {
            let Some(number) = bundler::names::page_image_number(&entry.name) else {
                continue;
            };
            let file = format!("pages-{number}.img");
            let length = staged
                .file(&file)
                .and_then(|file| file.map(|f| f.metadata()).transpose());
            let length = length.map_err(|error| Error::io("look at", &file, error))?;
            if length.is_some_and(|metadata| metadata.len() != entry.size) {
                staged.linked = Some(Linked {
                    file,
                    number,
                    bytes: entry.size,
                });
            }
        }
        Ok(staged)
    }

    /// Makes the page map of the linked page image skip the archive's first page, or where that is
    /// impossible copies the page image out of the archive. To be done after the images' check:
    /// the map then asks for one page more than the image has.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a broken page map; [`Error::Failed`].
    pub(crate) fn finish(self, directory: &Path) -> Result<(), Error> {
        let Some(linked) = self.linked.clone() else {
            return Ok(());
        };
        let failed = |error: io::Error| Error::failed("prepare page maps", error);
        for (name, size) in self.list().map_err(failed)? {
            if !name.starts_with("pagemap-") {
                continue;
            }
            let length = usize::try_from(size).map_err(|error| failed(io::Error::other(error)))?;
            let bytes = self.read_at(&name, 0, length).map_err(failed)?;
            let number = criu_images::repair::page_image_of(&bytes)
                .map_err(|error| Error::invalid(&name, error.to_string()))?;
            if number != linked.number {
                continue;
            }
            let path = images(directory).join(&name);
            return match criu_images::repair::skip_header_page(&bytes, false) {
                Ok(edited) => sys::fs::replace_path(&path, 0o600, &edited).map_err(failed),
                Err(_) => self.copy_out(&linked).map_err(failed),
            };
        }
        Ok(())
    }

    fn copy_out(&self, linked: &Linked) -> io::Result<()> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut archive = self.file(&linked.file)?.ok_or(io::ErrorKind::NotFound)?;
        archive.seek(SeekFrom::Start(IN_PLACE))?;
        rustix::fs::unlinkat(&self.images, &linked.file, rustix::fs::AtFlags::empty())?;
        let mut copy = sys::fs::create_new(&self.images, &linked.file, 0o600)?;
        io::copy(&mut archive.take(linked.bytes), &mut copy).map(drop)
    }

    fn file(&self, name: &str) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match sys::fs::open_beneath(&self.images, Path::new(name), flags) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn linked(&self, name: &str) -> Option<&Linked> {
        self.linked.as_ref().filter(|linked| linked.file == name)
    }
}

impl ImageSource for Staged {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.images.as_fd())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." || name == "descriptors.json" {
                continue;
            }
            if let Some(linked) = self.linked(&name) {
                found.push((name, linked.bytes));
            } else if let Some(file) = self.file(&name)? {
                found.push((name, file.metadata()?.len()));
            }
        }
        Ok(found)
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn io::Read + '_>>> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let Some(mut file) = self.file(name)? else {
            return Ok(None);
        };
        let mut bytes = u64::MAX;
        if let Some(linked) = self.linked(name) {
            file.seek(SeekFrom::Start(IN_PLACE))?;
            bytes = linked.bytes;
        }
        Ok(Some(Box::new(io::BufReader::new(file).take(bytes))))
    }

    fn read_at(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt as _;
        let file = self.file(name)?.ok_or(io::ErrorKind::NotFound)?;
        let (start, length) = match self.linked(name) {
            Some(linked) => {
                let left = linked.bytes.saturating_sub(offset);
                (
                    IN_PLACE,
                    length.min(usize::try_from(left).unwrap_or(length)),
                )
            }
            None => {
                let left = file.metadata()?.len().saturating_sub(offset);
                (0, length.min(usize::try_from(left).unwrap_or(length)))
            }
        };
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset.saturating_add(start))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_old_pod_s_network_tracked_is_left_out() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("one.tar");
        let mut writer = bundler::ArchiveWriter::create(&path).unwrap();
        for name in ["core-1.img", "netns-ct-10.img", "netns-exp-10.img"] {
            writer
                .append_bytes(&bundler::names::image(name), b"content")
                .unwrap();
        }
        let written = writer.finish(bundler::Manifest::default()).unwrap();
        written.sync().unwrap().publish().unwrap();
        let source = Source {
            file: File::open(&path).unwrap(),
            name: path.display().to_string(),
            path,
        };
        let container = directory.path().join("container");
        std::fs::create_dir(&container).unwrap();
        assert_eq!(stage(source, &container).unwrap().entries.len(), 3);
        let staged = Staged::open(&container).unwrap().list().unwrap();
        assert_eq!(staged, [("core-1.img".to_owned(), 7)]);
    }
}
