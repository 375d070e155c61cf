//! What a monitor is told when it starts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Names in the run directory.
pub mod names {
    /// The monitor's socket.
    pub const SOCKET: &str = "monitor.sock";
    /// The monitor's pid.
    pub const PID: &str = "monitor.pid";
    /// The socket that the runtime sends a terminal to.
    pub const CONSOLE: &str = "console.sock";
    /// How the container ended.
    pub const EXIT: &str = "exit.json";
}

/// One container's monitor, as it is to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorSpec {
    /// [`crate::VERSION`].
    pub version: u32,
    /// The container, for the process title and for errors.
    pub container_id: String,
    /// Program and arguments of the runtime's `create` or `restore`. An argument that is the path of
    /// `console.sock` in the run directory is replaced by a path that is short enough for a socket.
    pub runtime_argv: Vec<String>,
    /// Variables added to the runtime's environment.
    pub runtime_env: Vec<(String, String)>,
    /// The runtime's JSON log (its `--log`), read when it fails.
    pub runtime_log: PathBuf,
    /// Where the runtime writes the first process's pid (its `--pid-file`).
    pub pid_file: PathBuf,
    /// The bundle; the runtime's working directory.
    pub bundle: PathBuf,
    /// The log file in CRI's format; `None` drops the output.
    pub log_path: Option<PathBuf>,
    /// The container has a terminal.
    pub terminal: bool,
    /// Keep standard input open for a later attach; without it the container reads end of file.
    pub stdin: bool,
    /// The run directory; must exist.
    pub run_dir: PathBuf,
    /// Files whose `oom_kill` counter tells of the OOM killer: `memory.oom_control` (cgroup v1) or
    /// `memory.events` (v2) of the container's cgroup. Those that do not exist count as zero.
    #[serde(default)]
    pub oom_files: Vec<PathBuf>,
    /// Run the runtime in a mount namespace of its own, so that what it leaves mounted when it
    /// fails vanishes with it. For restores: CRIU mounts a lot on the way.
    #[serde(default)]
    pub private_mounts: bool,
}
