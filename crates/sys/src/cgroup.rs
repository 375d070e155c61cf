//! Where cgroups lie on this host, and the little that thawd does to them itself.
//!
//! The OCI runtime makes and fills a container's cgroups. thawd finds them again (for memory
//! figures, OOM counters and the last processes) and keeps its monitors outside its own.

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
