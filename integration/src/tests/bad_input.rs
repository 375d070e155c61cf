//! What bad input to a checkpoint gets: the right code, the operand, and nothing half done.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;
use tonic::{Code, Status};

use super::Test;
use crate::harness::arena;
use crate::harness::containers::{Container, Pod, workload_config};
use crate::harness::daemon::{Thawd, write};
use crate::harness::wait;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("bad_input::unknown_ids_are_not_found", unknown_ids),
    (
        "bad_input::a_container_that_does_not_run_is_named_with_its_state",
        not_running,
    ),
    (
        "bad_input::a_second_checkpoint_is_aborted_at_once",
        second_checkpoint,
    ),
    (
        "bad_input::bad_locations_are_refused_before_the_freeze",
        locations,
    ),
    ("bad_input::bad_timeouts_are_refused", timeouts),
    (
        "bad_input::too_little_space_is_seen_before_the_freeze",
        space,
    ),
    (
        "bad_input::a_deadline_that_passes_leaves_the_container_running",
        deadline,
    ),
    (
        "bad_input::a_timeout_that_passes_leaves_the_container_running",
        timeout,
    ),
    (
        "bad_input::a_caller_that_goes_away_leaves_the_container_running",
        caller_gone,
    ),
];

pub(super) fn start(thawd: &Thawd, features: &[&str]) -> Result<(Pod, Container)> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.start(workload_config("workload", features))?;
    container.log.wait_count(3)?;
    Ok((pod, container))
}

/// The outcome is a refusal with that code, and its message has all the words.
pub(super) fn refused<T>(outcome: Result<T, Status>, code: Code, words: &[&str]) -> Result<Status> {
    let status = outcome
        .err()
        .with_context(|| format!("accepted, {code:?} was expected"))?;
    ensure!(status.code() == code, "{code:?} was expected: {status:?}");
    for word in words {
        ensure!(status.message().contains(word), "no {word:?} in {status:?}");
    }
    Ok(status)
}

/// The container goes on, nothing lies in the directory, and the next checkpoint works.
pub(super) fn unharmed(container: &Container, directory: &Path) -> Result<()> {
    container.log.wait_more(5)?;
    container.check()?;
    wait::until("the partial archive to be removed", wait::PATIENCE, || {
        Ok(std::fs::read_dir(directory)?.next().is_none().then_some(()))
    })?;
    let archive = directory.join("retry.tar");
    container.checkpoint(&archive).context("the retry")?;
    container.log.wait_more(3)?;
    Ok(())
}

fn unknown_ids(thawd: &mut Thawd) -> Result<()> {
    let cri = thawd.cri();
    let id = "0123456789abcdef".repeat(4);
    let location = thawd.path("archives/a.tar").display().to_string();
    let request = v1::CheckpointContainerRequest {
        container_id: id.clone(),
        location,
        timeout: 0,
    };
    refused(cri.checkpoint_container(request), Code::NotFound, &[&id])?;
    let request = v1::StartContainerRequest {
        container_id: id.clone(),
    };
    refused(cri.start_container(request), Code::NotFound, &[&id])?;
    let request = v1::ContainerStatusRequest {
        container_id: id.clone(),
        verbose: false,
    };
    refused(cri.container_status(request), Code::NotFound, &[&id])?;
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: id.clone(),
        verbose: false,
    };
    refused(cri.pod_sandbox_status(request), Code::NotFound, &[&id])?;
    let request = v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["true".into()],
        timeout: 1,
    };
    refused(cri.exec_sync(request), Code::NotFound, &[&id])?;
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: id.clone(),
        config: Some(workload_config("a", &["counter"])),
        sandbox_config: None,
    };
    refused(cri.create_container(request), Code::NotFound, &[&id])?;
    // A kubelet repeats these until they succeed.
    cri.remove_container(v1::RemoveContainerRequest {
        container_id: id.clone(),
    })?;
    cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id })?;
    Ok(())
}

