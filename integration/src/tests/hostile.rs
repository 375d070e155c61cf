//! Archives that are damaged, forged, kept in the wrong place, or ask for more than the request.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;
use cri_server::v1::security_profile::ProfileType;
use tonic::Code;

use super::Test;
use crate::harness::containers::{Container, Pod, security, workload_config};
use crate::harness::daemon::Thawd;
use crate::harness::forge::{Forged, claim_more_pages};

pub(super) const TESTS: &[(&str, Test)] = &[
    ("hostile::damaged_archives_are_refused_at_create", damaged),
    (
        "hostile::a_page_image_shorter_than_its_map_is_refused",
        short_pages,
    ),
    (
        "hostile::archives_in_the_wrong_place_are_refused",
        wrong_place,
    ),
    (
        "hostile::a_capability_beyond_the_request_is_refused",
        capability,
    ),
    ("hostile::seccomp_off_is_refused", seccomp),
    ("hostile::another_user_is_refused", user),
    (
        "hostile::privileges_that_the_request_forbids_are_refused",
        no_new_privileges,
    ),
    ("hostile::a_mount_that_the_request_lacks_is_named", mount),
];

/// A pod, and the archive of a container that was made from `config`.
pub(super) fn frozen(
    thawd: &Thawd,
    config: v1::ContainerConfig,
) -> Result<(Pod, Container, PathBuf)> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let original = pod.start(config)?;
    original.log.wait_count(3)?;
    let archive = thawd.path("archives/good.tar");
    original
        .checkpoint(&archive)
        .context("CheckpointContainer")?;
    Ok((pod, original, archive))
}

/// Files that a container has, by the thawd's directories.
fn traces(thawd: &Thawd) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for name in [
        "root/containers",
        "run/containers",
        "root/snapshots",
        "root/criu-logs",
        "logs/pod",
    ] {
        let directory = thawd.path(name);
        if !directory.exists() {
            continue;
        }
        for entry in std::fs::read_dir(directory)? {
            found.insert(entry?.path());
        }
    }
    Ok(found)
}

/// Refused at create with that code and a message that has all the words; nothing is left of it.
pub(super) fn check(
    thawd: &Thawd,
    pod: &Pod,
    config: &v1::ContainerConfig,
    archive: &Path,
    code: Code,
    words: &[&str],
) -> Result<()> {
    let what = archive.display();
    let image = what.to_string();
    let name = "refused".to_owned();
    let request = v1::ContainerConfig {
        image: Some(v1::ImageSpec {
            image,
            ..Default::default()
        }),
        metadata: Some(v1::ContainerMetadata { name, attempt: 0 }),
        log_path: "refused.log".to_owned(),
        ..config.clone()
    };
    let before = traces(thawd)?;
    let refused = pod.create(request).err();
    let refused = refused.with_context(|| format!("{what}: a container was created of it"))?;
    ensure!(refused.code() == code, "{what}: {refused:?}");
    for word in words {
        ensure!(
            refused.message().contains(word),
            "{what}: no {word:?} in {refused:?}"
        );
    }
    let left: Vec<PathBuf> = traces(thawd)?.difference(&before).cloned().collect();
    ensure!(left.is_empty(), "{what}: left behind: {left:?}");
    let containers = thawd
        .cri()
        .list_containers(v1::ListContainersRequest::default())?
        .containers;
    let listed = containers.iter().any(|container| {
        container
            .metadata
            .as_ref()
            .is_some_and(|data| data.name == "refused")
    });
    ensure!(!listed, "{what}: it is listed");
    Ok(())
}

