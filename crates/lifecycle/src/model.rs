//! The domain's nouns: what a caller asks for and what it is told.
//!
//! `cri-server` converts CRI messages into these types and back; nothing below this crate knows CRI.
//! Every type that is stored is `Serialize + Deserialize`; the records that hold them carry the
//! version (`record.rs`). Absent optional fields mean "not asked for".

mod answer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

pub use answer::{
    CheckpointRequest, Condition, ContainerFilter, ContainerPhase, ContainerSnapshot, ExecOutput,
    Exit, NodeStatus, RestoredFrom, SandboxFilter, SandboxPhase, SandboxSnapshot,
};
use serde::{Deserialize, Serialize};

/// Key-value pairs as Kubernetes attaches them to objects.
pub type Labels = BTreeMap<String, String>;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(String);

        impl $name {
            /// Wraps an id that thawd generated or found in its own store.
            #[must_use]
            pub fn new(id: impl Into<String>) -> Self {
                Self(id.into())
            }

            /// The id as text: 64 lower-case hexadecimal digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type! {
    /// Names one pod sandbox for its whole life.
    SandboxId
}
id_type! {
    /// Names one container for its whole life.
    ContainerId
}

/// Who owns a namespace that a pod's processes live in (CRI `NamespaceMode`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// One namespace for the whole pod (CRI `POD`).
    #[default]
    Pod,
    /// One namespace for each container (CRI `CONTAINER`; pid and IPC).
    Container,
    /// The host's own namespace (CRI `NODE`).
    Node,
    /// The namespace of another container of the pod (CRI `TARGET`; pid only).
    Target(ContainerId),
}

/// Namespaces of a sandbox or container (CRI `NamespaceOption`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NamespaceOptions {
    /// Network: `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Process ids: any mode.
    pub pid: NamespaceMode,
    /// System V IPC, POSIX message queues and /dev/shm: any mode but `Target`.
    pub ipc: NamespaceMode,
}

/// A seccomp or AppArmor choice (CRI `SecurityProfile`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityProfile {
    /// thawd's own default profile.
    RuntimeDefault,
    /// No confinement.
    Unconfined,
    /// A profile on this node: a JSON file's absolute path (seccomp), a loaded profile's name (AppArmor).
    Localhost(String),
}

/// An SELinux label, all parts optional as empty strings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SelinuxOptions {
    /// SELinux user.
    pub user: String,
    /// SELinux role.
    pub role: String,
    /// SELinux type.
    pub kind: String,
    /// MCS/MLS level.
    pub level: String,
}

/// How supplemental groups of the request and of the image's `/etc/group` combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupplementalGroupsPolicy {
    /// The image's groups of the user are added.
    #[default]
    Merge,
    /// Only what the request lists.
    Strict,
}

/// The user that a container's first process runs as, as the request puts it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RequestedUser {
    /// Numeric user.
    pub uid: Option<u32>,
    /// User by name, looked up in the image's `/etc/passwd`.
    pub name: Option<String>,
    /// Numeric primary group; needs a user.
    pub gid: Option<u32>,
    /// Further groups.
    pub supplemental_groups: Vec<u32>,
    /// How those and the image's combine.
    pub policy: SupplementalGroupsPolicy,
}

/// CPU, memory and pid limits (CRI `LinuxContainerResources`). `0` means "not set" as in CRI.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period_us: i64,
    /// CFS quota in microseconds; negative is "no limit".
    pub cpu_quota_us: i64,
    /// CPU shares (cgroup v1 unit, 2 to 262144).
    pub cpu_shares: i64,
    /// Memory limit in bytes.
    pub memory_limit_bytes: i64,
    /// Memory plus swap limit in bytes.
    pub memory_swap_limit_bytes: i64,
    /// `oom_score_adj` wanted, -1000 to 1000.
    pub oom_score_adj: i64,
    /// CPU list as in cpuset(7).
    pub cpuset_cpus: String,
    /// Memory node list as in cpuset(7).
    pub cpuset_mems: String,
    /// Page size ("2MB") to limit in bytes.
    pub hugepage_limits: BTreeMap<String, u64>,
    /// cgroup v2 files to values.
    pub unified: BTreeMap<String, String>,
}

/// A port that the host forwards into the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the host; 0 means not forwarded.
    pub host_port: u16,
    /// Host address; empty is any.
    pub host_ip: String,
}

/// Resolver configuration written to the pod's `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// `search` list.
    pub searches: Vec<String>,
    /// `options` list.
    pub options: Vec<String>,
}

