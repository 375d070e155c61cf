//! Copy-on-write capture: the container runs on while its memory is written down.
//!
//! ```text
//!  preconditions ─▶ holder ready ─▶ pre-dump: held ─▶ query-ext-files: handed over ─▶ post-dump ─▶ thawed
//!       │                │                │ refused            CRIU has seized the tasks and thawed
//!       └────────────────┴────────────────┴──▶ memory is copied while the container stands
//! ```
//! A process of its own (`monitor::Holder`) makes every process fork and freezes the cgroup. CRIU seizes
//! what is frozen, thaws the cgroup at once, and would freeze it again at its end: therefore it knows the
//! cgroup by a descriptor of this process only, which leads nowhere from when CRIU has the tasks (see
//! `freezer`). So nothing stays frozen when this process or CRIU is killed, whenever that is; and
//! [`super::recover`] thaws what is frozen when the holder was killed too.
//!
//! What fork does not protect, CRIU's images tell (`criu_images::live`); that is copied before the tasks
//! run on. Memory that came back from swap meanwhile may be anywhere: then everything is copied.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bundler::Part;
use criu_images::ImageSource;
use criu_images::live::{Written, live_parts};
use criu_rpc::BoxError;
use monitor::{Holder, WrittenArea};
use rustix::fs::{AtFlags, FileType, OFlags};
use sys::process::Deadline;
use tracing::{debug, info, warn};

use super::freezer::KnownFreezer;
use super::preflight::Scan;
use super::{Job, Subject};
use crate::context::Context;
use crate::error::chain;

/// Less memory is copied in less time than all of this takes.
const LEAST_BYTES: u64 = 48 << 20;

/// One container's protection.
#[derive(Debug)]
pub(super) struct Protection {
    hierarchies: sys::cgroup::Hierarchies,
    cgroup: String,
    /// The freezer's directory, for CRIU until it has seized the tasks.
    freezer: KnownFreezer,
    holder: Holder,
    /// Pages that had come back from swap before.
    swapped_in: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Prepared,
    Refused(String),
    Held {
        since: Instant,
        written: Vec<WrittenArea>,
    },
    HandedOver {
        written: Vec<WrittenArea>,
    },
}

impl Protection {
    /// Gets everything ready; `None` where a precondition does not hold.
    pub(super) fn prepare(
        ctx: &Context,
        job: &Job,
        subject: &Subject,
        scan: &Scan,
    ) -> Option<Self> {
        if !ctx.config.checkpoint.copy_on_write {
            return None;
        }
        match Self::try_prepare(ctx, job, subject, scan) {
            Ok(protection) => Some(protection),
            Err(reason) => {
                info!(container = %job.container.id, reason,
                    "memory is copied while the container stands");
                None
            }
        }
    }

    fn try_prepare(
        ctx: &Context,
        job: &Job,
        subject: &Subject,
        scan: &Scan,
    ) -> Result<Self, String> {
        let cgroup = &job.container.cgroup;
        preconditions(ctx, cgroup, scan)?;
        let freezer = ctx.hierarchies.directory("freezer", cgroup);
        let freezer = freezer.ok_or("there is no freezer")?;
        let scratch = ctx.config.container_run_dir(job.container.id.as_str());
        let known = KnownFreezer::open(&freezer, &scratch)
            .map_err(|error| format!("open {}: {error}", freezer.display()))?;
        let holder = Holder::start(&ctx.config.monitor, subject.init, &freezer);
        let holder = holder.map_err(|error| chain(&error))?;
        let stopper = holder.stopper().map_err(|error| chain(&error))?;
        job.cancel.on_cancel(move || stopper.stop());
        Ok(Self {
            hierarchies: ctx.hierarchies.clone(),
            cgroup: cgroup.clone(),
            freezer: known,
            holder,
            swapped_in: sys::sysinfo::pages_swapped_in()
                .map_err(|error| format!("look for swapping: {error}"))?,
            stage: Stage::Prepared,
        })
    }

    /// The freezer as CRIU is told of it.
    pub(super) fn path(&self) -> PathBuf {
        self.freezer.path()
    }

    /// Makes memory copy-on-write and freezes the container.
    ///
    /// # Errors
    ///
    /// When that is not possible; nothing is frozen once this value was dropped.
    pub(super) fn hold(&mut self, deadline: Deadline) -> Result<(), BoxError> {
        let since = Instant::now();
        match self.holder.freeze(deadline) {
            Ok(written) => {
                self.stage = Stage::Held { since, written };
                Ok(())
            }
            Err(error) => {
                let reason = chain(&error);
                self.stage = Stage::Refused(reason.clone());
                Err(reason.into())
            }
        }
    }

