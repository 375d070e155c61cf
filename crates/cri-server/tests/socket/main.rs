//! The services as a client meets them: a real node with nothing on it, a real socket, a real
//! client. No root is needed; nothing is run.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use cri_server::v1;
use cri_server::v1::image_service_client::ImageServiceClient;
use cri_server::v1::runtime_service_client::RuntimeServiceClient;
use lifecycle::cgroups::{CgroupDriver, DriverChoice};
use lifecycle::config::{CheckpointConfig, NodeConfig};
use lifecycle::node::Node;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

mod refusals;

/// Runs `test` as a client of a server that ends with it.
async fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Channel) -> F) {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("thawd.sock");
    let node = Node::start(config(temp.path())).await.unwrap();
    let stop = CancellationToken::new();
    let client = async {
        let channel = connect(&socket).await;
        test(channel).await;
        stop.cancel();
    };
    let end = stop.clone().cancelled_owned();
    let (served, ()) = tokio::join!(cri_server::serve(node.clone(), &socket, end), client);
    served.unwrap();
    assert!(!socket.exists(), "the socket went with its server");
    node.shut_down().await;
}

async fn connect(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    for _ in 0..1000 {
        match endpoint.connect().await {
            Ok(channel) => return channel,
            // The server, on the same thread, has not come to listen(2) yet.
            Err(_) => tokio::task::yield_now().await,
        }
    }
    panic!("no server at {}", socket.display());
}

fn config(temp: &Path) -> NodeConfig {
    NodeConfig {
        root: temp.join("root"),
        run: temp.join("run"),
        handlers: Vec::new(),
        monitor: "/nonexistent/thawd-monitor".into(),
        relay: "/nonexistent/thawd-criu-relay".into(),
        cni_conf_dirs: vec![temp.join("net.d")],
        cni_bin_dirs: vec![temp.join("bin")],
        cgroup_driver: DriverChoice::Fixed(CgroupDriver::Cgroupfs),
        cgroup_parent: "/thawd-test".into(),
        mptcp: false,
        shm_bytes: 1 << 20,
        checkpoint: CheckpointConfig {
            criu: Vec::new(),
            default_timeout: Duration::from_secs(10),
            ghost_limit_bytes: 1 << 20,
            copy_on_write: true,
            restore_directories: Vec::new(),
            restore_timeout: Duration::from_secs(10),
        },
    }
}

/// Calls RPCs with empty requests and expects each to name itself as not implemented.
macro_rules! assert_unimplemented {
    ($client:expr, $($rpc:ident $name:ident $request:ident),+ $(,)?) => {$(
        let status: Status = $client.$rpc(v1::$request::default()).await.err().unwrap();
        assert_eq!(status.code(), Code::Unimplemented, stringify!($name));
        let message = concat!("thawd does not implement ", stringify!($name), " yet");
        assert_eq!(status.message(), message);
    )+};
}

#[tokio::test]
async fn what_is_not_built_yet_says_so_by_name() {
    with_server(async |channel| {
        let mut client = RuntimeServiceClient::new(channel.clone());
        assert_unimplemented!(
            client,
            stream_pod_sandboxes StreamPodSandboxes StreamPodSandboxesRequest,
            stream_containers StreamContainers StreamContainersRequest,
            update_container_resources UpdateContainerResources UpdateContainerResourcesRequest,
            exec Exec ExecRequest,
            attach Attach AttachRequest,
            port_forward PortForward PortForwardRequest,
            container_stats ContainerStats ContainerStatsRequest,
            list_container_stats ListContainerStats ListContainerStatsRequest,
            stream_container_stats StreamContainerStats StreamContainerStatsRequest,
            pod_sandbox_stats PodSandboxStats PodSandboxStatsRequest,
            list_pod_sandbox_stats ListPodSandboxStats ListPodSandboxStatsRequest,
            stream_pod_sandbox_stats StreamPodSandboxStats StreamPodSandboxStatsRequest,
            checkpoint_pod CheckpointPod CheckpointPodRequest,
            restore_pod RestorePod RestorePodRequest,
            get_container_events GetContainerEvents GetEventsRequest,
            list_metric_descriptors ListMetricDescriptors ListMetricDescriptorsRequest,
            list_pod_sandbox_metrics ListPodSandboxMetrics ListPodSandboxMetricsRequest,
            stream_pod_sandbox_metrics StreamPodSandboxMetrics StreamPodSandboxMetricsRequest,
            update_pod_sandbox_resources UpdatePodSandboxResources
                UpdatePodSandboxResourcesRequest,
        );
        let mut client = ImageServiceClient::new(channel);
        assert_unimplemented!(client, stream_images StreamImages StreamImagesRequest);
    })
    .await;
}

