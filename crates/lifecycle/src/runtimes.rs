//! The OCI runtimes of this node, by handler name.
//!
//! The default is the first that works here and can restore: a crun without CRIU, or without the library
//! that it loads for it, runs containers, and so it may be asked for by name, but a container of thawd's
//! is to be restorable.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_runtime::{Kind, OciRuntime, Trial};
use sys::cgroup::Hierarchies;
use sys::process::Deadline;

use crate::cgroups::CgroupDriver;
use crate::config::{Handler, NodeConfig};
use crate::error::Error;

/// Time to ask a runtime for its version.
const PROBE: Duration = Duration::from_secs(10);

/// One handler and whether it can be used here.
#[derive(Debug)]
struct Entry {
    name: String,
    runtime: Result<Usable, String>,
}

#[derive(Debug)]
struct Usable {
    runtime: OciRuntime,
    /// Why it cannot restore.
    unfit: Option<String>,
}

/// All handlers.
#[derive(Debug)]
pub(crate) struct Runtimes {
    entries: Vec<Entry>,
}

impl Runtimes {
    /// Looks at each configured handler.
    pub(crate) fn probe(
        config: &NodeConfig,
        hierarchies: &Hierarchies,
        driver: CgroupDriver,
    ) -> Self {
        let entries = config
            .handlers
            .iter()
            .map(|handler| Entry {
                name: handler.name.clone(),
                runtime: probe(config, handler, hierarchies, driver),
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
        self.find(name).map(|usable| &usable.runtime)
    }

    fn find(&self, name: &str) -> Result<&Usable, Error> {
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
        match &entry.runtime {
            Ok(usable) => Ok(usable),
            Err(problem) => Err(Error::Precondition(format!(
                "runtime handler {name:?} cannot be used: {problem}"
            ))),
        }
    }

    /// Holds a restore to a handler that can do it.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); [`Error::Precondition`] for one that cannot restore.
    pub(crate) fn restores(&self, name: &str) -> Result<(), Error> {
        let usable = self.find(name)?;
        let Some(problem) = &usable.unfit else {
            return Ok(());
        };
        let binary = usable.runtime.binary.display();
        Err(Error::Precondition(format!(
            "runtime handler {name:?} ({binary}) cannot restore: {problem}"
        )))
    }

    /// The handler that an empty name means.
    ///
    /// # Errors
    ///
    /// [`Error::Precondition`] when none can be used, with the reason of each.
    pub(crate) fn default_name(&self) -> Result<&str, Error> {
        self.by_preference()
            .next()
            .map(|entry| entry.name.as_str())
            .ok_or_else(|| {
                Error::Precondition(format!("no OCI runtime can be used: {}", self.problems()))
            })
    }

    /// Names of the usable handlers, the default first.
    pub(crate) fn usable(&self) -> Vec<String> {
        self.by_preference()
            .map(|entry| entry.name.clone())
            .collect()
    }

    /// The usable ones: those that restore first, and among them in the configured order.
    fn by_preference(&self) -> impl Iterator<Item = &Entry> {
        let those = |wanted: bool| {
            self.entries.iter().filter(move |entry| {
                let usable = entry.runtime.as_ref();
                usable.is_ok_and(|usable| usable.unfit.is_none() == wanted)
            })
        };
        those(true).chain(those(false))
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
    driver: CgroupDriver,
) -> Result<Usable, String> {
    let binary = find_program(&handler.path)
        .ok_or_else(|| format!("{} was not found", handler.path.display()))?;
    let root = config.run.join("runtime").join(&handler.name);
    let failed = |error| crate::error::chain(&error);
    let deadline = Deadline::after(PROBE);
    let mut runtime = OciRuntime::probe(&binary, &root, deadline).map_err(failed)?;
    runtime.exec_helper = Some(config.monitor.clone());
    if runtime.kind == Kind::Crun && hybrid_with_controllers(hierarchies) {
        return Err("crun refuses hybrid cgroups while the v2 hierarchy has controllers".into());
    }
    sys::fs::make_dir_all(&root, 0o700).map_err(|error| format!("{}: {error}", root.display()))?;
    let unfit = match unfit(config, hierarchies, &runtime)? {
        None if driver == CgroupDriver::Systemd && runtime.kind == Kind::Crun => {
            late_scope(&runtime.version(deadline).map_err(failed)?)
        }
        found => found,
    };
    if let Some(problem) = &unfit {
        tracing::warn!(
            handler = handler.name,
            problem,
            "restores are not available"
        );
    }
    Ok(Usable { runtime, unfit })
}

/// Why the runtime cannot restore.
fn unfit(
    config: &NodeConfig,
    hierarchies: &Hierarchies,
    runtime: &OciRuntime,
) -> Result<Option<String>, String> {
    let directory = config.run.join("runtime-probe");
    // Beside the monitors' and not below it: crun hands controllers down from the parent, which may
    // hold no process then (cgroups(7), "no internal processes").
    let cgroup = format!("{}-probe", config.monitors_cgroup());
    sys::fs::make_dir_all(&directory, 0o700)
        .map_err(|error| format!("{}: {error}", directory.display()))?;
    // With v1 crun would leave more than that behind.
    let trial = hierarchies.is_unified().then_some(Trial {
        directory: &directory,
        cgroup: &cgroup,
    });
    let problem = runtime.restore_problem(trial.as_ref(), Deadline::after(PROBE));
    let cleared = sys::fs::remove_tree(&directory).and(hierarchies.remove(&cgroup));
    if let Err(error) = cleared {
        tracing::warn!(%error, "the probe of a runtime left something behind");
    }
    problem.map_err(|error| crate::error::chain(&error))
}

/// Why a crun of this version cannot restore into a scope: before 1.21 it asked systemd for one only
/// when the tasks were restored (`restore_proxy_process` in src/libcrun/container.c came then).
fn late_scope(version: &str) -> Option<String> {
    const SINCE: (u32, u32) = (1, 21);
    let older = sys::sysinfo::kernel_version(version).is_none_or(|found| found < SINCE);
    older.then(|| {
        format!(
            "crun {version} makes a systemd scope only when the restored tasks run: crun {}.{} or newer \
             is needed, or cgroup_driver = \"cgroupfs\"",
            SINCE.0, SINCE.1
        )
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, restores: Option<bool>) -> Entry {
        let runtime = restores.map(|restores| Usable {
            runtime: OciRuntime {
                binary: name.into(),
                root: "/run".into(),
                kind: Kind::Other,
                systemd_cgroup: false,
                exec_helper: None,
            },
            unfit: (!restores).then(|| "it was built without CRIU".to_owned()),
        });
        Entry {
            name: name.to_owned(),
            runtime: runtime.ok_or_else(|| format!("{name} does not work")),
        }
    }

    fn check(entries: [Entry; 3], names: &[&str]) -> Runtimes {
        let runtimes = Runtimes {
            entries: entries.into(),
        };
        assert_eq!(runtimes.usable(), names);
        assert_eq!(
            runtimes.default_name().ok(),
            names.first().copied(),
            "the default is told first"
        );
        runtimes
    }

    #[test]
    fn the_default_is_the_first_that_works_and_restores() {
        let (works, lame, broken) = (Some(true), Some(false), None);
        check(
            [entry("a", works), entry("b", works), entry("c", works)],
            &["a", "b", "c"],
        );
        check(
            [entry("a", broken), entry("b", works), entry("c", lame)],
            &["b", "c"],
        );
        let runtimes = check(
            [entry("a", lame), entry("b", broken), entry("c", works)],
            &["c", "a"],
        );
        let refused = runtimes.restores("a").unwrap_err().to_string();
        assert!(refused.contains("built without CRIU"), "{refused}");
        runtimes.restores("").unwrap();
        let refused = runtimes.get("b").unwrap_err().to_string();
        assert!(refused.contains("b does not work"), "{refused}");
        let refused = runtimes.get("d").unwrap_err().to_string();
        assert!(refused.contains("a, b, c"), "{refused}");
        check(
            [entry("a", lame), entry("b", broken), entry("c", broken)],
            &["a"],
        );
        let none = check(
            [entry("a", broken), entry("b", broken), entry("c", broken)],
            &[],
        );
        let refused = none.default_name().unwrap_err().to_string();
        assert!(refused.contains("c: c does not work"), "{refused}");
    }

    #[test]
    fn a_crun_that_makes_its_scope_too_late_cannot_restore_into_one() {
        for version in ["1.21", "1.28", "2.0"] {
            assert_eq!(late_scope(version), None, "{version}");
        }
        for version in ["1.8.1", "1.20", "0.17", "unknown"] {
            assert!(
                late_scope(version).unwrap().contains("crun 1.21"),
                "{version}"
            );
        }
    }

    #[test]
    fn only_hierarchies_side_by_side_are_hybrid() {
        let v1 = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let v2 = format!("34 30 0:30 / {at} rw - cgroup2 cgroup2 rw\n");
        let both = Hierarchies::parse(&format!("{v1}{v2}"));
        let controllers = dir.path().join("cgroup.controllers");
        assert!(!hybrid_with_controllers(&both), "no controllers are told");
        sys::fs::replace_path(&controllers, 0o600, b"\n").unwrap();
        assert!(!hybrid_with_controllers(&both));
        sys::fs::replace_path(&controllers, 0o600, b"hugetlb\n").unwrap();
        assert!(hybrid_with_controllers(&both));
        assert!(!hybrid_with_controllers(&Hierarchies::parse(&v2)));
        assert!(!hybrid_with_controllers(&Hierarchies::parse(v1)));
    }
}