/// What RunPodSandbox asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Pod name.
    pub name: String,
    /// Pod UID.
    pub uid: String,
    /// Pod namespace in Kubernetes' sense.
    pub namespace: String,
    /// Attempt number; (name, uid, namespace, attempt) is unique.
    pub attempt: u32,
    /// Host name inside the pod; empty: the pod's name is not applied, the host's name is used for
    /// host-network pods and the sandbox id's first 12 digits otherwise.
    pub hostname: String,
    /// Directory of the containers' log files; absolute, empty when none.
    pub log_directory: PathBuf,
    /// Resolver; `None` copies the host's.
    pub dns: Option<DnsConfig>,
    /// Forwarded ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// Parent cgroup, absolute in the hierarchy ("/kubepods/pod1"); empty: the daemon's default.
    pub cgroup_parent: String,
    /// Namespaces.
    pub namespaces: NamespaceOptions,
    /// Sysctls by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// Whether privileged containers may run in the pod.
    pub privileged: bool,
    /// Resources of the pod as a whole.
    pub resources: Option<Resources>,
    /// Resources for sandbox overhead.
    pub overhead: Option<Resources>,
    /// Sandbox-level SELinux label.
    pub selinux: Option<SelinuxOptions>,
    /// Sandbox-level seccomp profile.
    pub seccomp: Option<SecurityProfile>,
    /// Sandbox-level user.
    pub user: RequestedUser,
    /// Sandbox-level read-only root filesystem.
    pub readonly_rootfs: bool,
}

/// How mount events travel between host and container (CRI `MountPropagation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// `rprivate`.
    #[default]
    Private,
    /// `rslave`.
    HostToContainer,
    /// `rshared`.
    Bidirectional,
}

/// One bind mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub container_path: PathBuf,
    /// Absolute path on the host.
    pub host_path: PathBuf,
    /// Read-only.
    pub readonly: bool,
    /// Read-only with everything mounted below it.
    pub recursive_readonly: bool,
    /// Relabel for SELinux.
    pub selinux_relabel: bool,
    /// Propagation.
    pub propagation: Propagation,
}

/// One host device given to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path in the container.
    pub container_path: PathBuf,
    /// Path on the host.
    pub host_path: PathBuf,
    /// cgroup permissions: letters of `rwm`.
    pub permissions: String,
}

/// Capabilities asked for on top of, and taken from, the default set. Names without `CAP_`; `ALL` is known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CapabilityChange {
    /// To add to the bounding set and its kin.
    pub add: Vec<String>,
    /// To drop.
    pub drop: Vec<String>,
    /// To add to the ambient set.
    pub add_ambient: Vec<String>,
}

/// Security part of a container request (CRI `LinuxContainerSecurityContext`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SecurityContext {
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// Capability changes.
    pub capabilities: CapabilityChange,
    /// Namespaces; pid may differ from the sandbox's.
    pub namespaces: NamespaceOptions,
    /// User and groups.
    pub user: RequestedUser,
    /// Read-only root filesystem.
    pub readonly_rootfs: bool,
    /// Sets `no_new_privs`.
    pub no_new_privs: bool,
    /// Paths hidden from the container.
    pub masked_paths: Vec<String>,
    /// Paths made read-only.
    pub readonly_paths: Vec<String>,
    /// Seccomp; `None` is unconfined, as CRI has it.
    pub seccomp: Option<SecurityProfile>,
    /// AppArmor; `None` is the default, as the kubelet has it.
    pub apparmor: Option<SecurityProfile>,
    /// SELinux.
    pub selinux: Option<SelinuxOptions>,
}

/// What CreateContainer asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Container name within the pod.
    pub name: String,
    /// Attempt; (sandbox, name, attempt) is unique.
    pub attempt: u32,
    /// Image reference, image id, or the absolute path of a checkpoint archive.
    pub image: String,
    /// Image name as the user wrote it; may be empty.
    pub user_specified_image: String,
    /// Replaces the image's entry point when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// Replaces the image's working directory when not empty.
    pub working_dir: String,
    /// Environment, appended to the image's (later wins).
    pub env: Vec<(String, String)>,
    /// Bind mounts.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// Log file relative to the sandbox's log directory; empty: no log.
    pub log_path: PathBuf,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close standard input after the first attach ends.
    pub stdin_once: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Resources.
    pub resources: Resources,
    /// Security.
    pub security: SecurityContext,
    /// Signal that stops the container; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<i32>,
}
