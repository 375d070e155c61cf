//! Sandbox requests.

use std::net::IpAddr;

use lifecycle::model::{DnsConfig, PortMapping, SandboxConfig};

use super::check::{
    Checked, annotations, enumeration, invalid, labels, name, no_nul, optional_host_path,
    optional_name, required, text, within,
};
use super::resources::resources;
use super::security::{Kind, Of, UserFields, namespaces, profile, selinux, user};
use super::sysctl::sysctls;
use crate::v1;

/// Longest host name (`HOST_NAME_MAX`, gethostname(2)).
const HOSTNAME_BYTES: usize = 64;

/// A checked sandbox request.
pub(crate) fn sandbox_config(from: v1::PodSandboxConfig) -> Checked<SandboxConfig> {
    let metadata = required("metadata", from.metadata)?;
    let inside = |error: super::check::Invalid| error.within("metadata");
    let linux = from.linux.unwrap_or_default();
    let config = SandboxConfig {
        name: name("name", metadata.name).map_err(inside)?,
        uid: optional_name("uid", metadata.uid).map_err(inside)?,
        namespace: optional_name("namespace", metadata.namespace).map_err(inside)?,
        attempt: metadata.attempt,
        hostname: hostname(from.hostname)?,
        log_directory: optional_host_path("log_directory", &from.log_directory)?,
        dns: dns(from.dns_config.unwrap_or_default())
            .map_err(|error| error.within("dns_config"))?,
        port_mappings: port_mappings(from.port_mappings)?,
        labels: labels("labels", from.labels)?,
        annotations: annotations("annotations", from.annotations)?,
        ..SandboxConfig::default()
    };
    linux_part(config, linux).map_err(|error| error.within("linux"))
}

fn linux_part(config: SandboxConfig, from: v1::LinuxPodSandboxConfig) -> Checked<SandboxConfig> {
    let security = from.security_context.unwrap_or_default();
    let inside = |error: super::check::Invalid| error.within("security_context");
    #[expect(deprecated, reason = "older clients still send the field of text")]
    let older_seccomp = &security.seccomp_profile_path;
    let config = SandboxConfig {
        namespaces: namespaces(security.namespace_options, Of::Sandbox)
            .map_err(|error| error.within("security_context.namespace_options"))?,
        privileged: security.privileged,
        selinux: selinux(security.selinux_options).map_err(inside)?,
        seccomp: profile(Kind::Seccomp, security.seccomp, older_seccomp).map_err(inside)?,
        user: user(UserFields {
            uid: security.run_as_user,
            name: String::new(),
            gid: security.run_as_group,
            groups: security.supplemental_groups,
            policy: security.supplemental_groups_policy,
        })
        .map_err(inside)?,
        readonly_rootfs: security.readonly_rootfs,
        ..config
    };
    // AppArmor confines a process, and a sandbox's own is not the user's; what is asked for is
    // checked all the same.
    profile(Kind::AppArmor, security.apparmor, "").map_err(inside)?;
    Ok(SandboxConfig {
        cgroup_parent: cgroup_parent(&from.cgroup_parent)?,
        sysctls: sysctls(from.sysctls, &config.namespaces)?,
        overhead: from
            .overhead
            .map(resources)
            .transpose()
            .map_err(|error| error.within("overhead"))?,
        resources: from
            .resources
            .map(resources)
            .transpose()
            .map_err(|error| error.within("resources"))?,
        ..config
    })
}

fn hostname(value: String) -> Checked<String> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if value.len() > HOSTNAME_BYTES || !value.bytes().all(letter) {
        let problem =
            format!("{value:?} is not a host name of at most {HOSTNAME_BYTES} characters");
        return Err(invalid("hostname", problem));
    }
    Ok(value)
}

/// Each entry becomes a word of resolv.conf(5). Nothing at all asks for the host's.
fn dns(from: v1::DnsConfig) -> Checked<Option<DnsConfig>> {
    for (index, server) in from.servers.iter().enumerate() {
        // A link-local address may name its interface: "fe80::1%eth0".
        let (address, zone) = server.split_once('%').unwrap_or((server, "-"));
        if address.parse::<IpAddr>().is_err() || !is_word(zone) {
            return Err(invalid(
                &format!("servers[{index}]"),
                format!("{server:?} is no address"),
            ));
        }
    }
    for (field, words) in [("searches", &from.searches), ("options", &from.options)] {
        for (index, word) in words.iter().enumerate() {
            if !is_word(word) || word.len() > 255 {
                let problem = format!("{word:?} is not one word of at most 255 bytes");
                return Err(invalid(&format!("{field}[{index}]"), problem));
            }
        }
    }
    let config = DnsConfig {
        servers: from.servers,
        searches: from.searches,
        options: from.options,
    };
    Ok(Some(config).filter(|config| *config != DnsConfig::default()))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn port_mappings(from: Vec<v1::PortMapping>) -> Checked<Vec<PortMapping>> {
    let one = |(index, mapping): (usize, v1::PortMapping)| {
        port_mapping(mapping).map_err(|error| error.within(&format!("port_mappings[{index}]")))
    };
    from.into_iter().enumerate().map(one).collect()
}

fn port_mapping(from: v1::PortMapping) -> Checked<PortMapping> {
    let protocol = match enumeration("protocol", from.protocol)? {
        v1::Protocol::Tcp => "tcp",
        v1::Protocol::Udp => "udp",
        v1::Protocol::Sctp => "sctp",
    };
    if !from.host_ip.is_empty() && from.host_ip.parse::<IpAddr>().is_err() {
        return Err(invalid(
            "host_ip",
            format!("{:?} is no address", from.host_ip),
        ));
    }
    Ok(PortMapping {
        protocol: protocol.to_owned(),
        container_port: port("container_port", from.container_port, 1)?,
        host_port: port("host_port", from.host_port, 0)?,
        host_ip: from.host_ip,
    })
}

fn port(field: &str, value: i32, least: i64) -> Checked<u16> {
    let value = within(field, value.into(), least..=u16::MAX.into())?;
    u16::try_from(value).map_err(|_| invalid(field, format!("{value} is no port")))
}

/// A path, or a systemd slice's name: which of them the node's cgroup driver decides. One without the
/// leading slash starts at the hierarchy's root too.
fn cgroup_parent(value: &str) -> Checked<String> {
    let field = "cgroup_parent";
    no_nul(field, value)?;
    text(field, value, 4095)?;
    if value.is_empty() {
        return Ok(String::new());
    }
    let relative = super::check::relative_path(field, value.trim_start_matches('/'))?;
    Ok(format!("/{}", relative.display()))
}
