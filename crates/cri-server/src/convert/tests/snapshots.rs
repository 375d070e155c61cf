//! What a list and a status say of what was made from a request; and filters of lists.

use std::time::{Duration, UNIX_EPOCH};

use lifecycle::model::{
    ContainerId, ContainerPhase, ContainerSnapshot, Exit, SandboxId, SandboxPhase, SandboxSnapshot,
};

use super::containers::{least, mount};
use crate::convert::container::container_config;
use crate::convert::sandbox::sandbox_config;
use crate::convert::{filter, snapshot};
use crate::v1;

fn container(phase: ContainerPhase) -> ContainerSnapshot {
    let mut request = least();
    request.image.as_mut().unwrap().image = "sha256:1234".into();
    request.image.as_mut().unwrap().user_specified_image = "busybox:1".into();
    request.mounts = vec![mount("/a", "/host/a")];
    ContainerSnapshot {
        id: ContainerId::new("c1"),
        sandbox_id: SandboxId::new("s1"),
        config: container_config(request).unwrap(),
        image_id: "sha256:1234".into(),
        image_ref: "docker.io/library/busybox@sha256:5678".into(),
        runtime_handler: "runc".into(),
        phase,
        created_at: UNIX_EPOCH + Duration::from_nanos(1),
        started_at: None,
        pid: None,
        exit: None,
        log_path: Some("/var/log/c/0.log".into()),
        restored_from: None,
        user: (1000, 1001, vec![1002]),
        stop_signal: 15,
    }
}

#[test]
fn a_created_container_has_neither_begun_nor_ended() {
    let status = snapshot::container_status(container(ContainerPhase::Created));
    assert_eq!(status.state(), v1::ContainerState::ContainerCreated);
    assert_eq!(
        (status.created_at, status.started_at, status.finished_at),
        (1, 0, 0)
    );
    assert_eq!(status.image.unwrap().image, "busybox:1");
    assert_eq!(status.image_id, "sha256:1234");
    assert_eq!(status.image_ref, "docker.io/library/busybox@sha256:5678");
    assert_eq!(status.log_path, "/var/log/c/0.log");
    assert_eq!(status.mounts[0].host_path, "/host/a");
    assert_eq!(status.stop_signal, i32::from(v1::Signal::Sigterm));
    let user = status.user.unwrap().linux.unwrap();
    assert_eq!(
        (user.uid, user.gid, user.supplemental_groups),
        (1000, 1001, vec![1002])
    );
}

#[test]
fn an_ended_container_says_how() {
    let ended = ContainerSnapshot {
        started_at: Some(UNIX_EPOCH + Duration::from_nanos(2)),
        exit: Some(Exit {
            code: 137,
            finished_at: UNIX_EPOCH + Duration::from_nanos(3),
            oom_killed: true,
            reason: "OOMKilled".into(),
            message: "m".into(),
        }),
        ..container(ContainerPhase::Exited)
    };
    let status = snapshot::container_status(ended);
    assert_eq!(status.state(), v1::ContainerState::ContainerExited);
    assert_eq!(
        (status.started_at, status.finished_at, status.exit_code),
        (2, 3, 137)
    );
    assert_eq!(
        (status.reason.as_str(), status.message.as_str()),
        ("OOMKilled", "m")
    );
}

#[test]
fn lists_and_statuses_name_the_same_image() {
    let listed = snapshot::container(container(ContainerPhase::Running));
    let status = snapshot::container_status(container(ContainerPhase::Running));
    assert_eq!(listed.state(), v1::ContainerState::ContainerRunning);
    assert_eq!(
        (listed.image_id, listed.image_ref),
        (status.image_id, status.image_ref)
    );
    assert_eq!(listed.pod_sandbox_id, "s1");
}

#[test]
fn a_sandbox_shows_its_addresses_and_namespaces() {
    let request = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "p".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let sandbox = SandboxSnapshot {
        id: SandboxId::new("s1"),
        config: sandbox_config(request).unwrap(),
        runtime_handler: String::new(),
        phase: SandboxPhase::NotReady,
        created_at: UNIX_EPOCH,
        ips: vec!["10.0.0.2".into(), "fd00::2".into()],
        netns: None,
        init_pid: None,
    };
    let listed = snapshot::pod_sandbox(sandbox.clone());
    assert_eq!(listed.state(), v1::PodSandboxState::SandboxNotready);
    let status = snapshot::pod_sandbox_status(sandbox);
    let network = status.network.unwrap();
    assert_eq!(
        (network.ip.as_str(), network.additional_ips[0].ip.as_str()),
        ("10.0.0.2", "fd00::2")
    );
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.pid(), v1::NamespaceMode::Pod);
}

#[test]
fn filters_know_every_state_and_no_other() {
    let with = |state| {
        filter::containers(Some(v1::ContainerFilter {
            state: Some(v1::ContainerStateValue { state }),
            pod_sandbox_id: "s".into(),
            ..Default::default()
        }))
    };
    for (state, phase) in [
        (0, ContainerPhase::Created),
        (1, ContainerPhase::Running),
        (2, ContainerPhase::Exited),
        (3, ContainerPhase::Unknown),
    ] {
        let filter = with(state).unwrap();
        assert_eq!(
            (filter.phase, filter.sandbox_id.as_deref()),
            (Some(phase), Some("s"))
        );
    }
    assert!(with(4).is_err());
    assert_eq!(filter::containers(None), Ok(Default::default()));
    let state = Some(v1::PodSandboxStateValue { state: 2 });
    assert!(
        filter::sandboxes(Some(v1::PodSandboxFilter {
            state,
            ..Default::default()
        }))
        .is_err()
    );
}
