//! `ReopenContainerLog`: after a rotation.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::check::id;
use crate::layer::{About, about};
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    request: v1::ReopenContainerLogRequest,
) -> Result<v1::ReopenContainerLogResponse, Status> {
    let container = id("container_id", request.container_id)?;
    about(About::Container, &container);
    node.reopen_log(&container)
        .await
        .map_err(|error| status::lifecycle(&error))?;
    Ok(v1::ReopenContainerLogResponse {})
}
