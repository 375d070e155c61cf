//! Shells with job control on a terminal: they keep /dev/tty open, which CRIU dumps and restores in
//! some cases only. The others are refused before anything is frozen.

use anyhow::{Context as _, Result, ensure};

use super::Test;
use super::pods::BUSYBOX;
use super::undumpable::refused_by_name;
use crate::harness::containers::{Container, Pod, container_config};
use crate::harness::daemon::Thawd;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("survival::a_shell_with_job_control", job_control),
    (
        "undumpable::a_shell_whose_job_is_in_the_foreground",
        foreground_job,
    ),
    (
        "undumpable::a_job_that_opened_the_terminal_itself",
        own_terminal,
    ),
];

/// Counts, waiting for a job in the background.
const COUNT: &str = "n=0; while :; do n=$((n + 1)); echo count=$n ok; sleep 0.1 & wait $!; done";

/// A pod with a shell on a terminal that runs this.
fn shell(thawd: &Thawd, script: &str) -> Result<(Pod, Container)> {
    thawd.load("base")?;
    let mut config = container_config("shell", BUSYBOX, &["sh", "-c", script]);
    config.tty = true;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.start(config)?;
    container.log.wait_count(3)?;
    Ok((pod, container))
}

/// Whether the shell holds /dev/tty: what the tests are about.
fn holds_terminal(container: &Container) -> Result<()> {
    let files = container.exec(&["sh", "-c", "ls -l /proc/1/fd"])?.stdout;
    ensure!(files.contains("/dev/tty"), "no /dev/tty in {files}");
    Ok(())
}

fn job_control(thawd: &mut Thawd) -> Result<()> {
    // A subshell inherits the descriptor, a program does not.
    let script = format!("set -m; (while :; do sleep 1; done) & sleep 1000 & {COUNT}");
    let (pod, mut current) = shell(thawd, &script)?;
    for round in ["one", "two"] {
        holds_terminal(&current)?;
        let archive = thawd.path(&format!("archives/{round}.tar"));
        let before = current.log.count()?;
        current.checkpoint(&archive).context(round)?;
        let frozen = (before, current.log.count()?);
        current.log.wait_more(3)?;
        current.stop()?;
        current.remove()?;
        let source = archive.display().to_string();
        current = pod.start(current.restored_config(&source, round))?;
        current.log.wait_thawed(frozen)?;
    }
    holds_terminal(&current)?;
    // The jobs are still the shell's.
    let jobs = current.exec(&["sh", "-c", "cat /proc/1/task/1/children"])?;
    ensure!(jobs.stdout.split_whitespace().count() >= 2, "{jobs:?}");
    Ok(())
}

fn foreground_job(thawd: &mut Thawd) -> Result<()> {
    let script = format!("set -m; sh -c '{COUNT}'; true");
    let (_pod, container) = shell(thawd, &script)?;
    holds_terminal(&container)?;
    let words = ["holds /dev/tty as fd ", "process group ", "foreground"];
    refused_by_name(thawd, &container, &words)?;
    container.log.wait_more(3).map(drop)
}

fn own_terminal(thawd: &mut Thawd) -> Result<()> {
    for script in [
        format!("set -m; sleep 1000 </dev/tty & {COUNT}"),
        format!("(exec 5</dev/tty; sleep 1000) & {COUNT}"),
    ] {
        let (pod, container) = shell(thawd, &script)?;
        let words = ["holds /dev/tty as fd ", "session's leader"];
        refused_by_name(thawd, &container, &words).context(script)?;
        container.log.wait_more(3)?;
        pod.remove()?;
    }
    Ok(())
}
