//! `RunPodSandbox`: a new sandbox.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::check::{optional_name, required};
use crate::convert::sandbox::sandbox_config;
use crate::layer::{About, about};
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    request: v1::RunPodSandboxRequest,
) -> Result<v1::RunPodSandboxResponse, Status> {
    let config = required("config", request.config)?;
    let config = sandbox_config(config).map_err(|error| error.within("config"))?;
    let handler = optional_name("runtime_handler", request.runtime_handler)?;
    let id = node
        .run_sandbox(config, handler)
        .await
        .map_err(|error| status::lifecycle(&error))?;
    about(About::Sandbox, id.as_str());
    Ok(v1::RunPodSandboxResponse {
        pod_sandbox_id: id.to_string(),
    })
}
