//! A freezer cgroup, of v1 or v2 (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and
//! cgroup-v2.rst, `cgroup.freeze`).

use std::io;
use std::path::{Path, PathBuf};

use sys::cgroup::write_value;
use sys::process::Deadline;

use super::tasks::Tasks;
use super::{Daemon, Refusal};

/// So often a v1 freezer is asked again: it forgets tasks at times.
const ASK_AGAIN: u32 = 32;

/// The files of one version.
#[derive(Debug, Clone, Copy)]
struct Names {
    control: &'static str,
    frozen: &'static str,
    thawed: &'static str,
    threads: &'static str,
    /// Where the state is read, and the line that says that everything is frozen.
    state: (&'static str, &'static str),
}

const V1: Names = Names {
    control: "freezer.state",
    frozen: "FROZEN",
    thawed: "THAWED",
    threads: "tasks",
    state: ("freezer.state", "FROZEN"),
};

const V2: Names = Names {
    control: "cgroup.freeze",
    frozen: "1",
    thawed: "0",
    threads: "cgroup.threads",
    state: ("cgroup.events", "frozen 1"),
};

/// A container's freezer.
#[derive(Debug)]
pub(super) struct Freezer {
    directory: PathBuf,
    names: Names,
}

impl Freezer {
    pub(super) fn open(directory: &Path) -> Result<Self, Refusal> {
        let names = [V1, V2]
            .into_iter()
            .find(|names| directory.join(names.control).exists())
            .ok_or_else(|| Refusal(format!("{} is no freezer", directory.display())))?;
        Ok(Self {
            directory: directory.to_owned(),
            names,
        })
    }

    /// Makes sure that it freezes all of `tasks`, that nothing else froze it, and that CRIU can seize
    /// what it freezes.
    pub(super) fn check(&self, tasks: &Tasks) -> Result<(), Refusal> {
        if self.is_frozen()? {
            return Err(Refusal::new("the container is frozen already"));
        }
        let mut members = Vec::new();
        self.members(&self.directory, &mut members)
            .map_err(Refusal::because("list the cgroup's threads"))?;
        let outside = tasks
            .processes()
            .flat_map(|(_, threads)| threads)
            .find(|tid| !members.contains(tid));
        if let Some(tid) = outside {
            return Err(Refusal(format!("thread {tid} is outside of the cgroup")));
        }
        // A stopped task in a frozen v1 cgroup cannot be seized, nor can who tries be killed.
        let stopped = members.iter().filter(|tid| !tasks.contains(**tid));
        for tid in stopped {
            if sys::proc::status(*tid).is_ok_and(|status| matches!(status.state, 'T' | 't')) {
                return Err(Refusal(format!("thread {tid} is stopped")));
            }
        }
        Ok(())
    }

    fn members(&self, directory: &Path, found: &mut Vec<u32>) -> io::Result<()> {
        let text = std::fs::read_to_string(directory.join(self.names.threads))?;
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.members(&entry.path(), found)?;
            }
        }
        Ok(())
    }

    /// Begins to freeze; threads that are traced do when they are let go of.
    pub(super) fn freeze(&self) -> Result<Frozen<'_>, Refusal> {
        let frozen = Frozen(Some(self));
        self.write(self.names.frozen)
            .map_err(Refusal::because("freeze the cgroup"))?;
        Ok(frozen)
    }

    fn write(&self, value: &str) -> io::Result<()> {
        write_value(&self.directory.join(self.names.control), value)
    }

    fn is_frozen(&self) -> Result<bool, Refusal> {
        let (file, line) = self.names.state;
        let text = std::fs::read_to_string(self.directory.join(file))
            .map_err(Refusal::because("read the freezer's state"))?;
        Ok(text.lines().any(|found| found == line))
    }
}

/// A frozen cgroup. Dropping it thaws.
#[derive(Debug)]
pub(super) struct Frozen<'a>(Option<&'a Freezer>);

impl Frozen<'_> {
    /// Waits until every task stands, these threads among them, which were let go of a moment ago.
    ///
    /// v2 counts a traced thread as frozen, but when it is let go of it has to get to where it freezes by
    /// itself, and until it has run that far the cgroup is not frozen (`cgroup_leave_frozen` in the
    /// kernel's `ptrace_stop`).
    pub(super) fn wait(
        &self,
        daemon: &Daemon<'_>,
        mut let_go: Vec<u32>,
        until: Deadline,
    ) -> Result<(), Refusal> {
        let Some(freezer) = self.0 else {
            return Ok(());
        };
        let mut stand = || {
            let runs = |tid: &u32| sys::proc::status(*tid).is_ok_and(|status| status.state == 'R');
            let_go.retain(runs);
            let_go.is_empty()
        };
        let mut looks = 0_u32;
        while !(stand() && freezer.is_frozen()?) {
            daemon.pause(until, &"freezing the cgroup")?;
            looks += 1;
            if looks.is_multiple_of(ASK_AGAIN) {
                freezer
                    .write(freezer.names.frozen)
                    .map_err(Refusal::because("freeze the cgroup"))?;
            }
        }
        Ok(())
    }

    /// Leaves it to who thaws it.
    pub(super) fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Some(freezer) = self.0 {
            // A cgroup that was removed meanwhile holds nothing.
            freezer.write(freezer.names.thawed).unwrap_or_default();
        }
    }
}
