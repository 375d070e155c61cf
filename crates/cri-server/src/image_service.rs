//! `runtime.v1.ImageService`: each RPC in its own module; the rest answers `UNIMPLEMENTED`.

mod image_fs_info;
mod image_status;
mod list_images;
mod pull_image;
mod remove_image;

use lifecycle::node::Node;
use tonic::{Request, Response, Status};

use crate::status::unimplemented;
use crate::v1;

/// Stands for the streams of RPCs that are not implemented.
type Nothing<T> = tokio_stream::Empty<Result<T, Status>>;

/// Images.
#[derive(Debug, Clone)]
pub(crate) struct ImageService {
    node: Node,
}

impl ImageService {
    /// Serves `node`.
    pub(crate) fn new(node: Node) -> Self {
        Self { node }
    }
}

#[tonic::async_trait]
impl v1::image_service_server::ImageService for ImageService {
    type StreamImagesStream = Nothing<v1::StreamImagesResponse>;

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        list_images::call(&self.node, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn stream_images(
        &self,
        _request: Request<v1::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        Err(unimplemented("StreamImages"))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        image_status::call(&self.node, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        pull_image::call(&self.node, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        remove_image::call(&self.node, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn image_fs_info(
        &self,
        request: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        image_fs_info::call(&self.node, request.into_inner())
            .await
            .map(Response::new)
    }
}
