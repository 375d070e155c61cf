//! The cgroups below which a test's containers live, and their removal.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::wait;

/// First part of every test's cgroup parent; the test program's pid follows.
const PREFIX: &str = "thawd-test-";

/// Mount points of all cgroup hierarchies.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    Ok(fields
        .filter(|fields| matches!(fields.get(2), Some(&("cgroup" | "cgroup2"))))
        .filter_map(|fields| fields.get(1).map(PathBuf::from))
        .collect())
}

/// The directory and all below it, children first.
fn subtree(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            subtree(&entry.path(), found);
        }
    }
    found.push(directory.to_owned());
}

/// Directories of the cgroup of that name, one a hierarchy that has it.
///
/// # Errors
/// When the mounted hierarchies cannot be read.
pub(crate) fn directories(name: &str) -> Result<Vec<PathBuf>> {
    let hierarchies = hierarchies()?;
    let own = hierarchies
        .iter()
        .map(|hierarchy| hierarchy.join(name.trim_start_matches('/')));
    Ok(own.filter(|directory| directory.is_dir()).collect())
}

/// Kills what still runs below a cgroup of that name (in any hierarchy), then removes it.
///
/// # Errors
/// When a process does not end, or a directory stays.
pub(crate) fn remove(name: &str) -> Result<()> {
    let mut found = Vec::new();
    for top in directories(name)? {
        subtree(&top, &mut found);
    }
    wait::until(
        &format!("cgroup {name} to be removed"),
        wait::PATIENCE,
        || {
            for directory in &found {
                for pid in members(directory) {
                    // It may have ended since.
                    kill_process(pid, Signal::KILL).ok();
                }
                thaw(directory);
                drop(std::fs::remove_dir(directory));
            }
            Ok(found
                .iter()
                .all(|directory| !directory.exists())
                .then_some(()))
        },
    )
}

/// A frozen process cannot be killed: lets it run. Which file does that depends on the version.
fn thaw(directory: &Path) {
    for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        let options = std::fs::OpenOptions::new()
            .write(true)
            .open(directory.join(file));
        // The other version's file is not there.
        drop(options.and_then(|mut file| file.write_all(value.as_bytes())));
    }
}

/// Processes that are directly in the cgroup.
pub(crate) fn members(directory: &Path) -> Vec<Pid> {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter_map(Pid::from_raw)
        .collect()
}

/// Where the processes of this cgroup are frozen: the v1 freezer's directory if it has one, or v2's.
///
/// # Errors
/// When there is none.
pub(crate) fn freezer(name: &str) -> Result<PathBuf> {
    let hierarchies = hierarchies()?;
    for file in ["freezer.state", "cgroup.freeze"] {
        let mut directories = hierarchies
            .iter()
            .map(|hierarchy| hierarchy.join(name.trim_start_matches('/')));
        if let Some(found) = directories.find(|directory| directory.join(file).exists()) {
            return Ok(found);
        }
    }
    bail!("cgroup {name} has no freezer")
}

/// Removes what test programs left that were killed before they could clean up.
///
/// # Errors
/// As [`remove`].
pub(crate) fn sweep() -> Result<()> {
    for hierarchy in hierarchies()? {
        for entry in std::fs::read_dir(&hierarchy)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next());
            if let Some(owner) = owner
                && !Path::new("/proc").join(owner).exists()
            {
                remove(&name)?;
            }
        }
    }
    Ok(())
}

/// A name for a parent of this test program.
pub(crate) fn name(number: usize) -> String {
    format!("/{PREFIX}{}-{number}", std::process::id())
}
