//! `StopContainer`: ends a container, with a time of grace.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::check::id;
use crate::convert::time::seconds;
use crate::layer::{About, about};
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    request: v1::StopContainerRequest,
) -> Result<v1::StopContainerResponse, Status> {
    let container = id("container_id", request.container_id)?;
    about(About::Container, &container);
    let grace = seconds("timeout", request.timeout)?;
    node.stop_container(&container, grace)
        .await
        .map_err(|error| status::lifecycle(&error))?;
    Ok(v1::StopContainerResponse {})
}
