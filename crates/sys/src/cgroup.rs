//! Where cgroups lie on this host, and the little that thawd does to them itself.
//!
//! The OCI runtime makes and fills a container's cgroups. thawd finds them again (for memory
//! figures, OOM counters and the last processes) and keeps its monitors outside its own.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// v1 controllers, or `name=…` of a named hierarchy; empty for v2.
    pub controllers: Vec<String>,
    /// Whether it is the v2 hierarchy.
    pub unified: bool,
}

/// All hierarchies that this mount namespace sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hierarchies {
    mounts: Vec<Mount>,
}

impl Hierarchies {
    /// Reads `/proc/self/mountinfo`.
    ///
    /// # Errors
    ///
    /// What read(2) returns.
    pub fn detect() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string(
            "/proc/self/mountinfo",
        )?))
    }

    /// Parses mountinfo text (proc(5)); the last mount on a place counts.
    #[must_use]
    pub fn parse(mountinfo: &str) -> Self {
        let mut mounts: Vec<Mount> = Vec::new();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let Some(mount_point) = before.split(' ').nth(4) else {
                continue;
            };
            let mut fields = after.split(' ');
            let kind = fields.next().unwrap_or_default();
            let options = fields.nth(1).unwrap_or_default();
            let unified = kind == "cgroup2";
            if !unified && kind != "cgroup" {
                continue;
            }
            let controllers = options
                .split(',')
                .filter(|option| !unified && is_controller(option))
                .map(str::to_owned)
                .collect();
            let mount_point = PathBuf::from(mount_point);
            mounts.retain(|mount| mount.mount_point != mount_point);
            mounts.push(Mount {
                mount_point,
                controllers,
                unified,
            });
        }
        Self { mounts }
    }

    /// Every mounted hierarchy.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// Whether v2 is all there is.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        !self.mounts.is_empty() && self.mounts.iter().all(|mount| mount.unified)
    }

    /// Whether v1 controllers and a v2 hierarchy are mounted side by side.
    #[must_use]
    pub fn is_hybrid(&self) -> bool {
        self.mounts.iter().any(|mount| mount.unified) && !self.is_unified()
    }

    /// Controllers that OCI runtimes use here: those of v2's root where v2 is all there is, else the
    /// mounted v1 ones. Beside v1, v2 may have controllers, but no runtime sets their limits.
    ///
    /// # Errors
    ///
    /// What reading `cgroup.controllers` returns.
    pub fn controllers(&self) -> io::Result<BTreeSet<String>> {
        if !self.is_unified() {
            let v1 = self.mounts.iter().flat_map(|mount| &mount.controllers);
            return Ok(v1
                .filter(|controller| !controller.starts_with("name="))
                .cloned()
                .collect());
        }
        let mut found = BTreeSet::new();
        for mount in &self.mounts {
            let path = mount.mount_point.join("cgroup.controllers");
            let text = std::fs::read_to_string(path)?;
            found.extend(text.split_ascii_whitespace().map(str::to_owned));
        }
        Ok(found)
    }

    /// The directory of cgroup `path` in the hierarchy of a v1 controller, or in v2.
    #[must_use]
    pub fn directory(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let v1 = self
            .mounts
            .iter()
            .find(|mount| mount.controllers.iter().any(|c| c == controller));
        let mount = v1.or_else(|| self.mounts.iter().find(|mount| mount.unified))?;
        Some(mount.mount_point.join(path.trim_start_matches('/')))
    }

    /// Every directory that `path` has, one a hierarchy, whether it exists or not.
    #[must_use]
    pub fn directories(&self, path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        self.mounts
            .iter()
            .map(|mount| mount.mount_point.join(path))
            .collect()
    }

    /// Files that count processes ended by the OOM killer in `path` (`oom_kill N` lines).
    #[must_use]
    pub fn oom_files(&self, path: &str) -> Vec<PathBuf> {
        let Some(directory) = self.directory("memory", path) else {
            return Vec::new();
        };
        let v1 = self
            .mounts
            .iter()
            .any(|mount| mount.controllers.iter().any(|c| c == "memory"));
        vec![directory.join(if v1 {
            "memory.oom_control"
        } else {
            "memory.events"
        })]
    }

    /// How many bytes more the processes in `path` may take before it, or a cgroup above it, reaches its
    /// memory limit; `None` without a limit. What the page cache gives back easily counts as free.
    ///
    /// # Errors
    ///
    /// What reading the control files returns.
    pub fn memory_headroom(&self, path: &str) -> io::Result<Option<u64>> {
        let v1 = self
            .mounts
            .iter()
            .find(|mount| mount.controllers.iter().any(|c| c == "memory"));
        let Some(mount) = v1.or_else(|| self.mounts.iter().find(|mount| mount.unified)) else {
            return Ok(None);
        };
        let mut least: Option<u64> = None;
        for part in Path::new(path.trim_start_matches('/')).ancestors() {
            let directory = mount.mount_point.join(part);
            if let Some(left) = left_in(&directory, mount.unified)? {
                least = Some(least.map_or(left, |least| least.min(left)));
            }
        }
        Ok(least)
    }

    /// Thaws `path` where it is frozen, and tells whether it was.
    ///
    /// # Errors
    ///
    /// What reading or writing the control file returns; a cgroup that is gone is not frozen.
    pub fn thaw(&self, path: &str) -> io::Result<bool> {
        let Some(directory) = self.directory("freezer", path) else {
            return Ok(false);
        };
        for (name, thawed) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let file = directory.join(name);
            match std::fs::read_to_string(&file) {
                Ok(state) if state.trim() == thawed => return Ok(false),
                Ok(_) => return write_value(&file, thawed).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Processes in `path`, from the first hierarchy that has it; none when it is gone.
    #[must_use]
    pub fn processes(&self, path: &str) -> Vec<u32> {
        for directory in self.directories(path) {
            if let Ok(text) = std::fs::read_to_string(directory.join("cgroup.procs")) {
                let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
                if !pids.is_empty() {
                    return pids;
                }
            }
        }
        Vec::new()
    }

    /// Kills every process in `path` and removes it; absent is fine.
    ///
    /// # Errors
    ///
    /// What removing returns when processes do not end within `patience`.
    pub fn kill(&self, path: &str, patience: std::time::Duration) -> io::Result<()> {
        let deadline = crate::process::Deadline::after(patience);
        loop {
            for pid in self.processes(path) {
                let Ok(pidfd) = crate::pidfd::open(pid) else {
                    continue;
                };
                // Gone meanwhile is as good.
                drop(crate::pidfd::send_signal(&pidfd, libc::SIGKILL));
                drop(crate::pidfd::wait_exit(&pidfd, deadline.remaining()));
            }
            match self.remove(path) {
                Err(error) if !deadline.passed() && error.raw_os_error() == Some(libc::EBUSY) => {
                    // Processes leave a cgroup a moment after their end can be seen.
                    std::thread::yield_now();
                }
                other => return other,
            }
        }
    }

    /// Removes the empty cgroup `path` everywhere; absent is fine.
    ///
    /// # Errors
    ///
    /// The last failure of rmdir(2), `EBUSY` while processes remain; all are tried.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let mut result = Ok(());
        for directory in self.directories(path) {
            if let Err(error) = std::fs::remove_dir(&directory)
                && error.kind() != io::ErrorKind::NotFound
            {
                result = Err(error);
            }
        }
        result
    }

    /// Moves a process to `path` in the hierarchies that a service manager follows: v2 and
    /// `name=systemd`. Elsewhere it stays.
    ///
    /// # Errors
    ///
    /// What mkdir(2) or write(2) return.
    pub fn move_out_of_service(&self, pid: u32, path: &str) -> io::Result<()> {
        for mount in &self.mounts {
            if mount.unified || mount.controllers.iter().any(|c| c == "name=systemd") {
                let directory = mount.mount_point.join(path.trim_start_matches('/'));
                std::fs::create_dir_all(&directory)?;
                write_value(&directory.join("cgroup.procs"), &pid.to_string())?;
            }
        }
        Ok(())
    }
}

