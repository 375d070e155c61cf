//! The CRIU of this node: found, and proven by a real dump.
//!
//! `criu check` and the version alone say nothing about a kernel: CRIU 4.1 passes both on Linux
//! 6.16 and then cannot dump any container with an inet socket. So the first use dumps a helper
//! process that listens on TCP; the answer holds for that binary on this boot.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use criu_rpc::Criu;
use sys::process::Deadline;

use crate::config::NodeConfig;
use crate::error::{Error, chain};
use crate::runtimes::find_program;

/// Time for the probe.
const PROBE: Duration = Duration::from_secs(30);

/// The lowest version that can dump inet sockets on kernels from 6.16 on.
const FOR_NEW_KERNELS: &str = "4.2";

/// The lowest version with every option that a dump uses (`network_lock` SKIP).
const FOR_OLD_KERNELS: &str = "3.19";

/// A CRIU that has dumped here.
#[derive(Debug, Clone)]
pub(crate) struct Usable {
    pub(crate) criu: Criu,
    pub(crate) binary: PathBuf,
    pub(crate) version: String,
}

/// What the last probe found; see the module.
#[derive(Debug)]
pub(crate) struct Engine {
    found: Mutex<Option<Usable>>,
    problem: Mutex<Option<String>>,
}

impl Engine {
    pub(crate) fn new() -> Self {
        Self {
            found: Mutex::new(None),
            problem: Mutex::new(None),
        }
    }

    /// The proven CRIU. A success is kept; a failure is tried again, so that installing CRIU needs
    /// no restart.
    ///
    /// # Errors
    ///
    /// [`Error::Precondition`] that begins `checkpoint/restore requires at least CRIU`, with what
    /// was found where.
    pub(crate) fn usable(&self, config: &NodeConfig) -> Result<Usable, Error> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usable) = found.as_ref().filter(|usable| usable.binary.is_file()) {
            return Ok(usable.clone());
        }
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match probe(config) {
            Ok(usable) => {
                tracing::info!(criu = %usable.binary.display(), version = usable.version,
                    "checkpoint and restore are available");
                *problem = None;
                *found = Some(usable.clone());
                Ok(usable)
            }
            Err(text) => {
                tracing::warn!(problem = text, "checkpoint and restore are not available");
                *problem = Some(text.clone());
                Err(Error::Precondition(text))
            }
        }
    }

    /// What is known without probing, for people.
    pub(crate) fn known(&self) -> Option<Result<String, String>> {
        let found = self
            .found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let problem = self
            .problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        found
            .map(|usable| {
                Ok(format!(
                    "CRIU {} at {}",
                    usable.version,
                    usable.binary.display()
                ))
            })
            .or_else(|| problem.map(Err))
    }
}

fn required() -> &'static str {
    let kernel = sys::sysinfo::kernel();
    match sys::sysinfo::kernel_version(&kernel.release) {
        Some(version) if version < (6, 16) => FOR_OLD_KERNELS,
        _ => FOR_NEW_KERNELS,
    }
}

fn probe(config: &NodeConfig) -> Result<Usable, String> {
    let mut findings = Vec::new();
    for candidate in &config.checkpoint.criu {
        let Some(binary) = find_program(candidate) else {
            findings.push(format!("{} was not found", candidate.display()));
            continue;
        };
        match try_binary(config, &binary) {
            Ok(usable) => return Ok(usable),
            Err(finding) => findings.push(format!("{}: {finding}", binary.display())),
        }
    }
    Err(format!(
        "checkpoint/restore requires at least CRIU {} on this kernel ({}); found: {}",
        required(),
        sys::sysinfo::kernel().release,
        findings.join("; ")
    ))
}

fn try_binary(config: &NodeConfig, binary: &std::path::Path) -> Result<Usable, String> {
    let criu = Criu::new(binary);
    let version = criu
        .version(Deadline::after(PROBE))
        .map_err(|error| chain(&error))?;
    let scratch = config.run.join("criu-probe");
    sys::fs::make_dir_all(&scratch, 0o700).map_err(|error| error.to_string())?;
    let result = criu.probe(&scratch, Deadline::after(PROBE));
    drop(sys::fs::remove_tree(&scratch));
    result
        .map_err(|error| format!("version {version} cannot dump a process: {}", chain(&error)))?;
    Ok(Usable {
        criu,
        binary: binary.to_path_buf(),
        version: version.to_string(),
    })
}
