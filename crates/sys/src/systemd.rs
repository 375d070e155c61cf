//! What systemd makes of cgroups: slices, which are named for their place, and units that end.
//!
//! ```text
//!  kubepods-besteffort-pod1.slice  ⇒  /kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice
//!                                       └─ thawd-ID.scope    a container, made through the OCI runtime
//! ```

use std::io;
use std::path::Path;

use crate::process::{Command, Deadline, OutputLimits, RunError};

/// There while systemd is the service manager of this host (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Ending of a slice's name.
const SLICE: &str = ".slice";

/// The slice above all others.
const ROOT: &str = "-.slice";

/// Longest name of a unit (systemd.unit(5), `UNIT_NAME_MAX` is 256 with its end).
const MAX_NAME_BYTES: usize = 255;

/// What systemctl prints is not used.
const LIMITS: OutputLimits = OutputLimits {
    max_stdout_bytes: 64 * 1024,
    max_stderr_bytes: 4096,
};

/// Whether systemd manages this host.
#[must_use]
pub fn is_running() -> bool {
    Path::new(BOOTED).is_dir()
}

/// A name that is not one of a slice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no name of a systemd slice: {problem}")]
pub struct SliceError {
    /// The name.
    pub name: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// The cgroup of a slice: below one slice for each dash in its name (systemd.slice(5)). It begins with a
/// slash; that of the root slice `-.slice` is empty.
///
/// # Errors
///
/// [`SliceError`] for what systemd would not take as a slice's name.
pub fn slice_cgroup(name: &str) -> Result<String, SliceError> {
    let invalid = |problem| {
        Err(SliceError {
            name: name.to_owned(),
            problem,
        })
    };
    let Some(stem) = name.strip_suffix(SLICE) else {
        return invalid("it does not end in \".slice\"");
    };
    if name == ROOT {
        return Ok(String::new());
    }
    if name.len() > MAX_NAME_BYTES {
        return invalid("it is longer than 255 bytes");
    }
    let known = |c: char| c.is_ascii_alphanumeric() || ":_.\\-@".contains(c);
    if !stem.chars().all(known) {
        return invalid("it may hold ASCII letters, digits, and any of : _ . \\ - @");
    }
    if stem.split('-').any(str::is_empty) {
        return invalid("a part between dashes is empty");
    }
    let mut cgroup = String::new();
    let ends = stem.match_indices('-').map(|(at, _)| at);
    for end in ends.chain(std::iter::once(stem.len())) {
        cgroup.push('/');
        cgroup.push_str(stem.get(..end).unwrap_or(stem));
        cgroup.push_str(SLICE);
    }
    Ok(cgroup)
}

/// Ends a unit and waits until it has ended; one that is not there counts as ended.
///
/// # Errors
///
/// When `systemctl` cannot be run, does not end before the deadline, or says that it failed.
pub fn stop_unit(name: &str, deadline: Deadline) -> io::Result<()> {
    let command = Command::new("systemctl").args(["--quiet", "--no-ask-password", "stop", name]);
    let output = command
        .output(&[], LIMITS, deadline)
        .map_err(|error: RunError| io::Error::other(error))?;
    /// No such unit (systemctl(1), "Exit status").
    const NOT_LOADED: u8 = 5;
    if output.status.success() || output.status.code_or_128_plus_signal() == NOT_LOADED {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr_tail);
    Err(io::Error::other(format!(
        "systemctl stop {name}: {}",
        words.trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_lies_below_one_for_each_dash() {
        let check = |name: &str, cgroup: &str| {
            assert_eq!(slice_cgroup(name).as_deref(), Ok(cgroup), "{name}");
        };
        check("system.slice", "/system.slice");
        check(
            "kubepods-besteffort-pod1.slice",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice",
        );
        check("a-b_c.d.slice", "/a.slice/a-b_c.d.slice");
        check("-.slice", "");
    }

    #[test]
    fn what_is_no_slice_is_refused_with_the_reason() {
        let check = |name: &str, problem: &str| {
            let error = slice_cgroup(name).unwrap_err();
            assert!(error.problem.contains(problem), "{error}");
            assert_eq!(error.name, name);
        };
        check("pods", "does not end");
        check("a--b.slice", "between dashes");
        check("-a.slice", "between dashes");
        check("a-.slice", "between dashes");
        check(".slice", "between dashes");
        check("a/b.slice", "may hold");
        check("a b.slice", "may hold");
        check("\u{e4}.slice", "may hold");
        check(&format!("{}.slice", "a".repeat(250)), "longer");
    }
}
