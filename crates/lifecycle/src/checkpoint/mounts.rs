//! How a container's mounts are told to CRIU.
//!
//! | mount in the container | dump | restore |
//! |---|---|---|
//! | bind of the request (also hosts, resolv.conf, /dev/shm) | external, key = value = destination | the OCI runtime names the new source |
//! | masked file (bind of /dev/null) | external, value `/dev/null` (runc's naming) or the path (crun's) | the OCI runtime |
//! | cgroup v1 subsystem | external, key = value = destination | the OCI runtime |
//! | tmpfs (/dev, masked directories, /sys/fs/cgroup) | external, content captured by thawd | a tmpfs that thawd fills, named by the relay |
//! | everything else (proc, sysfs, mqueue, devpts, read-only binds of proc) | CRIU | CRIU |
//!
//! CRIU would pipe each tmpfs through `tar --gzip` while everything is frozen (4 to 8 ms each, and
//! 26 ms for each MiB of content).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_runtime::Kind;
use sys::mount::MountInfo;

/// A tmpfs whose content goes into the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tmpfs {
    /// Where it is mounted in the container.
    pub(crate) destination: PathBuf,
    /// The archive's member for its content.
    pub(crate) member: String,
}

/// What a dump says about mounts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DumpMounts {
    /// Key and value of CRIU's `ext_mnt`.
    pub(crate) external: Vec<(String, String)>,
    /// To capture.
    pub(crate) tmpfs: Vec<Tmpfs>,
}

/// Reads the container's live mount table and its OCI spec.
pub(crate) fn plan(spec: &serde_json::Value, table: &[MountInfo], kind: Kind) -> DumpMounts {
    let mut external: BTreeMap<String, String> = BTreeMap::new();
    let mut plan = DumpMounts::default();
    for destination in binds(spec) {
        let text = destination.to_string_lossy().into_owned();
        external.insert(text.clone(), text);
    }
    let masked = strings(spec, "/linux/maskedPaths");
    for mount in table {
        let path = mount.mount_point.to_string_lossy().into_owned();
        if path == "/" || external.contains_key(&path) {
            continue;
        }
        if masked.contains(&path) && mount.root != Path::new("/") {
            let value = if kind == Kind::Crun {
                path.clone()
            } else {
                "/dev/null".to_owned()
            };
            external.insert(path, value);
        } else if mount.fs_type == "tmpfs" && mount.root == Path::new("/") {
            let member = bundler::names::tmpfs(plan.tmpfs.len());
            plan.tmpfs.push(Tmpfs {
                destination: mount.mount_point.clone(),
                member,
            });
            external.insert(path.clone(), path);
        } else if mount.fs_type == "cgroup" {
            external.insert(path.clone(), path);
        }
    }
    plan.external = external.into_iter().collect();
    plan
}

/// Destinations of the spec's bind mounts.
pub(crate) fn binds(spec: &serde_json::Value) -> Vec<PathBuf> {
    let mounts = spec.get("mounts").and_then(serde_json::Value::as_array);
    mounts
        .into_iter()
        .flatten()
        .filter(|mount| is_bind(mount))
        .filter_map(|mount| mount.get("destination")?.as_str().map(PathBuf::from))
        .collect()
}

fn is_bind(mount: &serde_json::Value) -> bool {
    if mount.get("type").and_then(serde_json::Value::as_str) == Some("bind") {
        return true;
    }
    let options = mount.get("options").and_then(serde_json::Value::as_array);
    options
        .into_iter()
        .flatten()
        .any(|option| matches!(option.as_str(), Some("bind" | "rbind")))
}

/// A list of strings in a spec.
pub(crate) fn strings(spec: &serde_json::Value, pointer: &str) -> Vec<String> {
    let list = spec.pointer(pointer).and_then(serde_json::Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
100 1 0:50 / / rw - overlay overlay rw
101 100 0:51 / /proc rw - proc proc rw
102 100 0:52 / /dev rw,nosuid - tmpfs tmpfs rw
103 102 0:53 / /dev/pts rw - devpts devpts rw
104 102 0:54 / /dev/shm rw - tmpfs shm rw
105 101 0:6 /null /proc/kcore rw - devtmpfs devtmpfs rw
106 101 0:55 / /proc/acpi ro - tmpfs tmpfs ro
107 100 8:1 /x /data rw - ext4 /dev/vda rw
108 100 0:27 /c /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
";

    #[test]
    fn each_kind_of_mount_is_told_in_the_runtime_s_naming() {
        let spec = serde_json::json!({
            "mounts": [
                {"destination": "/data", "type": "bind", "options": ["rbind"]},
                {"destination": "/dev/shm", "type": "bind", "options": ["bind"]},
                {"destination": "/proc", "type": "proc"},
            ],
            "linux": {"maskedPaths": ["/proc/kcore", "/proc/acpi"]},
        });
        let table = sys::mount::parse_mountinfo(TABLE).unwrap();
        let found = plan(&spec, &table, Kind::Runc);
        let pairs: Vec<(&str, &str)> = found
            .external
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("/data", "/data"),
                ("/dev", "/dev"),
                ("/dev/shm", "/dev/shm"),
                ("/proc/acpi", "/proc/acpi"),
                ("/proc/kcore", "/dev/null"),
                ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory"),
            ]
        );
        let members: Vec<&str> = found
            .tmpfs
            .iter()
            .map(|tmpfs| tmpfs.member.as_str())
            .collect();
        assert_eq!(members, ["tmpfs-0.tar", "tmpfs-1.tar"]);
        let crun = plan(&spec, &table, Kind::Crun);
        assert!(
            crun.external
                .contains(&("/proc/kcore".into(), "/proc/kcore".into()))
        );
    }
}
