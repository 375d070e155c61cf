//! What the live request grants a restored container, in `criu-images`' terms.
//!
//! Everything here is read from the OCI spec that was made for the request; the images are then
//! held against it (`criu_images::policy::check`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use criu_images::policy::{
    Credentials, ExpectedMount, Filesystem, Label, MountOrigin, Namespace, Namespaces, PartRoot,
    Presence, Propagation, Request, Restrictions,
};
use serde_json::Value;

use crate::checkpoint::mounts::strings;
use crate::error::Error;
use crate::spec::caps::mask_of;

/// Resource names by number (getrlimit(2), `asm-generic/resource.h`).
const RESOURCES: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// Key under which runc and crun hand CRIU the pod's network namespace.
const NETWORK_KEY: &str = "extRootNetNS";
/// The same for a shared pid namespace.
const PID_KEY: &str = "extRootPidNS";

/// Describes what `spec` grants.
///
/// # Errors
///
/// [`Error::Failed`] when the seccomp section cannot be read.
pub(crate) fn request(spec: &Value) -> Result<Request, Error> {
    let seccomp = match spec.pointer("/linux/seccomp") {
        None | Some(Value::Null) => None,
        Some(profile) => Some(
            serde_json::from_value(profile.clone())
                .map_err(|error| Error::failed("read the seccomp profile of the spec", error))?,
        ),
    };
    let label = spec
        .pointer("/process/selinuxLabel")
        .or(spec.pointer("/process/apparmorProfile"));
    Ok(Request {
        credentials: credentials(spec),
        seccomp,
        label: match label.and_then(Value::as_str) {
            Some(label) if !label.is_empty() => Label::Exactly(Some(label.to_owned())),
            _ => Label::Exactly(None),
        },
        rlimits: rlimits(spec),
        oom_score_adj: number(spec, "/process/oomScoreAdj").unwrap_or(0),
        nice: 0,
        namespaces: namespaces(spec),
        mounts: mounts(spec),
        tmpfs_archives: false,
        limits: criu_images::Limits::default(),
    })
}

fn number<T: TryFrom<i64>>(spec: &Value, pointer: &str) -> Option<T> {
    spec.pointer(pointer)
        .and_then(Value::as_i64)
        .and_then(|value| T::try_from(value).ok())
}

fn credentials(spec: &Value) -> Credentials {
    let set = |name: &str| {
        let names = strings(spec, &format!("/process/capabilities/{name}"));
        names.iter().fold(0_u64, |mask, name| mask | mask_of(name))
    };
    let groups = spec
        .pointer("/process/user/additionalGids")
        .and_then(Value::as_array);
    Credentials {
        uid: number(spec, "/process/user/uid").unwrap_or(0),
        gid: number(spec, "/process/user/gid").unwrap_or(0),
        groups: groups
            .into_iter()
            .flatten()
            .filter_map(|group| u32::try_from(group.as_u64()?).ok())
            .collect(),
        bounding: set("bounding"),
        effective: set("effective"),
        permitted: set("permitted"),
        inheritable: set("inheritable"),
        ambient: set("ambient"),
        no_new_privs: spec
            .pointer("/process/noNewPrivileges")
            .and_then(Value::as_bool)
            .unwrap_or(false),
    }
}

fn rlimits(spec: &Value) -> BTreeMap<u32, u64> {
    let list = spec.pointer("/process/rlimits").and_then(Value::as_array);
    let entries = list.into_iter().flatten().filter_map(|limit| {
        let name = limit.get("type")?.as_str()?.strip_prefix("RLIMIT_")?;
        let number = RESOURCES.iter().position(|known| *known == name)?;
        Some((u32::try_from(number).ok()?, limit.get("hard")?.as_u64()?))
    });
    let mut limits = own_limits();
    limits.extend(entries);
    limits
}

/// This daemon's own hard limits, which the OCI runtime's processes inherit.
fn own_limits() -> BTreeMap<u32, u64> {
    use rustix::process::Resource;
    let resources = [
        Resource::Cpu,
        Resource::Fsize,
        Resource::Data,
        Resource::Stack,
        Resource::Core,
        Resource::Rss,
        Resource::Nproc,
        Resource::Nofile,
        Resource::Memlock,
        Resource::As,
        Resource::Locks,
        Resource::Sigpending,
        Resource::Msgqueue,
        Resource::Nice,
        Resource::Rtprio,
        Resource::Rttime,
    ];
    // No maximum is no limit: nothing to hold the images to.
    let hard = |resource| rustix::process::getrlimit(resource).maximum;
    (0..)
        .zip(resources)
        .filter_map(|(number, resource)| Some((number, hard(resource)?)))
        .collect()
}

