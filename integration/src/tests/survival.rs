//! What survives: each feature of the workload is set up, frozen while in use, goes on in the
//! original, and goes on in a copy, which is frozen and thawed once more.

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;

use super::Test;
use super::pods::BUSYBOX;
use crate::harness::containers::{Container, Pod, container_config, workload_config};
use crate::harness::daemon::Thawd;
use crate::harness::load::{Client, Protocol};

pub(super) const TESTS: &[(&str, Test)] = &[
    ("survival::memory_and_environment", |thawd| {
        survives(thawd, &["counter", "memory=64"])
    }),
    ("survival::guard_pages", |thawd| {
        survives(thawd, &["guards"])
    }),
    ("survival::threads", |thawd| {
        survives(thawd, &["threads=16"])
    }),
    ("survival::pipes_with_unread_data", |thawd| {
        survives(thawd, &["pipes"])
    }),
    ("survival::unix_sockets_with_unread_data", |thawd| {
        survives(thawd, &["unix"])
    }),
    (
        "survival::a_periodic_timer_with_an_unread_expiry",
        |thawd| survives(thawd, &["timerfd"]),
    ),
    ("survival::a_file_that_is_appended_to", |thawd| {
        survives(thawd, &["append"])
    }),
    ("survival::a_large_deleted_file", |thawd| {
        survives(thawd, &["deleted=8"])
    }),
    ("survival::a_deleted_name_of_a_file_with_another", |thawd| {
        survives(thawd, &["linked"])
    }),
    ("survival::file_locks_of_each_kind", |thawd| {
        survives(thawd, &["locks"])
    }),
    ("survival::an_inotify_watch", |thawd| {
        survives(thawd, &["inotify"])
    }),
    ("survival::shared_memory_of_the_pod", |thawd| {
        survives(thawd, &["tmpfs=/dev/shm"])
    }),
    ("survival::a_private_tmpfs", |thawd| {
        survives(thawd, &["tmpfs=/dev"])
    }),
    ("survival::posix_semaphores", |thawd| {
        survives(thawd, &["semaphore"])
    }),
    ("survival::overlay_changes_and_deletions", |thawd| {
        survives(thawd, &["overlay"])
    }),
    ("survival::children", |thawd| {
        survives(thawd, &["children=3"])
    }),
    ("survival::a_stopped_child", |thawd| {
        survives(thawd, &["stopped"])
    }),
    ("survival::a_pending_signal", |thawd| {
        survives(thawd, &["signals"])
    }),
    ("survival::datagram_sockets", |thawd| {
        survives(thawd, &["udp"])
    }),
    ("survival::tcp_connections_within_the_pod", |thawd| {
        survives(thawd, &["tcp=7000"])
    }),
    ("survival::everything_at_once", everything_at_once),
    ("survival::a_bind_mount", a_bind_mount),
    ("survival::a_terminal", a_terminal),
    (
        "survival::tcp_connections_of_the_original",
        tcp_connections_of_the_original,
    ),
    ("survival::the_beginning_of_a_line", the_beginning_of_a_line),
    ("survival::a_freeze_is_short", a_freeze_is_short),
];

fn survives(thawd: &mut Thawd, features: &[&str]) -> Result<()> {
    survives_as(thawd, workload_config("workload", features))
}

/// Freezes, thaws beside the original, freezes the copy, thaws that.
fn survives_as(thawd: &mut Thawd, config: v1::ContainerConfig) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "first")?;
    let original = pod.start(config)?;
    original.log.wait_count(12)?;
    let archive = thawd.path("archives/one.tar");
    original.checkpoint(&archive).context("the checkpoint")?;
    original
        .log
        .wait_more(12)
        .context("the original after the checkpoint")?;
    original.check()?;
    // Shared memory is the pod's: a copy needs a pod of its own.
    let other = Pod::run(thawd, "second")?;
    let source = archive.display().to_string();
    let copy = other.start(original.restored_config(&source, "copy"))?;
    let first = copy.log.wait_more(1).context("the copy")?.count;
    copy.log.wait_count(first + 25).context("the copy")?;
    copy.check()?;
    let again = thawd.path("archives/two.tar");
    copy.checkpoint(&again).context("the second checkpoint")?;
    copy.log
        .wait_more(5)
        .context("the copy after the second checkpoint")?;
    copy.stop()?;
    copy.remove()?;
    other.remove()?;
    let third = Pod::run(thawd, "third")?;
    let source = again.display().to_string();
    let copy = third.start(original.restored_config(&source, "copy-of-copy"))?;
    let first = copy.log.wait_more(1).context("the copy of the copy")?.count;
    copy.log
        .wait_count(first + 25)
        .context("the copy of the copy")?;
    copy.check()?;
    original.check()
}

