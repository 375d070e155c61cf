//! What the daemon is told at start; checked by the binary, only read here.

use std::path::PathBuf;
use std::time::Duration;

use crate::cgroups::DriverChoice;

/// One OCI runtime that sandboxes may ask for by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// The name in a RuntimeClass (`runc`, `crun`, …).
    pub name: String,
    /// The program; absolute, or looked up on the PATH.
    pub path: PathBuf,
}

/// Settings of checkpoint and restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// Where CRIU may be, in the order of preference; names without a slash are looked up on the
    /// PATH.
    pub criu: Vec<PathBuf>,
    /// Time for a checkpoint whose request names none.
    pub default_timeout: Duration,
    /// Largest deleted-but-open file that goes into an archive, in bytes.
    pub ghost_limit_bytes: u64,
    /// Whether containers run on while their memory is written down, where that is possible.
    pub copy_on_write: bool,
    /// Directories from which archives may be restored.
    pub restore_directories: Vec<PathBuf>,
    /// Largest time for a restore.
    pub restore_timeout: Duration,
}

/// Everything that [`Node::start`](crate::node::Node::start) needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Persistent files (`/var/lib/thawd`).
    pub root: PathBuf,
    /// Volatile files (`/run/thawd`).
    pub run: PathBuf,
    /// Runtime handlers; the first one that works and restores is the default.
    pub handlers: Vec<Handler>,
    /// The `thawd-monitor` program.
    pub monitor: PathBuf,
    /// The `thawd-criu-relay` program.
    pub relay: PathBuf,
    /// CNI configuration directories.
    pub cni_conf_dirs: Vec<PathBuf>,
    /// CNI plugin directories.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Who makes cgroups.
    pub cgroup_driver: DriverChoice,
    /// Cgroup under which pods without a parent of their own go: a path, or a systemd slice's name.
    pub cgroup_parent: String,
    /// Whether pods may use MPTCP (CRIU cannot dump it, so it is off by default).
    pub mptcp: bool,
    /// Bytes of a pod's /dev/shm.
    pub shm_bytes: u64,
    /// Checkpoint and restore.
    pub checkpoint: CheckpointConfig,
}

impl NodeConfig {
    /// The cgroup of the monitors: beside the pods' parent, so that two daemons on one host do not
    /// share it, and outside the daemon's own, which its service manager kills.
    #[must_use]
    pub fn monitors_cgroup(&self) -> String {
        let parent = self.cgroup_parent.trim_end_matches('/');
        match parent.strip_suffix(".slice").unwrap_or(parent) {
            "" | "-" => "/thawd-monitors".to_owned(),
            parent => format!("/{}-monitors", parent.trim_start_matches('/')),
        }
    }

    /// `<root>/containers/<id>`: bundle and restore staging of a container.
    #[must_use]
    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    /// `<run>/containers/<id>`: monitor socket and exit record.
    #[must_use]
    pub fn container_run_dir(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }

    /// `<root>/sandboxes/<id>`: the pod's resolv.conf, hosts and hostname.
    #[must_use]
    pub fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.root.join("sandboxes").join(id)
    }

    /// `<run>/sandboxes/<id>`: namespace pins and the pod's /dev/shm.
    #[must_use]
    pub fn sandbox_run_dir(&self, id: &str) -> PathBuf {
        self.run.join("sandboxes").join(id)
    }

    /// `<root>/checkpoints`: thawd's own directory of archives, always restorable from.
    #[must_use]
    pub fn own_checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// `<root>/criu-logs`: logs kept of failed checkpoints and restores.
    #[must_use]
    pub fn criu_logs(&self) -> PathBuf {
        self.root.join("criu-logs")
    }
}
