//! CRI calls from a shell, for `scripts/demo.sh` on a machine without crictl.
//!
//! ```text
//! cri-call SOCKET version                                     name and version of the runtime
//! cri-call SOCKET run-pod NAME LOG_DIRECTORY CGROUP_PARENT    prints the pod's id
//! cri-call SOCKET pod-ip POD                                  prints its address
//! cri-call SOCKET create POD NAME IMAGE [COMMAND...]          prints the container's id
//! cri-call SOCKET start|stop|remove CONTAINER
//! cri-call SOCKET state CONTAINER                             created, running, exited or unknown
//! cri-call SOCKET exec CONTAINER COMMAND...                   its output; fails as the command does
//! cri-call SOCKET checkpoint CONTAINER LOCATION [SECONDS]
//! cri-call SOCKET stop-pod|remove-pod POD
//! ```
//!
//! A container's log is LOG_DIRECTORY/NAME.log.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use cri_server::v1;
use integration::cri::Cri;
use tonic::Status;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (text, outcome) = match words.split_first() {
        Some((socket, call)) => match run(socket, call) {
            Ok(text) => (text, ExitCode::SUCCESS),
            Err(error) => (format!("cri-call: {error:#}"), ExitCode::FAILURE),
        },
        None => (
            "usage: cri-call SOCKET CALL ...; calls are named in its source".to_owned(),
            ExitCode::FAILURE,
        ),
    };
    let written = if text.is_empty() {
        Ok(())
    } else if outcome == ExitCode::SUCCESS {
        writeln!(std::io::stdout(), "{text}")
    } else {
        writeln!(std::io::stderr(), "{text}")
    };
    if written.is_err() {
        ExitCode::FAILURE
    } else {
        outcome
    }
}

/// The code's name and the message, without tonic's metadata.
fn plain(status: &Status) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", status.code(), status.message())
}

fn run(socket: &str, call: &[&str]) -> Result<String> {
    let cri = Cri::new(Path::new(socket.strip_prefix("unix://").unwrap_or(socket)))?;
    let owned = |text: &&str| (*text).to_owned();
    let done = |outcome: Result<(), Status>| outcome.map(|()| String::new());
    let answer = match call {
        ["version"] => cri
            .version(v1::VersionRequest::default())
            .map(|version| format!("{} {}", version.runtime_name, version.runtime_version)),
        ["run-pod", name, logs, parent] => run_pod(&cri, name, logs, parent),
        ["pod-ip", pod] => return pod_ip(&cri, pod),
        ["create", pod, name, image, command @ ..] => {
            create(&cri, pod, name, image, command.iter().map(owned).collect())
        }
        ["start", id] => done(
            cri.start_container(v1::StartContainerRequest {
                container_id: owned(id),
            })
            .map(drop),
        ),
        ["stop", id] => done(
            cri.stop_container(v1::StopContainerRequest {
                container_id: owned(id),
                timeout: 5,
            })
            .map(drop),
        ),
        ["remove", id] => done(
            cri.remove_container(v1::RemoveContainerRequest {
                container_id: owned(id),
            })
            .map(drop),
        ),
        ["state", id] => return state(&cri, id),
        ["exec", id, command @ ..] => {
            return exec(&cri, id, command.iter().map(owned).collect());
        }
        ["checkpoint", id, location] => checkpoint(&cri, id, location, 60),
        ["checkpoint", id, location, seconds] => checkpoint(&cri, id, location, seconds.parse()?),
        ["stop-pod", pod] => done(
            cri.stop_pod_sandbox(v1::StopPodSandboxRequest {
                pod_sandbox_id: owned(pod),
            })
            .map(drop),
        ),
        ["remove-pod", pod] => done(
            cri.remove_pod_sandbox(v1::RemovePodSandboxRequest {
                pod_sandbox_id: owned(pod),
            })
            .map(drop),
        ),
        _ => bail!(
            "unknown call {:?}; calls are named in its source",
            call.join(" ")
        ),
    };
    answer.map_err(|status| plain(&status))
}

fn run_pod(cri: &Cri, name: &str, logs: &str, parent: &str) -> Result<String, Status> {
    let namespaces = v1::NamespaceOption {
        network: v1::NamespaceMode::Pod.into(),
        pid: v1::NamespaceMode::Container.into(),
        ipc: v1::NamespaceMode::Pod.into(),
        ..Default::default()
    };
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: logs.to_owned(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: parent.to_owned(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = v1::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: String::new(),
    };
    cri.run_pod_sandbox(request)
        .map(|answer| answer.pod_sandbox_id)
}

fn pod_ip(cri: &Cri, pod: &str) -> Result<String> {
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.to_owned(),
        verbose: false,
    };
    let answer = cri
        .pod_sandbox_status(request)
        .map_err(|status| plain(&status))?;
    let network = answer.status.and_then(|status| status.network);
    let ip = network.map(|network| network.ip).unwrap_or_default();
    ensure!(!ip.is_empty(), "the pod has no address");
    Ok(ip)
}

fn create(
    cri: &Cri,
    pod: &str,
    name: &str,
    image: &str,
    command: Vec<String>,
) -> Result<String, Status> {
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        command,
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig::default()),
        ..Default::default()
    };
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(config),
        sandbox_config: None,
    };
    cri.create_container(request)
        .map(|answer| answer.container_id)
}

fn state(cri: &Cri, id: &str) -> Result<String> {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    let answer = cri
        .container_status(request)
        .map_err(|status| plain(&status))?;
    let status = answer.status.context("no status")?;
    let name = status.state().as_str_name();
    Ok(name.trim_start_matches("CONTAINER_").to_lowercase())
}

fn exec(cri: &Cri, id: &str, cmd: Vec<String>) -> Result<String> {
    let request = v1::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd,
        timeout: 30,
    };
    let answer = cri.exec_sync(request).map_err(|status| plain(&status))?;
    let stdout = String::from_utf8_lossy(&answer.stdout);
    let stderr = String::from_utf8_lossy(&answer.stderr);
    ensure!(
        answer.exit_code == 0,
        "exit code {}: {stdout}{stderr}",
        answer.exit_code
    );
    Ok(stdout.trim_end().to_owned())
}

fn checkpoint(cri: &Cri, id: &str, location: &str, timeout: i64) -> Result<String, Status> {
    let request = v1::CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.to_owned(),
        timeout,
    };
    cri.checkpoint_container(request).map(|_| String::new())
}
