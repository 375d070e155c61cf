//! Messages between the daemon and a monitor: one JSON object in each packet.
//!
//! ```text
//!  start (the monitor's standard input):
//!    ──▶ {"version":1,"body":{"timeout_ms":…,"spec":{…}}}
//!    ◀── {"version":1,"body":{"monitor":{"pid":…}}}
//!    ◀── {"version":1,"body":{"started":{"container_pid":…}}}  or  {"failed":{…}}
//!  later (monitor.sock):
//!    ──▶ {"version":1,"body":"status"}        ◀── {"version":1,"body":{"status":{…}}}
//!    ──▶ {"version":1,"body":"reopen_log"}    ◀── {"version":1,"body":"done"}
//!    ──▶ {"version":1,"body":"killing"}       ◀── {"version":1,"body":"done"}
//!    ──▶ {"version":1,"body":"watch"}         ◀── {"version":1,"body":{"exited":{…}}}, when it ends
//!    ──▶ anything else                        ◀── {"version":1,"body":{"error":{"message":…}}}
//! ```
//!
//! A monitor lives as long as its container, so a newer daemon meets older monitors: requests are added
//! as variants, which an older monitor answers with `error`; fields are added with a default. The version
//! changes only when an old reader would misunderstand.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, ExitRecord, MonitorSpec};

/// The version of all messages and records of this crate.
pub const VERSION: u32 = 1;

/// The longest message on the socket.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// The longest start message: a specification with its environment.
pub const MAX_START_BYTES: usize = 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    body: T,
}

/// The first message, from the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// How long the runtime may take.
    pub timeout_ms: u64,
    /// What to do.
    pub spec: MonitorSpec,
}

/// What a starting monitor tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Startup {
    /// It is on its own; first message.
    Monitor {
        /// Its pid.
        pid: u32,
    },
    /// The runtime succeeded; last message.
    Started {
        /// The container's first process.
        container_pid: u32,
    },
    /// It ends; last message.
    Failed(StartFailure),
}

/// Why a monitor could not start its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFailure {
    /// The monitor's own preparation failed.
    Setup {
        /// What was being done, with its operand.
        action: String,
        /// The cause.
        message: String,
    },
    /// The runtime ended with an error.
    Runtime {
        /// Exit code, when it exited.
        code: Option<u8>,
        /// Signal, when one killed it.
        signal: Option<i32>,
        /// The end of its standard error.
        stderr_tail: String,
    },
    /// The runtime did not end in time and was killed.
    Timeout,
}

/// What can be asked of a running monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// [`Reply::Status`]; while the runtime still creates the container, the answer waits for that.
    Status,
    /// Open the log path anew, after a rotation; [`Reply::Done`].
    ReopenLog,
    /// Have in the log what the container has written so far; [`Reply::Done`].
    Flush,
    /// SIGKILL is about to be sent: what the OOM killer did until now was not to the first process;
    /// [`Reply::Done`].
    Killing,
    /// [`Reply::Exited`], once the exit record is written.
    Watch,
}

/// What a running monitor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::ReopenLog`], [`Request::Flush`] and [`Request::Killing`].
    Done,
    /// To [`Request::Watch`].
    Exited(ExitRecord),
    /// The request was not understood or failed.
    Error {
        /// Why.
        message: String,
    },
}

/// A running monitor and its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The monitor.
    pub monitor_pid: u32,
    /// The container's first process; it may have ended.
    pub container_pid: u32,
    /// How it ended, if it has; `exit.json` may not be written yet.
    pub exited: Option<ExitRecord>,
    /// Bytes of log written since the monitor started, over all rotations.
    pub log_bytes: u64,
    /// Bytes of log that could not be written.
    #[serde(default)]
    pub log_dropped_bytes: u64,
}

/// A message as bytes.
///
/// # Errors
///
/// [`Error::Protocol`] when it cannot be written as JSON, which no message of this module meets.
pub fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(&Envelope {
        version: VERSION,
        body,
    })
    .map_err(|error| Error::Protocol {
        message: error.to_string(),
    })
}

/// A message from bytes.
///
/// # Errors
///
/// [`Error::Protocol`] for anything but a message of this version.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let problem = |error: serde_json::Error| Error::Protocol {
        message: error.to_string(),
    };
    let Version { version } = serde_json::from_slice(bytes).map_err(problem)?;
    if version != VERSION {
        let message = format!("version {version} where {VERSION} is spoken");
        return Err(Error::Protocol { message });
    }
    serde_json::from_slice::<Envelope<T>>(bytes)
        .map(|envelope| envelope.body)
        .map_err(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(message: &T, text: &str)
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        assert_eq!(String::from_utf8(encode(message).unwrap()).unwrap(), text);
        assert_eq!(&decode::<T>(text.as_bytes()).unwrap(), message);
    }

    #[test]
    fn messages_have_the_documented_form() {
        check(&Request::Status, r#"{"version":1,"body":"status"}"#);
        check(&Request::ReopenLog, r#"{"version":1,"body":"reopen_log"}"#);
        check(&Request::Killing, r#"{"version":1,"body":"killing"}"#);
        check(&Request::Watch, r#"{"version":1,"body":"watch"}"#);
        check(&Reply::Done, r#"{"version":1,"body":"done"}"#);
        check(
            &Startup::Monitor { pid: 7 },
            r#"{"version":1,"body":{"monitor":{"pid":7}}}"#,
        );
        check(
            &Startup::Started { container_pid: 8 },
            r#"{"version":1,"body":{"started":{"container_pid":8}}}"#,
        );
        check(
            &Reply::Error {
                message: "no".into(),
            },
            r#"{"version":1,"body":{"error":{"message":"no"}}}"#,
        );
    }

    #[test]
    fn other_versions_and_other_messages_are_refused() {
        for text in [
            "",
            "null",
            "{}",
            r#"{"version":2,"body":"status"}"#,
            r#"{"version":1,"body":"attach"}"#,
            r#"{"version":1}"#,
            "\u{0}",
        ] {
            let error = decode::<Request>(text.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Protocol { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn a_status_of_a_monitor_that_counts_no_drops_is_read() {
        let text = r#"{"version":1,"body":{"status":{"monitor_pid":1,"container_pid":2,"exited":null,"log_bytes":3}}}"#;
        let Reply::Status(status) = decode(text.as_bytes()).unwrap() else {
            panic!("{text}")
        };
        assert_eq!(
            (status.log_bytes, status.log_dropped_bytes, status.exited),
            (3, 0, None)
        );
    }
}
