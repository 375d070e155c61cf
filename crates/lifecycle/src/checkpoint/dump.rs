//! CRIU's dump, stage by stage.
//!
//! ```text
//!  pre-dump         with protection: memory is made copy-on-write and the cgroup frozen
//!  query-ext-files  CRIU holds the tasks: the freezer is let go of; files begin to be captured
//!  post-dump        files are captured; memory is in the archive, or parked where it does not change
//! ```
//! (`network-lock` comes right before `query-ext-files`, but not for tasks on the host's network.)
//!
//! Where protection is refused, or CRIU cannot seize what is frozen, nothing has been taken yet: the dump
//! is begun once more without.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime};

use bundler::PageCapture;
use criu_rpc::{BoxError, CancelToken, DumpOptions, Notify, NotifyReply};
use sys::process::Deadline;
use tracing::{debug, info};

use super::failure::archive_error;
use super::mounts::DumpMounts;
use super::preflight::Scan;
use super::protection::Protection;
use super::sides::{self, Files, SideResult};
use super::{Job, Subject, watches};
use crate::context::Context;
use crate::engine::Usable;
use crate::error::{Error, chain};
use crate::sandbox;
use crate::spec::Shm;

/// Time for CRIU to freeze the tasks.
const FREEZE: Duration = Duration::from_secs(10);

/// Everything but CRIU's debug messages, of which it writes 17 for each MiB of memory.
const LOG_LEVEL: u8 = 3;

/// One dump.
pub(super) struct Frame<'a> {
    pub(super) of: Of<'a>,
    /// CRIU's images.
    pub(super) images: &'a OwnedFd,
    pub(super) pages: PageCapture,
    /// How many page images have a pipe.
    pub(super) pipes: u32,
    pub(super) deadline: Instant,
    /// Copy-on-write, unless it is not possible here.
    pub(super) protection: Option<Protection>,
    /// Whether the container ran on before its memory was in the archive.
    pub(super) protected: bool,
    /// How long the container stood still.
    pub(super) frozen: Duration,
    /// What happened between `query-ext-files` and `post-dump`.
    pub(super) outcome: Option<Result<Files, Error>>,
}

/// What goes on while CRIU holds the tasks.
#[derive(Debug)]
struct Standing<'scope> {
    since: Instant,
    at: SystemTime,
    sides: Vec<ScopedJoinHandle<'scope, SideResult>>,
}

impl Frame<'_> {
    /// Dumps the container.
    pub(super) fn dump(
        &mut self,
        engine: &Usable,
        mut options: DumpOptions<'_>,
        token: &CancelToken,
    ) -> Result<(), criu_rpc::Error> {
        let dumped = self.attempt(engine, &options, token);
        let Some(protection) = self.protection.take() else {
            return dumped;
        };
        // CRIU that was killed, or does not end, is no reason to try again.
        let failed = matches!(
            dumped,
            Err(criu_rpc::Error::Refused { .. } | criu_rpc::Error::Criu { .. })
        );
        let in_vain = failed && !protection.is_held_by_criu();
        let reason = protection.refusal().map(str::to_owned);
        // From here on nothing is frozen but by CRIU.
        drop(protection);
        if !in_vain || self.of.job.cancel.reason().is_some() {
            return dumped;
        }
        info!(container = %self.of.job.container.id, reason,
            "memory is copied while the container stands");
        options.freeze_cgroup = None;
        self.attempt(engine, &options, token)
    }

    fn attempt(
        &mut self,
        engine: &Usable,
        options: &DumpOptions<'_>,
        token: &CancelToken,
    ) -> Result<(), criu_rpc::Error> {
        let (of, until) = (self.of, Deadline::at(self.deadline));
        std::thread::scope(|scope| {
            let mut standing = None;
            let begin = Instant::now();
            let report = engine.criu.dump(options, until, token, &mut |stage| {
                debug!(container = %of.job.container.id, %stage, after_ms = milliseconds(begin),
                    "CRIU's dump");
                match stage {
                    Notify::PreDump => self.protect(until)?,
                    Notify::QueryExtFiles => {
                        let since = self.seized();
                        standing = Some(of.capture(scope, since));
                    }
                    Notify::PostDump => {
                        if let Some(standing) = standing.take() {
                            self.complete(standing, until)?;
                        }
                    }
                    _ => {}
                }
                Ok(NotifyReply::Continue)
            });
            report.map(drop)
        })
    }

    fn protect(&mut self, until: Deadline) -> Result<(), BoxError> {
        match &mut self.protection {
            Some(protection) => protection.hold(until),
            None => Ok(()),
        }
    }

    /// CRIU holds the tasks, and has not touched their memory yet.
    fn seized(&mut self) -> Instant {
        let held = self.protection.as_mut().and_then(Protection::hand_over);
        if held.is_some() {
            self.pages.protect();
            self.protected = true;
        }
        held.unwrap_or_else(Instant::now)
    }

    /// Everything that must be of this moment is taken; then the tasks may run on.
    fn complete(&mut self, standing: Standing<'_>, until: Deadline) -> Result<(), BoxError> {
        let Standing { since, at, sides } = standing;
        let files = sides::finish(sides, self.of, at, until).and_then(|files| {
            self.memory(until)?;
            Ok(files)
        });
        self.frozen = since.elapsed();
        let refused = files.as_ref().err().map(|error| chain(error));
        self.outcome = Some(files);
        refused.map_or(Ok(()), |problem| Err(BoxError::from(problem)))
    }

    fn memory(&mut self, until: Deadline) -> Result<(), Error> {
        self.pages.drained(until).map_err(archive_error)?;
        if let Some(protection) = &self.protection {
            let parts = protection.unprotected(self.images, self.pipes);
            self.pages.land(&parts, until).map_err(archive_error)?;
        }
        Ok(())
    }
}