pub(super) fn everything_at_once(thawd: &mut Thawd) -> Result<()> {
    let features = [
        "counter",
        "memory=32",
        "threads",
        "pipes",
        "unix",
        "semaphore",
        "append",
        "deleted",
        "linked",
        "locks",
        "inotify",
        "tmpfs",
        "tmpfs=/dev",
        "overlay",
        "timerfd",
        "children",
        "stopped",
        "signals",
        "tcp",
        "udp",
    ];
    survives(thawd, &features)
}

pub(super) fn a_bind_mount(thawd: &mut Thawd) -> Result<()> {
    let mut config = workload_config("workload", &["bind=/data"]);
    config.mounts.push(v1::Mount {
        container_path: "/data".to_owned(),
        host_path: thawd.path("data").display().to_string(),
        ..Default::default()
    });
    survives_as(thawd, config)
}

pub(super) fn a_terminal(thawd: &mut Thawd) -> Result<()> {
    let mut config = workload_config("workload", &["tty"]);
    config.tty = true;
    survives_as(thawd, config)
}

pub(super) fn tcp_connections_of_the_original(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "first")?;
    let original = pod.start(workload_config("server", &["tcp=7001", "counter"]))?;
    let mut clients = Vec::new();
    for number in 0..8 {
        let mut client = Client::connect(&pod.ip()?, 7001, Protocol::Lines)?;
        client.ask(&format!("client {number}"))?;
        clients.push(client);
    }
    let archive = thawd.path("archives/server.tar");
    let checkpoint = original.begin_checkpoint(&archive, None);
    // The clients go on through the freeze.
    while !checkpoint.is_finished() {
        for client in &mut clients {
            client.ask("during")?;
        }
    }
    thawd
        .cri()
        .finish(checkpoint)
        .context("CheckpointContainer")?;
    for client in &mut clients {
        client
            .ask("after")
            .context("a connection to the original was cut")?;
    }
    let answered = original.log.wait_more(2)?.number("lines")?;

    let other = Pod::run(thawd, "second")?;
    let source = archive.display().to_string();
    let copy = other.start(original.restored_config(&source, "copy"))?;
    let mut client = Client::connect(&other.ip()?, 7001, Protocol::Lines)?;
    let number = client.ask("to the copy")?;
    ensure!(
        number > 8 && number < answered,
        "the copy has answered {number} lines"
    );
    copy.log.wait_more(5)?;
    copy.check()?;
    // Old connections are closed in the copy, not left hanging.
    let open = copy.log.wait_more(1)?.number("open")?;
    ensure!(open <= 3, "{open} connections are open in the copy");
    for client in &mut clients {
        client
            .ask("after the thaw")
            .context("a connection to the original was cut")?;
    }
    original.check()
}

/// A program has written the beginning of a line; its log has that as well, here and in a copy.
fn the_beginning_of_a_line(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let script = "echo first; printf 'begun '; until [ -e /go ]; do sleep 0.1; done; \
                  echo ended; sleep 1000";
    let original = pod.start(container_config("writer", BUSYBOX, &["sh", "-c", script]))?;
    original.log.wait_text("first")?;
    let archive = thawd.path("archives/writer.tar");
    original.checkpoint(&archive)?;
    let source = archive.display().to_string();
    let copy = Pod::run(thawd, "second")?.start(original.restored_config(&source, "copy"))?;
    let ends = |container: &Container| {
        ensure!(container.log.lines()? == ["first", "begun "]);
        container.exec(&["touch", "/go"])?;
        container.log.wait_text("ended")?;
        ensure!(container.log.lines()? == ["first", "begun ended"]);
        Ok(())
    };
    ends(&copy).context("the copy's log")?;
    ends(&original).context("the original's log")
}

fn a_freeze_is_short(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let original = pod.start(workload_config("memory", &["memory=256"]))?;
    original.log.wait_count(10)?;
    original.checkpoint(&thawd.path("archives/memory.tar"))?;
    let gap = original.log.wait_more(2)?.number("gap_us")?;
    // Far above what it takes, far below what an unpack, a digest or an fsync in the freeze would.
    ensure!(gap < 3_000_000, "the container was frozen for {gap} us");
    Ok(())
}
