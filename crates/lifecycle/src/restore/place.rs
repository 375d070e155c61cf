//! Where restored tasks live, whichever OCI runtime restores them: their cgroup, and what hides the
//! paths that a container must not see.
//!
//! | | runc | crun |
//! |---|---|---|
//! | CRIU's cgroup | the container's, complete | the caller's; the first task is moved when it runs |
//! | device rules and limits (v2) | before the restore | after it; before it when systemd makes the cgroup |
//! | a masked file's name for CRIU | `/dev/null` | its path |
//! | a masked directory | a tmpfs of the container | a directory that all containers share, by its path |
//!
//! Archives of both are restored under both: every name is given, and a masked directory is always an
//! empty read-only tmpfs of the container's own. (CRIU 4.2 brings the shared directory back writable.)
//! The cgroup and its namespace are the relay's to enter.

use std::path::{Path, PathBuf};

use criu_rpc::relay::CgroupEntry;
use oci_runtime::Kind;
use serde_json::Value;
use sys::cgroup::Hierarchies;

use super::tmpfs;
use crate::cgroups::CgroupDriver;
use crate::checkpoint::mounts::strings;
use crate::context::Context;
use crate::error::Error;
use crate::record::ContainerRecord;
use crate::spec::CGROUPS;

/// What hides a file, and runc's name for all of them.
const NULL: &str = "/dev/null";

/// The cgroup that the relay is to enter; `None` where the runtime puts it there.
///
/// # Errors
///
/// [`Error::Failed`] when the cgroup where it is to wait cannot be made.
pub(super) fn cgroup(
    ctx: &Context,
    kind: Kind,
    record: &ContainerRecord,
) -> Result<Option<CgroupEntry>, Error> {
    if kind != Kind::Crun {
        return Ok(None);
    }
    let outside = ctx.config.monitors_cgroup();
    let entry = entry(&ctx.hierarchies, &record.cgroup, &outside);
    if let Some(outside) = &entry.wait_outside {
        // The first container of all may be a restored one.
        std::fs::create_dir_all(outside)
            .map_err(|error| Error::io("make cgroup", outside, error))?;
    }
    Ok(Some(entry))
}

fn entry(hierarchies: &Hierarchies, own: &str, outside: &str) -> CgroupEntry {
    // With v1, and with systemd, crun fills the cgroup before it restores.
    let filled_last =
        hierarchies.is_unified() && CgroupDriver::of_container(own) == CgroupDriver::Cgroupfs;
    CgroupEntry {
        directories: hierarchies.directories(own),
        wait_outside: filled_last
            .then(|| hierarchies.directory("", outside))
            .flatten(),
    }
}

/// Whether the request gives the container a cgroup namespace of its own.
pub(super) fn cgroup_namespace(spec: &Value) -> bool {
    let list = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    list.into_iter().flatten().any(|namespace| {
        let is = |key: &str| namespace.get(key).and_then(Value::as_str);
        is("type") == Some("cgroup") && is("path").is_none()
    })
}

/// Lets restored tasks run, which the relay left standing; others run on.
///
/// # Errors
///
/// [`Error::Failed`] with the file.
pub(crate) fn let_run(ctx: &Context, record: &ContainerRecord) -> Result<(), Error> {
    if !ctx.hierarchies.is_unified() {
        return Ok(());
    }
    for directory in ctx.hierarchies.directories(&record.cgroup) {
        let switch = directory.join("cgroup.freeze");
        sys::cgroup::write_value(&switch, "0")
            .map_err(|error| Error::io("let the restored tasks run with", &switch, error))?;
    }
    Ok(())
}

/// What CRIU binds over each masked path that `known` does not name yet.
///
/// # Errors
///
/// [`Error::Failed`] when the empty directory cannot be made.
pub(super) fn masks(
    run_dir: &Path,
    spec: &Value,
    known: &[(String, String)],
) -> Result<Vec<(String, String)>, Error> {
    let mut masks = vec![(NULL.to_owned(), NULL.to_owned())];
    let mut empty: Option<PathBuf> = None;
    for path in strings(spec, "/linux/maskedPaths") {
        if known.iter().any(|(key, _)| *key == path) {
            continue;
        }
        // Paths of proc and sysfs are the same everywhere.
        let source = match std::fs::metadata(&path) {
            Err(_) => continue,
            Ok(metadata) if !metadata.is_dir() => PathBuf::from(NULL),
            Ok(_) => match &empty {
                Some(made) => made.clone(),
                None => empty.insert(tmpfs::empty(run_dir)?).clone(),
            },
        };
        masks.push((path, source.to_string_lossy().into_owned()));
    }
    Ok(masks)
}

