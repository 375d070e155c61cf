//! Cgroups that thawd had made go when their last user goes.
//!
//! The OCI runtime, and systemd for it, make what is missing on the way to a container's cgroup, and
//! nobody takes it away again. Before a pod uses a cgroup, each directory on the way that is not there
//! is noted in a file, whose name is the directory's path; when the last pod below it is removed, the
//! directory and then the note go. What was there before belongs to somebody else and stays.
//!
//! ```text
//!  RUN/cgroups/%2Fsys%2Ffs%2Fcgroup%2Fthawd        an empty file: thawd had it made
//! ```
//!
//! Both live as long as the boot: the run directory and the cgroups.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sys::cgroup::Hierarchies;
use sys::epoll::{Epoll, Interest};
use sys::process::Deadline;

/// Time for systemd to end a slice.
const STOP: Duration = Duration::from_secs(10);

/// Time for a process that has ended to leave its cgroup, as the kernel counts.
const LEAVE: Duration = Duration::from_secs(2);

/// Longest time between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// The pods that use each cgroup, and the notes.
#[derive(Debug)]
pub(crate) struct Users {
    notes: PathBuf,
    /// Of the monitors.
    monitors: String,
    /// The cgroup of each pod, by the pod's id.
    pods: Mutex<BTreeMap<String, String>>,
}

impl Users {
    /// Keeps its notes in the directory `notes`; `monitors` is the cgroup that is used by every pod.
    pub(crate) fn new(notes: PathBuf, monitors: String) -> Self {
        Self {
            notes,
            monitors,
            pods: Mutex::default(),
        }
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod `id` of an earlier daemon uses `cgroup`.
    pub(crate) fn adopt(&self, id: &str, cgroup: &str) {
        self.pods().insert(id.to_owned(), cgroup.to_owned());
    }

    /// The new pod `id` is going to use `cgroup`.
    ///
    /// # Errors
    ///
    /// What writing a note returns; the pod is no user then.
    pub(crate) fn acquire(
        &self,
        hierarchies: &Hierarchies,
        id: &str,
        cgroup: &str,
    ) -> io::Result<()> {
        let mut pods = self.pods();
        sys::fs::make_dir_all(&self.notes, 0o700)?;
        for path in [cgroup, &self.monitors] {
            for directory in way(hierarchies, path) {
                if !directory.exists() {
                    let note = self.notes.join(note_of(&directory));
                    sys::fs::replace_path(&note, 0o600, b"")?;
                }
            }
        }
        pods.insert(id.to_owned(), cgroup.to_owned());
        Ok(())
    }

    /// The pod `id` does not use its cgroup any more; one that is not known is fine. What no other pod
    /// needs goes.
    ///
    /// # Errors
    ///
    /// The last failure; all are tried. What others use stays, and so does its note.
    pub(crate) fn release(&self, hierarchies: &Hierarchies, id: &str) -> io::Result<()> {
        let mut pods = self.pods();
        pods.remove(id);
        self.sweep(hierarchies, &pods)
    }

    /// Takes away whatever is noted and not used: pods of an earlier daemon may have gone with it.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
    pub(crate) fn clear(&self, hierarchies: &Hierarchies) -> io::Result<()> {
        self.sweep(hierarchies, &self.pods())
    }

    fn sweep(&self, hierarchies: &Hierarchies, pods: &BTreeMap<String, String>) -> io::Result<()> {
        let monitors = (!pods.is_empty()).then_some(&self.monitors);
        let needed: Vec<PathBuf> = pods
            .values()
            .chain(monitors)
            .flat_map(|cgroup| hierarchies.directories(cgroup))
            .collect();
        let mut result = Ok(());
        // The deepest first.
        for directory in self.noted()?.iter().rev() {
            if needed.iter().any(|needed| needed.starts_with(directory)) {
                continue;
            }
            let gone = take_away(directory)
                .and_then(|gone| if gone { self.forget(directory) } else { Ok(()) });
            result = gone.and(result);
        }
        result
    }

    fn forget(&self, directory: &Path) -> io::Result<()> {
        std::fs::remove_file(self.notes.join(note_of(directory)))
    }

    /// Noted directories; one sorts before what is below it.
    fn noted(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(&self.notes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            found.extend(entry?.file_name().to_str().and_then(directory_of));
        }
        found.sort();
        Ok(found)
    }
}

/// Every directory on the way to a cgroup, in each hierarchy, the cgroup's own among them.
fn way(hierarchies: &Hierarchies, cgroup: &str) -> Vec<PathBuf> {
    let parts = Path::new(cgroup.trim_start_matches('/')).ancestors();
    parts
        .filter(|part| !part.as_os_str().is_empty())
        .filter_map(Path::to_str)
        .flat_map(|part| hierarchies.directories(part))
        .collect()
}

/// Removes a cgroup that nobody is in; whether it is gone.
fn take_away(directory: &Path) -> io::Result<bool> {
    let deadline = Deadline::after(LEAVE);
    let name = directory.file_name().and_then(|name| name.to_str());
    if let Some(slice) = name.filter(|name| name.ends_with(".slice")) {
        // Stopping a slice stops what is in it.
        if !directory.exists() {
            return Ok(true);
        }
        // systemd takes a scope away a moment after its last process.
        while is_used(directory)? {
            if deadline.passed() {
                return Ok(false);
            }
            wait_change(directory)?;
        }
        sys::systemd::stop_unit(slice, Deadline::after(STOP))?;
        return Ok(!directory.exists());
    }
    loop {
        match std::fs::remove_dir(directory) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                return Err(error);
            }
            // A process that has ended is counted for a moment longer, though not listed.
            Err(_) if deadline.passed() || is_used(directory)? => return Ok(false),
            Err(_) => wait_change(directory)?,
        }
    }
}

