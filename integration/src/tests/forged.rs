//! Archives whose images name what the request does not have: paths through /proc, a mount. Each is
//! honest but for that, and sealed again; CRIU never sees it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;
use tonic::Code;

use super::Test;
use super::hostile::{check, frozen};
use super::pods::BUSYBOX;
use crate::harness::containers::{Container, Pod, container_config, workload_config};
use crate::harness::daemon::Thawd;
use crate::harness::forge::{Forged, replace};

pub(super) const TESTS: &[(&str, Test)] = &[
    ("hostile::an_open_file_through_proc_is_refused", open_file),
    (
        "hostile::a_working_directory_through_proc_is_refused",
        working_directory,
    ),
    ("hostile::a_root_through_proc_is_refused", root),
    ("hostile::a_mount_that_the_manifest_hides_is_named", mount),
    ("hostile::verify_says_what_is_wrong", verify),
];

/// Ways out of a container's root, as CRIU would open them from within: by a link of proc itself, by
/// a descriptor that CRIU has open, and by climbing above one.
const WAYS_OUT: [&str; 3] = [
    "/proc/1/root/etc/shadow",
    "/proc/self/fd/12/etc/shadow",
    "/proc/self/fd/12/../../etc/shadow",
];

/// A name of the root filesystem as long as the forged one, so that the image keeps its layout.
fn as_long_as(path: &str) -> String {
    // With its length in it, so that none is the beginning of another.
    let name = format!("honest-{}-", path.len());
    format!("/{name:x<0$}", path.len() - 1)
}

/// Refused at create, naming the forged path, when all of the honest archive's files are as they
/// were but for that path.
fn refused_path(
    thawd: &Thawd,
    pod: &Pod,
    from: &Container,
    good: &Forged,
    path: &str,
) -> Result<()> {
    let honest = as_long_as(path);
    let forged = good
        .clone()
        .forge("checkpoint/files.img", |image| {
            replace(image, &honest, path)
        })
        .with_context(|| format!("{honest} as {path}"))?;
    let archive = thawd.path("archives/forged.tar");
    forged.write(&archive)?;
    let words = ["files.img", path];
    check(
        thawd,
        pod,
        &from.config,
        &archive,
        Code::PermissionDenied,
        &words,
    )
}

/// The archive as thawd made it is restored.
fn honest_is_restored(pod: &Pod, original: &Container, archive: &Path) -> Result<()> {
    let source = archive.display().to_string();
    let restored = pod.start(original.restored_config(&source, "honest"))?;
    restored.log.wait_more(2).map(drop)
}

fn open_file(thawd: &mut Thawd) -> Result<()> {
    let names = WAYS_OUT.map(|path| format!("append={}", as_long_as(path)));
    let features: Vec<&str> = names.iter().map(String::as_str).collect();
    let (pod, original, archive) = frozen(thawd, workload_config("files", &features))?;
    let good = Forged::read(&archive)?;
    for path in WAYS_OUT {
        refused_path(thawd, &pod, &original, &good, path)?;
    }
    honest_is_restored(&pod, &original, &archive)
}

fn working_directory(thawd: &mut Thawd) -> Result<()> {
    let [way, ..] = WAYS_OUT;
    let mut config = workload_config("files", &["counter"]);
    config.working_dir = as_long_as(way);
    let (pod, original, archive) = frozen(thawd, config)?;
    refused_path(thawd, &pod, &original, &Forged::read(&archive)?, way)?;
    honest_is_restored(&pod, &original, &archive)
}

/// A process with another root than the container's: in its image the root is a file like any other.
fn root(thawd: &mut Thawd) -> Result<()> {
    let [_, way, _] = WAYS_OUT;
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let script = format!(
        "mkdir {jail} && cp -a /bin /lib* /usr {jail} && \
         (exec chroot {jail} /bin/busybox sleep 1000) & \
         n=0; while :; do n=$((n + 1)); echo count=$n ok; sleep 0.1; done",
        jail = as_long_as(way)
    );
    let original = pod.start(container_config("jail", BUSYBOX, &["sh", "-c", &script]))?;
    original.log.wait_count(5)?;
    let archive = thawd.path("archives/good.tar");
    original
        .checkpoint(&archive)
        .context("CheckpointContainer")?;
    refused_path(thawd, &pod, &original, &Forged::read(&archive)?, way)?;
    honest_is_restored(&pod, &original, &archive)
}

/// The manifest asks for a mount that the request has; the images have another one.
fn mount(thawd: &mut Thawd) -> Result<()> {
    let config = |path: &str| {
        let mut config = workload_config("counter", &["counter"]);
        config.mounts.push(v1::Mount {
            container_path: path.to_owned(),
            host_path: thawd.path("data").display().to_string(),
            ..Default::default()
        });
        config
    };
    let (pod, original, archive) = frozen(thawd, config("/data"))?;
    let forged = Forged::read(&archive)?.damage("manifest.json", |manifest| {
        // Where it is not, the request is refused for the mount that it lacks.
        replace(manifest, "\"/data\"", "\"/else\"").ok();
    })?;
    let path = thawd.path("archives/forged.tar");
    forged.write(&path)?;
    let words = ["mountpoints", "/data"];
    let request = config("/else");
    check(thawd, &pod, &request, &path, Code::PermissionDenied, &words)?;
    ensure!(original.config.mounts.len() == 1, "the request was changed");
    honest_is_restored(&pod, &original, &archive)
}

fn verify(thawd: &mut Thawd) -> Result<()> {
    let (_pod, _original, archive) = frozen(thawd, workload_config("counter", &["counter"]))?;
    thawd.thaw_ok(&["verify", &archive.display().to_string()])?;
    let good = Forged::read(&archive)?;
    let path = thawd.path("archives/two-faults.tar");
    let flip = |bytes: &mut [u8]| bytes.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1);
    good.damage("config.dump", flip)?
        .damage("spec.dump", flip)?
        .write(&path)?;
    let output = thawd.thaw(&["verify", &path.display().to_string()])?;
    ensure!(!output.status.success(), "a damaged archive was found good");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    for name in ["config.dump", "spec.dump"] {
        ensure!(
            text.lines().any(|line| line.contains(name)),
            "{name} is not named in {text}"
        );
    }
    Ok(())
}
