//! What `state` prints (OCI runtime specification, `runtime.md`, "State").

use std::path::PathBuf;

use serde::Deserialize;

/// The status of a container as the OCI runtime has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// `creating`: between the start of `create` and its end.
    Creating,
    /// `created`: the user's program has not begun.
    Created,
    /// `running`.
    Running,
    /// `paused`, runc's and crun's word for a frozen cgroup.
    Paused,
    /// `stopped`: the process is gone, the runtime's directory is not.
    Stopped,
    /// A word that this version does not know.
    Other(String),
}

impl Status {
    fn parse(word: &str) -> Self {
        match word {
            "creating" => Self::Creating,
            "created" => Self::Created,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "stopped" => Self::Stopped,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Other(word) => word,
        })
    }
}

/// A container in the OCI runtime's books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its status.
    pub status: Status,
    /// Its first process in this pid namespace; `None` when it has none (any more).
    pub pid: Option<u32>,
    /// Its bundle directory.
    pub bundle: PathBuf,
}

impl State {
    /// Parses what `state` printed.
    ///
    /// # Errors
    ///
    /// When the bytes are not JSON, or lack `status` or `bundle`.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Raw {
            status: String,
            #[serde(default)]
            pid: i64,
            bundle: PathBuf,
        }
        let raw: Raw = serde_json::from_slice(bytes)?;
        Ok(Self {
            status: Status::parse(&raw.status),
            pid: u32::try_from(raw.pid).ok().filter(|pid| *pid > 0),
            bundle: raw.bundle,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, status: Status, pid: Option<u32>) {
        let state = State::parse(text.as_bytes()).unwrap();
        assert_eq!(
            state,
            State {
                status,
                pid,
                bundle: PathBuf::from("/b")
            },
            "{text}"
        );
    }

    #[test]
    fn states_of_both_runtimes_are_understood() {
        // runc 1.1.5 and crun 1.8.1, shortened.
        check(
            r#"{"ociVersion":"1.0.2-dev","id":"c","pid":71,"status":"running","bundle":"/b","rootfs":"/b/r","created":"2026-11-21T10:00:00Z","owner":""}"#,
            Status::Running,
            Some(71),
        );
        check(
            r#"{"id":"c","pid":0,"status":"stopped","bundle":"/b"}"#,
            Status::Stopped,
            None,
        );
        check(
            r#"{"status":"created","pid":2,"bundle":"/b"}"#,
            Status::Created,
            Some(2),
        );
        check(
            r#"{"status":"paused","pid":2,"bundle":"/b"}"#,
            Status::Paused,
            Some(2),
        );
        check(
            r#"{"status":"creating","bundle":"/b"}"#,
            Status::Creating,
            None,
        );
        check(
            r#"{"status":"thawing","pid":-1,"bundle":"/b"}"#,
            Status::Other("thawing".into()),
            None,
        );
    }

    #[test]
    fn what_is_no_state_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            r#"{"status":"running"}"#,
            r#"{"bundle":"/b"}"#,
        ] {
            assert!(State::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