fn damaged(thawd: &mut Thawd) -> Result<()> {
    let (pod, original, archive) = frozen(thawd, workload_config("counter", &["counter"]))?;
    let good = Forged::read(&archive)?;
    for (name, forged, words) in damages(&good)? {
        let path = thawd.path(&format!("archives/{name}.tar"));
        forged.write(&path)?;
        check(
            thawd,
            &pod,
            &original.config,
            &path,
            Code::InvalidArgument,
            words,
        )?;
    }
    let text = thawd.path("archives/text.tar");
    crate::harness::daemon::write(&text, &"this is no tar file\n".repeat(1000))?;
    std::fs::set_permissions(&text, Permissions::from_mode(0o600))?;
    check(
        thawd,
        &pod,
        &original.config,
        &text,
        Code::InvalidArgument,
        &[],
    )?;
    check(
        thawd,
        &pod,
        &original.config,
        &thawd.path("archives/absent.tar"),
        Code::NotFound,
        &[],
    )?;
    // The good one still is.
    let source = archive.display().to_string();
    let restored = pod.start(original.restored_config(&source, "good"))?;
    restored.log.wait_more(2).map(drop)
}

/// A name, an archive that is damaged in one way, and what the refusal must name.
type Damage = (&'static str, Forged, &'static [&'static str]);

fn damages(good: &Forged) -> Result<Vec<Damage>> {
    fn rename(header: &mut [u8], name: &str) {
        header.iter_mut().take(100).for_each(|byte| *byte = 0);
        header
            .iter_mut()
            .zip(name.bytes())
            .for_each(|(byte, new)| *byte = new);
    }
    fn kind(header: &mut [u8], kind: u8) {
        header
            .iter_mut()
            .skip(156)
            .take(1)
            .for_each(|byte| *byte = kind);
    }
    let flip = |bytes: &mut [u8]| bytes.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1);
    let pages = "checkpoint/pages-1.img";
    let header = |change: &dyn Fn(&mut [u8])| good.clone().header("spec.dump", change);
    Ok(vec![
        ("half", good.clone().truncate(good.len() / 2), &[]),
        ("short", good.clone().truncate(good.len() - 2048), &[]),
        ("empty", good.clone().truncate(0), &[]),
        (
            "digest",
            good.clone().damage(pages, flip)?,
            &["checkpoint/pages-1.img"],
        ),
        (
            "metadata-digest",
            good.clone().damage("config.dump", flip)?,
            &["config.dump"],
        ),
        ("link", header(&|bytes| kind(bytes, b'2'))?, &["spec.dump"]),
        (
            "device",
            header(&|bytes| kind(bytes, b'3'))?,
            &["spec.dump"],
        ),
        (
            "escape",
            header(&|bytes| rename(bytes, "../escape"))?,
            &["../escape"],
        ),
        (
            "absolute",
            header(&|bytes| rename(bytes, "/etc/escape"))?,
            &["/etc/escape"],
        ),
        (
            "twice",
            header(&|bytes| rename(bytes, "config.dump"))?,
            &["config.dump"],
        ),
    ])
}

fn short_pages(thawd: &mut Thawd) -> Result<()> {
    let (pod, original, archive) = frozen(thawd, workload_config("counter", &["counter"]))?;
    let forged = Forged::read(&archive)?.forge("checkpoint/pagemap-1.img", claim_more_pages)?;
    let path = thawd.path("archives/short-pages.tar");
    forged.write(&path)?;
    check(
        thawd,
        &pod,
        &original.config,
        &path,
        Code::InvalidArgument,
        &["pages-1.img"],
    )
}

fn wrong_place(thawd: &mut Thawd) -> Result<()> {
    let (pod, original, archive) = frozen(thawd, workload_config("counter", &["counter"]))?;
    let good = Forged::read(&archive)?;
    let denied = |path: &Path| {
        check(
            thawd,
            &pod,
            &original.config,
            path,
            Code::PermissionDenied,
            &[],
        )
    };

    let outside = thawd.path("data/outside.tar");
    good.write(&outside)?;
    denied(&outside)?;
    denied(&thawd.path("archives/../data/outside.tar"))?;

    let link = thawd.path("archives/link.tar");
    symlink(&archive, &link)?;
    denied(&link)?;
    let folder = thawd.path("archives/folder");
    symlink(thawd.path("data"), &folder)?;
    denied(&folder.join("outside.tar"))?;

    let writable = thawd.path("archives/writable.tar");
    good.write(&writable)?;
    for mode in [0o620, 0o602, 0o666] {
        std::fs::set_permissions(&writable, Permissions::from_mode(mode))?;
        denied(&writable)?;
    }
    let foreign = thawd.path("archives/foreign.tar");
    good.write(&foreign)?;
    std::os::unix::fs::chown(&foreign, Some(1000), None)?;
    denied(&foreign)
}

fn capability(thawd: &mut Thawd) -> Result<()> {
    let mut config = workload_config("counter", &["counter"]);
    security(&mut config).capabilities = Some(v1::Capability {
        add_capabilities: vec!["SYS_PTRACE".to_owned()],
        ..Default::default()
    });
    let (pod, original, archive) = frozen(thawd, config)?;
    let less = workload_config("counter", &["counter"]);
    check(
        thawd,
        &pod,
        &less,
        &archive,
        Code::PermissionDenied,
        &["task 1", "cap"],
    )?;
    let source = archive.display().to_string();
    let restored = pod.start(original.restored_config(&source, "same"))?;
    restored.log.wait_more(2).map(drop)
}

fn seccomp(thawd: &mut Thawd) -> Result<()> {
    let mut config = workload_config("counter", &["counter"]);
    security(&mut config).seccomp = Some(v1::SecurityProfile {
        profile_type: ProfileType::Unconfined.into(),
        ..Default::default()
    });
    let (pod, original, archive) = frozen(thawd, config)?;
    let confined = workload_config("counter", &["counter"]);
    check(
        thawd,
        &pod,
        &confined,
        &archive,
        Code::PermissionDenied,
        &["task 1", "seccomp"],
    )?;
    let source = archive.display().to_string();
    let restored = pod.start(original.restored_config(&source, "same"))?;
    restored.log.wait_more(2).map(drop)
}

fn user(thawd: &mut Thawd) -> Result<()> {
    let (pod, _, archive) = frozen(thawd, workload_config("counter", &["counter"]))?;
    let mut config = workload_config("counter", &["counter"]);
    security(&mut config).run_as_user = Some(v1::Int64Value { value: 1000 });
    check(
        thawd,
        &pod,
        &config,
        &archive,
        Code::PermissionDenied,
        &["task 1", "uid"],
    )
}

fn no_new_privileges(thawd: &mut Thawd) -> Result<()> {
    let (pod, _, archive) = frozen(thawd, workload_config("counter", &["counter"]))?;
    let mut config = workload_config("counter", &["counter"]);
    security(&mut config).no_new_privs = true;
    check(
        thawd,
        &pod,
        &config,
        &archive,
        Code::PermissionDenied,
        &["task 1", "no_new_privs"],
    )
}

fn mount(thawd: &mut Thawd) -> Result<()> {
    let mut config = workload_config("counter", &["bind=/data"]);
    config.mounts.push(v1::Mount {
        container_path: "/data".to_owned(),
        host_path: thawd.path("data").display().to_string(),
        ..Default::default()
    });
    let (pod, original, archive) = frozen(thawd, config)?;
    let lacking = workload_config("counter", &["bind=/data"]);
    let mut request = lacking;
    let image = archive.display().to_string();
    request.image = Some(v1::ImageSpec {
        image,
        ..Default::default()
    });
    let name = "lacking".to_owned();
    request.metadata = Some(v1::ContainerMetadata { name, attempt: 0 });
    let refused = pod
        .create(request)
        .err()
        .context("created without the mount")?;
    ensure!(
        refused.code() == Code::InvalidArgument && refused.message().contains("/data"),
        "the mount is not named: {refused:?}"
    );
    let source = archive.display().to_string();
    let restored = pod.start(original.restored_config(&source, "same"))?;
    restored.log.wait_more(2).map(drop)
}
