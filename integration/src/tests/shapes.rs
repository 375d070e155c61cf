//! Containers of every shape that a pod's specification can ask for are frozen and thawed.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;
use tonic::Code;

use super::Test;
use super::bad_input::refused;
use crate::harness::containers::{
    Container, Pod, namespaces, pod_config, security, workload_config,
};
use crate::harness::daemon::{Thawd, write};

pub(super) const TESTS: &[(&str, Test)] = &[
    ("shapes::on_the_host_s_network", on_the_host_s_network),
    ("shapes::in_the_pod_s_pid_namespace", |thawd| {
        let pid = v1::NamespaceMode::Pod.into();
        Shape::of(v1::NamespaceOption {
            pid,
            ..namespaces()
        })
        .thaws(thawd)
        .map(drop)
    }),
    ("shapes::among_the_host_s_processes", |thawd| {
        let (pid, ipc) = (
            v1::NamespaceMode::Node.into(),
            v1::NamespaceMode::Node.into(),
        );
        Shape::of(v1::NamespaceOption {
            pid,
            ipc,
            ..namespaces()
        })
        .thaws(thawd)
        .map(drop)
    }),
    ("shapes::with_ipc_of_its_own", with_ipc_of_its_own),
    (
        "shapes::with_volumes_behind_links_of_the_image",
        behind_links,
    ),
    ("shapes::privileged", |thawd| {
        let mut shape = Shape::of(namespaces());
        let context = security(&mut shape.container);
        context.privileged = true;
        context.seccomp = None;
        shape.thaws(thawd).map(drop)
    }),
    ("shapes::restricted", restricted),
];

/// A container, and where it is.
struct Shape {
    container: v1::ContainerConfig,
    namespaces: v1::NamespaceOption,
}

impl Shape {
    fn of(namespaces: v1::NamespaceOption) -> Self {
        Self::with(
            namespaces,
            &["counter", "memory=64", "threads=2", "tcp=7000"],
        )
    }

    fn with(namespaces: v1::NamespaceOption, features: &[&str]) -> Self {
        let mut container = workload_config("workload", features);
        security(&mut container).namespace_options = Some(namespaces.clone());
        Self {
            container,
            namespaces,
        }
    }

    fn pod(&self, thawd: &Thawd, name: &str) -> Result<Pod> {
        let mut config = pod_config(thawd, name);
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.namespace_options = Some(self.namespaces.clone());
        context.privileged = security(&mut self.container.clone()).privileged;
        Pod::run_with(thawd, config, "").with_context(|| format!("RunPodSandbox {name}"))
    }

    /// It is frozen, and removed with its pod; its copy goes on, is frozen as well, and has been stopped.
    fn thaws(self, thawd: &mut Thawd) -> Result<Container> {
        thawd.load("workload")?;
        let pod = self.pod(thawd, "first")?;
        let original = pod.start(self.container.clone())?;
        original.log.wait_count(8)?;
        let archive = thawd.path("archives/one.tar");
        original.checkpoint(&archive).context("the checkpoint")?;
        original.log.wait_more(5).context("the original")?;
        original.check()?;
        original.stop_well().context("the original")?;
        pod.remove()?;
        let pod = self.pod(thawd, "second")?;
        let source = archive.display().to_string();
        let copy = pod.start(original.restored_config(&source, "copy"))?;
        let first = copy.log.wait_more(1).context("the copy")?.count;
        copy.log.wait_count(first + 8).context("the copy")?;
        copy.check()?;
        copy.checkpoint(&thawd.path("archives/two.tar"))
            .context("the second checkpoint")?;
        copy.stop_well().context("the copy")?;
        Ok(copy)
    }
}

/// What was of the one shape is not made into the other.
fn refused_as(thawd: &Thawd, from: &Shape, to: &Shape, words: &[&str]) -> Result<()> {
    let pod = from.pod(thawd, "from")?;
    let original = pod.start(from.container.clone())?;
    original.log.wait_count(3)?;
    let archive = thawd.path("archives/of-the-other.tar");
    original.checkpoint(&archive).context("the checkpoint")?;
    pod.remove()?;
    let pod = to.pod(thawd, "to")?;
    let source = archive.display().to_string();
    let mut config = original.restored_config(&source, "copy");
    security(&mut config).namespace_options = Some(to.namespaces.clone());
    refused(pod.create(config).map(drop), Code::PermissionDenied, words)?;
    pod.remove()?;
    Ok(std::fs::remove_file(&archive)?)
}

