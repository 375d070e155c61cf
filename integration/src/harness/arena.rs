//! The network and mount namespace that all tests of one run share.
//!
//! The test program starts itself again through unshare(1). What the tests' daemons mount, bridge or
//! filter ends with the last process of the run, and the host never sees it.

use std::ffi::OsString;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Set in the program that runs inside.
const INSIDE: &str = "THAWD_TEST_ARENA";

/// Whether this process runs inside already.
pub(crate) fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this program again, inside, and returns its exit code.
///
/// # Errors
/// When unshare(1) cannot be started.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness runs ordinary programs"
)]
pub(crate) fn enter() -> Result<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .env(INSIDE, "1")
        .status()
        .context("starting unshare")?;
    Ok(match status.code() {
        Some(0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Becomes this program, inside. Returns only when that fails.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness runs ordinary programs"
)]
pub(crate) fn become_inside() -> anyhow::Error {
    use std::os::unix::process::CommandExt as _;
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error.into(),
    };
    let error = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    anyhow::Error::new(error).context("starting unshare")
}

/// Brings the namespace's own loopback up.
///
/// # Errors
/// When ip(8) refuses.
pub(crate) fn prepare() -> Result<()> {
    run("ip", &["link", "set", "lo", "up"]).map(drop)
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started, or ends with another status than 0; with its standard error.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness runs ordinary programs"
)]
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}: {}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
