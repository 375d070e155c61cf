//! What CRIU cannot dump is found before anything is frozen, and named by pid, descriptor and path.

use std::os::unix::net::UnixListener;

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;
use cri_server::v1::security_profile::ProfileType;
use tonic::Code;

use super::Test;
use super::bad_input::refused;
use crate::harness::containers::{Container, Pod, security, workload_config};
use crate::harness::daemon::Thawd;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("undumpable::an_io_uring_ring", io_uring),
    ("undumpable::a_nested_pid_namespace", nested_pid),
    ("undumpable::a_unix_socket_connected_outside", outside_unix),
    ("undumpable::a_traced_task", traced),
    (
        "undumpable::default_seccomp_keeps_io_uring_out",
        seccomp_refuses_io_uring,
    ),
];

/// The checkpoint is refused with these words, and the container never stood still.
fn refuses(thawd: &Thawd, config: v1::ContainerConfig, words: &[&str]) -> Result<Container> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.start(config)?;
    container.log.wait_count(3)?;
    let archives = thawd.path("archives");
    let outcome = container.checkpoint(&archives.join("a.tar"));
    let status = refused(outcome, Code::FailedPrecondition, words)?;
    let words: Vec<&str> = status.message().split(' ').collect();
    let named = words
        .windows(2)
        .any(|pair| matches!(pair, ["process", pid] if pid.parse::<u32>().is_ok()));
    ensure!(named, "no process is named: {status:?}");
    ensure!(
        std::fs::read_dir(&archives)?.next().is_none(),
        "a file was left"
    );
    let gap = container.log.wait_more(3)?.number("gap_us")?;
    ensure!(gap < 1_000_000, "the container stood still for {gap} us");
    container.check()?;
    Ok(container)
}

fn io_uring(thawd: &mut Thawd) -> Result<()> {
    let mut config = workload_config("workload", &["memory=1", "io-uring"]);
    security(&mut config).seccomp = Some(v1::SecurityProfile {
        profile_type: ProfileType::Unconfined.into(),
        ..Default::default()
    });
    refuses(thawd, config, &["io_uring", "fd"]).map(drop)
}

fn nested_pid(thawd: &mut Thawd) -> Result<()> {
    let mut config = workload_config("workload", &["memory=1", "nested-pid"]);
    security(&mut config).capabilities = Some(v1::Capability {
        add_capabilities: vec!["SYS_ADMIN".to_owned()],
        ..Default::default()
    });
    refuses(thawd, config, &["pid namespace"]).map(drop)
}

fn outside_unix(thawd: &mut Thawd) -> Result<()> {
    let listener = UnixListener::bind(thawd.path("data/outside.sock"))?;
    let mut config = workload_config("workload", &["memory=1", "outside-unix=/data/outside.sock"]);
    config.mounts.push(v1::Mount {
        container_path: "/data".to_owned(),
        host_path: thawd.path("data").display().to_string(),
        ..Default::default()
    });
    refuses(thawd, config, &["unix", "fd", "outside.sock"])?;
    drop(listener);
    Ok(())
}

fn traced(thawd: &mut Thawd) -> Result<()> {
    refuses(
        thawd,
        workload_config("workload", &["memory=1", "traced"]),
        &["trace"],
    )
    .map(drop)
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