/// CRIU has no stage for a network that is its own.
pub(super) fn on_the_host_s_network(thawd: &mut Thawd) -> Result<()> {
    let host = Shape::of(v1::NamespaceOption {
        network: v1::NamespaceMode::Node.into(),
        ..namespaces()
    });
    let pods = Shape::of(namespaces());
    thawd.load("workload")?;
    let (of_host, of_pod) = ("is the host's namespace", "is a namespace of its own");
    refused_as(thawd, &host, &pods, &["net_ns_id", of_host])?;
    refused_as(thawd, &pods, &host, &["net_ns_id", of_pod])?;
    host.thaws(thawd).map(drop)
}

/// Two containers of a pod do not see each other's /dev/shm, which is a tmpfs in the archive.
pub(super) fn with_ipc_of_its_own(thawd: &mut Thawd) -> Result<()> {
    let features = ["counter", "memory=64", "tmpfs=/dev/shm", "semaphore"];
    let own = v1::NamespaceOption {
        ipc: v1::NamespaceMode::Container.into(),
        ..namespaces()
    };
    let (own, pods) = (
        Shape::with(own, &features),
        Shape::with(namespaces(), &features),
    );
    thawd.load("workload")?;
    let pod = own.pod(thawd, "pod")?;
    let mut other = own.container.clone();
    other.log_path = "other.log".to_owned();
    other.metadata.get_or_insert_default().name = "other".to_owned();
    let pair = [pod.start(own.container.clone())?, pod.start(other)?];
    pair[0].log.wait_count(3)?;
    let mut seen = BTreeSet::new();
    for container in &pair {
        let script = "readlink /proc/self/ns/ipc; touch /dev/shm/$$; stat -f -c %i /dev/shm";
        let ran = container.exec(&["sh", "-c", script])?;
        ensure!(ran.code == 0, "{ran:?}");
        seen.extend(ran.stdout.lines().map(str::to_owned));
    }
    ensure!(seen.len() == 4, "two namespaces and two mounts: {seen:?}");
    pod.remove()?;
    refused_as(thawd, &own, &pods, &["/dev/shm"])?;
    refused_as(thawd, &pods, &own, &["/dev/shm"])?;
    own.thaws(thawd).map(drop)
}

/// Most images have links where Kubernetes mounts a pod's token: `/var/run` leads to `/run`. And `/lib`
/// leads to `/usr/lib`.
pub(super) fn behind_links(thawd: &mut Thawd) -> Result<()> {
    let mut shape = Shape::of(namespaces());
    let volume = thawd.path("volume");
    std::fs::create_dir(&volume)?;
    write(&volume.join("token"), "secret")?;
    let mut mount = |path: &str, host: &Path, readonly| {
        shape.container.mounts.push(v1::Mount {
            container_path: path.to_owned(),
            host_path: host.display().to_string(),
            readonly,
            ..Default::default()
        });
    };
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    mount(token, &volume, true);
    mount("/lib/one/file", &volume.join("token"), false);
    let status = shape.thaws(thawd)?.status()?;
    let shown = status
        .mounts
        .iter()
        .any(|mount| mount.container_path == token);
    ensure!(
        shown,
        "a status shows the request's path: {:?}",
        status.mounts
    );
    Ok(())
}

/// As a pod of the restricted security standard, with limits.
fn restricted(thawd: &mut Thawd) -> Result<()> {
    let mut shape = Shape::of(namespaces());
    let linux = shape.container.linux.get_or_insert_default();
    linux.resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 512 << 20,
        cpu_period: 100_000,
        cpu_quota: 100_000,
        cpu_shares: 512,
        oom_score_adj: 500,
        ..Default::default()
    });
    let context = linux.security_context.get_or_insert_default();
    context.readonly_rootfs = true;
    context.no_new_privs = true;
    context.supplemental_groups = vec![1234, 5678];
    context.capabilities = Some(v1::Capability {
        drop_capabilities: vec!["ALL".to_owned()],
        add_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
        ..Default::default()
    });
    // Where the workload keeps its last line.
    let status = thawd.path("status");
    write(&status, "")?;
    shape.container.mounts.push(v1::Mount {
        container_path: "/status".to_owned(),
        host_path: status.display().to_string(),
        ..Default::default()
    });
    shape.thaws(thawd).map(drop)
}
