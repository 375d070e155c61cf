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
}

fn version(binary: &Path, deadline: Deadline) -> Result<(Kind, String), Error> {
    let command = Command::new(binary).arg("--version");
    let argv = command.argv();
    let output = run(command, LIMITS, deadline)?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| Error::Output {
        argv,
        expected: "version",
        printed: text.chars().take(200).collect(),
    })
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
