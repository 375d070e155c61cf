//! What the live request grants: the only source of rights of a restored container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::limits::Limits;
use crate::seccomp::SeccompProfile;

/// Everything the check holds the images against. All of it comes from the request, the OCI spec
/// that was made for it, and this node; nothing from the archive.
#[derive(Debug, Clone)]
pub struct Request {
    /// User, groups and capabilities of the container's process.
    pub credentials: Credentials,
    /// The profile the OCI runtime is asked for; `None` is unconfined.
    pub seccomp: Option<SeccompProfile>,
    /// What the security module's label must be.
    pub label: Label,
    /// Hard limits by resource number (`RLIMIT_*`): the request's, or those the OCI runtime's own
    /// processes have. A resource that is not listed may have any limit.
    pub rlimits: BTreeMap<u32, u64>,
    /// Lowest out-of-memory score adjustment a task may have.
    pub oom_score_adj: i32,
    /// Lowest nice value a task may have without `CAP_SYS_NICE`; 0 for ordinary containers.
    pub nice: i32,
    /// Namespaces of the container.
    pub namespaces: Namespaces,
    /// Every mount of the container, root included.
    pub mounts: Vec<ExpectedMount>,
    /// Whether tmpfs content may come from CRIU's own tar archives (`tmpfs-*.tar.gz.img`), which
    /// the host's `tar` unpacks.
    pub tmpfs_archives: bool,
    /// Bounds of counts and sizes.
    pub limits: Limits,
}

/// User, groups and capabilities (masks: bit n is capability n).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Bounding set: nothing in the container may ever have more.
    pub bounding: u64,
    /// Effective set at start.
    pub effective: u64,
    /// Permitted set at start.
    pub permitted: u64,
    /// Inheritable set at start.
    pub inheritable: u64,
    /// Ambient set at start.
    pub ambient: u64,
    /// Whether every thread must have `no_new_privs`.
    pub no_new_privs: bool,
}

impl Credentials {
    /// Whether the bounding set holds the capability of that number.
    #[must_use]
    pub fn bounds(&self, capability: u32) -> bool {
        1u64.checked_shl(capability)
            .is_some_and(|bit| self.bounding & bit != 0)
    }
}

/// What SELinux or AppArmor label the images may carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// The OCI runtime passes the request's label to CRIU, which then ignores the images'.
    Overridden,
    /// Every thread must have exactly this label, or none.
    Exactly(Option<String>),
}

/// Where a namespace of the container comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespace {
    /// The host's own.
    Host,
    /// Made by CRIU, as the images describe it.
    Own,
    /// It exists; CRIU joins it and makes nothing of what the images say about it. Network and pid
    /// namespaces must be marked external in the images by this key.
    External {
        /// The key (`extRootNetNS`, `extRootPidNS`); not looked at for other namespaces.
        key: String,
    },
}

/// Namespaces of the container. The mount namespace is always its own, the user namespace always
/// the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// Process ids.
    pub pid: Namespace,
    /// Network: `Host` or `External`.
    pub network: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// Host name that an own UTS namespace must have; `None` for any.
    pub hostname: Option<String>,
}

/// One mount of the container as thawd and the OCI runtime would make it.
///
/// How the entries of an OCI spec map (from the images of runc 1.1.5 on cgroup v1):
///
/// | spec | origin | restrictions |
/// |---|---|---|
/// | root filesystem | [`MountOrigin::Root`] | `read_only` when the spec's root is |
/// | proc, tmpfs, devpts, mqueue, sysfs, cgroup2 | [`MountOrigin::New`] | the spec's options |
/// | bind mount, and tmpfs that thawd keeps itself | [`MountOrigin::External`], key = mount point | the spec's options |
/// | `cgroup` on cgroup v1 | `New` tmpfs at the mount point, and below it [`Presence::EachChild`] external | the spec's options for the children |
/// | `readonlyPaths` | [`MountOrigin::Part`] of `/proc` or `/sys`, root = path within it | `read_only` and those of the mount it is part of |
/// | `maskedPaths`, a file | `External`, keys `/dev/null` (runc) and the path (crun), `within` `/dev` | none |
/// | `maskedPaths`, a directory | `New` tmpfs (runc), or `External` with the path as key (crun) | `read_only` |
/// | the terminal at `/dev/console` | `Part` of `/dev/pts` with [`PartRoot::Number`] | none |
///
/// Masked and read-only paths are [`Presence::Required`] where the path exists on this node,
/// [`Presence::Optional`] elsewhere. Two alternatives for one mount point are written as two
/// entries in one [`ExpectedMount::origins`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedMount {
    /// Absolute path in the container.
    pub mountpoint: PathBuf,
    /// What may be mounted there: any one of these.
    pub origins: Vec<MountOrigin>,
    /// Flags that must be set. More restrictions than these are accepted.
    pub restrictions: Restrictions,
    /// How the mount receives and sends mount events.
    pub propagation: Propagation,
    /// Whether it must be there.
    pub presence: Presence,
}

/// Whether an expected mount must be in the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It must.
    Required,
    /// It may be missing.
    Optional,
    /// The entry stands for any number of mounts directly below the mount point. An external one
    /// must have its own mount point as key, whatever keys the origin lists.
    EachChild,
}

/// Propagation of mount events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// None.
    Private,
    /// Receives the host's.
    Slave,
    /// Both ways (CRI `PROPAGATION_BIDIRECTIONAL`).
    Shared,
}

/// Where the content of a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountOrigin {
    /// The root filesystem, which the OCI runtime hands to CRIU.
    Root,
    /// CRIU is told what to mount by the OCI runtime, under one of these keys.
    External {
        /// Accepted values of `ext_key`.
        keys: Vec<String>,
        /// The mount whose filesystem honest images show here, where there is one: `/dev` for
        /// masked files.
        within: Option<PathBuf>,
    },
    /// CRIU mounts a new filesystem.
    New {
        /// Its type.
        filesystem: Filesystem,
        /// Options as in the spec (`size=65536k`, `mode=755`, `hidepid=2`).
        options: Vec<String>,
    },
    /// A directory or file of another mount of this container.
    Part {
        /// Mount point of that mount.
        of: PathBuf,
        /// Path within its filesystem.
        root: PartRoot,
    },
}

/// Path of a bind mount within its filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartRoot {
    /// Exactly this (`/sys` for `/proc/sys`).
    Exactly(String),
    /// A slash and a number: a pseudo-terminal.
    Number,
}

/// Filesystems that CRIU may mount for a container. All others are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filesystem {
    /// proc.
    Proc,
    /// sysfs.
    Sysfs,
    /// tmpfs.
    Tmpfs,
    /// devpts.
    Devpts,
    /// mqueue.
    Mqueue,
    /// cgroup v2.
    Cgroup2,
}

/// Mount flags that must be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restrictions {
    /// `ro`.
    pub read_only: bool,
    /// `nosuid`.
    pub nosuid: bool,
    /// `nodev`.
    pub nodev: bool,
    /// `noexec`.
    pub noexec: bool,
}

impl Restrictions {
    /// Those among an OCI mount's options; others are ignored.
    #[must_use]
    pub fn from_options<S: AsRef<str>>(options: &[S]) -> Self {
        let has = |name: &str| options.iter().any(|option| option.as_ref() == name);
        Self {
            read_only: has("ro"),
            nosuid: has("nosuid"),
            nodev: has("nodev"),
            noexec: has("noexec"),
        }
    }
}
