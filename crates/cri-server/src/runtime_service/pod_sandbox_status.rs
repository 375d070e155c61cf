//! `PodSandboxStatus`: one sandbox.

use std::collections::HashMap;

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::check::id;
use crate::convert::snapshot::pod_sandbox_status;
use crate::layer::{About, about};
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    request: v1::PodSandboxStatusRequest,
) -> Result<v1::PodSandboxStatusResponse, Status> {
    let sandbox = id("pod_sandbox_id", request.pod_sandbox_id)?;
    about(About::Sandbox, &sandbox);
    let failed = |error| status::lifecycle(&error);
    let snapshot = node.sandbox_status(&sandbox).await.map_err(failed)?;
    let info = if request.verbose {
        let info = node
            .sandbox_info(snapshot.id.as_str())
            .await
            .map_err(failed)?;
        // crictl looks for a document of this name.
        HashMap::from([("info".to_owned(), info.to_string())])
    } else {
        HashMap::new()
    };
    let status = Some(pod_sandbox_status(snapshot));
    Ok(v1::PodSandboxStatusResponse {
        status,
        info,
        ..v1::PodSandboxStatusResponse::default()
    })
}
