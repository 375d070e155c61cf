//! Status, images and pods as a kubelet uses them.

use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;
use tonic::Code;

use super::Test;
use super::bad_input::refused;
use crate::harness::containers::{
    Pod, container_config, namespaces, pod_config, security, workload_config,
};
use crate::harness::daemon::Thawd;
use crate::harness::wait;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("pods::status_and_what_is_not_built_yet", status),
    ("pods::images_are_listed_and_removed", images),
    ("pods::a_pod_has_what_its_request_says", pod_request),
    ("pods::stop_and_remove_can_be_repeated", stop_and_remove),
    ("pods::a_pod_on_the_host_network", host_network),
    ("pods::published_ports_reach_the_pod", ports),
    ("pods::containers_share_the_pods_pid_namespace", shared_pids),
];

pub(super) const BUSYBOX: &str = "localhost/thawd/busybox:latest";

/// Runs a shell script in a container of its own to its end; its log lines and exit code.
pub(super) fn shell(pod: &Pod, name: &str, script: &str) -> Result<(Vec<String>, i32)> {
    let container = pod.start(container_config(name, BUSYBOX, &["sh", "-c", script]))?;
    let status = container.wait_exit()?;
    Ok((container.log.lines()?, status.exit_code))
}

fn status(thawd: &mut Thawd) -> Result<()> {
    let cri = thawd.cri();
    let version = cri.version(v1::VersionRequest::default())?;
    ensure!(version.runtime_name == "thawd", "{version:?}");
    ensure!(version.runtime_api_version == "v1", "{version:?}");
    let status = cri.status(v1::StatusRequest { verbose: true })?;
    let conditions = status.status.context("no status")?.conditions;
    for kind in ["RuntimeReady", "NetworkReady"] {
        let found = conditions.iter().find(|condition| condition.r#type == kind);
        ensure!(
            found.is_some_and(|condition| condition.status),
            "{kind}: {conditions:?}"
        );
    }
    ensure!(!status.info.is_empty(), "no verbose information");
    cri.runtime_config(v1::RuntimeConfigRequest::default())?;
    let request = v1::ContainerStatsRequest {
        container_id: "a".to_owned(),
    };
    refused(cri.container_stats(request), Code::Unimplemented, &[])?;
    // A network that is gone is said, and said again when it is back.
    let network = thawd.path("cni/10-test.conflist");
    let away = thawd.path("10-test.conflist");
    std::fs::rename(&network, &away)?;
    let ready = |wanted: bool| {
        wait::until("NetworkReady to change", wait::PATIENCE, || {
            let status = thawd.cri().status(v1::StatusRequest::default())?;
            let conditions = status.status.context("no status")?.conditions;
            let network = conditions
                .into_iter()
                .find(|found| found.r#type == "NetworkReady");
            Ok(network.filter(|found| found.status == wanted))
        })
    };
    let gone = ready(false)?;
    ensure!(
        !gone.reason.is_empty() && !gone.message.is_empty(),
        "{gone:?}"
    );
    std::fs::rename(&away, &network)?;
    ready(true).map(drop)
}

fn images(thawd: &mut Thawd) -> Result<()> {
    let name = thawd.load("base")?;
    thawd.load("workload")?;
    let cri = thawd.cri();
    let list = cri.list_images(v1::ListImagesRequest::default())?.images;
    let tags: Vec<&String> = list.iter().flat_map(|image| &image.repo_tags).collect();
    ensure!(tags.iter().any(|tag| **tag == name), "{tags:?}");
    ensure!(list.len() == 2, "{} images", list.len());
    let spec = || {
        Some(v1::ImageSpec {
            image: name.clone(),
            ..Default::default()
        })
    };
    let request = v1::ImageStatusRequest {
        image: spec(),
        verbose: false,
    };
    let image = cri
        .image_status(request.clone())?
        .image
        .context("no image")?;
    ensure!(
        image.id.starts_with("sha256:") && image.size > 1_000_000,
        "{image:?}"
    );
    // Loading it again changes nothing, and pulling what is there succeeds.
    thawd.load("base")?;
    let pull = v1::PullImageRequest {
        image: spec(),
        ..Default::default()
    };
    let pulled = cri.pull_image(pull)?.image_ref;
    ensure!(!pulled.is_empty(), "no reference");
    let space = cri.image_fs_info(v1::ImageFsInfoRequest::default())?;
    let used = space.image_filesystems.first().context("no file system")?;
    ensure!(
        used.used_bytes.is_some_and(|bytes| bytes.value > 1_000_000),
        "{used:?}"
    );
    cri.remove_image(v1::RemoveImageRequest { image: spec() })?;
    cri.remove_image(v1::RemoveImageRequest { image: spec() })?;
    ensure!(
        cri.image_status(request)?.image.is_none(),
        "the image is still there"
    );
    Ok(())
}

fn pod_request(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let mut config = pod_config(thawd, "pod");
    config.dns_config = Some(v1::DnsConfig {
        servers: vec!["10.9.8.7".to_owned()],
        searches: vec!["example.org".to_owned()],
        options: vec!["ndots:5".to_owned()],
    });
    config.labels.insert("app".to_owned(), "test".to_owned());
    config
        .annotations
        .insert("note".to_owned(), "kept".to_owned());
    let linux = config.linux.get_or_insert_default();
    linux.sysctls.insert(
        "net.ipv4.ip_unprivileged_port_start".to_owned(),
        "99".to_owned(),
    );
    let pod = Pod::run_with(thawd, config.clone(), "")?;
    let status = pod.status()?;
    ensure!(status.labels == config.labels, "labels {:?}", status.labels);
    ensure!(
        status.annotations == config.annotations,
        "annotations {:?}",
        status.annotations
    );
    ensure!(
        status.state() == v1::PodSandboxState::SandboxReady,
        "{:?}",
        status.state()
    );
    let script = "hostname; cat /etc/resolv.conf; cat /etc/hosts; \
                  cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
                  cat /proc/sys/net/mptcp/enabled 2>/dev/null || echo 0";
    let (lines, code) = shell(&pod, "show", script)?;
    ensure!(code == 0, "exit code {code}: {lines:?}");
    for wanted in [
        "pod",
        "nameserver 10.9.8.7",
        "search example.org",
        "options ndots:5",
        "99",
    ] {
        ensure!(
            lines.iter().any(|line| line == wanted),
            "no {wanted:?} in {lines:?}"
        );
    }
    ensure!(
        lines
            .iter()
            .any(|line| line.starts_with(&pod.ip().unwrap_or_default())),
        "{lines:?}"
    );
    ensure!(
        lines.last().is_some_and(|line| line == "0"),
        "MPTCP is on: {lines:?}"
    );

    // The same name twice is one pod, or refused; never two.
    let again = Pod::run_with(thawd, config, "");
    let pods = thawd
        .cri()
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())?
        .items;
    ensure!(
        pods.len() == 1,
        "{} pods after {:?}",
        pods.len(),
        again.err()
    );
    Ok(())
}

fn stop_and_remove(thawd: &mut Thawd) -> Result<()> {
    let pod = Pod::run(thawd, "pod")?;
    let id = pod.id.clone();
    let stop = || v1::StopPodSandboxRequest {
        pod_sandbox_id: id.clone(),
    };
    thawd.cri().stop_pod_sandbox(stop())?;
    ensure!(
        pod.status()?.state() == v1::PodSandboxState::SandboxNotready,
        "not stopped"
    );
    thawd.cri().stop_pod_sandbox(stop())?;
    pod.remove()?;
    let list = thawd
        .cri()
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())?
        .items;
    ensure!(list.is_empty(), "{list:?}");
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: id,
        verbose: false,
    };
    refused(thawd.cri().pod_sandbox_status(request), Code::NotFound, &[]).map(drop)
}

