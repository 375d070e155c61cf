//! What can go wrong between the daemon and a monitor.

use std::path::PathBuf;
use std::time::Duration;

/// Why a monitor could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The monitor program could not be run.
    #[error("the monitor {} could not be run", binary.display())]
    Spawn {
        /// The program.
        binary: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The monitor could not prepare itself.
    #[error("the monitor of container {container_id} failed: {action}: {message}")]
    Setup {
        /// The container.
        container_id: String,
        /// What was being done, with its operand.
        action: String,
        /// The monitor's words for the cause.
        message: String,
    },
    /// The OCI runtime failed; its words are within.
    #[error("{0}")]
    Runtime(Box<oci_runtime::Failure>),
    /// The container was not there by the deadline.
    #[error("container {container_id}: the OCI runtime did not end by its deadline and was killed")]
    Timeout {
        /// The container.
        container_id: String,
    },
    /// The monitor ended, or was killed, before it said that the container is there.
    #[error("the monitor of container {container_id} ended without a word")]
    Died {
        /// The container.
        container_id: String,
    },
    /// Nobody listens in the run directory: the monitor has ended or never was.
    #[error("no monitor answers in {}", run_dir.display())]
    Connect {
        /// The run directory.
        run_dir: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The monitor closed the connection: it has ended.
    #[error("the monitor has ended")]
    Ended,
    /// No answer came in time.
    #[error("the monitor did not answer within {limit:?}")]
    NoAnswer {
        /// How long it was waited for.
        limit: Duration,
    },
    /// The monitor could not do what was asked.
    #[error("the monitor refused: {message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// A message that is none of this version.
    #[error("a message that is none: {message}")]
    Protocol {
        /// What is wrong with it.
        message: String,
    },
    /// Talking to the monitor failed.
    #[error("the connection to the monitor failed")]
    Io(#[from] std::io::Error),
}