/// What is dumped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Of<'a> {
    pub(super) ctx: &'a Context,
    pub(super) job: &'a Job,
    pub(super) subject: &'a Subject,
    pub(super) mounts: &'a DumpMounts,
}

impl Of<'_> {
    /// Begins to capture files, a thread each.
    fn capture<'scope>(self, scope: &'scope Scope<'scope, '_>, since: Instant) -> Standing<'scope>
    where
        Self: 'scope,
    {
        let Self {
            ctx,
            job,
            subject,
            mounts,
        } = self;
        let mut standing = Standing {
            since,
            at: SystemTime::now(),
            sides: vec![scope.spawn(move || sides::rootfs(job, subject))],
        };
        for tmpfs in &mounts.tmpfs {
            let (path, member) = (&tmpfs.destination, tmpfs.member.clone());
            let side = scope.spawn(move || sides::tree(job, subject.init, path, member));
            standing.sides.push(side);
        }
        // The host's is not captured, and one of its own is a tmpfs among the others.
        if let Shm::Pod(shm) = sandbox::shm(&ctx.config, &job.sandbox, &job.container) {
            let side = scope.spawn(move || sides::pod_shm(job, &shm));
            standing.sides.push(side);
        }
        standing
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// CRIU's options for this container.
///
/// # Errors
///
/// [`Error::Failed`] when its namespaces cannot be looked at.
pub(super) fn options<'a>(
    ctx: &Context,
    job: &Job,
    subject: &'a Subject,
    scan: &Scan,
    mounts: &DumpMounts,
    (images, work): (&'a OwnedFd, &'a OwnedFd),
) -> Result<DumpOptions<'a>, Error> {
    let mut external = Vec::new();
    for (kind, key) in [("net", "extRootNetNS"), ("pid", "extRootPidNS")] {
        let name = if kind == "net" { "network" } else { kind };
        if given_by_path(&subject.spec, name) {
            let path = PathBuf::from(format!("/proc/{}/ns/{kind}", subject.init));
            let inode =
                sys::ns::inode(&path).map_err(|error| Error::io("look at", &path, error))?;
            external.push(format!("{kind}[{inode}]:{key}"));
        }
    }
    let ghost = ctx.config.checkpoint.ghost_limit_bytes;
    Ok(DumpOptions {
        root: Some(&subject.merged),
        leave_running: true,
        external,
        ext_mounts: mounts.external.clone(),
        ext_masters: true,
        ghost_limit_bytes: u32::try_from(ghost).unwrap_or(u32::MAX),
        irmap_scan_paths: watches::find(&subject.merged, &scan.watches),
        timeout: Some(FREEZE),
        orphan_pts_master: job.container.config.tty,
        log_level: LOG_LEVEL,
        ..DumpOptions::new(subject.init, images.as_fd(), work.as_fd())
    })
}

/// Whether the spec takes a namespace from a path.
fn given_by_path(spec: &serde_json::Value, kind: &str) -> bool {
    let list = spec
        .pointer("/linux/namespaces")
        .and_then(serde_json::Value::as_array);
    list.into_iter().flatten().any(|namespace| {
        namespace.get("type").and_then(serde_json::Value::as_str) == Some(kind)
            && namespace
                .get("path")
                .and_then(serde_json::Value::as_str)
                .is_some()
    })
}
