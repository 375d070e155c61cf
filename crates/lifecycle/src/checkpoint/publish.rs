//! After the thaw: everything else goes into the archive, and the archive gets its name.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bundler::{ArchiveWriter, SyncedArchive, names};
use rustix::fs::OFlags;

use super::cancel::Cancel;
use super::capture::Taken;
use super::failure::archive_error;
use super::until::Until;
use super::{Job, Subject, metadata};
use crate::context::Context;
use crate::engine::Usable;
use crate::error::Error;
use crate::model::ContainerId;

/// The entry for the end of the container's log.
const CONTAINER_LOG: &str = "container.log";

/// Completes and publishes the archive; returns its size in bytes.
///
/// # Errors
///
/// [`Error::Exhausted`], the cancel reason's error, or [`Error::Failed`]; no file is left.
pub(super) fn publish(
    ctx: &Context,
    job: &Job,
    subject: &Subject,
    engine: &Usable,
    taken: Taken,
) -> Result<u64, Error> {
    let (mut writer, _) = taken.pages.finish().map_err(archive_error)?;
    append_images(&mut writer, &taken.images)?;
    let descriptors = json(&taken.descriptors)?;
    append(&mut writer, names::DESCRIPTORS, &descriptors)?;
    append(
        &mut writer,
        names::CONFIG_DUMP,
        &json(&metadata::config_dump(job, taken.files.at))?,
    )?;
    append(&mut writer, names::SPEC_DUMP, &json(&subject.spec)?)?;
    for (file, name) in [
        ("stats-dump", names::STATS_DUMP),
        ("dump.log", names::DUMP_LOG),
    ] {
        if let Ok(fd) = sys::fs::open_beneath(&taken.work, Path::new(file), OFlags::RDONLY) {
            writer
                .append_reader(name, File::from(fd))
                .map_err(archive_error)?;
        }
    }
    for side in taken.files.sides {
        let reader = side
            .content
            .into_reader()
            .map_err(|error| Error::failed(format!("read back {}", side.member), error))?;
        writer
            .append_reader(&side.member, Until::new(reader, &job.cancel))
            .map_err(archive_error)?;
    }
    if !taken.files.changes.deleted.is_empty() || !taken.files.changes.opaque.is_empty() {
        let list = taken.files.changes.deleted_files().map_err(archive_error)?;
        append(&mut writer, names::DELETED_FILES, &list)?;
    }
    if let Some(log) = taken.files.log {
        append(&mut writer, CONTAINER_LOG, &log.end()?)?;
    }
    let facts = metadata::Facts {
        at: taken.files.at,
        frozen: taken.frozen,
        descriptors: &taken.descriptors,
        mounts: &taken.mounts,
    };
    let manifest = metadata::manifest(ctx, job, engine, &facts);
    let complete = writer.finish(manifest).map_err(archive_error)?;
    let bytes = complete.size_bytes();
    give_name(job.container.id.as_str(), &job.cancel, || complete.sync())?;
    Ok(bytes)
}

/// Gives the archive its name once it is on the disk, unless its caller has been told meanwhile that there
/// is none: syncing gigabytes takes seconds.
fn give_name(
    container: &str,
    cancel: &Cancel,
    sync: impl FnOnce() -> Result<SyncedArchive, bundler::Error>,
) -> Result<(), Error> {
    let given_up = || {
        let reason = cancel.reason();
        reason.map_or(Ok(()), |reason| Err(reason.error(container)))
    };
    given_up()?;
    let synced = sync().map_err(archive_error)?;
    given_up()?;
    synced.publish().map(drop).map_err(archive_error)
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::failed("encode the archive's metadata", error))
}

fn append(writer: &mut ArchiveWriter, name: &str, bytes: &[u8]) -> Result<(), Error> {
    writer
        .append_bytes(name, bytes)
        .map(drop)
        .map_err(archive_error)
}

