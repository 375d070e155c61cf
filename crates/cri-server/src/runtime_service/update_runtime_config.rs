//! `UpdateRuntimeConfig`: the node's range of pod addresses.

use std::net::IpAddr;

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::check::{Checked, invalid};
use crate::{status, v1};

pub(super) async fn call(
    node: &Node,
    request: v1::UpdateRuntimeConfigRequest,
) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
    let network = request
        .runtime_config
        .and_then(|config| config.network_config);
    let pod_cidr = network.unwrap_or_default().pod_cidr;
    check(&pod_cidr)?;
    node.update_runtime_config(pod_cidr)
        .await
        .map_err(|error| status::lifecycle(&error))?;
    Ok(v1::UpdateRuntimeConfigResponse {})
}

/// "10.1.0.0/16", two of them separated by a comma, or nothing (the kubelet sends that before its
/// node has a range).
fn check(cidrs: &str) -> Checked<()> {
    let good = |cidr: &str| {
        let (address, bits) = cidr.split_once('/')?;
        let most = match address.parse().ok()? {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        bits.parse::<u8>().ok().filter(|bits| *bits <= most)
    };
    if cidrs.is_empty() || cidrs.split(',').all(|cidr| good(cidr.trim()).is_some()) {
        return Ok(());
    }
    let field = "runtime_config.network_config.pod_cidr";
    Err(invalid(
        field,
        format!("{cidrs:?} is not a range like \"10.1.0.0/16\""),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        for good in ["", "10.1.0.0/16", "10.1.0.0/16,fd00::/64", "0.0.0.0/0"] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        for bad in [
            "10.1.0.0",
            "10.1.0.0/33",
            "x/8",
            ",",
            "10.1.0.0/16,",
            "fd00::/129",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
