//! What a spec needs to know of this host: the only module here that looks at files.
//!
//! [`HostFacts`] are gathered once at start. Mount sources and devices are looked at once per
//! container, before [`build`](super::build).

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sys::cgroup::Hierarchies;
use sys::mount::MountInfo;

use crate::error::Error;
use crate::model::{Device, Mount, Propagation};

/// Most device nodes that are given to one container.
const MAX_DEVICES: usize = 16_384;

/// A pair of resource limits (getrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// In force.
    pub soft: u64,
    /// Up to which a process may raise it.
    pub hard: u64,
}

/// Facts about the host and this daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Bounding set of this daemon.
    pub bounding_set: u64,
    /// `oom_score_adj` of this daemon.
    pub oom_score_adj: i64,
    /// Whether it may set a lower one than its own (CAP_SYS_RESOURCE).
    pub may_lower_oom: bool,
    /// RLIMIT_NOFILE of this daemon.
    pub open_files: Limit,
    /// Whether cgroup v2 is all there is; a hybrid host counts as v1.
    pub unified_cgroups: bool,
    /// Whether memory plus swap can be limited.
    pub swap_limits: bool,
    /// Cgroup controllers, without which there are no limits of their kind.
    pub controllers: BTreeSet<String>,
    /// Whether SELinux is on.
    pub selinux: bool,
    /// Machine as uname(2) tells it.
    pub machine: String,
    /// Kernel version.
    pub kernel: (u32, u32),
}

impl HostFacts {
    /// Looks at this host.
    ///
    /// # Errors
    ///
    /// What reading `/proc` returns.
    pub fn probe(hierarchies: &Hierarchies) -> io::Result<Self> {
        /// Number of CAP_SYS_RESOURCE.
        const SYS_RESOURCE: u64 = 1 << 24;
        let bounding_set = sys::proc::own_bounding_set()?;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let kernel = sys::sysinfo::kernel();
        let has = |controller: &str, file: &str| {
            let own = hierarchies.directory(controller, "/");
            own.is_some_and(|directory| directory.join(file).exists())
        };
        let unified_cgroups = hierarchies.is_unified();
        let swap_limits = if unified_cgroups {
            v2_swap_limits(hierarchies)
        } else {
            has("memory", "memory.memsw.limit_in_bytes")
        };
        let controllers = hierarchies.controllers()?;
        if !controllers.contains("memory") {
            tracing::warn!(
                ?controllers,
                "no cgroup controller for memory: containers with a memory limit are refused"
            );
        }
        Ok(Self {
            bounding_set,
            oom_score_adj: sys::proc::own_oom_score_adj()?,
            may_lower_oom: bounding_set & SYS_RESOURCE != 0,
            open_files: Limit {
                soft: limit.current.unwrap_or(u64::MAX),
                hard: limit.maximum.unwrap_or(u64::MAX),
            },
            unified_cgroups,
            swap_limits,
            controllers,
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            kernel: sys::sysinfo::kernel_version(&kernel.release).unwrap_or_default(),
            machine: kernel.machine,
        })
    }
}

/// The root cgroup has no `memory.swap.max`, so a child of it is looked at (cgroup-v2, "Memory").
fn v2_swap_limits(hierarchies: &Hierarchies) -> bool {
    let Some(root) = hierarchies.directory("", "/") else {
        return false;
    };
    let Ok(children) = fs::read_dir(root) else {
        return false;
    };
    children
        .flatten()
        .any(|child| child.path().join("memory.swap.max").exists())
}

/// A device node of the host and where the container has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Path in the container.
    pub path: PathBuf,
    /// Whether it is a block device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What the cgroup lets the container do with it: letters of `rwm`.
    pub access: String,
}

/// Looks requested devices up; a directory stands for every device below it.
///
/// # Errors
///
/// [`Error::Invalid`] for a path that is no device or directory of devices, or for permissions
/// that are not letters of `rwm`.
pub fn requested_devices(devices: &[Device]) -> Result<Vec<HostDevice>, Error> {
    let mut found = Vec::new();
    for device in devices {
        let access = match device.permissions.as_str() {
            "" => "rwm",
            letters if letters.chars().all(|letter| "rwm".contains(letter)) => letters,
            other => {
                let problem = format!("{other:?} is not made of the letters r, w and m");
                return Err(Error::invalid("devices.permissions", problem));
            }
        };
        let invalid = |problem: String| {
            Error::invalid(
                "devices.host_path",
                format!("{}: {problem}", device.host_path.display()),
            )
        };
        let source = device
            .host_path
            .canonicalize()
            .map_err(|error| invalid(error.to_string()))?;
        let metadata = fs::metadata(&source).map_err(|error| invalid(error.to_string()))?;
        if let Some(node) = node(&metadata, &device.container_path, access) {
            found.push(node);
        } else if metadata.is_dir() {
            let before = found.len();
            walk(&source, &device.container_path, access, &[], &mut found);
            if found.len() == before {
                return Err(invalid("no device in this directory".to_owned()));
            }
        } else {
            return Err(invalid("neither a device nor a directory".to_owned()));
        }
    }
    Ok(found)
}

