//! `ListImages`: the images that pass a filter.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::check::text;
use crate::convert::container::IMAGE_BYTES;
use crate::convert::image::image;
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    request: v1::ListImagesRequest,
) -> Result<v1::ListImagesResponse, Status> {
    let wanted = request
        .filter
        .and_then(|filter| filter.image)
        .unwrap_or_default()
        .image;
    text("filter.image.image", &wanted, IMAGE_BYTES)?;
    let failed = |error| status::images(&error);
    let found = if wanted.is_empty() {
        node.images().list().await.map_err(failed)?
    } else {
        node.images()
            .resolve(&wanted)
            .await
            .map_err(failed)?
            .into_iter()
            .collect()
    };
    Ok(v1::ListImagesResponse {
        images: found.into_iter().map(image).collect(),
    })
}
