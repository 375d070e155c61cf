//! One run of one plugin (CNI specification, sections 2 and 4).
//!
//! The plugin gets its configuration on standard input and the rest in its environment, and writes
//! its result, or `{"code": .., "msg": .., "details": ..}` with a failing exit status, to standard
//! output.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use sys::process::{Deadline, OutputLimits};

use super::config::{Network, Plugin};
use super::{CniError, Command, PodNetwork};

const LIMITS: OutputLimits = OutputLimits {
    max_stdout_bytes: 1 << 20,
    max_stderr_bytes: 4096,
};

/// Plugins call `iptables` and its like, which a service's PATH often leaves out.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// What is the same for every plugin of one operation.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) network: &'a Network,
    pub(super) pod: &'a PodNetwork,
    pub(super) command: Command,
    /// Arguments by capability.
    pub(super) arguments: &'a Map<String, Value>,
    pub(super) deadline: Deadline,
}

#[derive(Deserialize)]
struct Report {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Call<'_> {
    /// Runs `plugin` and returns its standard output.
    pub(super) fn run(
        &self,
        plugin: &Plugin,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, CniError> {
        let program = self.network.find(plugin)?;
        let stdin = serde_json::to_vec(&self.config(plugin, previous))
            .map_err(|error| self.output_error(plugin, &error.to_string()))?;
        let pod = self.pod;
        let output = sys::process::Command::new(program)
            .cwd("/")
            .env("CNI_COMMAND", self.command.name())
            .env("CNI_CONTAINERID", &pod.id)
            .env("CNI_NETNS", self.netns())
            .env("CNI_IFNAME", &pod.ifname)
            .env("CNI_ARGS", arguments(pod)?)
            .env("CNI_PATH", join(&self.network.bin_dirs))
            .env("PATH", search_path())
            .output(&stdin, LIMITS, self.deadline)
            .map_err(|source| CniError::Run {
                plugin: plugin.kind.clone(),
                command: self.command,
                source,
            })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let (plugin, command) = (plugin.kind.clone(), self.command);
        Err(match serde_json::from_slice::<Report>(&output.stdout) {
            Ok(report) => CniError::Plugin {
                plugin,
                command,
                code: report.code,
                message: report.msg,
                details: report.details,
            },
            Err(_) => CniError::Exit {
                plugin,
                command,
                status: output.status,
                stderr: String::from_utf8_lossy(&output.stderr_tail)
                    .trim()
                    .to_owned(),
            },
        })
    }

    pub(super) fn output_error(&self, plugin: &Plugin, problem: &str) -> CniError {
        CniError::Output {
            plugin: plugin.kind.clone(),
            command: self.command,
            problem: problem.to_owned(),
        }
    }

    /// The plugin's configuration as it wants it on standard input.
    fn config(&self, plugin: &Plugin, previous: Option<&Value>) -> Value {
        let mut config = plugin.config.clone();
        config.insert("name".into(), self.network.name().into());
        config.insert("cniVersion".into(), self.network.version().into());
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        let own = self
            .arguments
            .iter()
            .filter(|(name, _)| plugin.capabilities.contains(name));
        let own: Map<String, Value> = own.map(|(k, v)| (k.clone(), v.clone())).collect();
        if !own.is_empty() {
            config.insert("runtimeConfig".into(), Value::Object(own));
        }
        Value::Object(config)
    }

    /// Empty when the namespace is gone, which tells DEL to do without; what is left at its path
    /// may be the plain file that it was mounted on.
    fn netns(&self) -> OsString {
        /// `NSFS_MAGIC` of `linux/magic.h`.
        const NSFS: i64 = 0x6e73_6673;
        let path = &self.pod.netns;
        let is_namespace = rustix::fs::statfs(path.as_path())
            .is_ok_and(|found| i128::from(found.f_type) == i128::from(NSFS));
        if self.command == Command::Del && !is_namespace {
            return OsString::new();
        }
        path.as_os_str().to_owned()
    }
}

/// `CNI_ARGS` as Kubernetes' plugins expect them.
pub(super) fn arguments(pod: &PodNetwork) -> Result<String, CniError> {
    let mut text = "IgnoreUnknown=1".to_owned();
    for (key, field, value) in [
        ("K8S_POD_NAMESPACE", "pod namespace", &pod.namespace),
        ("K8S_POD_NAME", "pod name", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", "sandbox id", &pod.id),
        ("K8S_POD_UID", "pod uid", &pod.uid),
    ] {
        if value.contains([';', '=', '\0', '\n']) {
            return Err(CniError::Pod {
                field,
                value: value.clone(),
            });
        }
        text.push_str(&format!(";{key}={value}"));
    }
    Ok(text)
}

fn join(directories: &[PathBuf]) -> OsString {
    let mut text = OsString::new();
    for (index, directory) in directories.iter().enumerate() {
        if index > 0 {
            text.push(":");
        }
        text.push(directory);
    }
    text
}

fn search_path() -> OsString {
    let own = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let mut all: Vec<PathBuf> = std::env::split_paths(&own).collect();
    for directory in SYSTEM_DIRECTORIES {
        if !all.iter().any(|known| known == Path::new(directory)) {
            all.push(PathBuf::from(directory));
        }
    }
    join(&all)
}
