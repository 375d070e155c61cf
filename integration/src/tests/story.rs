//! The story: a container is frozen while it runs, everything is killed, and it thaws.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;

use super::Test;
use crate::harness::arena;
use crate::harness::containers::{Container, Pod, workload_config};
use crate::harness::daemon::Thawd;

pub(super) const TESTS: &[(&str, Test)] = &[
    (
        "story::counts_on_from_the_freeze",
        counts_on_from_the_freeze,
    ),
    (
        "story::thaws_from_a_checkpoint_image",
        thaws_from_a_checkpoint_image,
    ),
    ("story::thaws_twice_side_by_side", thaws_twice_side_by_side),
    (
        "story::freezes_again_after_the_thaw",
        freezes_again_after_the_thaw,
    ),
    (
        "story::a_restored_container_is_an_ordinary_one",
        a_restored_container_is_an_ordinary_one,
    ),
    (
        "story::survives_a_kill_of_thawd_between_any_two_steps",
        survives_kills,
    ),
    (
        "story::the_base_image_must_be_there",
        the_base_image_must_be_there,
    ),
    ("story::thaws_on_another_node", thaws_on_another_node),
];

/// Freezes a counter and says between which counts that was.
pub(super) fn freeze(original: &Container, archive: &Path) -> Result<(u64, u64)> {
    let before = original.log.count()?;
    original
        .checkpoint(archive)
        .context("CheckpointContainer")?;
    Ok((before, original.log.count()?))
}

fn start_counter(thawd: &Thawd, pod: &Pod) -> Result<Container> {
    thawd.load("workload")?;
    let original = pod.start(workload_config("counter", &["counter"]))?;
    original.log.wait_count(5)?;
    Ok(original)
}

pub(super) fn counts_on_from_the_freeze(thawd: &mut Thawd) -> Result<()> {
    let pod = Pod::run(thawd, "first")?;
    ensure!(pod.ip()?.starts_with("10.77."), "address {}", pod.ip()?);
    let original = start_counter(thawd, &pod)?;

    let archive = thawd.path("archives/counter.tar");
    let frozen = freeze(&original, &archive)?;
    let metadata = std::fs::metadata(&archive)?;
    ensure!(
        metadata.mode() & 0o7777 == 0o600,
        "mode {:o}",
        metadata.mode()
    );
    ensure!(
        (metadata.uid(), metadata.gid()) == (0, 0),
        "owner {}",
        metadata.uid()
    );
    let listing = arena::run("tar", &["-tf", &archive.display().to_string()])?;
    let wanted = [
        "checkpoint/",
        "checkpoint/pages-1.img",
        "config.dump",
        "spec.dump",
    ];
    for name in wanted.iter().chain(&["rootfs-diff.tar", "manifest.json"]) {
        ensure!(
            listing.lines().any(|line| line == *name),
            "{name} is not in:\n{listing}"
        );
    }
    let beside = std::fs::read_dir(thawd.path("archives"))?.count();
    ensure!(
        beside == 1,
        "{beside} files where the archive alone should be"
    );
    original.log.wait_more(5)?;
    original.check()?;

    original.stop()?;
    original.remove()?;
    pod.remove()?;

    let pod = Pod::run(thawd, "second")?;
    let source = archive.display().to_string();
    let restored = pod.start(original.restored_config(&source, "restored"))?;
    restored.log.wait_thawed(frozen)?;
    restored.check()?;
    restored.stop_well()
}

fn thaws_from_a_checkpoint_image(thawd: &mut Thawd) -> Result<()> {
    let pod = Pod::run(thawd, "first")?;
    let original = start_counter(thawd, &pod)?;
    let archive = thawd.path("archives/counter.tar");
    let frozen = freeze(&original, &archive)?;
    let name = "localhost/checkpoints/counter:one";
    thawd.thaw_ok(&[
        "image",
        "from-checkpoint",
        &archive.display().to_string(),
        name,
    ])?;
    // Linked, not copied.
    let links = std::fs::metadata(&archive)?.nlink();
    ensure!(
        links > 1,
        "the image is a copy of the archive: {links} link"
    );
    // The image stands on its own.
    std::fs::remove_file(&archive)?;
    original.stop()?;
    original.remove()?;
    pod.remove()?;

    let spec = v1::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    };
    let status = thawd.cri().image_status(v1::ImageStatusRequest {
        image: Some(spec),
        verbose: false,
    })?;
    ensure!(status.image.is_some(), "ImageStatus does not know {name}");
    let pod = Pod::run(thawd, "second")?;
    let restored = pod.start(original.restored_config(name, "restored"))?;
    restored.log.wait_thawed(frozen)?;
    restored.check()
}

