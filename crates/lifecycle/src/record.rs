//! What is stored of a sandbox and of a container.
//!
//! ```text
//! sandbox                                   container
//!   Creating ──▶ Ready ──▶ Stopped            Creating ──▶ Created ──▶ Running ──▶ Exited
//!      └───────────▲──────────┘                   │            └───────────▲─────────┘
//!   (a failed or interrupted creation             └── undone and forgotten; what cannot be
//!    is undone and forgotten)                         reconciled becomes Unknown
//! ```
//!
//! `Creating` is the stored intent: whoever finds it after a restart undoes the creation. A record
//! of an unknown version is refused, never guessed at. New fields get `#[serde(default)]`.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::model::{
    ContainerConfig, ContainerId, ContainerPhase, ContainerSnapshot, Exit, RestoredFrom,
    SandboxConfig, SandboxId, SandboxPhase, SandboxSnapshot,
};

/// Version of both records that this code writes.
pub(crate) const VERSION: u32 = 1;

/// A process and when it started: together they name it for one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Process id on the host.
    pub(crate) pid: u32,
    /// Start time in clock ticks since boot.
    pub(crate) start_time: u64,
}

impl ProcessId {
    /// Reads the start time of a process that is known to run.
    pub(crate) fn of(pid: u32) -> std::io::Result<Self> {
        Ok(Self {
            pid,
            start_time: sys::proc::start_time(pid)?,
        })
    }

    /// Whether this very process still exists (a zombie does).
    pub(crate) fn exists(self) -> bool {
        sys::proc::start_time(self.pid).is_ok_and(|time| time == self.start_time)
    }
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SandboxState {
    /// Being built.
    Creating,
    /// Usable.
    Ready,
    /// Network and namespaces are going, or gone when the record says `torn_down`.
    Stopped,
}

/// One sandbox on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) version: u32,
    pub(crate) id: SandboxId,
    pub(crate) config: SandboxConfig,
    /// As requested; empty is the default.
    pub(crate) requested_handler: String,
    /// The handler that it got, for good.
    pub(crate) handler: String,
    pub(crate) state: SandboxState,
    pub(crate) created_at: SystemTime,
    pub(crate) ips: Vec<String>,
    /// Boot on which its namespaces were made.
    pub(crate) boot_id: String,
    /// First process of the pod's pid namespace, where the pod shares one.
    pub(crate) init: Option<ProcessId>,
    /// Cgroup below which its containers live.
    pub(crate) cgroup_parent: String,
    /// Stopped, and nothing is left in the kernel and of the network. Records of daemons that did
    /// not know this field are taken down once more, which does no harm.
    #[serde(default)]
    pub(crate) torn_down: bool,
}

impl SandboxRecord {
    pub(crate) fn phase(&self) -> SandboxPhase {
        match self.state {
            SandboxState::Ready => SandboxPhase::Ready,
            SandboxState::Creating | SandboxState::Stopped => SandboxPhase::NotReady,
        }
    }

    pub(crate) fn snapshot(&self, netns: Option<PathBuf>) -> SandboxSnapshot {
        SandboxSnapshot {
            id: self.id.clone(),
            config: self.config.clone(),
            runtime_handler: self.requested_handler.clone(),
            phase: self.phase(),
            created_at: self.created_at,
            ips: self.ips.clone(),
            netns,
            init_pid: self.init.map(|init| init.pid),
        }
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ContainerState {
    /// Being built.
    Creating,
    /// Built; `init` is `None` for one that will be restored: it has no process yet.
    Created {
        /// The OCI runtime's waiting process.
        init: Option<ProcessId>,
    },
    /// Its program runs.
    Running {
        /// First process.
        init: ProcessId,
    },
    /// Ended.
    Exited(Exit),
    /// Store and kernel disagree.
    Unknown,
}

/// A container made from a checkpoint, before and after its restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestorePlan {
    /// For callers.
    pub(crate) from: RestoredFrom,
    /// The archive that was verified at create.
    pub(crate) archive: PathBuf,
}

/// One container on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) version: u32,
    pub(crate) id: ContainerId,
    pub(crate) sandbox_id: SandboxId,
    pub(crate) config: ContainerConfig,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    pub(crate) state: ContainerState,
    pub(crate) created_at: SystemTime,
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) restore: Option<RestorePlan>,
    /// uid, gid, supplemental groups of the first process.
    pub(crate) user: (u32, u32, Vec<u32>),
    pub(crate) stop_signal: i32,
    /// Cgroup path as the OCI runtime got it.
    pub(crate) cgroup: String,
    /// The monitor, while it runs.
    pub(crate) monitor: Option<ProcessId>,
    /// Boot on which its processes were made.
    pub(crate) boot_id: String,
}

impl ContainerRecord {
    pub(crate) fn phase(&self) -> ContainerPhase {
        match self.state {
            ContainerState::Creating | ContainerState::Created { .. } => ContainerPhase::Created,
            ContainerState::Running { .. } => ContainerPhase::Running,
            ContainerState::Exited(_) => ContainerPhase::Exited,
            ContainerState::Unknown => ContainerPhase::Unknown,
        }
    }

    /// The first process, if there is one.
    pub(crate) fn init(&self) -> Option<ProcessId> {
        match self.state {
            ContainerState::Created { init } => init,
            ContainerState::Running { init } => Some(init),
            _ => None,
        }
    }

    pub(crate) fn snapshot(&self, handler: &str) -> ContainerSnapshot {
        ContainerSnapshot {
            id: self.id.clone(),
            sandbox_id: self.sandbox_id.clone(),
            config: self.config.clone(),
            image_id: self.image_id.clone(),
            image_ref: self.image_ref.clone(),
            runtime_handler: handler.to_owned(),
            phase: self.phase(),
            created_at: self.created_at,
            started_at: self.started_at,
            pid: match self.state {
                ContainerState::Running { init } => Some(init.pid),
                _ => None,
            },
            exit: match &self.state {
                ContainerState::Exited(exit) => Some(exit.clone()),
                _ => None,
            },
            log_path: self.log_path.clone(),
            restored_from: self.restore.as_ref().map(|restore| restore.from.clone()),
            user: self.user.clone(),
            stop_signal: self.stop_signal,
        }
    }
}
