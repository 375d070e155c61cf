//! `ContainerStatus`: one container.

use std::collections::HashMap;

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::check::id;
use crate::convert::snapshot::container_status;
use crate::layer::{About, about};
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    request: v1::ContainerStatusRequest,
) -> Result<v1::ContainerStatusResponse, Status> {
    let container = id("container_id", request.container_id)?;
    about(About::Container, &container);
    let failed = |error| status::lifecycle(&error);
    let snapshot = node.container_status(&container).await.map_err(failed)?;
    let info = if request.verbose {
        let info = node
            .container_info(snapshot.id.as_str())
            .await
            .map_err(failed)?;
        // crictl looks for a document of this name.
        HashMap::from([("info".to_owned(), info.to_string())])
    } else {
        HashMap::new()
    };
    Ok(v1::ContainerStatusResponse {
        status: Some(container_status(snapshot)),
        info,
    })
}