fn thaws_twice_side_by_side(thawd: &mut Thawd) -> Result<()> {
    let pod = Pod::run(thawd, "first")?;
    let original = start_counter(thawd, &pod)?;
    let archive = thawd.path("archives/counter.tar");
    let frozen = freeze(&original, &archive)?;
    let source = archive.display().to_string();
    let one = pod.start(original.restored_config(&source, "one"))?;
    let other = Pod::run(thawd, "second")?;
    let two = other.start(original.restored_config(&source, "two"))?;
    for copy in [&one, &two] {
        copy.log.wait_thawed(frozen)?;
        copy.check()?;
    }
    original.log.wait_more(3)?;
    original.check()
}

pub(super) fn freezes_again_after_the_thaw(thawd: &mut Thawd) -> Result<()> {
    let pod = Pod::run(thawd, "pod")?;
    let mut current = start_counter(thawd, &pod)?;
    for round in 1..=3 {
        let archive = thawd.path(&format!("archives/round-{round}.tar"));
        let frozen = freeze(&current, &archive).with_context(|| format!("round {round}"))?;
        current.stop()?;
        current.remove()?;
        let source = archive.display().to_string();
        let name = format!("round-{round}");
        current = pod
            .start(current.restored_config(&source, &name))
            .context(name)?;
        current.log.wait_thawed(frozen)?;
        current.check()?;
    }
    Ok(())
}

pub(super) fn a_restored_container_is_an_ordinary_one(thawd: &mut Thawd) -> Result<()> {
    let pod = Pod::run(thawd, "first")?;
    let original = start_counter(thawd, &pod)?;
    let archive = thawd.path("archives/counter.tar");
    freeze(&original, &archive)?;
    original.stop()?;
    original.remove()?;
    let old_ip = pod.ip()?;

    let other = Pod::run(thawd, "second")?;
    let source = archive.display().to_string();
    let restored = other.start(original.restored_config(&source, "restored"))?;
    restored.log.wait_more(2)?;
    let status = restored.status()?;
    ensure!(
        status.state() == v1::ContainerState::ContainerRunning,
        "state {:?}",
        status.state()
    );
    ensure!(
        status.started_at > status.created_at && status.created_at > 0,
        "{status:?}"
    );

    // It is in its new pod: name, address.
    let name = restored.exec(&["hostname"])?.stdout;
    ensure!(name.trim() == "second", "host name {name:?}");
    let addresses = restored.exec(&["ip", "-4", "addr"])?.stdout;
    let new_ip = other.ip()?;
    ensure!(
        new_ip != old_ip && addresses.contains(&new_ip),
        "{new_ip} is not in {addresses}"
    );
    let environment = restored.exec(&["sh", "-c", "echo $GREETING"])?.stdout;
    ensure!(
        environment.trim() == "hello, world",
        "environment {environment:?}"
    );
    let missing = restored.exec(&["sh", "-c", "exit 7"])?;
    ensure!(missing.code == 7, "exit code {}", missing.code);

    restored.stop()?;
    let status = restored.wait_exit()?;
    ensure!(
        status.exit_code == 0 && status.finished_at > status.started_at,
        "{status:?}"
    );
    restored.remove()?;
    let gone = restored
        .status()
        .err()
        .context("a removed container has a status")?;
    ensure!(format!("{gone:#}").contains("not found"), "{gone:#}");
    Ok(())
}