    /// CRIU has the tasks: it shall not freeze them again. Returns since when they stand, when they are
    /// protected.
    pub(super) fn hand_over(&mut self) -> Option<Instant> {
        if let Err(error) = self.freezer.lead_nowhere() {
            // CRIU will freeze what it thaws at its end; the drop of this value thaws it again.
            warn!(cgroup = self.cgroup, %error, "CRIU keeps the way to the freezer");
        }
        match std::mem::replace(&mut self.stage, Stage::Prepared) {
            Stage::Held { since, written } => match self.holder.release() {
                Ok(()) => {
                    self.stage = Stage::HandedOver { written };
                    Some(since)
                }
                // It may have thawed the tasks before CRIU had them; nothing of them is taken yet.
                Err(error) => {
                    self.stage = Stage::Refused(chain(&error));
                    None
                }
            },
            other => {
                self.stage = other;
                None
            }
        }
    }

    /// Whether CRIU got as far as holding protected tasks.
    pub(super) fn is_held_by_criu(&self) -> bool {
        matches!(self.stage, Stage::HandedOver { .. })
    }

    /// Why it was refused, if it was.
    pub(super) fn refusal(&self) -> Option<&str> {
        match &self.stage {
            Stage::Refused(reason) => Some(reason),
            _ => None,
        }
    }

    /// Parts of the page images in `images` that later writes would change; `pipes` is the number of page
    /// images that there can be.
    pub(super) fn unprotected(&self, images: &OwnedFd, pipes: u32) -> Vec<Part> {
        let Stage::HandedOver { written } = &self.stage else {
            return Vec::new();
        };
        let everything = || {
            let whole = |image| Part {
                image,
                begin: 0,
                end: u64::MAX,
            };
            (1..=pipes).map(whole).collect()
        };
        if sys::sysinfo::pages_swapped_in().ok() != Some(self.swapped_in) {
            return everything();
        }
        let written: Vec<_> = written
            .iter()
            .map(|area| Written {
                pid: area.pid,
                address: area.address,
                length: area.length,
            })
            .collect();
        match live_parts(&Directory(images), &written) {
            Ok(parts) => parts
                .into_iter()
                .map(|part| Part {
                    image: part.image,
                    begin: part.begin,
                    end: part.end,
                })
                .collect(),
            Err(error) => {
                debug!(error = chain(&error), "what is protected is not known");
                everything()
            }
        }
    }
}

impl Drop for Protection {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::HandedOver { .. }) {
            // CRIU may have had the file open for a moment; nothing else freezes the container.
            match self.hierarchies.thaw(&self.cgroup) {
                Ok(true) => warn!(
                    cgroup = self.cgroup,
                    "thawed a container that CRIU left frozen"
                ),
                Ok(false) => {}
                Err(error) => warn!(cgroup = self.cgroup, %error, "the freezer cannot be read"),
            }
        }
    }
}

/// What must hold, in the order of what it costs to know.
fn preconditions(ctx: &Context, cgroup: &str, scan: &Scan) -> Result<(), String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err("not on this architecture".into());
    }
    let memory = scan.all_memory_bytes();
    if memory < LEAST_BYTES {
        return Err(format!("only {memory} bytes of memory"));
    }
    if let Some(pid) = scan.stopped {
        return Err(format!("process {pid} is stopped"));
    }
    if scan.swapped_bytes > 0 {
        return Err(format!("{} bytes are swapped out", scan.swapped_bytes));
    }
    // What the container writes meanwhile takes its memory twice.
    let available = sys::sysinfo::available_memory_bytes()
        .map_err(|error| format!("look for free memory: {error}"))?;
    let headroom = ctx
        .hierarchies
        .memory_headroom(cgroup)
        .map_err(|error| format!("look for the memory limit: {error}"))?;
    let room = headroom.map_or(available, |headroom| headroom.min(available));
    if room < memory {
        return Err(format!("{room} bytes of room for {memory} bytes of memory"));
    }
    Ok(())
}

/// CRIU's images directory. Page images in it are pipes, and are not opened.
struct Directory<'a>(&'a OwnedFd);

impl ImageSource for Directory<'_> {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let readable =
            sys::fs::open_beneath(self.0, Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::new(readable)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let status = rustix::fs::statat(self.0, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(status.st_mode) == FileType::RegularFile {
                found.push((name, u64::try_from(status.st_size).unwrap_or(0)));
            }
        }
        Ok(found)
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read + '_>>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        match sys::fs::open_beneath(self.0, Path::new(name), flags) {
            Ok(file) => Ok(Some(Box::new(File::from(file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