fn namespaces(spec: &Value) -> Namespaces {
    let list = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    let find = |kind: &str, key: &str| {
        let found = list
            .into_iter()
            .flatten()
            .find(|namespace| namespace.get("type").and_then(Value::as_str) == Some(kind));
        match found {
            None => Namespace::Host,
            Some(namespace) if namespace.get("path").and_then(Value::as_str).is_some() => {
                Namespace::External {
                    key: key.to_owned(),
                }
            }
            Some(_) => Namespace::Own,
        }
    };
    Namespaces {
        pid: find("pid", PID_KEY),
        network: find("network", NETWORK_KEY),
        ipc: find("ipc", ""),
        uts: find("uts", ""),
        hostname: spec
            .get("hostname")
            .and_then(Value::as_str)
            .map(str::to_owned),
    }
}

/// The mount table that the OCI runtime makes of `spec`.
fn mounts(spec: &Value) -> Vec<ExpectedMount> {
    let root_options: &[&str] = match spec.pointer("/root/readonly").and_then(Value::as_bool) {
        Some(true) => &["ro"],
        _ => &[],
    };
    let mut expected = vec![ExpectedMount {
        mountpoint: PathBuf::from("/"),
        origins: vec![MountOrigin::Root],
        restrictions: Restrictions::from_options(root_options),
        propagation: root_propagation(spec),
        presence: Presence::Required,
    }];
    for mount in spec
        .get("mounts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        of_spec(mount, &mut expected);
    }
    parts_and_masks(spec, &mut expected);
    if spec.pointer("/process/terminal").and_then(Value::as_bool) == Some(true) {
        expected.push(ExpectedMount {
            mountpoint: PathBuf::from("/dev/console"),
            origins: vec![MountOrigin::Part {
                of: PathBuf::from("/dev/pts"),
                root: PartRoot::Number,
            }],
            restrictions: Restrictions::default(),
            propagation: Propagation::Private,
            // runc makes it, crun does not.
            presence: Presence::Optional,
        });
    }
    expected
}

fn root_propagation(spec: &Value) -> Propagation {
    match spec
        .pointer("/linux/rootfsPropagation")
        .and_then(Value::as_str)
    {
        Some("shared" | "rshared") => Propagation::Shared,
        Some("slave" | "rslave") => Propagation::Slave,
        _ => Propagation::Private,
    }
}

fn propagation(options: &[String]) -> Propagation {
    let has = |names: [&str; 2]| {
        options
            .iter()
            .any(|option| names.contains(&option.as_str()))
    };
    if has(["shared", "rshared"]) {
        Propagation::Shared
    } else if has(["slave", "rslave"]) {
        Propagation::Slave
    } else {
        Propagation::Private
    }
}

fn of_spec(mount: &Value, expected: &mut Vec<ExpectedMount>) {
    let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
    let (destination, kind) = (text("destination"), text("type"));
    let options = strings(mount, "/options");
    let bind = kind == "bind" || options.iter().any(|o| o == "bind" || o == "rbind");
    let external = |within: Option<&str>| MountOrigin::External {
        keys: vec![destination.to_owned()],
        within: within.map(PathBuf::from),
    };
    let new = |filesystem| MountOrigin::New {
        filesystem,
        options: options.clone(),
    };
    let origin = if bind {
        external(None)
    } else {
        match kind {
            "proc" => new(Filesystem::Proc),
            "sysfs" => new(Filesystem::Sysfs),
            "devpts" => new(Filesystem::Devpts),
            "mqueue" => new(Filesystem::Mqueue),
            "cgroup2" => new(Filesystem::Cgroup2),
            "cgroup" => return cgroup(destination, &options, expected),
            // thawd keeps the content of every tmpfs itself.
            _ => external(None),
        }
    };
    expected.push(ExpectedMount {
        mountpoint: PathBuf::from(destination),
        origins: vec![origin],
        restrictions: Restrictions::from_options(&options),
        propagation: if bind {
            propagation(&options)
        } else {
            Propagation::Private
        },
        presence: Presence::Required,
    });
}

