//! Container requests.

use std::path::PathBuf;

use lifecycle::model::{ContainerId, NamespaceMode, Propagation};

use crate::convert::container::container_config;
use crate::v1;

/// The least that crictl sends.
pub(super) fn least() -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "c".into(),
            attempt: 1,
        }),
        image: Some(v1::ImageSpec {
            image: "busybox".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
}

pub(super) fn mount(container: &str, host: &str) -> v1::Mount {
    v1::Mount {
        container_path: container.into(),
        host_path: host.into(),
        ..v1::Mount::default()
    }
}

#[test]
fn the_least_request_is_enough() {
    let config = container_config(least()).unwrap();
    assert_eq!((config.name.as_str(), config.attempt), ("c", 1));
    assert_eq!(config.image, "busybox");
    assert_eq!(config.stop_signal, None);
    assert_eq!(config.security.seccomp, None);
    assert_eq!(config.log_path, PathBuf::new());
}

#[test]
fn what_is_asked_for_is_taken_over() {
    let mut request = least();
    request.working_dir = "/work/./dir/".into();
    request.envs = vec![v1::KeyValue {
        key: "A".into(),
        value: b"b=c".to_vec(),
    }];
    request.mounts = vec![v1::Mount {
        readonly: true,
        recursive_read_only: true,
        ..mount("/data/../srv", "/host//data")
    }];
    request.devices = vec![v1::Device {
        container_path: "/dev/x".into(),
        host_path: "/dev/null".into(),
        permissions: String::new(),
    }];
    request.log_path = "c/0.log".into();
    request.stop_signal = v1::Signal::Sigint.into();
    let context = security(&mut request);
    context.capabilities = Some(v1::Capability {
        add_capabilities: vec!["net_admin".into(), "CAP_SYS_TIME".into()],
        drop_capabilities: vec!["ALL".into()],
        add_ambient_capabilities: vec![],
    });
    context.run_as_username = "www-data".into();
    context.run_as_group = Some(v1::Int64Value { value: 33 });
    context.masked_paths = vec!["/proc/kcore/".into()];
    let options = context.namespace_options.get_or_insert_default();
    options.pid = v1::NamespaceMode::Target.into();
    options.target_id = "c0ffee".into();
    let config = container_config(request).unwrap();
    assert_eq!(config.working_dir, "/work/dir");
    assert_eq!(config.env, [("A".to_owned(), "b=c".to_owned())]);
    let mount = &config.mounts[0];
    assert_eq!(mount.container_path, PathBuf::from("/srv"));
    assert_eq!(mount.host_path, PathBuf::from("/host/data"));
    assert!(mount.readonly && mount.recursive_readonly);
    assert_eq!(mount.propagation, Propagation::Private);
    assert_eq!(config.devices[0].permissions, "rwm");
    assert_eq!(config.stop_signal, Some(2));
    assert_eq!(config.security.capabilities.add, ["NET_ADMIN", "SYS_TIME"]);
    assert_eq!(config.security.capabilities.drop, ["ALL"]);
    assert_eq!(config.security.user.name.as_deref(), Some("www-data"));
    assert_eq!(config.security.user.gid, Some(33));
    assert_eq!(config.security.masked_paths, ["/proc/kcore"]);
    let target = NamespaceMode::Target(ContainerId::new("c0ffee"));
    assert_eq!(config.security.namespaces.pid, target);
}

#[test]
fn an_archive_is_named_by_its_path() {
    let mut request = least();
    request.image.as_mut().unwrap().image = "/var/lib/thawd/checkpoints/a.tar".into();
    assert_eq!(
        container_config(request).unwrap().image,
        "/var/lib/thawd/checkpoints/a.tar"
    );
}

type Change = fn(&mut v1::ContainerConfig);

/// What is changed in the least request, and the field that the error must name.
const BAD_VALUES: &[(&str, Change)] = &[
    ("metadata", |c| c.metadata = None),
    ("metadata.name", |c| {
        c.metadata.as_mut().unwrap().name.clear()
    }),
    ("image", |c| c.image = None),
    ("image.image", |c| c.image.as_mut().unwrap().image.clear()),
    ("image.image", |c| {
        c.image.as_mut().unwrap().image = "a\nb".into()
    }),
    ("command[1]", |c| c.command = vec!["a".into(), "b\0".into()]),
    ("args[0]", |c| c.args = vec!["\0".into()]),
    ("working_dir", |c| c.working_dir = "work".into()),
    ("envs[0].key", |c| {
        c.envs = vec![v1::KeyValue {
            key: "A=B".into(),
            value: vec![],
        }]
    }),
    ("envs[0].key", |c| c.envs = vec![v1::KeyValue::default()]),
    ("envs[0].value", |c| {
        c.envs = vec![v1::KeyValue {
            key: "A".into(),
            value: vec![0xff],
        }];
    }),
    ("envs[0].value", |c| {
        c.envs = vec![v1::KeyValue {
            key: "A".into(),
            value: vec![0],
        }]
    }),
    ("mounts[0].container_path", |c| {
        c.mounts = vec![mount("data", "/data")]
    }),
    ("mounts[0].container_path", |c| {
        c.mounts = vec![mount("/a/..", "/data")]
    }),
    ("mounts[1].host_path", |c| {
        c.mounts = vec![mount("/a", "/a"), mount("/b", "")]
    }),
    ("mounts[0].host_path", |c| {
        c.mounts = vec![mount("/a", "/a/../b")]
    }),
    ("mounts[0].propagation", |c| {
        c.mounts = vec![v1::Mount {
            propagation: 3,
            ..mount("/a", "/a")
        }];
    }),
    ("mounts[0].recursive_read_only", |c| {
        c.mounts = vec![v1::Mount {
            recursive_read_only: true,
            ..mount("/a", "/a")
        }];
    }),
    ("mounts[0].recursive_read_only", |c| {
        c.mounts = vec![v1::Mount {
            recursive_read_only: true,
            readonly: true,
            propagation: v1::MountPropagation::PropagationBidirectional.into(),
            ..mount("/a", "/a")
        }];
    }),
    ("mounts[0].image", |c| {
        c.mounts = vec![v1::Mount {
            image: Some(Default::default()),
            ..mount("/a", "")
        }];
    }),
    ("mounts[0].uidMappings", |c| {
        let mapping = vec![v1::IdMapping::default()];
        c.mounts = vec![v1::Mount {
            uid_mappings: mapping,
            ..mount("/a", "/a")
        }];
    }),
    ("mounts[0].mount_options", |c| {
        c.mounts = vec![v1::Mount {
            mount_options: vec!["x".into()],
            ..mount("/a", "/a")
        }];
    }),
    ("devices[0].permissions", |c| {
        c.devices = vec![v1::Device {
            permissions: "rx".into(),
            ..Default::default()
        }];
    }),
    ("devices[0].container_path", |c| {
        c.devices = vec![v1::Device::default()]
    }),
    ("CDI_devices", |c| {
        c.cdi_devices = vec![v1::CdiDevice::default()]
    }),
    ("log_path", |c| c.log_path = "../../etc/cron.d/x".into()),
    ("stop_signal", |c| c.stop_signal = 66),
    ("linux.resources.oom_score_adj", |c| {
        let linux = c.linux.get_or_insert_default();
        linux.resources.get_or_insert_default().oom_score_adj = -1001;
    }),
    (
        "linux.security_context.capabilities.add_capabilities[0]",
        |c| {
            let capabilities = security(c).capabilities.get_or_insert_default();
            capabilities.add_capabilities = vec!["CAP_EVERYTHING".into()];
        },
    ),
    ("linux.security_context.run_as_username", |c| {
        security(c).run_as_user = Some(v1::Int64Value { value: 1 });
        security(c).run_as_username = "www-data".into();
    }),
    ("linux.security_context.run_as_group", |c| {
        security(c).run_as_group = Some(v1::Int64Value { value: 1 });
    }),
    ("linux.security_context.supplemental_groups_policy", |c| {
        security(c).supplemental_groups_policy = 2;
    }),
    ("linux.security_context.namespace_options.target_id", |c| {
        let options = security(c).namespace_options.get_or_insert_default();
        options.pid = v1::NamespaceMode::Target.into();
    }),
    ("linux.security_context.readonly_paths[0]", |c| {
        security(c).readonly_paths = vec!["proc".into()];
    }),
    ("linux.security_context.apparmor.localhost_ref", |c| {
        security(c).apparmor = Some(v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::Localhost.into(),
            localhost_ref: String::new(),
        });
    }),
];

#[test]
fn bad_values_are_refused_by_field() {
    for (field, change) in BAD_VALUES {
        let mut request = least();
        change(&mut request);
        let error = container_config(request).expect_err(field).to_string();
        assert!(
            error.starts_with(&format!("{field}: ")),
            "{error:?} is not about {field}"
        );
    }
}
