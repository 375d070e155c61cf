//! Options of a dump.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::common::{Common, c_bytes, flag, path, refused};
use super::{CgroupMode, CpuCheck, NetworkLock};
use crate::Error;
use crate::proto::CriuOpts;

/// What to dump, and how. Paths in options are C strings: no NUL bytes.
#[derive(Debug, Clone)]
pub struct DumpOptions<'a> {
    /// Root of the tree, in the PID namespace of this process and of CRIU.
    pub pid: u32,
    /// Where the images go. CRIU opens it through `/proc/PID/fd` of this process.
    pub images_dir: BorrowedFd<'a>,
    /// Where the log goes.
    pub work_dir: BorrowedFd<'a>,
    /// The tree's root directory as this process sees it.
    pub root: Option<&'a Path>,
    /// Let the tasks run on after the dump instead of killing them.
    pub leave_running: bool,
    /// Leave the tasks stopped after the dump.
    pub leave_stopped: bool,
    /// External resources, in CRIU's notation: `net[4026531840]:extRootNetNS`, `file[12:34]`, …
    pub external: Vec<String>,
    /// External mounts: mount point in the tree, name to store.
    pub ext_mounts: Vec<(String, String)>,
    /// Mounts of the host that the tree's mounts are slaves of are external, too.
    pub ext_masters: bool,
    /// Mounts of the host that the tree's mounts share with are external, too.
    pub ext_sharing: bool,
    /// Dump established TCP connections as closed ones; the running original keeps them.
    pub tcp_close: bool,
    /// Dump established TCP connections.
    pub tcp_established: bool,
    /// Leave out connections that a listener has not accepted yet.
    pub tcp_skip_in_flight: bool,
    /// Dump file locks.
    pub file_locks: bool,
    /// Give files that were unlinked but have another name a name of CRIU's
    /// (`link_remap.N` beside that other name), which is removed after `post-dump`.
    pub link_remap: bool,
    /// Largest deleted file whose content is put into the images.
    pub ghost_limit_bytes: u32,
    /// Accept a terminal whose master nobody in the tree holds.
    pub orphan_pts_master: bool,
    /// Accept a tree that does not lead its session.
    pub shell_job: bool,
    /// Accept unix datagram sockets connected to the outside.
    pub ext_unix_sk: bool,
    /// Cgroups.
    pub cgroup_mode: CgroupMode,
    /// A directory that holds the cgroup hierarchies, so that CRIU mounts none.
    pub cgroup_yard: Option<&'a Path>,
    /// Network.
    pub network_lock: NetworkLock,
    /// Where to look for the paths of watched inodes.
    pub irmap_scan_paths: Vec<PathBuf>,
    /// Look there at once, even where the file handle would do.
    pub force_irmap: bool,
    /// The freezer cgroup to freeze the tree with; without it, ptrace does.
    pub freeze_cgroup: Option<&'a Path>,
    /// How long freezing may take; CRIU's default is 10 s. Rounded up to seconds.
    pub timeout: Option<Duration>,
    /// Namespaces to record as empty ones (`CLONE_NEW*`).
    pub empty_namespaces: u32,
    /// CPU.
    pub cpu_check: CpuCheck,
    /// 0 to 4. At 4 CRIU writes some 90 KB for a small container.
    pub log_level: u8,
    /// A plain name in `work_dir`.
    pub log_file: &'a str,
    /// A configuration file, which wins over everything here. For what the protocol lacks
    /// (`allow-uprobes`). Never one that others can write: it may name programs to run.
    pub config_file: Option<&'a Path>,
}

impl<'a> DumpOptions<'a> {
    /// The set proven for containers: the network untouched, connections closed in the image only,
    /// cgroups ignored, locks kept, deleted files up to 256 MiB kept.
    #[must_use]
    pub fn new(pid: u32, images_dir: BorrowedFd<'a>, work_dir: BorrowedFd<'a>) -> Self {
        Self {
            pid,
            images_dir,
            work_dir,
            root: None,
            leave_running: false,
            leave_stopped: false,
            external: Vec::new(),
            ext_mounts: Vec::new(),
            ext_masters: false,
            ext_sharing: false,
            tcp_close: true,
            tcp_established: false,
            tcp_skip_in_flight: false,
            file_locks: true,
            link_remap: true,
            ghost_limit_bytes: 256 << 20,
            orphan_pts_master: true,
            shell_job: false,
            ext_unix_sk: false,
            cgroup_mode: CgroupMode::Ignore,
            cgroup_yard: None,
            network_lock: NetworkLock::Skip,
            irmap_scan_paths: Vec::new(),
            force_irmap: false,
            freeze_cgroup: None,
            timeout: None,
            empty_namespaces: 0,
            cpu_check: CpuCheck::Default,
            log_level: 4,
            log_file: "dump.log",
            config_file: None,
        }
    }

    pub(crate) fn to_proto(&self) -> Result<CriuOpts, Error> {
        let pid = i32::try_from(self.pid).ok().filter(|pid| *pid > 0);
        let pid = pid.ok_or_else(|| refused("pid", self.pid))?;
        let mut irmap = Vec::new();
        for path in &self.irmap_scan_paths {
            irmap.push(c_bytes("irmap_scan_paths", path)?);
        }
        Ok(CriuOpts {
            pid: Some(pid),
            leave_running: Some(self.leave_running),
            leave_stopped: flag(self.leave_stopped),
            tcp_skip_in_flight: flag(self.tcp_skip_in_flight),
            link_remap: flag(self.link_remap),
            ghost_limit: Some(self.ghost_limit_bytes),
            ext_unix_sk: flag(self.ext_unix_sk),
            irmap_scan_paths: irmap,
            force_irmap: flag(self.force_irmap),
            freeze_cgroup: path("freeze_cgroup", self.freeze_cgroup)?,
            timeout: self.timeout.map(seconds_up),
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

fn seconds_up(duration: Duration) -> u32 {
    let seconds = duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0));
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
