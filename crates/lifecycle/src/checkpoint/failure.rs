//! What the caller of a failed checkpoint is told.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Job;
use crate::context::Context;
use crate::error::{Error, chain};

/// An archive that cannot be written.
pub(super) fn archive_error(error: bundler::Error) -> Error {
    match error {
        bundler::Error::NoSpace { .. } => Error::Exhausted(format!("location: {}", chain(&error))),
        bundler::Error::Exists { .. } => Error::AlreadyExists {
            what: chain(&error),
        },
        bundler::Error::Location { .. } => Error::invalid("location", chain(&error)),
        bundler::Error::Deadline { .. } => Error::Deadline(chain(&error)),
        other => Error::failed("write the archive", other),
    }
}

/// CRIU's failure; its own words first.
pub(super) fn dump_error(error: criu_rpc::Error, log: Option<&Path>) -> Error {
    let kept = log
        .map(|path| format!(" (CRIU's log: {})", path.display()))
        .unwrap_or_default();
    match error {
        criu_rpc::Error::Criu {
            ref first_errors, ..
        } if !first_errors.is_empty() => Error::Precondition(format!(
            "the container cannot be checkpointed: CRIU says: {}{kept}",
            first_errors.join("; ")
        )),
        error @ criu_rpc::Error::Criu { .. } => Error::Precondition(format!(
            "the container cannot be checkpointed: {}{kept}",
            chain(&error)
        )),
        other => Error::failed(format!("dump the container{kept}"), other),
    }
}

/// Keeps CRIU's log where the operator finds it.
pub(super) fn keep_log(ctx: &Context, job: &Job, work: &OwnedFd) -> Option<PathBuf> {
    let fd = sys::fs::open_beneath(work, Path::new("dump.log"), OFlags::RDONLY).ok()?;
    let bytes = sys::fs::read_bounded(File::from(fd), 16 << 20).ok()?;
    let path = ctx
        .config
        .criu_logs()
        .join(format!("{}-dump.log", job.container.id));
    match sys::fs::replace_path(&path, 0o600, &bytes) {
        Ok(()) => Some(path),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "CRIU's log could not be kept");
            None
        }
    }
}
