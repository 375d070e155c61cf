//! The OCI runtimes of this node, by handler name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_runtime::{Kind, OciRuntime};
use sys::cgroup::Hierarchies;
use sys::process::Deadline;

use crate::config::{Handler, NodeConfig};
use crate::error::Error;

/// Time to ask a runtime for its version.
const PROBE: Duration = Duration::from_secs(10);

/// One handler and whether it can be used here.
#[derive(Debug)]
struct Entry {
    name: String,
    runtime: Result<OciRuntime, String>,
}

/// All handlers; the first usable one is the default.
#[derive(Debug)]
pub(crate) struct Runtimes {
    entries: Vec<Entry>,
}

impl Runtimes {
    /// Looks at each configured handler.
    pub(crate) fn probe(config: &NodeConfig, hierarchies: &Hierarchies) -> Self {
        let entries = config
            .handlers
            .iter()
            .map(|handler| Entry {
                name: handler.name.clone(),
                runtime: probe(config, handler, hierarchies),
            })
            .collect();
        Self { entries }
    }

    /// The runtime of a handler; the empty name is the default one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a name that is not configured, [`Error::Precondition`] for a runtime
    /// that cannot be used on this host.
    pub(crate) fn get(&self, name: &str) -> Result<&OciRuntime, Error> {
        let name = if name.is_empty() {
            self.default_name()?
        } else {
            name
        };
        let entry = self
            .entries
            .iter()
            .find(|entry| entry.name == name)
            .ok_or_else(|| {
                let known: Vec<&str> = self
                    .entries
                    .iter()
                    .map(|entry| entry.name.as_str())
                    .collect();
                let problem = format!(
                    "{name:?} is not configured; known handlers: {}",
                    known.join(", ")
                );
                Error::invalid("runtime_handler", problem)
            })?;
        entry.runtime.as_ref().map_err(|problem| {
            Error::Precondition(format!(
                "runtime handler {name:?} cannot be used: {problem}"
            ))
        })
    }

    /// The handler that an empty name means.
    ///
    /// # Errors
    ///
    /// [`Error::Precondition`] when none can be used, with the reason of each.
    pub(crate) fn default_name(&self) -> Result<&str, Error> {
        self.entries
            .iter()
            .find(|entry| entry.runtime.is_ok())
            .map(|entry| entry.name.as_str())
            .ok_or_else(|| {
                Error::Precondition(format!("no OCI runtime can be used: {}", self.problems()))
            })
    }

    /// Names of the usable handlers, the default first.
    pub(crate) fn usable(&self) -> Vec<String> {
        let usable = self.entries.iter().filter(|entry| entry.runtime.is_ok());
        usable.map(|entry| entry.name.clone()).collect()
    }

    /// Why the others cannot be used.
    pub(crate) fn problems(&self) -> String {
        let problems = self.entries.iter().filter_map(|entry| {
            let problem = entry.runtime.as_ref().err()?;
            Some(format!("{}: {problem}", entry.name))
        });
        problems.collect::<Vec<_>>().join("; ")
    }
}

fn probe(
    config: &NodeConfig,
    handler: &Handler,
    hierarchies: &Hierarchies,
) -> Result<OciRuntime, String> {
    let binary = find_program(&handler.path)
        .ok_or_else(|| format!("{} was not found", handler.path.display()))?;
    let root = config.run.join("runtime").join(&handler.name);
    let mut runtime = OciRuntime::probe(&binary, &root, Deadline::after(PROBE))
        .map_err(|error| crate::error::chain(&error))?;
    runtime.exec_helper = Some(config.monitor.clone());
    if runtime.kind == Kind::Crun && hybrid_with_controllers(hierarchies) {
        return Err("crun refuses hybrid cgroups while the v2 hierarchy has controllers".into());
    }
    sys::fs::make_dir_all(&root, 0o700).map_err(|error| format!("{}: {error}", root.display()))?;
    Ok(runtime)
}

fn hybrid_with_controllers(hierarchies: &Hierarchies) -> bool {
    hierarchies.is_hybrid()
        && hierarchies
            .mounts()
            .iter()
            .filter(|mount| mount.unified)
            .any(|mount| {
                std::fs::read_to_string(mount.mount_point.join("cgroup.controllers"))
                    .is_ok_and(|text| !text.trim().is_empty())
            })
}

/// An absolute path if it is a file, else the first of that name on the PATH or in the usual
/// system directories.
pub(crate) fn find_program(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_path_buf());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    std::env::split_paths(&path)
        .chain(usual.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
