//! Before CRIU may run: images against the request, paths against links, overlay changes applied.

use std::path::{Path, PathBuf};

use criu_images::policy::{self as images_policy, FilePath, PathUse};
use criu_images::repair::{
    CoreEdits, bind_cgroups, edit_core, forget_security_module, rearm_timers, set_host_name,
};
use criu_images::{Violation, ViolationKind};
use rustix::fs::OFlags;

use super::labels::Relabelling;
use super::{policy, staging, start, tmpfs};
use crate::bundle;
use crate::checkpoint::mounts;
use crate::context::Context;
use crate::error::{Error, chain};
use crate::record::{ContainerRecord, SandboxRecord};
use crate::spec::{CGROUPS, Shm};

/// Largest image that is repaired, in bytes; a larger one is refused as malformed.
const REPAIR_BYTES: usize = 256 << 20;

/// Violations told at most.
const MOST: usize = 8;

/// Repairs and checks the staged images and applies the archive's overlay changes.
///
/// # Errors
///
/// [`Error::Denied`] naming task and field, mount, or path for images that ask for more than the
/// request; [`Error::Invalid`] for broken images and for overlay changes that leave the root;
/// [`Error::Precondition`] for a runtime that cannot restore.
pub(crate) fn check(
    ctx: &Context,
    sandbox: &SandboxRecord,
    record: &ContainerRecord,
    spec: &serde_json::Value,
    rootfs: &images::Rootfs,
) -> Result<(), Error> {
    ctx.runtimes.restores(&sandbox.handler)?;
    let directory = ctx.config.container_dir(record.id.as_str());
    let request = policy::request(spec)?;
    let staged = staging::Staged::open(&directory)?;
    for content in staging::manifest(&directory)?.tmpfs {
        tmpfs::purpose(spec, Path::new(&content.destination))?;
    }
    start::pod_shm(ctx, sandbox, record, &directory)?;
    let hostname = bundle::hostname(ctx, sandbox)?;
    let here = ctx.apparmor.labels(ctx.host.selinux);
    let mut labels = Relabelling::new(&request.label, here);
    let bound = mounts::binds(spec)
        .iter()
        .any(|place| place == Path::new(CGROUPS));
    repair(&directory, &staged, &request, &hostname, bound, &mut labels)?;
    labels.report(record.id.as_str());
    let summary = images_policy::check(&staged, &request).map_err(|found| explain(&found))?;
    if let Some(diff) = staging::open(&directory, bundler::names::ROOTFS_DIFF)? {
        let root = sys::fs::open_dir(&rootfs.merged)
            .map_err(|error| Error::io("open", &rootfs.merged, error))?;
        bundler::apply_overlay_diff(diff, &root, &bundler::Limits::rootfs())
            .map_err(|error| Error::invalid(bundler::names::ROOTFS_DIFF, chain(&error)))?;
    }
    let shm = crate::sandbox::shm(&ctx.config, sandbox, record);
    let later = free_of_links(&summary.paths, &bases(spec, &rootfs.merged, shm))?;
    staging::keep_tmpfs_paths(&directory, &later)?;
    staged.finish(&directory)
}

/// Privilege violations decide the answer: they are told even when others stand beside them.
fn explain(found: &[Violation]) -> Error {
    let list: Vec<String> = found.iter().take(MOST).map(ToString::to_string).collect();
    let text = list.join("; ");
    if found
        .iter()
        .any(|violation| violation.kind == ViolationKind::Privilege)
    {
        Error::Denied(format!(
            "the checkpoint asks for more than the request grants: {text}"
        ))
    } else {
        Error::invalid("checkpoint images", text)
    }
}

/// What is repaired in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    Core,
    Files,
    HostName,
    Timers,
    Inventory,
    Mounts,
}

impl Repair {
    fn of(name: &str) -> Option<Self> {
        match name {
            "files.img" => Some(Self::Timers),
            "inventory.img" => Some(Self::Inventory),
            _ if name.starts_with("core-") => Some(Self::Core),
            _ if name.starts_with("fdinfo-") => Some(Self::Files),
            _ if name.starts_with("utsns-") => Some(Self::HostName),
            _ if name.starts_with("mountpoints-") => Some(Self::Mounts),
            _ => None,
        }
    }
}

