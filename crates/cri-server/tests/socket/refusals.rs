//! Requests that are refused for what they say, or for how they say it.

use cri_server::v1;
use cri_server::v1::image_service_client::ImageServiceClient;
use cri_server::v1::runtime_service_client::RuntimeServiceClient;
use tonic::{Code, Request, Status};

use crate::{container_id, with_server};

/// Expects `INVALID_ARGUMENT` about a field.
fn assert_invalid<T>(outcome: Result<T, Status>, field: &str) {
    let Err(status) = outcome else {
        panic!("{field} was accepted")
    };
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(
        status.message().starts_with(&format!("{field}: ")),
        "{status:?}"
    );
}

#[tokio::test]
async fn malformed_requests_are_refused_by_field() {
    with_server(async |channel| {
        let mut client = RuntimeServiceClient::new(channel.clone());
        assert_invalid(
            client
                .run_pod_sandbox(v1::RunPodSandboxRequest::default())
                .await,
            "config",
        );
        let config = Some(v1::PodSandboxConfig::default());
        let request = v1::RunPodSandboxRequest {
            config,
            ..Default::default()
        };
        assert_invalid(client.run_pod_sandbox(request).await, "config.metadata");
        let request = v1::StopPodSandboxRequest::default();
        assert_invalid(client.stop_pod_sandbox(request).await, "pod_sandbox_id");
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: "s".into(),
            config: Some(v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata {
                    name: "c".into(),
                    attempt: 0,
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_invalid(client.create_container(request).await, "config.image");
        let request = v1::StopContainerRequest {
            container_id: container_id(),
            timeout: -1,
        };
        assert_invalid(client.stop_container(request).await, "timeout");
        let request = v1::ExecSyncRequest {
            container_id: container_id(),
            ..Default::default()
        };
        assert_invalid(client.exec_sync(request).await, "cmd");
        for (location, timeout, field) in [
            ("", 0, "location"),
            ("a.tar", 0, "location"),
            ("/a/../b.tar", 0, "location"),
            ("/a.tar", -1, "timeout"),
            ("/a.tar", 86_401, "timeout"),
        ] {
            let (container_id, location) = (container_id(), location.to_owned());
            let request = v1::CheckpointContainerRequest {
                container_id,
                location,
                timeout,
            };
            assert_invalid(client.checkpoint_container(request).await, field);
        }
        let mut request = Request::new(v1::CheckpointContainerRequest {
            container_id: container_id(),
            location: "/a.tar".into(),
            timeout: 0,
        });
        request
            .metadata_mut()
            .insert("grpc-timeout", "soon".parse().unwrap());
        assert_invalid(client.checkpoint_container(request).await, "grpc-timeout");
        let state = Some(v1::ContainerStateValue { state: 4 });
        let filter = Some(v1::ContainerFilter {
            state,
            ..Default::default()
        });
        let request = v1::ListContainersRequest { filter };
        assert_invalid(client.list_containers(request).await, "filter.state.state");

        let mut client = ImageServiceClient::new(channel);
        assert_invalid(
            client.image_status(v1::ImageStatusRequest::default()).await,
            "image",
        );
        let image = Some(v1::ImageSpec::default());
        let request = v1::RemoveImageRequest { image };
        assert_invalid(client.remove_image(request).await, "image.image");
    })
    .await;
}

#[tokio::test]
async fn only_whole_messages_of_at_most_16_mib_are_read() {
    with_server(async |channel| {
        let mut client = RuntimeServiceClient::new(channel.clone());
        let request = |bytes: usize| v1::UpdateRuntimeConfigRequest {
            runtime_config: Some(v1::RuntimeConfig {
                network_config: Some(v1::NetworkConfig {
                    pod_cidr: "x".repeat(bytes),
                }),
            }),
        };
        // More than the library's own limit of 4 MiB: read, and refused for what it says.
        let outcome = client.update_runtime_config(request(5 << 20)).await;
        assert_invalid(outcome, "runtime_config.network_config.pod_cidr");
        let status = client
            .update_runtime_config(request(17 << 20))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");

        // A number where StopContainer has its id.
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<v1::Int64Value, v1::StopContainerResponse>::new();
        let path = "/runtime.v1.RuntimeService/StopContainer".parse().unwrap();
        let message = Request::new(v1::Int64Value { value: 1 });
        let status = grpc.unary(message, path, codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status:?}");
    })
    .await;
}

#[tokio::test]
async fn a_method_that_the_interface_lacks_is_unimplemented() {
    with_server(async |channel| {
        for path in [
            "/runtime.v1.RuntimeService/Nope",
            "/runtime.v1alpha2.RuntimeService/Version",
        ] {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<v1::VersionRequest, v1::VersionResponse>::new();
            let message = Request::new(v1::VersionRequest::default());
            let status = grpc
                .unary(message, path.parse().unwrap(), codec)
                .await
                .unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
        }
    })
    .await;
}