/// Every device of the host, for privileged containers.
#[must_use]
pub fn all_devices() -> Vec<HostDevice> {
    /// Mounts of the container's own, and its terminal.
    const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", ".udev"];
    let mut found = Vec::new();
    let root = Path::new("/dev");
    walk(root, root, "rwm", &OWN, &mut found);
    found
}

fn walk(from: &Path, to: &Path, access: &str, skip: &[&str], found: &mut Vec<HostDevice>) {
    let mut pending = VecDeque::from([(from.to_path_buf(), to.to_path_buf())]);
    while let Some((from_dir, to_dir)) = pending.pop_front() {
        let Ok(entries) = fs::read_dir(&from_dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let top = from_dir == from;
            if found.len() >= MAX_DEVICES || (top && skip.iter().any(|skipped| name == *skipped)) {
                continue;
            }
            // Links are left out: what they name is found under its own name.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let path = to_dir.join(&name);
            if metadata.is_dir() {
                pending.push_back((entry.path(), path));
            } else if let Some(device) = node(&metadata, &path, access) {
                found.push(device);
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
}

fn node(metadata: &fs::Metadata, path: &Path, access: &str) -> Option<HostDevice> {
    let kind = metadata.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| HostDevice {
        path: path.to_path_buf(),
        block: kind.is_block_device(),
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.permissions().mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

/// Makes mount sources ready: links resolved, missing directories made (as the kubelet's peers do
/// for it), and shared where events are to travel. Returns the mounts with their real sources.
///
/// # Errors
///
/// [`Error::Invalid`] for a relative source, or one whose mount does not share its events though
/// the request's propagation needs it; [`Error::Failed`] when it cannot be made.
pub fn prepare_mounts(mounts: &[Mount]) -> Result<Vec<Mount>, Error> {
    let shares = mounts
        .iter()
        .any(|mount| mount.propagation != Propagation::Private);
    let table = if shares {
        sys::mount::mountinfo().map_err(|error| Error::failed("read the mount table", error))?
    } else {
        Vec::new()
    };
    mounts.iter().map(|mount| prepare(mount, &table)).collect()
}

fn prepare(mount: &Mount, table: &[MountInfo]) -> Result<Mount, Error> {
    let path = &mount.host_path;
    if !path.is_absolute() {
        let problem = format!("{} is not absolute", path.display());
        return Err(Error::invalid("mounts.host_path", problem));
    }
    if matches!(fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        sys::fs::make_dir_all(path, 0o755)
            .map_err(|error| Error::io("make the mount source", path, error))?;
    }
    let source = path
        .canonicalize()
        .map_err(|error| Error::io("resolve the mount source", path, error))?;
    check_propagation(&source, mount.propagation, table)?;
    Ok(Mount {
        host_path: source,
        ..mount.clone()
    })
}

fn check_propagation(
    source: &Path,
    propagation: Propagation,
    table: &[MountInfo],
) -> Result<(), Error> {
    let needed: &[&str] = match propagation {
        Propagation::Private => return Ok(()),
        Propagation::HostToContainer => &["shared:", "master:"],
        Propagation::Bidirectional => &["shared:"],
    };
    // The last of the longest: later mounts on one place hide earlier ones.
    let on = table
        .iter()
        .filter(|mount| source.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.components().count());
    let shares = on.is_some_and(|mount| {
        let tags = &mount.optional_fields;
        tags.iter()
            .any(|tag| needed.iter().any(|wanted| tag.starts_with(wanted)))
    });
    if shares {
        return Ok(());
    }
    let place = on.map_or(Path::new("/"), |mount| &mount.mount_point);
    let (place, source) = (place.display(), source.display());
    let wanted = if needed.len() == 1 {
        "a shared"
    } else {
        "a shared or slave"
    };
    let problem = format!("{source} is on the mount {place}, which is not {wanted} mount");
    Err(Error::invalid("mounts.propagation", problem))
}
