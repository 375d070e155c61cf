//! The `annotations` part of a spec: whose container it is, and the request's own.

use std::collections::HashMap;

use super::SpecInput;
use crate::cgroups::CgroupDriver;

/// Prefixes by which annotations steer something on the host: CRIU's configuration file
/// (`org.criu.config`), crun and runc, units of systemd, device injection, image handlers of crun.
const REFUSED: [&str; 7] = [
    "org.criu.",
    "run.oci.",
    "org.systemd.",
    "cdi.k8s.io",
    "io.crun.",
    "module.wasm.image/",
    "io.kubernetes.cri.",
];

/// The engine's name under this key tells tools (and the sandboxed runtimes) who made a bundle.
const MANAGER: &str = "io.container.manager";

/// crun puts a container into a cgroup of this name below the scope, by default `container`
/// (crun(1), "run.oci.systemd.subgroup"). Without one it is in the scope, as with runc.
const SUBGROUP: &str = "run.oci.systemd.subgroup";

pub(super) fn build(input: &SpecInput<'_>) -> HashMap<String, String> {
    let sandbox = input.sandbox;
    let image = if input.config.user_specified_image.is_empty() {
        &input.config.image
    } else {
        &input.config.user_specified_image
    };
    let own = [
        (MANAGER, "thawd"),
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.container-name", &input.config.name),
        ("io.kubernetes.cri.image-name", image),
        ("io.kubernetes.cri.sandbox-id", input.sandbox_id),
        ("io.kubernetes.cri.sandbox-name", &sandbox.name),
        ("io.kubernetes.cri.sandbox-namespace", &sandbox.namespace),
        ("io.kubernetes.cri.sandbox-uid", &sandbox.uid),
    ];
    let requested = input.config.annotations.iter();
    let mut annotations: HashMap<String, String> = requested
        .filter(|(key, _)| !key.is_empty() && !refused(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    annotations.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    if input.cgroup_driver == CgroupDriver::Systemd {
        annotations.insert(SUBGROUP.to_owned(), String::new());
    }
    annotations
}

fn refused(key: &str) -> bool {
    REFUSED.iter().any(|prefix| key.starts_with(prefix))
}
