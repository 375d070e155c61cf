//! `RemovePodSandbox`: forgets it and its containers.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::check::id;
use crate::layer::{About, about};
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    request: v1::RemovePodSandboxRequest,
) -> Result<v1::RemovePodSandboxResponse, Status> {
    let sandbox = id("pod_sandbox_id", request.pod_sandbox_id)?;
    about(About::Sandbox, &sandbox);
    node.remove_sandbox(&sandbox)
        .await
        .map_err(|error| status::lifecycle(&error))?;
    Ok(v1::RemovePodSandboxResponse {})
}
