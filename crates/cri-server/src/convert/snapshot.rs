//! What sandboxes and containers look like to callers.

use lifecycle::model::{
    ContainerPhase, ContainerSnapshot, SandboxConfig, SandboxPhase, SandboxSnapshot,
};

use super::container::show_mount;
use super::security::show_namespaces;
use super::time::nanoseconds;
use super::{resources, signal};
use crate::v1;

/// A sandbox in a list.
pub(crate) fn pod_sandbox(from: SandboxSnapshot) -> v1::PodSandbox {
    v1::PodSandbox {
        id: from.id.to_string(),
        metadata: Some(metadata(&from.config)),
        state: sandbox_state(from.phase).into(),
        created_at: nanoseconds(from.created_at),
        labels: from.config.labels.into_iter().collect(),
        annotations: from.config.annotations.into_iter().collect(),
        runtime_handler: from.runtime_handler,
    }
}

/// A sandbox's status.
pub(crate) fn pod_sandbox_status(from: SandboxSnapshot) -> v1::PodSandboxStatus {
    let namespaces = show_namespaces(&from.config.namespaces);
    let mut ips = from.ips.into_iter();
    v1::PodSandboxStatus {
        id: from.id.to_string(),
        metadata: Some(metadata(&from.config)),
        state: sandbox_state(from.phase).into(),
        created_at: nanoseconds(from.created_at),
        network: Some(v1::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(namespaces),
            }),
        }),
        labels: from.config.labels.into_iter().collect(),
        annotations: from.config.annotations.into_iter().collect(),
        runtime_handler: from.runtime_handler,
    }
}

fn metadata(from: &SandboxConfig) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: from.name.clone(),
        uid: from.uid.clone(),
        namespace: from.namespace.clone(),
        attempt: from.attempt,
    }
}

fn sandbox_state(from: SandboxPhase) -> v1::PodSandboxState {
    match from {
        SandboxPhase::Ready => v1::PodSandboxState::SandboxReady,
        SandboxPhase::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

fn container_state(from: ContainerPhase) -> v1::ContainerState {
    match from {
        ContainerPhase::Created => v1::ContainerState::ContainerCreated,
        ContainerPhase::Running => v1::ContainerState::ContainerRunning,
        ContainerPhase::Exited => v1::ContainerState::ContainerExited,
        ContainerPhase::Unknown => v1::ContainerState::ContainerUnknown,
    }
}

/// The image under the name that people know: the kubelet asks for it by id, and shows what it is
/// told here.
fn image_spec(from: &ContainerSnapshot) -> v1::ImageSpec {
    let config = &from.config;
    let known = [&config.user_specified_image, &config.image]
        .into_iter()
        .find(|n| !n.is_empty());
    v1::ImageSpec {
        image: known.cloned().unwrap_or_default(),
        user_specified_image: config.user_specified_image.clone(),
        image_ref: from.image_ref.clone(),
        ..v1::ImageSpec::default()
    }
}

fn container_metadata(from: &ContainerSnapshot) -> v1::ContainerMetadata {
    v1::ContainerMetadata {
        name: from.config.name.clone(),
        attempt: from.config.attempt,
    }
}

/// A container in a list.
pub(crate) fn container(from: ContainerSnapshot) -> v1::Container {
    v1::Container {
        id: from.id.to_string(),
        pod_sandbox_id: from.sandbox_id.to_string(),
        metadata: Some(container_metadata(&from)),
        image: Some(image_spec(&from)),
        image_ref: from.image_ref,
        state: container_state(from.phase).into(),
        created_at: nanoseconds(from.created_at),
        labels: from.config.labels.into_iter().collect(),
        annotations: from.config.annotations.into_iter().collect(),
        image_id: from.image_id,
    }
}

/// A container's status.
pub(crate) fn container_status(from: ContainerSnapshot) -> v1::ContainerStatus {
    let (uid, gid, groups) = &from.user;
    let user = v1::LinuxContainerUser {
        uid: i64::from(*uid),
        gid: i64::from(*gid),
        supplemental_groups: groups.iter().copied().map(i64::from).collect(),
    };
    let limits = resources::show(&from.config.resources);
    let (metadata, image) = (container_metadata(&from), image_spec(&from));
    let exit = from.exit;
    v1::ContainerStatus {
        id: from.id.to_string(),
        metadata: Some(metadata),
        state: container_state(from.phase).into(),
        created_at: nanoseconds(from.created_at),
        started_at: from.started_at.map_or(0, nanoseconds),
        finished_at: exit
            .as_ref()
            .map_or(0, |exit| nanoseconds(exit.finished_at)),
        exit_code: exit.as_ref().map_or(0, |exit| i32::from(exit.code)),
        image: Some(image),
        image_ref: from.image_ref,
        reason: exit
            .as_ref()
            .map_or_else(String::new, |exit| exit.reason.clone()),
        message: exit.map_or_else(String::new, |exit| exit.message),
        labels: from.config.labels.into_iter().collect(),
        annotations: from.config.annotations.into_iter().collect(),
        mounts: from.config.mounts.iter().map(show_mount).collect(),
        log_path: from
            .log_path
            .map_or_else(String::new, |path| path.to_string_lossy().into_owned()),
        resources: Some(v1::ContainerResources {
            linux: Some(limits),
            windows: None,
        }),
        image_id: from.image_id,
        user: Some(v1::ContainerUser { linux: Some(user) }),
        stop_signal: signal::show(from.stop_signal).into(),
    }
}
