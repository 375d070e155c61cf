//! Which runtime a binary is.

use std::path::Path;

use sys::process::{Command, Deadline};

use crate::args::RestoreArgs;
use crate::runtime::{LIMITS, run};
use crate::{Error, Kind, OciRuntime, log};

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

    /// Why it cannot restore; `None` when nothing speaks against it.
    ///
    /// Debian 12's crun was built without CRIU; others load `libcriu.so.2` when they restore, and
    /// Debian's package does not bring it along. With a `trial` a restore is begun that can go no
    /// further than asking CRIU for its version, because there is none on its `PATH`.
    ///
    /// # Errors
    ///
    /// As [`Self::probe`]; [`Error::Io`] when the bundle of the trial cannot be written.
    pub fn restore_problem(
        &self,
        trial: Option<&Trial<'_>>,
        deadline: Deadline,
    ) -> Result<Option<String>, Error> {
        if self.kind != Kind::Crun {
            return Ok(None);
        }
        if !has_feature(&version_text(&self.binary, deadline)?, "CRIU") {
            return Ok(Some("it was built without CRIU".to_owned()));
        }
        match trial.map(|trial| self.begin_restore(trial, deadline)) {
            Some(Err(Error::Failed(failure))) => Ok(library_problem(&failure.errors)),
            Some(Err(error)) => Err(error),
            Some(Ok(())) | None => Ok(None),
        }
    }

    fn begin_restore(&self, trial: &Trial<'_>, deadline: Deadline) -> Result<(), Error> {
        let runtime = Self {
            root: trial.directory.join("root"),
            ..self.clone()
        };
        let (none, log) = (trial.directory.join("none"), trial.directory.join("log"));
        let args = runtime.restore_args(&RestoreArgs {
            id: "probe",
            bundle: trial.directory,
            pid_file: &none,
            image_path: &none,
            work_path: trial.directory,
            console_socket: None,
            log: &log,
        });
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {"args": ["/none"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"},
            "mounts": [],
            "linux": {"cgroupsPath": trial.cgroup, "namespaces": [{"type": "mount"}]},
        });
        let bundle = trial.directory.join("config.json");
        sys::fs::replace_path(&bundle, 0o600, config.to_string().as_bytes()).map_err(|source| {
            Error::Io {
                argv: args.clone(),
                source,
            }
        })?;
        let mut words = args.into_iter();
        let command = Command::new(words.next().unwrap_or_default())
            .args(words)
            .env("PATH", none);
        run(command, LIMITS, deadline)
            .map(drop)
            .map_err(|error| match error {
                Error::Failed(mut failure) => {
                    let text = log::read(&log).unwrap_or_default();
                    failure.errors.extend(log::errors(&text));
                    Error::Failed(failure)
                }
                other => other,
            })
    }
}

/// Where a restore may be tried. crun makes the cgroup (v2), files below `directory`, and removes
/// neither.
#[derive(Debug, Clone, Copy)]
pub struct Trial<'a> {
    /// An empty directory.
    pub directory: &'a Path,
    /// A cgroup that does not exist.
    pub cgroup: &'a str,
}

/// crun's words for a library that is missing, too old, or not the one it was built for.
fn library_problem(errors: &[String]) -> Option<String> {
    errors
        .iter()
        .find(|error| error.contains("libcriu"))
        .cloned()
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
    fn a_crun_without_its_library_is_found_out() {
        // crun 1.28 with and without libcriu.so.2, and no criu on the PATH.
        let missing =
            "could not load `libcriu.so.2`: `libcriu.so.2: cannot open shared object file";
        let there = "CRIU: failed checking version: Communication error on send";
        let check = |error: &str| library_problem(&[error.to_owned()]);
        assert_eq!(check(missing).as_deref(), Some(missing));
        assert_eq!(
            check("libcriu is too old").as_deref(),
            Some("libcriu is too old")
        );
        assert_eq!(check(there), None);
        assert_eq!(library_problem(&[]), None);
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
