//! Pod networks through CNI plugins (CNI specification 1.1.0).
//!
//! ```text
//!  /etc/cni/net.d/10-pods.conflist ──load──▶ Network{plugins: bridge, portmap}
//!                                               │ ADD  bridge ─result─▶ portmap ─result─▶ CniResult
//!  <cache dir>/<id>-<ifname>.json ◀── intent ───┤      (written again with the result)
//!  <cache dir>/<id>-<ifname>.json ── result ──▶ │ DEL  portmap, bridge; then the file goes
//! ```
//!
//! # Invariants
//! - The cache file is there before the first plugin runs and until the last DEL has succeeded, so
//!   that an attachment can be undone after a crash, and after the configuration has changed.
//! - DEL runs every plugin whatever the others say, may be repeated, and needs no namespace.
//! - Plugins are programs of the configured directories; nothing in a request selects one.
//! - Each plugin runs within the caller's deadline, and its output within a bound.
//!
//! The configuration is read anew by every [`Cni::load`]: it is a few files, and whoever changes
//! them (an operator, a network's own installer) need tell nobody.

mod cache;
mod config;
mod exec;
mod network;
mod result;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use sys::process::{Deadline, ExitStatus, RunError};

pub use config::Network;
pub use result::{CniResult, Interface};

use crate::model::PortMapping;

/// A pod's wish for a network interface, the same at ADD, CHECK and DEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    /// Path of the network namespace.
    pub netns: PathBuf,
    /// The sandbox's id.
    pub id: String,
    /// Pod name.
    pub name: String,
    /// Pod namespace in Kubernetes' sense.
    pub namespace: String,
    /// Pod UID.
    pub uid: String,
    /// Interface to make in the pod, such as `eth0`.
    pub ifname: String,
    /// Ports that the host forwards, for plugins with the capability `portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// Directory of the cache files; made when it is missing.
    pub cache_dir: PathBuf,
}

/// What a plugin was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach.
    Add,
    /// Compare what is there with the result of ADD.
    Check,
    /// Detach.
    Del,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
        }
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a network could not be loaded, set up or taken down.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// No configuration file.
    #[error(
        "no network configuration (.conflist, .conf, .json) in {}",
        list(directories)
    )]
    NoConfig {
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },
    /// A configuration file that cannot be used.
    #[error("network configuration {}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A plugin that is in no directory.
    #[error("network plugin {plugin:?} is not in {}", list(directories))]
    MissingPlugin {
        /// Its name.
        plugin: String,
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },
    /// A pod whose values cannot be passed to plugins.
    #[error("{field} {value:?} cannot be passed to network plugins")]
    Pod {
        /// Which value.
        field: &'static str,
        /// The value.
        value: String,
    },
    /// A file or namespace.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A plugin that could not be run to its end.
    #[error("network plugin {plugin} {command}")]
    Run {
        /// Its name.
        plugin: String,
        /// What it was asked to do.
        command: Command,
        /// Why.
        #[source]
        source: RunError,
    },
    /// A plugin that reported an error (CNI specification, "Error").
    #[error(
        "network plugin {plugin} {command}: {message}{} (code {code})",
        dashed(details)
    )]
    Plugin {
        /// Its name.
        plugin: String,
        /// What it was asked to do.
        command: Command,
        /// Its code; below 100 they are CNI's, 11 means "try again later".
        code: u64,
        /// Its message.
        message: String,
        /// Its details; may be empty.
        details: String,
    },
    /// A plugin that failed without a report.
    #[error("network plugin {plugin} {command}: {status}: {stderr}")]
    Exit {
        /// Its name.
        plugin: String,
        /// What it was asked to do.
        command: Command,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// A plugin whose output is no result.
    #[error("network plugin {plugin} {command}: result: {problem}")]
    Output {
        /// Its name.
        plugin: String,
        /// What it was asked to do.
        command: Command,
        /// What is wrong with it.
        problem: String,
    },
    /// Several plugins failed at DEL.
    #[error("{}", .0.iter().map(|error| crate::error::chain(error)).collect::<Vec<_>>().join("; "))]
    Several(Vec<CniError>),
}

fn list(directories: &[PathBuf]) -> String {
    let names: Vec<String> = directories
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    names.join(", ")
}

fn dashed(details: &str) -> String {
    if details.is_empty() {
        String::new()
    } else {
        format!(": {details}")
    }
}

/// Where to begin: loading the node's network, and undoing attachments without one.
#[derive(Debug, Clone, Copy)]
pub struct Cni;

impl Cni {
    /// The network of the lexically first configuration file in the first directory that has one.
    ///
    /// # Errors
    ///
    /// [`CniError::NoConfig`], [`CniError::Config`], [`CniError::MissingPlugin`] when a plugin that
    /// it names is not installed, [`CniError::Io`].
    pub fn load(conf_dirs: &[PathBuf], bin_dirs: &[PathBuf]) -> Result<Network, CniError> {
        let network = config::load(conf_dirs, bin_dirs)?;
        network.find_plugins()?;
        Ok(network)
    }

    /// Takes down what the pod's cache file knows of; nothing when there is none.
    ///
    /// # Errors
    ///
    /// As [`Network::del`].
    pub fn del_cached(
        pod: &PodNetwork,
        bin_dirs: &[PathBuf],
        deadline: Deadline,
    ) -> Result<(), CniError> {
        network::del(pod, None, bin_dirs, deadline)
    }
}
