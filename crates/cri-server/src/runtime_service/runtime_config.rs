//! `RuntimeConfig`: what the kubelet must do as thawd does.

use lifecycle::cgroups::CgroupDriver;
use lifecycle::node::Node;
use tonic::Status;

use crate::v1;

pub(super) async fn call(
    node: &Node,
    _request: v1::RuntimeConfigRequest,
) -> Result<v1::RuntimeConfigResponse, Status> {
    let driver = match node.cgroup_driver() {
        CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
    };
    let linux = v1::LinuxRuntimeConfiguration {
        cgroup_driver: driver.into(),
    };
    Ok(v1::RuntimeConfigResponse { linux: Some(linux) })
}