/// What one cgroup leaves of its own limit.
fn left_in(directory: &Path, unified: bool) -> io::Result<Option<u64>> {
    let (limit, usage, inactive) = if unified {
        ("memory.max", "memory.current", "inactive_file ")
    } else {
        let names = ("memory.limit_in_bytes", "memory.usage_in_bytes");
        (names.0, names.1, "total_inactive_file ")
    };
    let read = |name: &str| std::fs::read_to_string(directory.join(name));
    // The root of v2 and hierarchies without the controller have no limit.
    let limit = match read(limit) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let Ok(limit) = limit.trim().parse::<u64>() else {
        return Ok(None);
    };
    let usage: u64 = read(usage)?.trim().parse().unwrap_or(u64::MAX);
    let statistics = read("memory.stat")?;
    let inactive = statistics
        .lines()
        .find_map(|line| line.strip_prefix(inactive)?.parse::<u64>().ok());
    let used = usage.saturating_sub(inactive.unwrap_or(0));
    Ok(Some(limit.saturating_sub(used)))
}

fn is_controller(option: &str) -> bool {
    !matches!(
        option,
        "rw" | "ro" | "clone_children" | "noprefix" | "xattr" | "cpuset_v2_mode" | "favordynmods"
    ) && !option.starts_with("release_agent=")
}

