//! The cgroup of restored tasks, for a runtime that puts them there only when they run.
//!
//! ```text
//!  RESTORE ──▶ relay joins ──▶ CRIU and every task are born inside
//!  pre-resume ──▶ relay and CRIU leave ──▶ cgroup frozen ──▶ tasks are let go, and stand still
//!  runtime sets limits and device rules, ends ──▶ thawd thaws
//! ```
//!
//! runc puts CRIU into a cgroup that is complete. crun up to 1.28 makes an empty one on v2, and gives
//! it limits and the device filter when CRIU has long let the tasks go; it also moves the first task
//! alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::config::{CgroupEntry, RelayConfig};

/// What a relay that has entered can do later. The files are opened before the cgroup namespace is
/// left behind: a kernel with `nsdelegate` lets nobody move a process out of its namespace's root.
#[derive(Debug, Default)]
pub(super) struct Entered {
    freeze: Option<Freeze>,
}

#[derive(Debug)]
struct Freeze {
    outside: File,
    switch: File,
}

/// Joins the cgroup and takes the namespace that the configuration asks for.
///
/// # Errors
///
/// What open(2), write(2) or unshare(2) return.
pub(super) fn enter(config: &RelayConfig) -> io::Result<Entered> {
    let mut entered = Entered::default();
    if let Some(entry) = &config.cgroup {
        entered.freeze = join(entry)?;
    }
    if config.cgroup_namespace {
        sys::ns::unshare_cgroup()?;
    }
    Ok(entered)
}

fn join(entry: &CgroupEntry) -> io::Result<Option<Freeze>> {
    let freeze = match (&entry.wait_outside, entry.directories.as_slice()) {
        (None, _) => None,
        (Some(outside), [directory]) => Some(Freeze {
            outside: control(&outside.join("cgroup.procs"))?,
            switch: control(&directory.join("cgroup.freeze"))?,
        }),
        (Some(_), _) => {
            let problem = "only a v2 cgroup, which is one directory, can be frozen as a whole";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
    };
    let mut joined = false;
    for directory in &entry.directories {
        match control(&directory.join("cgroup.procs")) {
            // 0 is the writer.
            Ok(mut procs) => put(&mut procs, "0")?,
            // With v1 a runtime may leave a hierarchy out.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        joined = true;
    }
    if joined {
        Ok(freeze)
    } else {
        let problem = format!("the runtime made none of {:?}", entry.directories);
        Err(io::Error::new(io::ErrorKind::NotFound, problem))
    }
}

impl Entered {
    /// Called while CRIU waits to let the tasks go: takes `criu` and this process out and freezes
    /// the cgroup.
    ///
    /// # Errors
    ///
    /// What write(2) returns.
    pub(super) fn stand_still(&mut self, criu: u32) -> io::Result<()> {
        let Some(mut freeze) = self.freeze.take() else {
            return Ok(());
        };
        put(&mut freeze.outside, &criu.to_string())?;
        put(&mut freeze.outside, "0")?;
        put(&mut freeze.switch, "1")
    }
}

fn control(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().write(true).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// One value, one write(2): a control file takes it whole.
fn put(file: &mut File, value: &str) -> io::Result<()> {
    file.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A directory that looks like a cgroup to who writes into it.
    fn cgroup(at: &Path, name: &str) -> PathBuf {
        let directory = at.join(name);
        std::fs::create_dir(&directory).unwrap();
        for file in ["cgroup.procs", "cgroup.freeze"] {
            sys::fs::replace_path(&directory.join(file), 0o600, b"").unwrap();
        }
        directory
    }

    fn text(path: PathBuf) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn who_enters_leaves_before_the_freeze() {
        let temp = tempfile::tempdir().unwrap();
        let (inside, outside) = (cgroup(temp.path(), "in"), cgroup(temp.path(), "out"));
        let entry = CgroupEntry {
            directories: vec![inside.clone()],
            wait_outside: Some(outside.clone()),
        };
        let mut entered = Entered {
            freeze: join(&entry).unwrap(),
        };
        assert_eq!(text(inside.join("cgroup.procs")), "0");
        assert_eq!(text(inside.join("cgroup.freeze")), "");
        entered.stand_still(17).unwrap();
        assert_eq!(text(outside.join("cgroup.procs")), "170");
        assert_eq!(text(inside.join("cgroup.freeze")), "1");
        entered.stand_still(17).unwrap();
        assert_eq!(text(outside.join("cgroup.procs")), "170", "once is enough");
    }

    #[test]
    fn what_cannot_be_frozen_is_not_joined() {
        let temp = tempfile::tempdir().unwrap();
        let (one, two) = (cgroup(temp.path(), "one"), cgroup(temp.path(), "two"));
        let both = CgroupEntry {
            directories: vec![one.clone(), two.clone()],
            wait_outside: Some(two.clone()),
        };
        let error = join(&both).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let missing = CgroupEntry {
            directories: vec![one.clone()],
            wait_outside: Some(temp.path().join("none")),
        };
        let error = join(&missing).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(text(one.join("cgroup.procs")), "");
        let unfrozen = CgroupEntry {
            wait_outside: None,
            ..both
        };
        assert!(join(&unfrozen).unwrap().is_none());
        assert_eq!(text(two.join("cgroup.procs")), "0");
    }

    #[test]
    fn a_hierarchy_may_be_left_out_but_not_all_of_them() {
        let temp = tempfile::tempdir().unwrap();
        let (one, none) = (cgroup(temp.path(), "one"), temp.path().join("none"));
        let mut entry = CgroupEntry {
            directories: vec![none.clone(), one.clone()],
            wait_outside: None,
        };
        assert!(join(&entry).unwrap().is_none());
        assert_eq!(text(one.join("cgroup.procs")), "0");
        entry.directories = vec![none];
        assert_eq!(join(&entry).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
