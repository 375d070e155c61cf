//! A real kubelet's checkpoint endpoint, answered by thawd, and a static pod that thaws.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;
use serde_json::Value;

use super::Test;
use crate::harness::daemon::Thawd;
use crate::harness::kubelet::{Kubelet, NODE};
use crate::harness::log::Log;
use crate::harness::wait;

pub(super) const TESTS: &[(&str, Test)] = &[(
    "kubernetes::a_kubelet_checkpoints_and_a_static_pod_thaws",
    kubelet,
)];

/// The log of the static pod's container, once it runs.
fn running(thawd: &Thawd, kubelet: &Kubelet, pod: &str) -> Result<Log> {
    let name = format!("{pod}-{NODE}");
    let log = wait::until(&format!("pod {pod} to run"), wait::PATIENCE * 2, || {
        let list = thawd
            .cri()
            .list_containers(v1::ListContainersRequest::default())?
            .containers;
        let ours = list.into_iter().find(|container| {
            container.labels.get("io.kubernetes.pod.name") == Some(&name)
                && container.state() == v1::ContainerState::ContainerRunning
        });
        let Some(ours) = ours else { return Ok(None) };
        let request = v1::ContainerStatusRequest {
            container_id: ours.id,
            verbose: false,
        };
        let status = thawd
            .cri()
            .container_status(request)?
            .status
            .context("status")?;
        Ok(Some(PathBuf::from(status.log_path)))
    });
    let log =
        log.with_context(|| format!("the kubelet's log ends with:\n{}", kubelet.log_tail()))?;
    Ok(Log::new(log))
}

fn kubelet(thawd: &mut Thawd) -> Result<()> {
    let image = thawd.load("workload")?;
    let kubelet = Kubelet::start(thawd)?;
    kubelet.add_pod("counter", &image, &["/bin/workload", "counter"])?;
    kubelet.add_pod("ring", &image, &["/bin/workload", "counter", "io-uring"])?;
    let log = running(thawd, &kubelet, "counter")?;
    log.wait_count(5)?;
    running(thawd, &kubelet, "ring")?.wait_count(2)?;

    let checkpoint = format!("checkpoint/default/counter-{NODE}/c?timeout=30");
    let before = log.count()?;
    let answer = wait::until("the endpoint to know the pod", wait::PATIENCE, || {
        let answer = kubelet.post(&checkpoint, true)?;
        Ok((answer.code != 404).then_some(answer))
    })?;
    let after = log.count()?;
    ensure!(answer.code == 200, "{answer:?}");
    let body: Value = serde_json::from_str(&answer.body)?;
    let archive = body
        .pointer("/items/0")
        .and_then(Value::as_str)
        .context("no item")?;
    ensure!(
        archive.starts_with(&kubelet.root().display().to_string()),
        "{archive}"
    );
    let metadata = std::fs::metadata(archive)?;
    ensure!(
        (metadata.mode() & 0o7777, metadata.uid()) == (0o600, 0),
        "{metadata:?}"
    );
    log.wait_more(3)?;

    let refused = kubelet.post(&checkpoint, false)?;
    ensure!(refused.code == 401, "{refused:?}");
    let unknown = kubelet.post("checkpoint/default/nobody/c", true)?;
    ensure!(unknown.code == 404, "{unknown:?}");
    let unknown = kubelet.post(&format!("checkpoint/default/counter-{NODE}/nothing"), true)?;
    ensure!(unknown.code == 404, "{unknown:?}");
    let ring = kubelet.post(&format!("checkpoint/default/ring-{NODE}/c"), true)?;
    ensure!(
        ring.code == 500 && ring.body.contains("io_uring"),
        "{ring:?}"
    );

    let name = "localhost/checkpoints/counter:kubelet";
    thawd.thaw_ok(&["image", "from-checkpoint", archive, name])?;
    kubelet.add_pod("thawed", name, &["/bin/workload", "counter"])?;
    let log = running(thawd, &kubelet, "thawed")?;
    log.wait_thawed((before, after))
}