fn not_running(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.create(workload_config("workload", &["counter"]))?;
    let archive = thawd.path("archives/a.tar");
    refused(
        container.checkpoint(&archive),
        Code::FailedPrecondition,
        &["created"],
    )?;
    container.start()?;
    container.log.wait_count(2)?;
    container.stop()?;
    refused(
        container.checkpoint(&archive),
        Code::FailedPrecondition,
        &["exited"],
    )?;
    ensure!(!archive.exists(), "an archive was made");
    Ok(())
}

fn second_checkpoint(thawd: &mut Thawd) -> Result<()> {
    let (_pod, container) = start(thawd, &["counter", "memory=512"])?;
    let archives = thawd.path("archives");
    let first = container.begin_checkpoint(&archives.join("first.tar"), None);
    wait::until("the first to begin", wait::PATIENCE, || {
        Ok(std::fs::read_dir(&archives)?.next().is_some().then_some(()))
    })?;
    let began = Instant::now();
    let second = container.checkpoint(&thawd.path("data/second.tar"));
    let took = began.elapsed();
    ensure!(!first.is_finished(), "the first ended too soon to tell");
    refused(second, Code::Aborted, &[])?;
    let left = std::fs::read_dir(thawd.path("data"))?.count();
    ensure!(left == 0, "{left} files were left of the second");
    ensure!(
        took < Duration::from_millis(500),
        "aborted after {took:?} only"
    );
    thawd.cri().finish(first).context("the first")?;
    container.log.wait_more(3)?;
    container.check()
}

fn locations(thawd: &mut Thawd) -> Result<()> {
    let (_pod, container) = start(thawd, &["counter", "memory=1"])?;
    let archives = thawd.path("archives");
    let existing = archives.join("existing.tar");
    write(&existing, "precious")?;
    symlink(&archives, thawd.path("linked"))?;
    symlink("nowhere", archives.join("dangling.tar"))?;
    let cases = [
        (String::new(), Code::InvalidArgument),
        ("relative.tar".to_owned(), Code::InvalidArgument),
        ("./relative.tar".to_owned(), Code::InvalidArgument),
        (
            thawd.path("missing/a.tar").display().to_string(),
            Code::InvalidArgument,
        ),
        (
            thawd.path("linked/a.tar").display().to_string(),
            Code::InvalidArgument,
        ),
        (
            existing.join("a.tar").display().to_string(),
            Code::InvalidArgument,
        ),
        (
            format!("{}/../archives/a.tar", archives.display()),
            Code::InvalidArgument,
        ),
        (
            format!("{}/", archives.join("new").display()),
            Code::InvalidArgument,
        ),
        ("/".to_owned(), Code::InvalidArgument),
        (
            format!("{}/{}", archives.display(), "x".repeat(300)),
            Code::InvalidArgument,
        ),
        (existing.display().to_string(), Code::AlreadyExists),
        (
            archives.join("dangling.tar").display().to_string(),
            Code::AlreadyExists,
        ),
    ];
    for (location, code) in cases {
        let request = container.checkpoint_request(Path::new(&location), 30);
        refused(thawd.cri().checkpoint_container(request), code, &[])
            .with_context(|| format!("location {location:?}"))?;
    }
    let directory = container.checkpoint_request(&archives, 30);
    let status = thawd
        .cri()
        .checkpoint_container(directory)
        .err()
        .context("a directory")?;
    ensure!(
        matches!(status.code(), Code::InvalidArgument | Code::AlreadyExists),
        "a directory as the target: {status:?}"
    );
    ensure!(
        std::fs::read(&existing)? == b"precious",
        "the existing file was changed"
    );
    let left = std::fs::read_dir(&archives)?.count();
    ensure!(left == 2, "{left} files where two were before");
    let gap = container.log.wait_more(2)?.number("gap_us")?;
    ensure!(gap < 1_000_000, "the container stood still for {gap} us");
    container.check()
}

