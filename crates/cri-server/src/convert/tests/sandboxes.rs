//! Sandbox requests.

use std::collections::HashMap;

use lifecycle::model::{NamespaceMode, SecurityProfile};

use crate::convert::sandbox::sandbox_config;
use crate::v1;

/// The least that crictl sends.
fn least() -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 2,
        }),
        ..v1::PodSandboxConfig::default()
    }
}

fn linux(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn security(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxSandboxSecurityContext {
    linux(config).security_context.get_or_insert_default()
}

fn namespaces(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    security(config).namespace_options.get_or_insert_default()
}

fn sysctl(config: &mut v1::PodSandboxConfig, name: &str) {
    linux(config).sysctls = HashMap::from([(name.to_owned(), "1".to_owned())]);
}

#[test]
fn the_least_request_is_enough() {
    let config = sandbox_config(least()).unwrap();
    assert_eq!((config.name.as_str(), config.attempt), ("web", 2));
    assert_eq!(config.namespaces.network, NamespaceMode::Pod);
    assert_eq!(config.dns, None);
    assert_eq!(config.seccomp, None);
    assert_eq!(config.cgroup_parent, "");
}

#[test]
fn what_a_kubelet_sends_is_taken_over() {
    let mut request = least();
    request.hostname = "web-0".into();
    request.log_directory = "/var/log/pods/default_web_u-1".into();
    request.dns_config = Some(v1::DnsConfig {
        servers: vec!["10.96.0.10".into(), "fe80::1%eth0".into()],
        searches: vec!["default.svc.cluster.local".into()],
        options: vec!["ndots:5".into()],
    });
    request.port_mappings = vec![v1::PortMapping {
        protocol: v1::Protocol::Sctp.into(),
        container_port: 80,
        host_port: 65535,
        host_ip: "127.0.0.1".into(),
    }];
    linux(&mut request).cgroup_parent = "/kubepods/burstable/podu-1".into();
    namespaces(&mut request).pid = v1::NamespaceMode::Container.into();
    security(&mut request).seccomp = Some(v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    });
    sysctl(&mut request, "net.ipv4.ip_unprivileged_port_start");
    let config = sandbox_config(request).unwrap();
    assert_eq!(config.hostname, "web-0");
    assert_eq!(config.dns.unwrap().options, ["ndots:5"]);
    let port = &config.port_mappings[0];
    assert_eq!(
        (port.protocol.as_str(), port.container_port, port.host_port),
        ("sctp", 80, 65535)
    );
    assert_eq!(config.cgroup_parent, "/kubepods/burstable/podu-1");
    assert_eq!(config.namespaces.pid, NamespaceMode::Container);
    assert_eq!(config.seccomp, Some(SecurityProfile::RuntimeDefault));
    assert_eq!(config.sysctls["net.ipv4.ip_unprivileged_port_start"], "1");
}

#[test]
fn an_empty_dns_configuration_asks_for_the_hosts() {
    let mut request = least();
    request.dns_config = Some(v1::DnsConfig::default());
    assert_eq!(sandbox_config(request).unwrap().dns, None);
}

#[test]
fn a_relative_cgroup_parent_starts_at_the_root() {
    for (given, path) in [
        ("pods/a", "/pods/a"),
        ("//pods/./a/", "/pods/a"),
        ("a.slice", "/a.slice"),
    ] {
        let mut request = least();
        linux(&mut request).cgroup_parent = given.into();
        assert_eq!(sandbox_config(request).unwrap().cgroup_parent, path);
    }
}

#[test]
fn sysctls_may_be_spelled_with_slashes() {
    let mut request = least();
    sysctl(&mut request, "net/ipv4/conf/eth0.1/forwarding");
    let sysctls = sandbox_config(request).unwrap().sysctls;
    assert_eq!(
        sysctls.keys().collect::<Vec<_>>(),
        ["net.ipv4.conf.eth0/1.forwarding"]
    );
}

#[test]
fn the_older_text_of_seccomp_is_understood() {
    for (text, profile) in [
        ("", None),
        ("unconfined", Some(SecurityProfile::Unconfined)),
        ("runtime/default", Some(SecurityProfile::RuntimeDefault)),
        ("docker/default", Some(SecurityProfile::RuntimeDefault)),
        (
            "localhost//p.json",
            Some(SecurityProfile::Localhost("/p.json".into())),
        ),
    ] {
        let mut request = least();
        #[expect(deprecated, reason = "it is what is tested")]
        let field = &mut security(&mut request).seccomp_profile_path;
        *field = text.into();
        assert_eq!(
            sandbox_config(request).unwrap().seccomp,
            profile,
            "{text:?}"
        );
    }
}

type Change = fn(&mut v1::PodSandboxConfig);

/// What is changed in the least request, and the field that the error must name.
const BAD_VALUES: &[(&str, Change)] = &[
    ("metadata", |c| c.metadata = None),
    ("metadata.name", |c| {
        c.metadata.as_mut().unwrap().name.clear()
    }),
    ("metadata.name", |c| {
        c.metadata.as_mut().unwrap().name = "../x".into()
    }),
    ("metadata.uid", |c| {
        c.metadata.as_mut().unwrap().uid = "a/b".into()
    }),
    ("metadata.namespace", |c| {
        c.metadata.as_mut().unwrap().namespace = "a\n".into()
    }),
    ("hostname", |c| c.hostname = "a b".into()),
    ("hostname", |c| c.hostname = "x".repeat(65)),
    ("log_directory", |c| c.log_directory = "var/log".into()),
    ("log_directory", |c| {
        c.log_directory = "/var/log/../x".into()
    }),
    ("dns_config.servers[0]", |c| {
        c.dns_config.get_or_insert_default().servers = vec!["1.2.3.4\nsearch x".into()];
    }),
    ("dns_config.searches[0]", |c| {
        c.dns_config.get_or_insert_default().searches = vec!["a b".into()];
    }),
    ("dns_config.options[0]", |c| {
        c.dns_config.get_or_insert_default().options = vec![String::new()];
    }),
    ("port_mappings[0].protocol", |c| {
        c.port_mappings = vec![v1::PortMapping {
            protocol: 7,
            ..Default::default()
        }];
    }),
    ("port_mappings[0].container_port", |c| {
        c.port_mappings = vec![v1::PortMapping::default()];
    }),
    ("port_mappings[0].host_port", |c| {
        c.port_mappings = vec![v1::PortMapping {
            container_port: 1,
            host_port: 65536,
            ..Default::default()
        }];
    }),
    ("port_mappings[0].host_ip", |c| {
        c.port_mappings = vec![v1::PortMapping {
            container_port: 1,
            host_ip: "localhost".into(),
            ..Default::default()
        }];
    }),
    ("labels", |c| {
        drop(c.labels.insert(String::new(), String::new()))
    }),
    ("annotations", |c| {
        drop(c.annotations.insert("a".into(), "x".repeat(1 << 20)))
    }),
    ("linux.cgroup_parent", |c| {
        linux(c).cgroup_parent = "/a/../b".into()
    }),
    ("linux.resources.cpu_shares", |c| {
        linux(c).resources.get_or_insert_default().cpu_shares = -1;
    }),
    ("linux.overhead.memory_limit_in_bytes", |c| {
        linux(c)
            .overhead
            .get_or_insert_default()
            .memory_limit_in_bytes = -1;
    }),
    ("linux.security_context.namespace_options.network", |c| {
        namespaces(c).network = v1::NamespaceMode::Container.into();
    }),
    ("linux.security_context.namespace_options.ipc", |c| {
        namespaces(c).ipc = v1::NamespaceMode::Target.into();
    }),
    ("linux.security_context.namespace_options.pid", |c| {
        namespaces(c).pid = v1::NamespaceMode::Target.into();
    }),
    ("linux.security_context.namespace_options.pid", |c| {
        namespaces(c).pid = 9
    }),
    (
        "linux.security_context.namespace_options.userns_options.mode",
        |c| {
            namespaces(c).userns_options = Some(v1::UserNamespace::default());
        },
    ),
    ("linux.security_context.run_as_user", |c| {
        security(c).run_as_user = Some(v1::Int64Value { value: -1 });
    }),
    ("linux.security_context.run_as_group", |c| {
        security(c).run_as_group = Some(v1::Int64Value { value: 1 });
    }),
    ("linux.security_context.supplemental_groups[1]", |c| {
        security(c).supplemental_groups = vec![1, 1 << 32];
    }),
    ("linux.security_context.seccomp.profile_type", |c| {
        let profile = v1::SecurityProfile {
            profile_type: 3,
            ..Default::default()
        };
        security(c).seccomp = Some(profile);
    }),
    ("linux.security_context.seccomp.localhost_ref", |c| {
        security(c).seccomp = Some(v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::Localhost.into(),
            localhost_ref: "profiles/p.json".into(),
        });
    }),
    ("linux.sysctls[\"kernel.core_pattern\"]", |c| {
        sysctl(c, "kernel.core_pattern")
    }),
    ("linux.sysctls[\"net\"]", |c| sysctl(c, "net")),
    ("linux.sysctls[\"net.../..//kernel\"]", |c| {
        sysctl(c, "net.../..//kernel")
    }),
    ("linux.sysctls[\"net./.kernel\"]", |c| {
        sysctl(c, "net./.kernel")
    }),
    ("linux.sysctls[\"net.ipv4.ip_forward\"]", |c| {
        sysctl(c, "net.ipv4.ip_forward");
        namespaces(c).network = v1::NamespaceMode::Node.into();
    }),
    ("linux.sysctls[\"kernel.shmmax\"]", |c| {
        sysctl(c, "kernel.shmmax");
        namespaces(c).ipc = v1::NamespaceMode::Node.into();
    }),
];

#[test]
fn bad_values_are_refused_by_field() {
    for (field, change) in BAD_VALUES {
        let mut request = least();
        change(&mut request);
        let error = sandbox_config(request).expect_err(field).to_string();
        assert!(
            error.starts_with(&format!("{field}: ")),
            "{error:?} is not about {field}"
        );
    }
}
