//! A node with real namespaces, mounts and store, as root, with the real runc; without a monitor,
//! so without containers.

use std::future::Future as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sys::testing::{Refusal, libc, refusing};

use super::*;
use crate::cgroups::DriverChoice;
use crate::config::{CheckpointConfig, Handler};
use crate::model::{NamespaceMode, SandboxFilter, SandboxPhase};
use crate::record::{SandboxRecord, SandboxState};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(directory: &Path) -> NodeConfig {
    let second = Duration::from_secs(1);
    NodeConfig {
        root: directory.join("root"),
        run: directory.join("run"),
        handlers: vec![Handler {
            name: "runc".into(),
            path: "runc".into(),
        }],
        monitor: PathBuf::from("/nowhere/thawd-monitor"),
        relay: PathBuf::from("/nowhere/thawd-criu-relay"),
        cni_conf_dirs: vec![directory.join("no-networks")],
        cni_bin_dirs: Vec::new(),
        cgroup_driver: DriverChoice::Fixed(CgroupDriver::Cgroupfs),
        cgroup_parent: "/thawd-node-test".into(),
        mptcp: false,
        shm_bytes: 1 << 20,
        checkpoint: CheckpointConfig {
            criu: vec![PathBuf::from("/nowhere/criu")],
            default_timeout: second,
            ghost_limit_bytes: 1 << 20,
            copy_on_write: true,
            restore_directories: Vec::new(),
            restore_timeout: second,
        },
    }
}

/// A pod that needs no network.
fn pod(name: &str) -> SandboxConfig {
    let mut config = SandboxConfig {
        name: name.into(),
        ..SandboxConfig::default()
    };
    config.namespaces.network = NamespaceMode::Node;
    config.namespaces.pid = NamespaceMode::Container;
    config
}

/// Names of what is in a directory; none when it is missing.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

async fn recorded(node: &Node) -> Vec<SandboxRecord> {
    let (records, bad) = node.ctx.store.sandboxes().await.unwrap();
    assert!(bad.is_empty(), "{bad:?}");
    records
}

/// Starts a node where a system call fails as on another kernel. All threads
/// of the node have the filter, so `work` belongs there too.
fn on_kernel<T: Send>(
    call: (libc::c_long, i32),
    work: impl AsyncFnOnce(Result<Node, Error>) -> T + Send,
) -> T {
    let (call, errno) = call;
    let refusal = Refusal {
        call,
        argument: None,
        errno,
    };
    let dir = tempfile::tempdir().unwrap();
    refusing(&[refusal], || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { work(Node::start(config(dir.path())).await).await })
    })
    .unwrap()
}

#[test]
fn a_kernel_that_lacks_what_is_needed_is_refused_at_the_start() {
    let error = on_kernel((libc::SYS_mount_setattr, libc::ENOSYS), async |node| {
        node.unwrap_err()
    });
    let Error::Precondition(text) = error else {
        panic!("{error:?}")
    };
    let release = sys::sysinfo::kernel().release;
    let begin = format!("kernel {release} lacks mount_setattr (Linux 5.12 has it, for ");
    assert!(text.starts_with(&begin), "{text}");
}

#[test]
fn a_status_shows_what_the_kernel_has_and_what_is_done_without() {
    let status = on_kernel((libc::SYS_kcmp, libc::ENOSYS), async |node| {
        let node = node.unwrap();
        let status = node.status().await;
        node.shut_down().await;
        status
    });
    let kernel = &status.info["kernel"];
    assert_eq!(kernel["release"], sys::sysinfo::kernel().release);
    let features = kernel["features"].as_object().unwrap();
    assert_eq!(features.len(), sys::kernel::FEATURES.len());
    assert_eq!(features["overlay"], true);
    assert_eq!(features["mount_setattr"], true);
    assert_eq!(
        features["kcmp(KCMP_FILE)"],
        "way around: such a checkpoint is refused, as CRIU would, which needs it too"
    );
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_a_sandbox_that_can_be_found() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    {
        // It goes away at the first moment at which it can.
        let mut call = pin!(node.run_sandbox(pod("web"), String::new()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(call.as_mut().poll(&mut context), Poll::Pending));
    }
    let mut view = {
        let registry = node.registry();
        assert_eq!(registry.names.len(), 1);
        registry.sandboxes.values().next().unwrap().view.clone()
    };
    let ready = view.wait_for(|view| view.sandbox.is_some());
    tokio::time::timeout(PATIENCE, ready)
        .await
        .unwrap()
        .unwrap();
    let found = node.list_sandboxes(SandboxFilter::default()).await;
    assert_eq!(found.len(), 1);
    let again = node.run_sandbox(pod("web"), String::new()).await;
    assert!(
        matches!(again, Err(Error::AlreadyExists { .. })),
        "{again:?}"
    );
    node.remove_sandbox(found[0].id.as_str()).await.unwrap();
    let again = node.run_sandbox(pod("web"), String::new()).await.unwrap();
    node.remove_sandbox(again.as_str()).await.unwrap();
    node.shut_down().await;
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_made_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let node = Node::start(config.clone()).await.unwrap();
    let mut wanted = pod("web");
    wanted.namespaces.network = NamespaceMode::Pod;
    // Twice: the first failure must not hold the name.
    for _ in 0..2 {
        let error = node.run_sandbox(wanted.clone(), String::new()).await;
        let error = crate::error::chain(&error.unwrap_err());
        assert!(error.contains("no network configuration"), "{error}");
        assert_eq!(names(&config.root.join("sandboxes")), [""; 0]);
        assert_eq!(names(&config.run.join("sandboxes")), [""; 0]);
        assert_eq!(recorded(&node).await, []);
    }
    node.shut_down().await;
}

#[tokio::test]
async fn a_stop_that_was_cut_off_is_finished_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let node = Node::start(config.clone()).await.unwrap();
    let id = node.run_sandbox(pod("web"), String::new()).await.unwrap();
    let run = config.sandbox_run_dir(id.as_str());
    assert!(sys::mount::is_mount_point(&run.join("shm")).unwrap());
    // What is on disk when thawd is killed between the intent and its effect.
    let mut record = recorded(&node).await.remove(0);
    record.state = SandboxState::Stopped;
    assert!(!record.torn_down);
    node.ctx.store.put_sandbox(&record).await.unwrap();
    node.shut_down().await;
    drop(node);

    let node = Node::start(config.clone()).await.unwrap();
    assert!(!run.exists());
    assert!(recorded(&node).await[0].torn_down);
    let status = node.sandbox_status(id.as_str()).await.unwrap();
    assert_eq!(status.phase, SandboxPhase::NotReady);
    node.stop_sandbox(id.as_str()).await.unwrap();
    node.remove_sandbox(id.as_str()).await.unwrap();
    assert_eq!(names(&config.root.join("sandboxes")), [""; 0]);
    assert_eq!(recorded(&node).await, []);
    node.shut_down().await;
}