fn timeouts(thawd: &mut Thawd) -> Result<()> {
    let (_pod, container) = start(thawd, &["counter"])?;
    for timeout in [-1, i64::MIN, i64::MAX] {
        let request = container.checkpoint_request(&thawd.path("archives/a.tar"), timeout);
        refused(
            thawd.cri().checkpoint_container(request),
            Code::InvalidArgument,
            &["timeout"],
        )
        .with_context(|| format!("timeout {timeout}"))?;
    }
    let left = std::fs::read_dir(thawd.path("archives"))?.count();
    ensure!(left == 0, "{left} files were left");
    // Zero is the default.
    let request = container.checkpoint_request(&thawd.path("archives/a.tar"), 0);
    thawd.cri().checkpoint_container(request)?;
    container.check()
}

fn space(thawd: &mut Thawd) -> Result<()> {
    let (_pod, container) = start(thawd, &["counter", "memory=64"])?;
    let small = thawd.path("data").display().to_string();
    arena::run("mount", &["-t", "tmpfs", "-o", "size=16m", "tmpfs", &small])?;
    let outcome = container.checkpoint(&thawd.path("data/a.tar"));
    let left = std::fs::read_dir(&small)?.count();
    arena::run("umount", &[&small])?;
    refused(outcome, Code::ResourceExhausted, &[&small])?;
    ensure!(left == 0, "{left} files were left");
    unharmed(&container, &thawd.path("archives"))
}

fn deadline(thawd: &mut Thawd) -> Result<()> {
    let (_pod, container) = start(thawd, &["counter", "memory=1024"])?;
    let location = thawd.path("archives/a.tar");
    let began = container.begin_checkpoint(&location, Some(Duration::from_millis(300)));
    refused(thawd.cri().finish(began), Code::DeadlineExceeded, &[])?;
    unharmed(&container, &thawd.path("archives"))
}

fn timeout(thawd: &mut Thawd) -> Result<()> {
    // A CRIU that takes its time: the deadline passes whatever the machine's speed is.
    let (_pod, container) = start(thawd, &["counter"])?;
    let gate = thawd.path("slow");
    let text = format!(
        "[ ! -e {gate} ] || sleep 5\nexec {criu} \"$@\"\n",
        gate = gate.display(),
        criu = criu()
    );
    let slow = script(thawd, "slow-criu", &text)?;
    thawd.use_criu(&slow)?;
    let first = thawd.path("data/first.tar");
    container
        .checkpoint(&first)
        .context("while CRIU is quick")?;
    write(&gate, "")?;
    let request = container.checkpoint_request(&thawd.path("archives/a.tar"), 1);
    let began = Instant::now();
    refused(
        thawd.cri().checkpoint_container(request),
        Code::DeadlineExceeded,
        &[],
    )?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(4), "answered after {took:?}");
    std::fs::remove_file(&gate)?;
    unharmed(&container, &thawd.path("archives"))
}

/// A program that a shell runs.
pub(super) fn script(thawd: &Thawd, name: &str, text: &str) -> Result<PathBuf> {
    let path = thawd.path(name);
    write(&path, &format!("#!/bin/bash\n{text}"))?;
    arena::run("chmod", &["755", &path.display().to_string()])?;
    Ok(path)
}

/// Where the machine's CRIU is.
pub(super) fn criu() -> String {
    let ours = "/opt/thawd/criu/bin/criu";
    if Path::new(ours).exists() {
        ours
    } else {
        "criu"
    }
    .to_owned()
}

fn caller_gone(thawd: &mut Thawd) -> Result<()> {
    let (_pod, container) = start(thawd, &["counter", "memory=1024"])?;
    let archives = thawd.path("archives");
    let began = container.begin_checkpoint(&archives.join("a.tar"), None);
    // In the middle: the file under its temporary name grows.
    wait::until("the dump to begin", wait::PATIENCE, || {
        let entries = std::fs::read_dir(&archives)?.flatten();
        let mut sizes = entries
            .filter_map(|entry| entry.metadata().ok())
            .map(|data| data.len());
        Ok(sizes.any(|size| size > 1024 * 1024).then_some(()))
    })?;
    began.abort();
    refused(thawd.cri().finish(began), Code::Cancelled, &[])?;
    unharmed(&container, &archives)
}
