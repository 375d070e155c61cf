//! `ListContainers`: the containers that pass a filter.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::filter;
use crate::convert::snapshot::container;
use crate::v1;

pub(super) async fn call(
    node: &Node,
    request: v1::ListContainersRequest,
) -> Result<v1::ListContainersResponse, Status> {
    let found = node
        .list_containers(filter::containers(request.filter)?)
        .await;
    Ok(v1::ListContainersResponse {
        containers: found.into_iter().map(container).collect(),
    })
}
