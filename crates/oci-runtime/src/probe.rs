//! Which runtime a binary is.

use std::path::Path;

use sys::process::{Command, Deadline};

use crate::runtime::{LIMITS, run};
use crate::{Error, Kind, OciRuntime};

impl OciRuntime {
    /// Asks `binary` for its version and gives a runtime that uses `root`, without systemd cgroups and
    /// exec helper.
    ///
    /// # Errors
    ///
    /// [`Error::Run`] when it cannot be run, [`Error::Deadline`], [`Error::Failed`] when it does not
    /// know `--version`, [`Error::Output`] when what it prints names no version.
    pub fn probe(binary: &Path, root: &Path, deadline: Deadline) -> Result<Self, Error> {
        let (kind, _) = version(binary, deadline)?;
        Ok(Self {
            binary: binary.to_owned(),
            root: root.to_owned(),
            kind,
            systemd_cgroup: false,
            exec_helper: None,
        })
    }

    /// The version the binary gives, as it writes it: `1.1.5+ds1`.
    ///
    /// # Errors
    ///
    /// As [`Self::probe`].
    pub fn version(&self, deadline: Deadline) -> Result<String, Error> {
        version(&self.binary, deadline).map(|(_, version)| version)
    }

    /// Whether it was built to restore: Debian 12's crun was not. (Whether a crun finds `libcriu.so.2`
    /// shows only when it restores.)
    ///
    /// # Errors
    ///
    /// As [`Self::probe`].
    pub fn restores(&self, deadline: Deadline) -> Result<bool, Error> {
        let text = version_text(&self.binary, deadline)?;
        Ok(self.kind != Kind::Crun || has_feature(&text, "CRIU"))
    }
}

fn version(binary: &Path, deadline: Deadline) -> Result<(Kind, String), Error> {
    let text = version_text(binary, deadline)?;
    parse(&text).ok_or_else(|| Error::Output {
        argv: Command::new(binary).arg("--version").argv(),
        expected: "version",
        printed: text.chars().take(200).collect(),
    })
}

fn version_text(binary: &Path, deadline: Deadline) -> Result<String, Error> {
    let output = run(Command::new(binary).arg("--version"), LIMITS, deadline)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// crun's last line lists what it was built with: `+SYSTEMD +CAP +CRIU`.
fn has_feature(text: &str, name: &str) -> bool {
    text.split_ascii_whitespace()
        .any(|word| word.strip_prefix('+') == Some(name))
}

/// The first line is `NAME version VERSION` with runc, crun and youki alike.
fn parse(text: &str) -> Option<(Kind, String)> {
    let mut words = text.lines().next()?.split_ascii_whitespace();
    let name = words.next()?;
    let kind = match name {
        "runc" => Kind::Runc,
        "crun" => Kind::Crun,
        _ => Kind::Other,
    };
    let version = words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    Some((kind, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crun_tells_whether_it_was_built_with_criu() {
        // Debian 12's and Debian unstable's.
        let old = "crun version 1.8.1\ncommit: f8a0\n+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +YAJL";
        let new = "crun version 1.28\ncommit: 54f1\n+SYSTEMD +SECCOMP +EBPF +CRIU +JSON_C";
        assert!(!has_feature(old, "CRIU"));
        assert!(has_feature(new, "CRIU"));
        assert!(!has_feature("crun version 2 +CRIUX CRIU", "CRIU"));
    }

    #[test]
    fn versions_are_recognised() {
        for (text, kind, version) in [
            (
                "runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1\nspec: 1.0.2-dev\n",
                Kind::Runc,
                "1.1.5+ds1",
            ),
            (
                "crun version 1.8.1\ncommit: f8a096be\nspec: 1.0.0\n",
                Kind::Crun,
                "1.8.1",
            ),
            ("youki version 0.5.7", Kind::Other, "0.5.7"),
        ] {
            assert_eq!(parse(text), Some((kind, version.to_owned())), "{text}");
        }
        for text in ["", "\n", "runc", "runc version unknown"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
