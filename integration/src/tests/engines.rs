//! A node whose CRIU is missing, too old, broken or slow: said in words that Kubernetes looks for, and
//! in time; the container never notices.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use super::Test;
use super::bad_input::{criu, refused, script, start, unharmed};
use crate::harness::containers::workload_config;
use crate::harness::daemon::{Thawd, write};

pub(super) const TESTS: &[(&str, Test)] = &[
    ("bad_input::a_missing_criu_is_said", missing),
    ("bad_input::a_criu_too_old_for_the_kernel_is_said", too_old),
    ("bad_input::a_criu_that_cannot_dump_is_said", broken),
    (
        "bad_input::deadlines_hold_while_criu_is_tried_out",
        slow_probe,
    ),
];

/// What Kubernetes' own node test looks for.
const NEEDED: &str = "checkpoint/restore requires at least CRIU";

/// With that CRIU checkpoints are refused with these words; with the machine's own they work again.
fn refuses(thawd: &mut Thawd, path: &Path, words: &[&str]) -> Result<()> {
    let (_pod, container) = start(thawd, &["counter"])?;
    thawd.use_criu(path)?;
    let archives = thawd.path("archives");
    let outcome = container.checkpoint(&archives.join("a.tar"));
    let shown = path.display().to_string();
    let words = [&[NEEDED, &shown], words].concat();
    let status = refused(outcome, Code::FailedPrecondition, &words)?;
    ensure!(status.message().starts_with(NEEDED), "{status:?}");
    let left = std::fs::read_dir(&archives)?.count();
    ensure!(left == 0, "{left} files were left");
    container.log.wait_more(3)?;
    container.check()?;
    thawd.use_criu(criu().as_ref())?;
    unharmed(&container, &archives)
}

fn missing(thawd: &mut Thawd) -> Result<()> {
    let nowhere = thawd.path("nowhere/criu");
    refuses(thawd, &nowhere, &["was not found"])
}

/// Answers as CRIU 3.17 does: a `criu_resp` with `success`, `version`, and the type VERSION. That is
/// last because it is a newline as well, at which the shell's output is cut into packets.
fn too_old(thawd: &mut Thawd) -> Result<()> {
    let text = "fd=${!#}\n\
                dd bs=65536 count=1 status=none <&\"$fd\" >/dev/null\n\
                printf '\\x10\\x01\\x52\\x04\\x08\\x03\\x10\\x11\\x08\\x0a' >&\"$fd\"\n";
    let old = script(thawd, "old-criu", text)?;
    refuses(thawd, &old, &["3.17"])
}

fn broken(thawd: &mut Thawd) -> Result<()> {
    let broken = script(thawd, "broken-criu", "echo 'Version: 4.2'\nexit 1\n")?;
    refuses(thawd, &broken, &[])
}

/// The probe of a CRIU that does not answer holds up nobody beyond the caller's own time.
fn slow_probe(thawd: &mut Thawd) -> Result<()> {
    let (pod, first) = start(thawd, &["counter"])?;
    let second = pod.start(workload_config("second", &["counter"]))?;
    second.log.wait_count(3)?;
    let gate = thawd.path("slow");
    write(&gate, "")?;
    let text = format!(
        "while [ -e {gate} ]; do sleep 0.1; done\nexec {criu} \"$@\"\n",
        gate = gate.display(),
        criu = criu()
    );
    let slow = script(thawd, "slow-criu", &text)?;
    let began = Instant::now();
    thawd.use_criu(&slow)?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(5), "ready after {took:?}");
    let archives = thawd.path("archives");
    let began = Instant::now();
    let patience = Duration::from_millis(500);
    let timeout = second.checkpoint_request(&archives.join("two.tar"), 1);
    let calls = [
        first.begin_checkpoint(&archives.join("one.tar"), Some(patience)),
        thawd.cri().begin_checkpoint(timeout, None),
    ];
    for call in calls {
        refused(thawd.cri().finish(call), Code::DeadlineExceeded, &[])?;
    }
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(4), "answered after {took:?}");
    let left = std::fs::read_dir(&archives)?.count();
    ensure!(left == 0, "{left} files were left");
    // The same probe goes on, and who waits longer has its answer.
    let long = first.begin_checkpoint(&archives.join("three.tar"), None);
    std::fs::remove_file(&gate)?;
    thawd
        .cri()
        .finish(long)
        .context("after the probe went on")?;
    std::fs::remove_file(archives.join("three.tar"))?;
    unharmed(&second, &archives)
}