#[tokio::test]
async fn a_creation_that_was_cut_off_is_undone_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let node = Node::start(config.clone()).await.unwrap();
    let id = node.run_sandbox(pod("web"), String::new()).await.unwrap();
    let mut record = recorded(&node).await.remove(0);
    record.state = SandboxState::Creating;
    node.ctx.store.put_sandbox(&record).await.unwrap();
    node.shut_down().await;
    drop(node);
    let unfinished = sys::fs::temporary_name(&format!("{id}-eth0.json")).unwrap();
    let cni = config.root.join("cni");
    sys::fs::make_dir_all(&cni, 0o700).unwrap();
    std::fs::File::create_new(cni.join(unfinished)).unwrap();

    let node = Node::start(config.clone()).await.unwrap();
    assert!(!config.sandbox_run_dir(id.as_str()).exists());
    assert_eq!(names(&config.root.join("sandboxes")), [""; 0]);
    assert_eq!(recorded(&node).await, []);
    assert_eq!(names(&config.root.join("cni")), [""; 0]);
    let again = node.run_sandbox(pod("web"), String::new()).await.unwrap();
    node.remove_sandbox(again.as_str()).await.unwrap();
    node.shut_down().await;
}

#[tokio::test]
async fn stops_that_meet_a_removal_succeed() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    let id = node.run_sandbox(pod("web"), String::new()).await.unwrap();
    let removal = {
        let (node, id) = (node.clone(), id.clone());
        let tracker = node.ctx.tracker.clone();
        tracker.spawn(async move { node.remove_sandbox(id.as_str()).await })
    };
    let begun = std::time::Instant::now();
    while !removal.is_finished() {
        assert!(begun.elapsed() < PATIENCE);
        node.stop_sandbox(id.as_str()).await.unwrap();
    }
    removal.await.unwrap().unwrap();
    node.shut_down().await;
}

#[tokio::test]
async fn a_root_filesystem_without_a_container_is_removed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let strange = config.root.join("snapshots/strange");
    let node = Node::start(config.clone()).await.unwrap();
    node.shut_down().await;
    drop(node);
    {
        let records = images::records::Records::open(&config.root.join("images/images.redb"));
        let image = format!("sha256:{}", "0".repeat(64));
        let record = serde_json::json!({"version": 1, "image": image, "chains": []});
        records
            .unwrap()
            .put("snapshots", "strange", &record)
            .unwrap();
        sys::fs::make_dir_all(&strange.join("upper"), 0o700).unwrap();
    }
    let node = Node::start(config).await.unwrap();
    assert!(!strange.exists());
    assert_eq!(node.images().rootfs_ids().await.unwrap(), [""; 0]);
    node.shut_down().await;
}

#[tokio::test]
async fn the_pid_namespace_of_another_pods_container_is_not_to_be_had() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).await.unwrap();
    let id = node.run_sandbox(pod("web"), String::new()).await.unwrap();
    let mut wanted = crate::model::ContainerConfig {
        name: "debugger".into(),
        image: "none".into(),
        ..Default::default()
    };
    let stranger = crate::model::ContainerId::new("0".repeat(64));
    wanted.security.namespaces.pid = NamespaceMode::Target(stranger);
    let refused = node.create_container(id.as_str(), wanted).await;
    let Err(Error::Invalid { field, problem }) = refused else {
        panic!("{refused:?}")
    };
    assert!(field.ends_with("target_id"), "{field}");
    assert!(problem.contains("no container of sandbox"), "{problem}");
    node.remove_sandbox(id.as_str()).await.unwrap();
    node.shut_down().await;
}
