//! Options of a restore.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::common::{Common, c_bytes, flag, text};
use super::{CgroupMode, CpuCheck, NetworkLock};
use crate::Error;
use crate::proto::{self, CriuOpts};

/// A descriptor that stands for an external resource of the images.
#[derive(Debug, Clone)]
pub struct InheritFd<'a> {
    /// `pipe:[INODE]`, `extRootNetNS`, a path without its leading slash, …
    pub key: String,
    /// What to use for it.
    pub fd: BorrowedFd<'a>,
}

/// A namespace to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinNamespace {
    /// `net`, `ipc`, `uts`, `mnt`, `user` or `time`.
    pub kind: String,
    /// The namespace's file.
    pub path: PathBuf,
    /// For user namespaces: `UID,GID`.
    pub extra: Option<String>,
}

/// A cgroup for the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupRoot {
    /// The hierarchy's controllers as in `/proc/PID/cgroup`; absent means all.
    pub controllers: Option<String>,
    /// Path in the hierarchy.
    pub path: String,
}

/// Standard descriptors of the CRIU process, which tasks get where `inherit_fds` names them.
#[derive(Debug, Default)]
pub enum RestoreStdio {
    /// `/dev/null`, three times.
    #[default]
    Null,
    /// Standard input, output, error.
    Fds([OwnedFd; 3]),
}

/// What to restore, and how.
#[derive(Debug)]
pub struct RestoreOptions<'a> {
    /// Where the images are. CRIU opens it through `/proc/PID/fd` of this process.
    pub images_dir: BorrowedFd<'a>,
    /// Where the log goes.
    pub work_dir: BorrowedFd<'a>,
    /// The tree's root directory, a mount point, as this process sees it.
    pub root: Option<&'a Path>,
    /// External resources, in CRIU's notation.
    pub external: Vec<String>,
    /// External mounts: stored name, path of the host to bind.
    pub ext_mounts: Vec<(String, String)>,
    /// See [`crate::DumpOptions::ext_masters`].
    pub ext_masters: bool,
    /// See [`crate::DumpOptions::ext_sharing`].
    pub ext_sharing: bool,
    /// Descriptors for external resources.
    pub inherit_fds: Vec<InheritFd<'a>>,
    /// Namespaces to join instead of making them.
    pub join_ns: Vec<JoinNamespace>,
    /// Make the tree's root a child of the calling process, whose to reap it then is. Without it
    /// the nearest subreaper gets it.
    pub rst_sibling: bool,
    /// Leave private memory to a `criu lazy-pages` that listens in `work_dir`.
    pub lazy_pages: bool,
    /// Use any path to a device when its own is not there.
    pub evasive_devices: bool,
    /// Established connections in the images come back closed. Needed where the dump had it.
    pub tcp_close: bool,
    /// Restore established connections.
    pub tcp_established: bool,
    /// Restore file locks. Needed where the dump had it.
    pub file_locks: bool,
    /// Hand over the master of an orphaned terminal ([`crate::Notify::OrphanPtsMaster`]).
    pub orphan_pts_master: bool,
    /// Needed where the dump had it.
    pub shell_job: bool,
    /// Cgroups.
    pub cgroup_mode: CgroupMode,
    /// Where to put the tree, unless the mode is [`CgroupMode::Ignore`].
    pub cgroup_roots: Vec<CgroupRoot>,
    /// See [`crate::DumpOptions::cgroup_yard`].
    pub cgroup_yard: Option<&'a Path>,
    /// Network.
    pub network_lock: NetworkLock,
    /// Security module's profile, `selinux:…` or `apparmor:…`, in place of the images'.
    pub lsm_profile: Option<String>,
    /// SELinux context for mounts, in place of the images'.
    pub lsm_mount_context: Option<String>,
    /// Go on when a sysctl cannot be set.
    pub weak_sysctls: bool,
    /// Accept files whose mode has changed.
    pub skip_file_rwx_check: bool,
    /// The mount engine for kernels before 5.15.
    pub mntns_compat_mode: bool,
    /// Namespaces to leave empty (`CLONE_NEW*`).
    pub empty_namespaces: u32,
    /// CPU.
    pub cpu_check: CpuCheck,
    /// Standard descriptors.
    pub stdio: RestoreStdio,
    /// 0 to 4.
    pub log_level: u8,
    /// A plain name in `work_dir`.
    pub log_file: &'a str,
    /// See [`crate::DumpOptions::config_file`].
    pub config_file: Option<&'a Path>,
}

