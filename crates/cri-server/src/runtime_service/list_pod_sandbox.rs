//! `ListPodSandbox`: the sandboxes that pass a filter.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::filter;
use crate::convert::snapshot::pod_sandbox;
use crate::v1;

pub(super) async fn call(
    node: &Node,
    request: v1::ListPodSandboxRequest,
) -> Result<v1::ListPodSandboxResponse, Status> {
    let found = node
        .list_sandboxes(filter::sandboxes(request.filter)?)
        .await;
    Ok(v1::ListPodSandboxResponse {
        items: found.into_iter().map(pod_sandbox).collect(),
    })
}
