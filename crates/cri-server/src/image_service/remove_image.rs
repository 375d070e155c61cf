//! `RemoveImage`: forgets an image under all of its names.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::image::requested;
use crate::layer::{About, about};
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    request: v1::RemoveImageRequest,
) -> Result<v1::RemoveImageResponse, Status> {
    let wanted = requested(request.image)?;
    about(About::Image, &wanted);
    node.images()
        .remove(&wanted)
        .await
        .map_err(|error| status::images(&error))?;
    Ok(v1::RemoveImageResponse {})
}