fn host_network(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let mut config = pod_config(thawd, "pod");
    let linux = config.linux.get_or_insert_default();
    let context = linux.security_context.get_or_insert_default();
    let options = context.namespace_options.get_or_insert_default();
    options.network = v1::NamespaceMode::Node.into();
    let shared = options.clone();
    let pod = Pod::run_with(thawd, config, "")?;
    let mut request = container_config("net", BUSYBOX, &["readlink", "/proc/self/ns/net"]);
    security(&mut request).namespace_options = Some(shared);
    let container = pod.start(request)?;
    container.wait_exit()?;
    let own = std::fs::read_link("/proc/self/ns/net")?
        .display()
        .to_string();
    let lines = container.log.lines()?;
    ensure!(
        lines == [own.clone()],
        "network {lines:?}, the host's is {own}"
    );
    Ok(())
}

fn ports(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let mut config = pod_config(thawd, "pod");
    config.port_mappings.push(v1::PortMapping {
        protocol: v1::Protocol::Tcp.into(),
        container_port: 7000,
        host_port: 17000,
        ..Default::default()
    });
    let pod = Pod::run_with(thawd, config, "")?;
    pod.start(workload_config("server", &["tcp=7000"]))?
        .log
        .wait_count(1)?;
    // From the bridge's own address: a connection from 127.0.0.1 takes more than a pod's plugin.
    let gateway = pod.ip()?.rsplit_once('.').context("address")?.0.to_owned() + ".1";
    wait::until("the published port", wait::PATIENCE, || {
        Ok(TcpStream::connect((gateway.as_str(), 17000)).ok())
    })
    .map(drop)
}

fn shared_pids(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let mut config = pod_config(thawd, "pod");
    let options = v1::NamespaceOption {
        pid: v1::NamespaceMode::Pod.into(),
        ..namespaces()
    };
    let linux = config.linux.get_or_insert_default();
    linux
        .security_context
        .get_or_insert_default()
        .namespace_options = Some(options.clone());
    let pod = Pod::run_with(thawd, config, "")?;
    let with_options = |name: &str, command: &[&str]| {
        let mut config = container_config(name, BUSYBOX, command);
        security(&mut config).namespace_options = Some(options.clone());
        config
    };
    let sleeper = pod.start(with_options("sleeper", &["sleep", "1234"]))?;
    let other = pod.start(with_options("other", &["sleep", "4321"]))?;
    let seen = other.exec(&["ps"])?.stdout;
    ensure!(
        seen.contains("sleep 1234") && seen.contains("sleep 4321"),
        "{seen}"
    );
    sleeper.stop()?;
    let seen = other.exec(&["ps"])?.stdout;
    ensure!(
        !seen.contains("sleep 1234") && seen.contains("sleep 4321"),
        "{seen}"
    );
    Ok(())
}
