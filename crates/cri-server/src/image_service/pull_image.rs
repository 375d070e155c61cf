//! `PullImage`: an image that is on the node already, or was handed over by `thaw image load`.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::image::requested;
use crate::layer::{About, about};
use crate::{status, v1};

/// Credentials are not looked at: no registry is asked.
pub(super) async fn call(
    node: &Node,
    request: v1::PullImageRequest,
) -> Result<v1::PullImageResponse, Status> {
    let wanted = requested(request.image)?;
    about(About::Image, &wanted);
    let image = node
        .images()
        .pull(&wanted)
        .await
        .map_err(|error| status::images(&error))?;
    Ok(v1::PullImageResponse {
        image_ref: image.id,
    })
}