/// CRIU's images, page images that found no pipe among them, but nothing of the pod's network.
fn append_images(writer: &mut ArchiveWriter, images: &OwnedFd) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::failed("read CRIU's images", error);
    let mut found = Vec::new();
    // A detached mount's descriptor names the directory but cannot be read from.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let readable = sys::fs::open_beneath(images, Path::new("."), flags).map_err(failed)?;
    let directory = rustix::fs::Dir::new(readable).map_err(|error| failed(error.into()))?;
    for entry in directory {
        let entry = entry.map_err(|error| failed(error.into()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type() == rustix::fs::FileType::RegularFile
            && name.ends_with(".img")
            && !criu_images::has_tracked_connections(&name)
        {
            found.push(name);
        }
    }
    found.sort();
    for name in found {
        let fd = sys::fs::open_beneath(images, Path::new(&name), OFlags::RDONLY).map_err(failed)?;
        writer
            .append_reader(&names::image(&name), File::from(fd))
            .map_err(archive_error)?;
    }
    Ok(())
}

/// Notes where an archive is being written, so that a restart can clean up after a kill.
#[derive(Debug)]
pub(super) struct Intent(PathBuf);

impl Intent {
    /// Writes the note.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`].
    pub(super) fn write(ctx: &Context, job: &Job) -> Result<Self, Error> {
        let directory = directory(ctx);
        let path = directory.join(job.container.id.as_str());
        let text = job.request.location.to_string_lossy().into_owned();
        sys::fs::make_dir_all(&directory, 0o700)
            .and_then(|()| sys::fs::replace_path(&path, 0o600, text.as_bytes()))
            .map_err(|error| Error::io("write", &path, error))?;
        Ok(Self(path))
    }

    /// Whether an earlier daemon was writing an archive of this container.
    pub(super) fn is_left(ctx: &Context, container: &ContainerId) -> bool {
        directory(ctx).join(container.as_str()).exists()
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        // A note that stays names a file that is looked for and not found.
        drop(std::fs::remove_file(&self.0));
    }
}

fn directory(ctx: &Context) -> PathBuf {
    ctx.config.root.join("checkpointing")
}

/// Removes unfinished archives of an earlier daemon.
///
/// # Errors
///
/// What reading a note or removing a file returns, the last failure; every note is tried.
pub(super) fn remove_leftovers(ctx: &Context) -> Result<(), Error> {
    let Ok(entries) = std::fs::read_dir(directory(ctx)) else {
        return Ok(());
    };
    let mut result = Ok(());
    for entry in entries.flatten() {
        if let Err(error) = remove_leftover(&entry.path()) {
            result = Err(error);
        }
    }
    result
}

fn remove_leftover(note: &Path) -> Result<(), Error> {
    let location = std::fs::read_to_string(note).map_err(|error| Error::io("read", note, error))?;
    let removed = bundler::remove_unfinished(Path::new(&location)).map_err(archive_error)?;
    if removed > 0 {
        tracing::info!(location, "removed an unfinished archive");
    }
    std::fs::remove_file(note).map_err(|error| Error::io("remove", note, error))
}

#[cfg(test)]
mod tests {
    use super::super::cancel::Reason;
    use super::*;

    #[test]
    fn an_archive_whose_caller_was_told_that_there_is_none_does_not_appear() {
        let directory = tempfile::tempdir().unwrap();
        let is_empty = || std::fs::read_dir(directory.path()).unwrap().count() == 0;
        let complete = || {
            let writer = ArchiveWriter::create(&directory.path().join("a.tar")).unwrap();
            writer.finish(bundler::Manifest::default()).unwrap()
        };
        let denied = |result| {
            assert!(matches!(result, Err(Error::Deadline(_))), "{result:?}");
            assert!(is_empty());
        };
        let cancel = Cancel::new();
        let during = complete();
        denied(give_name("c", &cancel, || {
            let synced = during.sync();
            cancel.cancel_because(Reason::Deadline);
            synced
        }));
        let before = complete();
        denied(give_name("c", &cancel, move || {
            panic!("{before:?} is synced")
        }));
        let complete = complete();
        give_name("c", &Cancel::new(), || complete.sync()).unwrap();
        assert!(directory.path().join("a.tar").exists());
    }
}
