//! What CRIU cannot dump is found before anything is frozen, and named by pid, descriptor and path.

use std::os::unix::net::UnixListener;

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;
use cri_server::v1::security_profile::ProfileType;
use tonic::{Code, Status};

use super::Test;
use super::bad_input::refused;
use crate::harness::containers::{Container, Pod, security, workload_config};
use crate::harness::daemon::Thawd;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("undumpable::an_io_uring_ring", io_uring),
    ("undumpable::a_nested_pid_namespace", nested_pid),
    (
        "undumpable::a_unix_connection_that_was_accepted_outside",
        accepted_unix,
    ),
    (
        "undumpable::a_unix_connection_that_waits_outside",
        waiting_unix,
    ),
    ("undumpable::a_traced_task", traced),
    (
        "undumpable::default_seccomp_keeps_io_uring_out",
        seccomp_refuses_io_uring,
    ),
];

/// The checkpoint is refused with these words, and the container never stood still.
fn refuses(thawd: &Thawd, config: v1::ContainerConfig, words: &[&str]) -> Result<()> {
    let (_pod, container) = start(thawd, config)?;
    refused_and_unharmed(thawd, &container, words)
}

fn start(thawd: &Thawd, config: v1::ContainerConfig) -> Result<(Pod, Container)> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.start(config)?;
    container.log.wait_count(3)?;
    Ok((pod, container))
}

fn refused_and_unharmed(thawd: &Thawd, container: &Container, words: &[&str]) -> Result<()> {
    refused_by_name(thawd, container, words)?;
    let gap = container.log.wait_more(3)?.number("gap_us")?;
    ensure!(gap < 1_000_000, "the container stood still for {gap} us");
    container.check()
}

/// Refused with these words and a process, and no file is left.
pub(super) fn refused_by_name(thawd: &Thawd, container: &Container, words: &[&str]) -> Result<()> {
    let archives = thawd.path("archives");
    let outcome = container.checkpoint(&archives.join("a.tar"));
    let status = refused(outcome, Code::FailedPrecondition, words)?;
    named_process(&status)?;
    ensure!(
        std::fs::read_dir(&archives)?.next().is_none(),
        "a file was left"
    );
    ensure!(
        std::fs::read_dir(thawd.path("root/criu-logs"))?
            .next()
            .is_none(),
        "CRIU ran: it left a log"
    );
    Ok(())
}

/// The message names a process by its pid.
fn named_process(status: &Status) -> Result<()> {
    let words: Vec<&str> = status.message().split(' ').collect();
    let named = words
        .windows(2)
        .any(|pair| matches!(pair, ["process", pid] if pid.parse::<u32>().is_ok()));
    ensure!(named, "no process is named: {status:?}");
    Ok(())
}

fn io_uring(thawd: &mut Thawd) -> Result<()> {
    let mut config = workload_config("workload", &["memory=1", "io-uring"]);
    security(&mut config).seccomp = Some(v1::SecurityProfile {
        profile_type: ProfileType::Unconfined.into(),
        ..Default::default()
    });
    refuses(thawd, config, &["io_uring", "fd"])
}

fn nested_pid(thawd: &mut Thawd) -> Result<()> {
    let mut config = workload_config("workload", &["memory=1", "nested-pid"]);
    security(&mut config).capabilities = Some(v1::Capability {
        add_capabilities: vec!["SYS_ADMIN".to_owned()],
        ..Default::default()
    });
    refuses(thawd, config, &["pid namespace"])
}

/// A listener outside, and the request of a container that connects to it.
fn outside(thawd: &Thawd) -> Result<(UnixListener, v1::ContainerConfig)> {
    let listener = UnixListener::bind(thawd.path("data/outside.sock"))?;
    let mut config = workload_config("workload", &["memory=1", "outside-unix=/data/outside.sock"]);
    config.mounts.push(v1::Mount {
        container_path: "/data".to_owned(),
        host_path: thawd.path("data").display().to_string(),
        ..Default::default()
    });
    Ok((listener, config))
}

const UNIX: &[&str] = &[
    "unix socket fd ",
    "outside.sock",
    "outside of the container",
];

fn accepted_unix(thawd: &mut Thawd) -> Result<()> {
    let (listener, config) = outside(thawd)?;
    let (_pod, container) = start(thawd, config)?;
    let (connection, _) = listener.accept()?;
    // Neither a listener nor its backlog leads to the other end any more.
    drop(listener);
    refused_and_unharmed(thawd, &container, UNIX)?;
    drop(connection);
    Ok(())
}

fn waiting_unix(thawd: &mut Thawd) -> Result<()> {
    let (listener, config) = outside(thawd)?;
    let (_pod, container) = start(thawd, config)?;
    refused_and_unharmed(thawd, &container, UNIX)?;
    // Both ends outside of nothing: once it is closed there, it can be dumped.
    drop(listener);
    container
        .checkpoint(&thawd.path("archives/a.tar"))
        .context("after the other end was closed")
}

fn traced(thawd: &mut Thawd) -> Result<()> {
    refuses(
        thawd,
        workload_config("workload", &["memory=1", "traced"]),
        &["trace"],
    )
}

fn seccomp_refuses_io_uring(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.start(workload_config("workload", &["io-uring"]))?;
    let status = container.wait_exit()?;
    ensure!(status.exit_code == 1, "exit code {}", status.exit_code);
    container
        .log
        .wait_text("io_uring_setup")
        .context("the refusal")?;
    Ok(())
}
