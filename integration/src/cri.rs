//! A blocking CRI client over a unix socket, as a kubelet would talk to thawd.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cri_server::v1;
use cri_server::v1::image_service_client::ImageServiceClient;
use cri_server::v1::runtime_service_client::RuntimeServiceClient;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

/// Largest message, as in the kubelet's client.
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// A connection to one runtime. It connects when first used, and again after the runtime restarted.
#[derive(Debug)]
pub struct Cri {
    tokio: Runtime,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// Makes a blocking method of an RPC: name, service, request, response.
macro_rules! rpc {
    ($(#[$doc:meta])* $name:ident, $service:ident, $request:ident, $response:ident) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// What the runtime answered, or `Unavailable` when it cannot be reached.
        pub fn $name(&self, request: v1::$request) -> Result<v1::$response, Status> {
            let mut client = self.$service.clone();
            self.tokio.block_on(async move {
                client.$name(Request::new(request)).await.map(tonic::Response::into_inner)
            })
        }
    };
}

impl Cri {
    /// A client of the runtime that listens on that socket.
    ///
    /// # Errors
    /// When the asynchronous runtime cannot be made; the socket is not looked at.
    pub fn new(socket: &Path) -> Result<Self> {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("starting tokio")?;
        let address = format!("unix://{}", socket.display());
        // The authority that the kubelet's and crictl's client send.
        let endpoint = Endpoint::from_shared(address)?.origin(Uri::from_static("http://localhost"));
        let channel = tokio.block_on(async move { endpoint.connect_lazy() });
        let runtime = RuntimeServiceClient::new(channel.clone());
        let images = ImageServiceClient::new(channel);
        Ok(Self {
            tokio,
            runtime: runtime
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES),
            images: images
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES),
        })
    }

    rpc!(/// Version of the runtime.
        version, runtime, VersionRequest, VersionResponse);
    rpc!(/// Conditions of the runtime.
        status, runtime, StatusRequest, StatusResponse);
    rpc!(/// Cgroup driver.
        runtime_config, runtime, RuntimeConfigRequest, RuntimeConfigResponse);
    rpc!(/// Pod CIDR.
        update_runtime_config, runtime, UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse);
    rpc!(/// Makes a pod.
        run_pod_sandbox, runtime, RunPodSandboxRequest, RunPodSandboxResponse);
    rpc!(/// Stops a pod.
        stop_pod_sandbox, runtime, StopPodSandboxRequest, StopPodSandboxResponse);
    rpc!(/// Removes a pod.
        remove_pod_sandbox, runtime, RemovePodSandboxRequest, RemovePodSandboxResponse);
    rpc!(/// State of a pod.
        pod_sandbox_status, runtime, PodSandboxStatusRequest, PodSandboxStatusResponse);
    rpc!(/// Pods.
        list_pod_sandbox, runtime, ListPodSandboxRequest, ListPodSandboxResponse);
    rpc!(/// Makes a container.
        create_container, runtime, CreateContainerRequest, CreateContainerResponse);
    rpc!(/// Starts, or restores, a container.
        start_container, runtime, StartContainerRequest, StartContainerResponse);
    rpc!(/// Stops a container.
        stop_container, runtime, StopContainerRequest, StopContainerResponse);
    rpc!(/// Removes a container.
        remove_container, runtime, RemoveContainerRequest, RemoveContainerResponse);
    rpc!(/// Containers.
        list_containers, runtime, ListContainersRequest, ListContainersResponse);
    rpc!(/// State of a container.
        container_status, runtime, ContainerStatusRequest, ContainerStatusResponse);
    rpc!(/// Opens the log again after a rotation.
        reopen_container_log, runtime, ReopenContainerLogRequest, ReopenContainerLogResponse);
    rpc!(/// Runs a program in a container.
        exec_sync, runtime, ExecSyncRequest, ExecSyncResponse);
    rpc!(/// Freezes a container to an archive.
        checkpoint_container, runtime, CheckpointContainerRequest, CheckpointContainerResponse);
    rpc!(/// A call that this issue leaves unimplemented.
        container_stats, runtime, ContainerStatsRequest, ContainerStatsResponse);
    rpc!(/// Images.
        list_images, images, ListImagesRequest, ListImagesResponse);
    rpc!(/// One image.
        image_status, images, ImageStatusRequest, ImageStatusResponse);
    rpc!(/// Pulls an image, or adopts one that was loaded.
        pull_image, images, PullImageRequest, PullImageResponse);
    rpc!(/// Removes an image.
        remove_image, images, RemoveImageRequest, RemoveImageResponse);
    rpc!(/// Space that images take.
        image_fs_info, images, ImageFsInfoRequest, ImageFsInfoResponse);

    /// Begins a checkpoint and returns at once. Aborting the handle makes the caller go away.
    /// `deadline` is that of the RPC.
    #[must_use]
    pub fn begin_checkpoint(
        &self,
        request: v1::CheckpointContainerRequest,
        deadline: Option<Duration>,
    ) -> JoinHandle<Result<(), Status>> {
        let mut client = self.runtime.clone();
        self.tokio.spawn(async move {
            let mut request = Request::new(request);
            if let Some(deadline) = deadline {
                request.set_timeout(deadline);
            }
            client.checkpoint_container(request).await.map(drop)
        })
    }

    /// Waits for what [`begin_checkpoint`](Self::begin_checkpoint) began.
    ///
    /// # Errors
    /// What the runtime answered; `Cancelled` when the handle was aborted.
    pub fn finish(&self, begun: JoinHandle<Result<(), Status>>) -> Result<(), Status> {
        self.tokio
            .block_on(begun)
            .unwrap_or_else(|gone| Err(Status::cancelled(gone.to_string())))
    }
}
