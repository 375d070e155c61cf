//! `StartContainer`: runs a created container's program, or restores it.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::check::id;
use crate::layer::{About, about};
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    request: v1::StartContainerRequest,
) -> Result<v1::StartContainerResponse, Status> {
    let container = id("container_id", request.container_id)?;
    about(About::Container, &container);
    node.start_container(&container)
        .await
        .map_err(|error| status::lifecycle(&error))?;
    Ok(v1::StartContainerResponse {})
}
