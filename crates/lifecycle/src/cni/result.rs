//! Results of ADD (CNI specification, "Success", versions 0.3.0 to 1.1.0).
//!
//! ```text
//! {"cniVersion": "1.0.0",
//!  "interfaces": [{"name": "cni0", "mac": ".."}, {"name": "eth0", "sandbox": "/run/.../net"}],
//!  "ips": [{"interface": 1, "address": "10.1.0.2/24", "gateway": "10.1.0.1"}],
//!  "routes": [...], "dns": {"nameservers": [...], "search": [...], "options": [...]}}
//! ```

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::model::DnsConfig;

/// An interface that a plugin made or used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Interface {
    /// Name in its namespace.
    pub name: String,
    /// Hardware address; may be empty.
    #[serde(default)]
    pub mac: String,
    /// Namespace of the pod; empty for interfaces on the host.
    #[serde(default)]
    pub sandbox: String,
}

/// What a network gave a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct CniResult {
    /// Addresses of the pod's interface, without prefix, each once: IPv4 before IPv6, else in the
    /// order in which the network lists them. The first is the pod's primary one.
    pub ips: Vec<String>,
    /// Resolver that the network recommends; empty when it does not.
    pub dns: DnsConfig,
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// The result as the last plugin wrote it.
    pub raw: Value,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Ip>>,
    #[serde(default)]
    dns: Option<Dns>,
}

#[derive(Deserialize)]
struct Ip {
    interface: Option<i64>,
    address: String,
}

#[derive(Default, Deserialize)]
struct Dns {
    #[serde(default)]
    nameservers: Option<Vec<String>>,
    #[serde(default)]
    search: Option<Vec<String>>,
    #[serde(default)]
    options: Option<Vec<String>>,
}

impl CniResult {
    /// Reads the result of the last plugin for the interface `ifname`.
    pub(super) fn parse(raw: Value, ifname: &str) -> Result<Self, String> {
        let wire = Wire::deserialize(&raw).map_err(|error| error.to_string())?;
        let interfaces = wire.interfaces.unwrap_or_default();
        let mut ips: Vec<IpAddr> = Vec::new();
        for ip in wire.ips.unwrap_or_default() {
            if !is_pods(&ip, &interfaces, ifname)? {
                continue;
            }
            let address = ip.address.split('/').next().unwrap_or_default();
            let parsed: IpAddr = address
                .parse()
                .map_err(|_| format!("{:?} is no address", ip.address))?;
            if !ips.contains(&parsed) {
                ips.push(parsed);
            }
        }
        ips.sort_by_key(IpAddr::is_ipv6);
        let dns = wire.dns.unwrap_or_default();
        Ok(Self {
            ips: ips.iter().map(IpAddr::to_string).collect(),
            dns: DnsConfig {
                servers: dns.nameservers.unwrap_or_default(),
                searches: dns.search.unwrap_or_default(),
                options: dns.options.unwrap_or_default(),
            },
            interfaces,
            raw,
        })
    }
}

/// An address without an interface is the pod's; else that interface must be the one asked for,
/// and in the pod.
fn is_pods(ip: &Ip, interfaces: &[Interface], ifname: &str) -> Result<bool, String> {
    let Some(index) = ip.interface else {
        return Ok(true);
    };
    // Some plugins write -1 for "none".
    let Ok(index) = usize::try_from(index) else {
        return Ok(true);
    };
    let interface = interfaces.get(index).ok_or_else(|| {
        format!(
            "{:?} is on interface {index} of {}",
            ip.address,
            interfaces.len()
        )
    })?;
    Ok(!interface.sandbox.is_empty() && interface.name == ifname)
}
