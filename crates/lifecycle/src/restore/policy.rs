//! What the live request grants a restored container, in `criu-images`' terms.
//!
//! Everything here is read from the OCI spec that was made for the request; the images are then
//! held against it (`criu_images::policy::check`).

mod mounts;

use std::collections::BTreeMap;

use criu_images::policy::{Credentials, Label, Namespace, Namespaces, Request};
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
        mounts: mounts::expected(spec),
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

#[cfg(test)]
mod tests {
    use super::*;
    use criu_images::policy::Propagation;
    use std::path::Path;

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