pub(super) fn survives_kills(thawd: &mut Thawd) -> Result<()> {
    fn crash(thawd: &mut Thawd) -> Result<()> {
        thawd.kill()?;
        thawd.launch()
    }
    thawd.load("workload")?;
    crash(thawd)?;
    let pod = Pod::run(thawd, "first")?;
    let ip = pod.ip()?;
    crash(thawd)?;
    ensure!(pod.ip()? == ip, "the address changed to {}", pod.ip()?);
    let original = pod.create(workload_config("counter", &["counter"]))?;
    crash(thawd)?;
    original.start()?;
    original.log.wait_count(3)?;
    thawd.kill()?;
    original.log.wait_more(3)?;
    thawd.launch()?;
    let archive = thawd.path("archives/counter.tar");
    let frozen = freeze(&original, &archive)?;
    crash(thawd)?;
    original.log.wait_more(3)?;
    original.check()?;
    let counts: Vec<u64> = original
        .log
        .statuses()?
        .iter()
        .map(|line| line.count)
        .collect();
    let expected: Vec<u64> = (1..).take(counts.len()).collect();
    ensure!(counts == expected, "the log has gaps: {counts:?}");
    original.stop()?;
    crash(thawd)?;
    let status = original.status()?;
    ensure!(status.exit_code == 0, "exit code {}", status.exit_code);
    original.remove()?;
    crash(thawd)?;
    pod.remove()?;
    crash(thawd)?;
    let pod = Pod::run(thawd, "second")?;
    crash(thawd)?;
    let source = archive.display().to_string();
    let restored = pod.create(original.restored_config(&source, "restored"))?;
    crash(thawd)?;
    restored.start()?;
    crash(thawd)?;
    restored.log.wait_thawed(frozen)?;
    restored.check()?;
    crash(thawd)?;
    restored.stop()?;
    crash(thawd)?;
    restored.remove()?;
    crash(thawd)?;
    pod.remove()
}

/// A container was refused for want of its base image, which the refusal names.
fn names_its_base_image(created: Result<Container, tonic::Status>) -> Result<()> {
    let refused = created.err().context("created without its base image")?;
    ensure!(
        refused
            .message()
            .contains("localhost/thawd/workload:latest"),
        "the image is not named: {refused:?}"
    );
    Ok(())
}

fn the_base_image_must_be_there(thawd: &mut Thawd) -> Result<()> {
    let pod = Pod::run(thawd, "first")?;
    let original = start_counter(thawd, &pod)?;
    let archive = thawd.path("archives/counter.tar");
    freeze(&original, &archive)?;
    original.stop()?;
    original.remove()?;
    let image = v1::ImageSpec {
        image: "localhost/thawd/workload:latest".to_owned(),
        ..Default::default()
    };
    thawd
        .cri()
        .remove_image(v1::RemoveImageRequest { image: Some(image) })?;
    let source = archive.display().to_string();
    names_its_base_image(pod.create(original.restored_config(&source, "restored")))?;
    thawd.load("workload")?;
    let restored = pod.start(original.restored_config(&source, "restored"))?;
    restored.log.wait_more(2)?;
    restored.check()
}

/// Another daemon, with directories and images of its own, is given the archive and nothing else; the
/// original and its pod are gone.
fn thaws_on_another_node(thawd: &mut Thawd) -> Result<()> {
    let pod = Pod::run(thawd, "first")?;
    let original = start_counter(thawd, &pod)?;
    let archive = thawd.path("archives/counter.tar");
    let frozen = freeze(&original, &archive)?;
    original.stop()?;
    original.remove()?;
    pod.remove()?;

    let node = Thawd::start()?;
    let source = node.path("archives/brought.tar").display().to_string();
    let archive = archive.display().to_string();
    arena::run("cp", &["--preserve=mode,ownership", &archive, &source])?;
    std::fs::remove_file(&archive)?;
    let pod = Pod::run(&node, "second")?;
    let config = original.restored_config(&source, "restored");
    names_its_base_image(pod.create(config.clone()))?;
    node.load("workload")?;
    let restored = pod.start(config)?;
    restored.log.wait_thawed(frozen)?;
    restored.check()?;
    node.finish()
}