impl<'a> RestoreOptions<'a> {
    /// The counterpart of [`crate::DumpOptions::new`].
    #[must_use]
    pub fn new(images_dir: BorrowedFd<'a>, work_dir: BorrowedFd<'a>) -> Self {
        Self {
            images_dir,
            work_dir,
            root: None,
            external: Vec::new(),
            ext_mounts: Vec::new(),
            ext_masters: false,
            ext_sharing: false,
            inherit_fds: Vec::new(),
            join_ns: Vec::new(),
            rst_sibling: false,
            lazy_pages: false,
            evasive_devices: true,
            tcp_close: true,
            tcp_established: false,
            file_locks: true,
            orphan_pts_master: true,
            shell_job: false,
            cgroup_mode: CgroupMode::Ignore,
            cgroup_roots: Vec::new(),
            cgroup_yard: None,
            network_lock: NetworkLock::Skip,
            lsm_profile: None,
            lsm_mount_context: None,
            weak_sysctls: false,
            skip_file_rwx_check: false,
            mntns_compat_mode: false,
            empty_namespaces: 0,
            cpu_check: CpuCheck::Default,
            stdio: RestoreStdio::Null,
            log_level: 4,
            log_file: "restore.log",
            config_file: None,
        }
    }

    /// `numbers` are those of `inherit_fds` in the CRIU process.
    pub(crate) fn to_proto(&self, numbers: &[i32]) -> Result<CriuOpts, Error> {
        let mut inherit = Vec::new();
        for (item, fd) in self.inherit_fds.iter().zip(numbers) {
            let key = c_bytes("inherit_fds", &item.key)?;
            inherit.push(proto::InheritFd { key, fd: *fd });
        }
        let mut join = Vec::new();
        for item in &self.join_ns {
            join.push(proto::JoinNamespace {
                ns: c_bytes("join_ns", &item.kind)?,
                ns_file: c_bytes("join_ns", &item.path)?,
                extra_opt: text("join_ns", item.extra.as_deref())?,
            });
        }
        let mut roots = Vec::new();
        for item in &self.cgroup_roots {
            roots.push(proto::CgroupRoot {
                ctrl: text("cgroup_roots", item.controllers.as_deref())?,
                path: c_bytes("cgroup_roots", &item.path)?,
            });
        }
        Ok(CriuOpts {
            inherit_fd: inherit,
            join_ns: join,
            cg_root: roots,
            rst_sibling: flag(self.rst_sibling),
            lazy_pages: flag(self.lazy_pages),
            evasive_devices: flag(self.evasive_devices),
            lsm_profile: text("lsm_profile", self.lsm_profile.as_deref())?,
            lsm_mount_context: text("lsm_mount_context", self.lsm_mount_context.as_deref())?,
            weak_sysctls: flag(self.weak_sysctls),
            skip_file_rwx_check: flag(self.skip_file_rwx_check),
            mntns_compat_mode: flag(self.mntns_compat_mode),
            ..Common {
                images_dir: self.images_dir,
                work_dir: self.work_dir,
                root: self.root,
                external: &self.external,
                ext_mounts: &self.ext_mounts,
                ext_masters: self.ext_masters,
                ext_sharing: self.ext_sharing,
                tcp_close: self.tcp_close,
                tcp_established: self.tcp_established,
                file_locks: self.file_locks,
                orphan_pts_master: self.orphan_pts_master,
                shell_job: self.shell_job,
                cgroup_mode: self.cgroup_mode,
                cgroup_yard: self.cgroup_yard,
                network_lock: self.network_lock,
                empty_namespaces: self.empty_namespaces,
                cpu_check: self.cpu_check,
                log_level: self.log_level,
                log_file: self.log_file,
                config_file: self.config_file,
            }
            .to_proto()?
        })
    }
}