/// Writes one value to a control file.
///
/// # Errors
///
/// What open(2) or write(2) return.
pub fn write_value(file: &Path, value: &str) -> io::Result<()> {
    use std::io::Write as _;
    std::fs::OpenOptions::new()
        .write(true)
        .open(file)?
        .write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn controllers_are_those_that_a_runtime_sets_limits_with() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().display();
        let file = temp.path().join("cgroup.controllers");
        crate::fs::replace_path(&file, 0o600, b"cpu hugetlb\n").unwrap();
        let v2 = format!("34 30 0:30 / {root} rw - cgroup2 cgroup2 rw\n");
        let v1 = "31 30 0:27 / /c/memory rw - cgroup cgroup rw,memory\n\
                  33 30 0:29 / /c/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let of = |text: &str| Hierarchies::parse(text).controllers().unwrap();
        assert_eq!(of(&v2), ["cpu", "hugetlb"].map(str::to_owned).into());
        for text in [v1.to_owned(), format!("{v2}{v1}")] {
            assert_eq!(of(&text), ["memory".to_owned()].into());
        }
        assert_eq!(of(""), BTreeSet::new());
    }

    #[test]
    fn hybrid_hierarchies_are_told_apart() {
        let found = Hierarchies::parse(HYBRID);
        assert!(found.is_hybrid() && !found.is_unified());
        assert_eq!(
            found.directory("cpuacct", "/pods/a"),
            Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/pods/a"))
        );
        assert_eq!(found.mounts()[2].controllers, ["name=systemd"]);
        assert_eq!(
            found.oom_files("pods"),
            [PathBuf::from(
                "/sys/fs/cgroup/memory/pods/memory.oom_control"
            )]
        );
    }

    /// A hierarchy that is a directory, and a file in it for each name and text.
    fn tree(unified: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, Hierarchies) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = directory.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            crate::fs::replace_path(&file, 0o600, text.as_bytes()).unwrap();
        }
        let controllers = ["memory", "freezer"].map(str::to_owned).to_vec();
        let mounts = vec![Mount {
            mount_point: directory.path().to_owned(),
            controllers: if unified { Vec::new() } else { controllers },
            unified,
        }];
        (directory, Hierarchies { mounts })
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let (_directory, v1) = tree(
            false,
            &[
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.usage_in_bytes", "5000\n"),
                ("memory.stat", "cache 1\n"),
                ("pod/memory.limit_in_bytes", "1000\n"),
                ("pod/memory.usage_in_bytes", "700\n"),
                (
                    "pod/memory.stat",
                    "inactive_file 9\ntotal_inactive_file 200\n",
                ),
                ("pod/a/memory.limit_in_bytes", "800\n"),
                ("pod/a/memory.usage_in_bytes", "100\n"),
                ("pod/a/memory.stat", "total_inactive_file 0\n"),
            ],
        );
        assert_eq!(v1.memory_headroom("/pod/a").unwrap(), Some(500));
        let (_directory, v2) = tree(
            true,
            &[
                ("pod/memory.max", "max\n"),
                ("pod/a/memory.max", "800\n"),
                ("pod/a/memory.current", "900\n"),
                ("pod/a/memory.stat", "inactive_file 0\n"),
            ],
        );
        assert_eq!(v2.memory_headroom("/pod/a").unwrap(), Some(0));
        assert_eq!(v2.memory_headroom("/pod").unwrap(), None);
        assert_eq!(Hierarchies::default().memory_headroom("/").unwrap(), None);
    }

    #[test]
    fn what_is_frozen_is_thawed() {
        let (directory, v1) = tree(false, &[("a/freezer.state", "FROZEN\n")]);
        assert!(v1.thaw("/a").unwrap());
        let state = std::fs::read_to_string(directory.path().join("a/freezer.state"));
        assert!(state.unwrap().starts_with("THAWED"));
        let (directory, v2) = tree(true, &[("a/cgroup.freeze", "1\n")]);
        assert!(v2.thaw("/a").unwrap());
        let state = std::fs::read_to_string(directory.path().join("a/cgroup.freeze"));
        assert!(state.unwrap().starts_with('0'));
        assert!(!v2.thaw("/gone").unwrap());
        let (_directory, thawed) = tree(true, &[("a/cgroup.freeze", "0\n")]);
        assert!(!thawed.thaw("/a").unwrap());
    }

    #[test]
    fn a_unified_host_answers_for_every_controller() {
        let found = Hierarchies::parse("34 30 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert!(found.is_unified() && !found.is_hybrid());
        assert_eq!(
            found.oom_files("/a/b"),
            [PathBuf::from("/sys/fs/cgroup/a/b/memory.events")]
        );
    }
}
