//! `Version`: who answers here.

use lifecycle::node::Node;
use tonic::Status;

use crate::v1;

/// Version of the kubelet's runtime interface, which clients expect to be told back; it has not
/// changed since there is a CRI.
const KUBELET_API_VERSION: &str = "0.1.0";

pub(super) async fn call(
    _node: &Node,
    _request: v1::VersionRequest,
) -> Result<v1::VersionResponse, Status> {
    Ok(v1::VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: "thawd".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    })
}