/// Refuses an archive whose cgroup mounts this host cannot give.
///
/// # Errors
///
/// [`Error::Precondition`] with both versions.
pub(super) fn same_cgroups(
    manifest: &bundler::Manifest,
    hierarchies: &Hierarchies,
) -> Result<(), Error> {
    // A mount of the request's own stands for whatever it is.
    if manifest
        .mounts
        .iter()
        .any(|need| need.destination == CGROUPS)
    {
        return Ok(());
    }
    // With v1 the directory of the subsystems is a tmpfs, whose content thawd keeps.
    let v1 = manifest
        .tmpfs
        .iter()
        .any(|tmpfs| tmpfs.destination == CGROUPS);
    let here_v1 = !hierarchies.is_unified();
    if v1 == here_v1 {
        return Ok(());
    }
    let version = |v1| if v1 { "v1" } else { "v2" };
    Err(Error::Precondition(format!(
        "the checkpoint was taken with cgroup {}, this node has {}: the container's mounts at {CGROUPS} cannot be restored here",
        version(v1),
        version(here_v1)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundler::{MountNeed, TmpfsContent};

    const UNIFIED: &str = "34 30 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const V1: &str = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn tasks_are_held_back_where_crun_sets_limits_last() {
        let (v1, v2) = (Hierarchies::parse(V1), Hierarchies::parse(UNIFIED));
        let found = entry(&v2, "/pods/a", "/thawd-monitors");
        assert_eq!(found.directories, [PathBuf::from("/sys/fs/cgroup/pods/a")]);
        let outside = PathBuf::from("/sys/fs/cgroup/thawd-monitors");
        assert_eq!(found.wait_outside, Some(outside));
        let scope = entry(&v2, "/a.slice/thawd-c.scope", "/thawd-monitors");
        assert_eq!(scope.wait_outside, None);
        let found = entry(&v1, "/pods/a", "/thawd-monitors");
        let memory = PathBuf::from("/sys/fs/cgroup/memory/pods/a");
        assert_eq!(found.directories, [memory]);
        assert_eq!(found.wait_outside, None);
    }

    #[test]
    fn a_namespace_by_path_is_not_one_of_its_own() {
        let spec = |namespace: Value| serde_json::json!({"linux": {"namespaces": [namespace]}});
        let own = spec(serde_json::json!({"type": "cgroup"}));
        let path = spec(serde_json::json!({"type": "cgroup", "path": "/proc/1/ns/cgroup"}));
        assert!(cgroup_namespace(&own));
        assert!(!cgroup_namespace(&path));
        assert!(!cgroup_namespace(&spec(serde_json::json!({"type": "pid"}))));
    }

    #[test]
    fn every_masked_path_has_a_source_once() {
        let dir = tempfile::tempdir().unwrap();
        let (known, also) = ("/proc/sys", "/proc/irq");
        let spec = serde_json::json!({"linux": {"maskedPaths":
            ["/proc/keys", "/proc/bus", known, also, "/proc/no-such-file"]}});
        let given = [(known.to_owned(), "/x".to_owned())];
        let masks = masks(dir.path(), &spec, &given).unwrap();
        let empty = tmpfs::directory(dir.path()).join("empty");
        let empty = empty.to_str().unwrap();
        let pairs: Vec<(&str, &str)> = masks
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                (NULL, NULL),
                ("/proc/keys", NULL),
                ("/proc/bus", empty),
                (also, empty)
            ]
        );
        let denied = std::fs::create_dir(Path::new(empty).join("x")).unwrap_err();
        assert_eq!(denied.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        tmpfs::drop_mounts(dir.path()).unwrap();
    }

    #[test]
    fn archives_of_the_other_cgroup_version_are_refused_with_both_named() {
        let mut manifest = bundler::Manifest::default();
        let (v1, v2) = (Hierarchies::parse(V1), Hierarchies::parse(UNIFIED));
        same_cgroups(&manifest, &v2).unwrap();
        let refused = same_cgroups(&manifest, &v1).unwrap_err().to_string();
        assert!(refused.contains("cgroup v2, this node has v1"), "{refused}");
        manifest.mounts = vec![MountNeed {
            destination: CGROUPS.to_owned(),
            ..MountNeed::default()
        }];
        same_cgroups(&manifest, &v1).unwrap();
        manifest.mounts.clear();
        manifest.tmpfs = vec![TmpfsContent {
            destination: CGROUPS.to_owned(),
            entry: "tmpfs-0.tar".to_owned(),
        }];
        same_cgroups(&manifest, &v1).unwrap();
        let refused = same_cgroups(&manifest, &v2).unwrap_err().to_string();
        assert!(refused.contains("cgroup v1, this node has v2"), "{refused}");
    }
}
