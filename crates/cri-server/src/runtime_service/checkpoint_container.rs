//! `CheckpointContainer`: a running container's state to an archive.

use std::path::PathBuf;

use lifecycle::model::CheckpointRequest;
use lifecycle::node::Node;
use tonic::{Request, Status};

use crate::convert::check::{host_path, id};
use crate::convert::time::{checkpoint_limit, rpc_deadline};
use crate::layer::{About, about};
use crate::{status, v1};

/// When the caller goes away this future is dropped, which cancels the checkpoint.
pub(super) async fn call(
    node: &Node,
    request: Request<v1::CheckpointContainerRequest>,
) -> Result<v1::CheckpointContainerResponse, Status> {
    let deadline = rpc_deadline(request.metadata())?;
    let request = request.into_inner();
    let container = id("container_id", request.container_id)?;
    about(About::Container, &container);
    host_path("location", &request.location)?;
    let order = CheckpointRequest {
        // As it stands: a location is checked, not cleaned.
        location: PathBuf::from(request.location),
        timeout: checkpoint_limit("timeout", request.timeout)?,
    };
    node.checkpoint_container(&container, order, deadline)
        .await
        .map_err(|error| status::lifecycle(&error))?;
    Ok(v1::CheckpointContainerResponse {})
}
