//! `ImageStatus`: one image. One that is not there is no error but an empty answer.

use std::collections::HashMap;

use lifecycle::node::Node;
use serde_json::{Value, json};
use tonic::Status;

use crate::convert::image::{image, requested};
use crate::layer::{About, about};
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    request: v1::ImageStatusRequest,
) -> Result<v1::ImageStatusResponse, Status> {
    let wanted = requested(request.image)?;
    about(About::Image, &wanted);
    let found = node
        .images()
        .resolve(&wanted)
        .await
        .map_err(|error| status::images(&error))?;
    let Some(found) = found else {
        return Ok(v1::ImageStatusResponse::default());
    };
    let info = if request.verbose {
        info(&found)
    } else {
        HashMap::new()
    };
    Ok(v1::ImageStatusResponse {
        image: Some(image(found)),
        info,
    })
}

/// One document, of the name that crictl looks for.
fn info(image: &images::Image) -> HashMap<String, String> {
    // It was parsed when the image was taken in.
    let spec: Value = serde_json::from_slice(&image.config).unwrap_or_default();
    let checkpoint = image
        .checkpoint
        .as_ref()
        .map(|checkpoint| &checkpoint.container_name);
    let info = json!({ "imageSpec": spec, "checkpointOfContainer": checkpoint });
    HashMap::from([("info".to_owned(), info.to_string())])
}
