//! The JSON files of an archive (`checkpoint-facts`: the names and keys that checkpointctl reads).

use std::path::Path;
use std::time::{Duration, SystemTime};

use bundler::{Container, Engine, Image, Manifest, MountNeed, Pod, Runtime, TmpfsContent};
use serde_json::{Value, json};

use super::Job;
use super::mounts::DumpMounts;
use crate::context::Context;
use crate::engine::Usable;
use crate::model::Mount;

/// Destinations that every container of thawd has, whatever the request says.
const OWN_BINDS: [&str; 4] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/shm",
];

/// What the capture learnt and the manifest tells.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// When the tasks were frozen.
    pub(super) at: SystemTime,
    /// For how long.
    pub(super) frozen: Duration,
    /// Where descriptors 0 to 2 lead.
    pub(super) descriptors: &'a [String],
    /// Mounts.
    pub(super) mounts: &'a DumpMounts,
}

/// `config.dump`: checkpointctl's `ContainerConfig`.
pub(super) fn config_dump(job: &Job, at: SystemTime) -> Value {
    let record = &job.container;
    let time = |at: SystemTime| humantime::format_rfc3339_nanos(at).to_string();
    let image = if record.config.user_specified_image.is_empty() {
        &record.config.image
    } else {
        &record.config.user_specified_image
    };
    json!({
        "id": record.id.as_str(),
        "name": record.config.name,
        "rootfsImage": image,
        "rootfsImageRef": record.image_ref,
        "rootfsImageName": image,
        "runtime": job.sandbox.handler,
        "createdTime": time(record.created_at),
        "checkpointedTime": time(at),
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": record.restore.is_some(),
    })
}

/// `descriptors.json`: where standard input, output and error lead (runc and crun read it).
pub(super) fn descriptors(pid: u32) -> std::io::Result<Vec<String>> {
    let mut found = Vec::with_capacity(3);
    for fd in 0..3 {
        let target = match std::fs::read_link(format!("/proc/{pid}/fd/{fd}")) {
            Ok(target) => target.to_string_lossy().into_owned(),
            // A program may close any of them; the list has three entries all the same.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        found.push(target);
    }
    Ok(found)
}

/// `manifest.json` without its list of entries, which the writer adds.
pub(super) fn manifest(ctx: &Context, job: &Job, engine: &Usable, facts: &Facts<'_>) -> Manifest {
    let (record, sandbox) = (&job.container, &job.sandbox);
    let kernel = sys::sysinfo::kernel();
    let kind = ctx
        .runtimes
        .get(&sandbox.handler)
        .map(|runtime| runtime.kind.name().to_owned());
    Manifest {
        created_at: humantime::format_rfc3339_nanos(facts.at).to_string(),
        engine: Engine {
            name: "thawd".into(),
            version: env!("CARGO_PKG_VERSION").into(),
        },
        criu_version: engine.version.clone(),
        kernel: kernel.release,
        arch: kernel.machine,
        cpu_features: sys::sysinfo::cpu_features(),
        runtime: Runtime {
            handler: sandbox.handler.clone(),
            kind: kind.unwrap_or_default(),
            version: String::new(),
        },
        container: Container {
            id: record.id.as_str().to_owned(),
            name: record.config.name.clone(),
            attempt: record.config.attempt,
            image: Image {
                id: record.image_id.clone(),
                reference: record.image_ref.clone(),
                name: record.config.image.clone(),
                layers: Vec::new(),
            },
        },
        pod: Pod {
            id: sandbox.id.as_str().to_owned(),
            name: sandbox.config.name.clone(),
            namespace: sandbox.config.namespace.clone(),
            uid: sandbox.config.uid.clone(),
        },
        frozen_ns: u64::try_from(facts.frozen.as_nanos()).unwrap_or(u64::MAX),
        mounts: needs(&record.config.mounts),
        tmpfs: facts
            .mounts
            .tmpfs
            .iter()
            .map(|tmpfs| TmpfsContent {
                destination: tmpfs.destination.to_string_lossy().into_owned(),
                entry: tmpfs.member.clone(),
            })
            .collect(),
        terminal: record.config.tty,
        descriptors: facts.descriptors.to_vec(),
        options: [
            ("tcp", "close"),
            ("file_locks", "yes"),
            ("cgroups", "ignore"),
            ("network_lock", "skip"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        ..Manifest::default()
    }
}

/// Mounts of the request that a restore's request must have too.
fn needs(asked: &[Mount]) -> Vec<MountNeed> {
    asked
        .iter()
        .filter(|mount| {
            !OWN_BINDS
                .iter()
                .any(|own| mount.container_path == Path::new(own))
        })
        .map(|mount| MountNeed {
            destination: mount.container_path.to_string_lossy().into_owned(),
            kind: "bind".into(),
            readonly: mount.readonly,
            directory: mount.host_path.is_dir(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Propagation;

    #[test]
    fn what_every_container_has_is_not_needed() {
        let mount = |path: &str| Mount {
            container_path: path.into(),
            host_path: "/etc".into(),
            readonly: path == "/data",
            recursive_readonly: false,
            selinux_relabel: false,
            propagation: Propagation::Private,
        };
        let asked = ["/etc/hosts", "/data", "/dev/shm", "/var/run/token"].map(mount);
        let found = needs(&asked);
        let places: Vec<_> = found
            .iter()
            .map(|need| (need.destination.as_str(), need.readonly, need.directory))
            .collect();
        assert_eq!(
            places,
            [("/data", true, true), ("/var/run/token", false, true)]
        );
    }
}
