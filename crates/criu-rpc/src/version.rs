//! CRIU's versions, and which a kernel needs.

use std::fmt;

/// A version of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Sublevel; 0 when CRIU does not tell one.
    pub sublevel: u32,
}

/// Which version a kernel needs: each row holds from its release of Linux on, to the next row.
///
/// `scripts/lib/criu.sh` has the same table, by which CRIU is installed; a test compares them.
const NEEDED: [((u32, u32), Version); 2] = [
    // What this crate's options were proven with. Debian 12 has 3.17.1 for its 6.1: it dumps and
    // restores a process there, but answers this crate's requests with EBADRQC (seen on 6.1.176),
    // as it does not know `network_lock` SKIP; nor the notification `query-ext-files` (both of 3.19).
    ((0, 0), Version::new(4, 1)),
    // Before 4.2, no inet or packet socket can be dumped there: `getsockopt(SO_PASSCRED)` fails on
    // them (CRIU issue 2705).
    ((6, 16), Version::new(4, 2)),
];

impl Version {
    const fn new(major: u32, minor: u32) -> Self {
        Self {
            major,
            minor,
            sublevel: 0,
        }
    }

    /// The oldest that works on a kernel of this release (`6.18.44-amd64`). A release that cannot
    /// be read counts as new.
    #[must_use]
    pub fn needed_by(kernel_release: &str) -> Self {
        let kernel = sys::sysinfo::kernel_version(kernel_release).unwrap_or((u32::MAX, 0));
        let [(_, first), rest @ ..] = NEEDED;
        let applies = rest.iter().take_while(|(since, _)| *since <= kernel);
        applies.last().map_or(first, |(_, version)| *version)
    }

    /// How every refusal begins that is about this version. Kubernetes' node test looks for the words
    /// (`test/e2e_node/checkpoint_container.go`).
    #[must_use]
    pub fn requirement(self, kernel_release: &str) -> String {
        format!("checkpoint/restore requires at least CRIU {self} on kernel {kernel_release}")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.sublevel > 0 {
            write!(f, ".{}", self.sublevel)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sys::process::{Command, Deadline, OutputLimits};

    use super::Version;

    #[test]
    fn the_kernel_decides_which_version_is_needed() {
        for (release, needed) in [
            ("6.1.0-35-amd64", "4.1"),
            ("5.15.0", "4.1"),
            ("6.12.117+deb13-amd64", "4.1"),
            ("6.15.12", "4.1"),
            ("6.16.0-rc1", "4.2"),
            ("6.18.44-fc-v669", "4.2"),
            ("7.0.1", "4.2"),
            ("unknown", "4.2"),
            ("", "4.2"),
        ] {
            assert_eq!(Version::needed_by(release).to_string(), needed, "{release}");
        }
    }

    #[test]
    fn what_is_installed_for_a_kernel_is_what_is_asked_for() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/lib/criu.sh");
        let releases = (5..9).flat_map(|major| (0..40).map(move |minor| (major, minor)));
        let mut releases: Vec<String> = releases
            .map(|(major, minor)| format!("{major}.{minor}.3-amd64"))
            .collect();
        releases.extend(["6.16.0-rc1", "6.1-1", "unknown", ""].map(str::to_owned));
        let limits = OutputLimits {
            max_stdout_bytes: 1 << 16,
            max_stderr_bytes: 1 << 12,
        };
        let output = Command::new("bash")
            .arg("-c")
            .arg(r#". "$0"; for release; do criu_needed "$release"; done"#)
            .arg(script)
            .args(&releases)
            .output(b"", limits, Deadline::after(Duration::from_secs(60)))
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let installed = String::from_utf8(output.stdout).unwrap();
        let asked: Vec<String> = releases
            .iter()
            .map(|release| Version::needed_by(release).to_string())
            .collect();
        assert_eq!(installed.lines().collect::<Vec<_>>(), asked);
    }

    #[test]
    fn a_requirement_begins_with_the_words_that_kubernetes_looks_for() {
        let kernel = "6.18.44";
        assert_eq!(
            Version::needed_by(kernel).requirement(kernel),
            "checkpoint/restore requires at least CRIU 4.2 on kernel 6.18.44"
        );
    }

    #[test]
    fn versions_are_ordered_and_shown_as_criu_shows_them() {
        let version = |major, minor, sublevel| Version {
            major,
            minor,
            sublevel,
        };
        assert!(version(4, 1, 1) < version(4, 2, 0));
        assert!(version(3, 19, 0) < Version::needed_by("5.15.0"));
        assert_eq!(version(4, 2, 1).to_string(), "4.2.1");
    }
}
