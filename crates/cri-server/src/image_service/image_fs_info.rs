//! `ImageFsInfo`: space used by images and writable layers, which share a filesystem.

use std::time::SystemTime;

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::time::nanoseconds;
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    _request: v1::ImageFsInfoRequest,
) -> Result<v1::ImageFsInfoResponse, Status> {
    let info = node
        .images()
        .fs_info()
        .await
        .map_err(|error| status::images(&error))?;
    let mountpoint = info.mountpoint.to_string_lossy().into_owned();
    let usage = v1::FilesystemUsage {
        timestamp: nanoseconds(SystemTime::now()),
        fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
        used_bytes: Some(v1::UInt64Value {
            value: info.used_bytes,
        }),
        inodes_used: Some(v1::UInt64Value { value: info.inodes }),
    };
    Ok(v1::ImageFsInfoResponse {
        image_filesystems: vec![usage.clone()],
        container_filesystems: vec![usage],
    })
}