/// Waits until the kernel says that processes have left or come, or for a short time: of v1, and of
/// cgroups that are removed below this one, it does not say.
fn wait_change(directory: &Path) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let events = match File::open(directory.join("cgroup.events")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        events => Some(events?),
    };
    if let Some(events) = &events {
        epoll.add(events, 0, Interest::Change)?;
    }
    epoll.wait(Some(PAUSE)).map(drop)
}

/// Whether a cgroup holds processes or other cgroups.
fn is_used(directory: &Path) -> io::Result<bool> {
    if !std::fs::read(directory.join("cgroup.procs"))?.is_empty() {
        return Ok(true);
    }
    for entry in std::fs::read_dir(directory)? {
        if entry?.file_type()?.is_dir() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A directory's path as the name of a file: `%` and `/` are written as their codes.
fn note_of(directory: &Path) -> String {
    let text = directory.to_string_lossy();
    text.replace('%', "%25").replace('/', "%2F")
}

fn directory_of(note: &str) -> Option<PathBuf> {
    let text = note.replace("%2F", "/").replace("%25", "%");
    text.starts_with('/').then(|| PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A v2 hierarchy that is a directory.
    fn check(work: impl FnOnce(&Path, &Hierarchies, &Users)) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("hierarchy");
        std::fs::create_dir(&root).unwrap();
        let line = format!("34 30 0:30 / {} rw - cgroup2 cgroup2 rw\n", root.display());
        let users = Users::new(temp.path().join("notes"), "/t-monitors".into());
        work(&root, &Hierarchies::parse(&line), &users);
    }

    fn make(root: &Path, cgroup: &str) {
        std::fs::create_dir_all(root.join(cgroup)).unwrap();
    }

    #[test]
    fn what_was_made_goes_with_its_last_user() {
        check(|root, hierarchies, users| {
            users.acquire(hierarchies, "1", "/t/one").unwrap();
            make(root, "t/one");
            make(root, "t-monitors");
            users.acquire(hierarchies, "2", "/t/two").unwrap();
            make(root, "t/two");
            users.release(hierarchies, "1").unwrap();
            assert!(!root.join("t/one").exists());
            assert!(root.join("t/two").exists() && root.join("t-monitors").exists());
            users.release(hierarchies, "2").unwrap();
            assert!(!root.join("t").exists() && !root.join("t-monitors").exists());
            assert_eq!(users.noted().unwrap(), Vec::<PathBuf>::new());
        });
    }

    #[test]
    fn what_was_there_before_stays() {
        check(|root, hierarchies, users| {
            make(root, "kubepods/pod1");
            users.acquire(hierarchies, "1", "/kubepods/pod1").unwrap();
            make(root, "t-monitors");
            users.release(hierarchies, "1").unwrap();
            assert!(root.join("kubepods/pod1").exists());
            assert!(!root.join("t-monitors").exists());
        });
    }

    #[test]
    fn what_somebody_else_put_something_into_stays_until_it_is_empty() {
        check(|root, hierarchies, users| {
            users.acquire(hierarchies, "1", "/t/one").unwrap();
            make(root, "t/one/strange");
            assert!(users.release(hierarchies, "1").is_err());
            assert!(root.join("t/one/strange").exists());
            std::fs::remove_dir(root.join("t/one/strange")).unwrap();
            users.clear(hierarchies).unwrap();
            assert!(!root.join("t").exists());
        });
    }

    #[test]
    fn notes_outlive_the_daemon() {
        check(|root, hierarchies, users| {
            users.acquire(hierarchies, "1", "/t/one").unwrap();
            make(root, "t/one");
            let next = Users::new(users.notes.clone(), users.monitors.clone());
            next.adopt("1", "/t/one");
            next.clear(hierarchies).unwrap();
            assert!(root.join("t/one").exists());
            next.release(hierarchies, "1").unwrap();
            assert!(!root.join("t").exists());
        });
    }

    #[test]
    fn a_path_and_its_note_tell_each_other() {
        for path in ["/sys/fs/cgroup/a", "/a%2Fb/%25", "/a b"] {
            let note = note_of(Path::new(path));
            assert!(!note.contains('/'));
            assert_eq!(directory_of(&note), Some(PathBuf::from(path)));
        }
        assert_eq!(directory_of("strange"), None);
    }
}