#[tokio::test]
async fn a_node_with_nothing_on_it_answers() {
    with_server(async |channel| {
        let mut client = RuntimeServiceClient::new(channel.clone());
        let version = client
            .version(v1::VersionRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(version.runtime_name, "thawd");
        assert_eq!(version.runtime_api_version, "v1");
        assert_eq!(version.runtime_version, env!("CARGO_PKG_VERSION"));
        let config = client
            .runtime_config(v1::RuntimeConfigRequest {})
            .await
            .unwrap();
        let driver = config.into_inner().linux.unwrap().cgroup_driver();
        assert_eq!(driver, v1::CgroupDriver::Cgroupfs);
        let pods = client
            .list_pod_sandbox(v1::ListPodSandboxRequest::default())
            .await
            .unwrap();
        assert_eq!(pods.into_inner().items, []);
        let all = client
            .list_containers(v1::ListContainersRequest::default())
            .await
            .unwrap();
        assert_eq!(all.into_inner().containers, []);
        let status = client
            .status(v1::StatusRequest { verbose: true })
            .await
            .unwrap();
        let status = status.into_inner();
        let conditions = status.status.unwrap().conditions;
        let kinds: Vec<_> = conditions.iter().map(|one| one.r#type.as_str()).collect();
        assert_eq!(kinds, ["RuntimeReady", "NetworkReady"]);
        assert!(
            conditions.iter().all(|one| !one.status),
            "no runtime, no CNI: {conditions:?}"
        );
        assert!(status.info.contains_key("config"));
        let mut client = ImageServiceClient::new(channel);
        let images = client
            .list_images(v1::ListImagesRequest::default())
            .await
            .unwrap();
        assert_eq!(images.into_inner().images, []);
        let space = client
            .image_fs_info(v1::ImageFsInfoRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(space.image_filesystems.len(), 1);
        assert_ne!(
            space.image_filesystems[0]
                .fs_id
                .as_ref()
                .unwrap()
                .mountpoint,
            ""
        );
    })
    .await;
}

fn container_id() -> String {
    "0123abcd".to_owned()
}

/// Expects `NOT_FOUND` that names what was asked for.
fn assert_not_found<T>(outcome: Result<T, Status>, what: &str) {
    let Err(status) = outcome else {
        panic!("{what} was found")
    };
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert!(status.message().contains(what), "{status:?}");
}

#[tokio::test]
async fn containers_and_sandboxes_that_do_not_exist_are_not_found() {
    with_server(async |channel| {
        let mut client = RuntimeServiceClient::new(channel);
        let id = container_id;
        let request = v1::ContainerStatusRequest {
            container_id: id(),
            verbose: true,
        };
        assert_not_found(client.container_status(request).await, &id());
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id(),
            verbose: true,
        };
        assert_not_found(client.pod_sandbox_status(request).await, &id());
        let request = v1::StartContainerRequest { container_id: id() };
        assert_not_found(client.start_container(request).await, &id());
        let cmd = vec!["true".to_owned()];
        let request = v1::ExecSyncRequest {
            container_id: id(),
            cmd,
            timeout: 0,
        };
        assert_not_found(client.exec_sync(request).await, &id());
        let request = v1::ReopenContainerLogRequest { container_id: id() };
        assert_not_found(client.reopen_container_log(request).await, &id());
        let request = v1::CheckpointContainerRequest {
            container_id: id(),
            location: "/nonexistent/a.tar".into(),
            timeout: 1,
        };
        assert_not_found(client.checkpoint_container(request).await, &id());
    })
    .await;
}

#[tokio::test]
async fn what_does_not_exist_may_be_stopped_and_removed() {
    with_server(async |channel| {
        let mut client = RuntimeServiceClient::new(channel);
        let pod_sandbox_id = container_id();
        client
            .stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id })
            .await
            .unwrap();
        let pod_sandbox_id = container_id();
        client
            .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id })
            .await
            .unwrap();
        let request = v1::StopContainerRequest {
            container_id: container_id(),
            timeout: 1,
        };
        client.stop_container(request).await.unwrap();
        let request = v1::RemoveContainerRequest {
            container_id: container_id(),
        };
        client.remove_container(request).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_told_so_in_each_rpc_s_way() {
    with_server(async |channel| {
        let mut client = ImageServiceClient::new(channel);
        let image = || {
            Some(v1::ImageSpec {
                image: "nothing:1".into(),
                ..Default::default()
            })
        };
        let request = v1::ImageStatusRequest {
            image: image(),
            verbose: true,
        };
        assert_eq!(
            client
                .image_status(request)
                .await
                .unwrap()
                .into_inner()
                .image,
            None
        );
        client
            .remove_image(v1::RemoveImageRequest { image: image() })
            .await
            .unwrap();
        let request = v1::PullImageRequest {
            image: image(),
            ..Default::default()
        };
        assert_not_found(client.pull_image(request).await, "nothing:1");
    })
    .await;
}
