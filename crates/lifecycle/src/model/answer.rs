//! What a caller is told, and the short questions (filters, a checkpoint) that go with it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{ContainerConfig, ContainerId, Labels, SandboxConfig, SandboxId};

/// The state of a sandbox as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxPhase {
    /// Its namespaces are up and containers may be created in it.
    Ready,
    /// Stopped, or lost.
    NotReady,
}

/// What PodSandboxStatus and ListPodSandbox tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSnapshot {
    /// Id.
    pub id: SandboxId,
    /// The request it was made from.
    pub config: SandboxConfig,
    /// Handler asked for; empty is the default one.
    pub runtime_handler: String,
    /// State.
    pub phase: SandboxPhase,
    /// Time of creation.
    pub created_at: SystemTime,
    /// Addresses, the primary one first; empty for host-network pods.
    pub ips: Vec<String>,
    /// Path of the network namespace, `None` for host-network pods.
    pub netns: Option<PathBuf>,
    /// Init process of the pod's pid namespace where one is needed.
    pub init_pid: Option<u32>,
}

/// The state of a container as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerPhase {
    /// Created, the user's program has not begun.
    Created,
    /// Runs (also while a checkpoint is taken).
    Running,
    /// Ended.
    Exited,
    /// Store and kernel could not be reconciled; only stop and remove are accepted.
    Unknown,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal for a signal.
    pub code: u8,
    /// When.
    pub finished_at: SystemTime,
    /// The kernel's OOM killer ended the container's first process.
    pub oom_killed: bool,
    /// One CamelCase word: `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`.
    pub reason: String,
    /// For people; may be empty.
    pub message: String,
}

/// From which checkpoint a container was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredFrom {
    /// The archive's path or the checkpoint image's name, as requested.
    pub source: String,
    /// When the checkpoint was taken, as the archive says.
    pub checkpointed_at: SystemTime,
}

/// What ContainerStatus and ListContainers tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSnapshot {
    /// Id.
    pub id: ContainerId,
    /// Sandbox.
    pub sandbox_id: SandboxId,
    /// The request it was made from.
    pub config: ContainerConfig,
    /// Id of the image (`sha256:…` of its config).
    pub image_id: String,
    /// Digest reference (`repo@sha256:…`), or the image id when there is none.
    pub image_ref: String,
    /// Handler of the sandbox.
    pub runtime_handler: String,
    /// State.
    pub phase: ContainerPhase,
    /// Time of creation.
    pub created_at: SystemTime,
    /// When it was started or restored.
    pub started_at: Option<SystemTime>,
    /// Init process on the host while running.
    pub pid: Option<u32>,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// Absolute log path, if it logs.
    pub log_path: Option<PathBuf>,
    /// Set for a container made from a checkpoint.
    pub restored_from: Option<RestoredFrom>,
    /// The user it runs as: uid, gid, supplemental groups.
    pub user: (u32, u32, Vec<u32>),
    /// The signal that stops it.
    pub stop_signal: i32,
}

/// Which sandboxes to list; all conditions hold together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxFilter {
    /// Prefix of the id.
    pub id: Option<String>,
    /// State.
    pub phase: Option<SandboxPhase>,
    /// Labels that must all be there.
    pub labels: Labels,
}

/// Which containers to list; all conditions hold together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerFilter {
    /// Prefix of the id.
    pub id: Option<String>,
    /// Prefix of the sandbox's id.
    pub sandbox_id: Option<String>,
    /// State.
    pub phase: Option<ContainerPhase>,
    /// Labels that must all be there.
    pub labels: Labels,
}

/// What an ExecSync ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
    /// Exit code; 128 + signal for a signal.
    pub exit_code: u8,
}

/// What CheckpointContainer asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRequest {
    /// Where the archive is published; checked before anything is frozen.
    pub location: PathBuf,
    /// Time allowed; `None` is the configured default.
    pub timeout: Option<Duration>,
}

/// A condition of the node (CRI `RuntimeCondition`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it holds.
    pub ok: bool,
    /// CamelCase reason when it does not.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What Status tells.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStatus {
    /// `RuntimeReady`.
    pub runtime: Condition,
    /// `NetworkReady`.
    pub network: Condition,
    /// Names of the runtime handlers; the first is the default.
    pub handlers: Vec<String>,
    /// Configuration and findings for `verbose`.
    pub info: serde_json::Value,
}