/// Edits what CRIU would restore wrongly (a periodic timer whose expiry was not read), and what
/// belongs to the node and pod of the dump: OOM score, login id, limits above this node's, host name,
/// security labels that mean nothing here. Where the request binds the host's cgroups, so does the restore.
fn repair(
    directory: &Path,
    staged: &staging::Staged,
    request: &images_policy::Request,
    hostname: &str,
    cgroups_bound: bool,
    labels: &mut Relabelling<'_>,
) -> Result<(), Error> {
    use criu_images::ImageSource as _;
    let edits = CoreEdits {
        oom_score_adj_at_least: Some(request.oom_score_adj),
        forget_login: true,
        rlimits_at_most: request.rlimits.clone(),
    };
    let failed = |error: std::io::Error| Error::failed("repair CRIU's images", error);
    for (name, _) in staged.list().map_err(failed)? {
        let wanted = |kind: &Repair| cgroups_bound || *kind != Repair::Mounts;
        let Some(kind) = Repair::of(&name).filter(wanted) else {
            continue;
        };
        let bytes = staged.read_at(&name, 0, REPAIR_BYTES).map_err(failed)?;
        let repaired = match kind {
            Repair::Core => edit_core(&bytes, &edits).and_then(|image| labels.core(&image)),
            Repair::Files => labels.files(&bytes),
            Repair::HostName => set_host_name(&bytes, hostname),
            Repair::Timers => rearm_timers(&bytes).map(|(image, _)| image),
            Repair::Inventory => forget_security_module(&bytes),
            Repair::Mounts => bind_cgroups(&bytes, CGROUPS),
        };
        let repaired = repaired.map_err(|error| Error::invalid(&name, chain(&error)))?;
        if repaired != bytes {
            let path = staging::images(directory).join(&name);
            sys::fs::replace_path(&path, 0o600, &repaired).map_err(failed)?;
        }
    }
    Ok(())
}

/// Mount points whose content this host has, and where.
fn bases(spec: &serde_json::Value, merged: &Path, shm: Shm) -> Vec<(PathBuf, PathBuf)> {
    let mut bases = vec![(PathBuf::from("/"), merged.to_path_buf())];
    let mounts = spec.get("mounts").and_then(serde_json::Value::as_array);
    for mount in mounts.into_iter().flatten() {
        let text = |key: &str| mount.get(key).and_then(serde_json::Value::as_str);
        let (Some(destination), Some(source)) = (text("destination"), text("source")) else {
            continue;
        };
        if Path::new(source).is_absolute() {
            bases.push((destination.into(), source.into()));
        }
    }
    let place = PathBuf::from("/dev/shm");
    match shm {
        Shm::Pod(path) => bases.push((place, path)),
        Shm::Host => bases.push((place.clone(), place)),
        Shm::Own { .. } => {}
    }
    bases
}

/// CRIU follows links in the paths it opens, so none may have any. Paths on tmpfs mounts, which are
/// filled at the start, are returned: the mount point, and the path within it.
fn free_of_links(
    paths: &[FilePath],
    bases: &[(PathBuf, PathBuf)],
) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    let mut later = Vec::new();
    for path in paths {
        let Ok(inner) = path.path.strip_prefix(&path.mountpoint) else {
            continue;
        };
        let checked = match path.purpose {
            PathUse::Deleted | PathUse::OpenLink | PathUse::SocketParent => inner.parent(),
            PathUse::MountPoint | PathUse::Open | PathUse::Watch => Some(inner),
        };
        let Some(checked) = checked.filter(|path| !path.as_os_str().is_empty()) else {
            continue;
        };
        match bases
            .iter()
            .rev()
            .find(|(mount_point, _)| *mount_point == path.mountpoint)
        {
            Some((_, host)) => no_link(host, checked, &path.path)?,
            None => later.push((path.mountpoint.clone(), checked.to_path_buf())),
        }
    }
    Ok(later)
}

/// Refuses a link anywhere on the way from `host` to `inner`; `shown` is the path as the container
/// sees it.
pub(super) fn no_link(host: &Path, inner: &Path, shown: &Path) -> Result<(), Error> {
    let root = sys::fs::open_no_symlinks(host, OFlags::PATH | OFlags::CLOEXEC)
        .map_err(|error| Error::io("open", host, error))?;
    match sys::fs::open_beneath(&root, inner, OFlags::PATH | OFlags::CLOEXEC) {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            // What is missing is CRIU's to report; it creates nothing.
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Ok(()),
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                let shown = shown.display();
                let problem =
                    format!("path {shown} of the checkpoint leads through a symbolic link");
                Err(Error::Denied(problem))
            }
            _ => Err(Error::io("look at", host.join(inner), error)),
        },
    }
}
