//! `CreateContainer`: a new container, or one from a checkpoint.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::check::{id, required};
use crate::convert::container::container_config;
use crate::layer::{About, about};
use crate::{status, v1};

/// The sandbox's request, which clients repeat here, is not looked at: the sandbox is as it was
/// made.
pub(super) async fn call(
    node: &Node,
    request: v1::CreateContainerRequest,
) -> Result<v1::CreateContainerResponse, Status> {
    let sandbox = id("pod_sandbox_id", request.pod_sandbox_id)?;
    about(About::Sandbox, &sandbox);
    let config = required("config", request.config)?;
    let config = container_config(config).map_err(|error| error.within("config"))?;
    about(About::Image, &config.image);
    let id = node
        .create_container(&sandbox, config)
        .await
        .map_err(|error| status::lifecycle(&error))?;
    about(About::Container, id.as_str());
    Ok(v1::CreateContainerResponse {
        container_id: id.to_string(),
    })
}