/// v1: a tmpfs with one external mount a subsystem; v2: one cgroup2.
fn cgroup(destination: &str, options: &[String], expected: &mut Vec<ExpectedMount>) {
    let own = MountOrigin::External {
        keys: vec![destination.to_owned()],
        within: None,
    };
    let unified = MountOrigin::New {
        filesystem: Filesystem::Cgroup2,
        options: options.to_owned(),
    };
    let restrictions = Restrictions::from_options(options);
    expected.push(ExpectedMount {
        mountpoint: PathBuf::from(destination),
        origins: vec![own.clone(), unified],
        // The tmpfs itself is made read-only by some runtimes only.
        restrictions: Restrictions {
            read_only: false,
            ..restrictions
        },
        propagation: Propagation::Private,
        presence: Presence::Required,
    });
    expected.push(ExpectedMount {
        mountpoint: PathBuf::from(destination),
        origins: vec![own],
        restrictions,
        propagation: Propagation::Private,
        presence: Presence::EachChild,
    });
}

fn parts_and_masks(spec: &Value, expected: &mut Vec<ExpectedMount>) {
    for path in strings(spec, "/linux/readonlyPaths") {
        let Some((of, inner)) = part_of(&path) else {
            continue;
        };
        expected.push(ExpectedMount {
            mountpoint: PathBuf::from(&path),
            origins: vec![MountOrigin::Part {
                of: of.into(),
                root: PartRoot::Exactly(inner),
            }],
            restrictions: Restrictions {
                read_only: true,
                ..Restrictions::default()
            },
            propagation: Propagation::Private,
            presence: presence(&path),
        });
    }
    for path in strings(spec, "/linux/maskedPaths") {
        let directory = Path::new(&path).is_dir();
        expected.push(ExpectedMount {
            mountpoint: PathBuf::from(&path),
            origins: vec![
                MountOrigin::External {
                    keys: vec!["/dev/null".into(), path.clone()],
                    within: Some(PathBuf::from("/dev")),
                },
                MountOrigin::External {
                    keys: vec![path.clone()],
                    within: None,
                },
            ],
            restrictions: Restrictions {
                read_only: directory,
                ..Restrictions::default()
            },
            propagation: Propagation::Private,
            presence: presence(&path),
        });
    }
}

/// The mount that a read-only path is bound from, and the path within it.
fn part_of(path: &str) -> Option<(&'static str, String)> {
    ["/proc", "/sys"].into_iter().find_map(|mount| {
        let inner = path.strip_prefix(mount)?;
        inner.starts_with('/').then(|| (mount, inner.to_owned()))
    })
}

/// Paths of proc and sysfs exist in every container or in none, so this host's tell.
fn presence(path: &str) -> Presence {
    if Path::new(path).exists() {
        Presence::Required
    } else {
        Presence::Optional
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_becomes_what_it_grants() {
        let spec = serde_json::json!({
            "process": {
                "user": {"uid": 7, "gid": 8, "additionalGids": [9]},
                "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SETUID"], "effective": ["CAP_CHOWN"]},
                "noNewPrivileges": true,
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1024}],
                "oomScoreAdj": 100,
            },
            "root": {"readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc"},
                {"destination": "/data", "type": "bind", "options": ["rbind", "ro", "rslave"]},
                {"destination": "/dev", "type": "tmpfs", "options": ["nosuid"]},
            ],
            "linux": {
                "namespaces": [
                    {"type": "pid"}, {"type": "network", "path": "/run/ns"}, {"type": "mount"}],
                "readonlyPaths": ["/proc/sys"],
                "maskedPaths": ["/proc/kcore"],
            },
        });
        let request = request(&spec).unwrap();
        assert_eq!((request.credentials.uid, request.credentials.gid), (7, 8));
        assert_eq!(request.credentials.groups, [9]);
        assert_eq!(request.credentials.bounding, 1 | 1 << 7);
        assert_eq!(request.credentials.effective, 1);
        assert!(request.credentials.no_new_privs);
        assert_eq!(request.rlimits.get(&7), Some(&1024));
        assert_eq!(request.oom_score_adj, 100);
        assert_eq!(request.namespaces.pid, Namespace::Own);
        assert_eq!(request.namespaces.ipc, Namespace::Host);
        assert_eq!(
            request.namespaces.network,
            Namespace::External {
                key: NETWORK_KEY.into()
            }
        );
        let places: Vec<&Path> = request
            .mounts
            .iter()
            .map(|m| m.mountpoint.as_path())
            .collect();
        let expected = ["/", "/proc", "/data", "/dev", "/proc/sys", "/proc/kcore"];
        assert_eq!(places, expected.map(Path::new));
        assert!(request.mounts[0].restrictions.read_only);
        assert_eq!(request.mounts[2].propagation, Propagation::Slave);
        assert!(request.mounts[3].restrictions.nosuid);
    }
}
