//! Specs from requests, looked at field by field; `runc` runs them.

mod linux;
mod mounts;
mod runc;
mod seccomp;

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::host::{HostDevice, HostFacts, Limit};
use super::*;
use crate::model::{
    CapabilityChange, Propagation, Resources, SecurityContext, SecurityProfile, SelinuxOptions,
};

/// What [`build`] is called with, owned, so that a test can change any of it.
#[derive(Debug, Clone)]
struct Case {
    sandbox: SandboxConfig,
    config: ContainerConfig,
    image: ImageDefaults,
    user: ResolvedUser,
    rootfs: PathBuf,
    cgroups_path: String,
    cgroup_driver: CgroupDriver,
    namespaces: Namespaces,
    files: PodFiles,
    devices: Vec<HostDevice>,
    seccomp_profile: Option<Vec<u8>>,
    apparmor_profile: Option<String>,
    host: HostFacts,
}

/// The pod's files, which lie in `directory`.
fn pod_files(directory: &Path) -> Vec<PodFile> {
    let file = |name| PodFile {
        destination: Path::new("/etc").join(name),
        source: directory.join(name),
    };
    ["hostname", "hosts", "resolv.conf"].map(file).into()
}

impl Case {
    fn new() -> Self {
        let pin = |name: &str| Namespace::Path(PathBuf::from(format!("/run/pod/ns/{name}")));
        Self {
            sandbox: SandboxConfig {
                name: "web".into(),
                uid: "0a1b".into(),
                namespace: "shop".into(),
                ..SandboxConfig::default()
            },
            config: ContainerConfig {
                name: "server".into(),
                image: "sha256:00".into(),
                user_specified_image: "registry.example/server:1".into(),
                ..ContainerConfig::default()
            },
            image: ImageDefaults {
                entrypoint: vec!["/server".into()],
                cmd: vec!["--port".into(), "80".into()],
                ..ImageDefaults::default()
            },
            user: ResolvedUser {
                groups: vec![0],
                ..ResolvedUser::default()
            },
            rootfs: "/var/rootfs".into(),
            cgroups_path: "/kubepods/pod1/c1".into(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            namespaces: Namespaces {
                net: pin("net"),
                ipc: pin("ipc"),
                uts: pin("uts"),
                pid: Namespace::New,
            },
            files: PodFiles {
                files: pod_files(Path::new("/var/pod")),
                shm: Shm::Pod("/var/pod/shm".into()),
            },
            devices: Vec::new(),
            seccomp_profile: None,
            apparmor_profile: None,
            host: HostFacts {
                bounding_set: 0x1ff_feff_ffff,
                oom_score_adj: 0,
                may_lower_oom: false,
                open_files: Limit {
                    soft: 1024,
                    hard: 20_000,
                },
                unified_cgroups: false,
                swap_limits: true,
                controllers: ["cpu", "cpuset", "memory", "pids"]
                    .map(str::to_owned)
                    .into(),
                selinux: false,
                machine: "x86_64".into(),
                kernel: (6, 18),
            },
        }
    }

    fn build(&self) -> Result<Spec, Error> {
        build(&SpecInput {
            sandbox_id: "5a5a",
            sandbox: &self.sandbox,
            config: &self.config,
            image: &self.image,
            user: &self.user,
            rootfs: &self.rootfs,
            cgroups_path: &self.cgroups_path,
            cgroup_driver: self.cgroup_driver,
            namespaces: &self.namespaces,
            hostname: "web-1",
            files: &self.files,
            mounts: &self.config.mounts,
            devices: &self.devices,
            seccomp_profile: self.seccomp_profile.as_deref(),
            apparmor_profile: self.apparmor_profile.as_deref(),
            host: &self.host,
        })
    }

    fn spec(&self) -> Spec {
        self.build().unwrap()
    }

    fn args(&self) -> Vec<String> {
        self.spec()
            .process()
            .as_ref()
            .unwrap()
            .args()
            .clone()
            .unwrap()
    }

    fn env(&self) -> Vec<String> {
        self.spec()
            .process()
            .as_ref()
            .unwrap()
            .env()
            .clone()
            .unwrap()
    }

    /// `destination options` of every mount, in order.
    fn mounts(&self) -> Vec<String> {
        let spec = self.spec();
        let mounts = spec.mounts().as_ref().unwrap();
        let line = |mount: &oci_spec::runtime::Mount| {
            let options = mount.options().clone().unwrap_or_default().join(",");
            format!("{} {options}", mount.destination().display())
        };
        mounts.iter().map(line).collect()
    }

    fn invalid(&self) -> (String, String) {
        match self.build() {
            Err(Error::Invalid { field, problem }) => (field, problem),
            other => panic!("{other:?}"),
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn command_and_arguments_replace_the_images_as_kubernetes_says() {
    let check = |command: &str, args: &str, expected: &str| {
        let mut case = Case::new();
        case.config.command = words(command);
        case.config.args = words(args);
        assert_eq!(
            case.args(),
            words(expected),
            "command {command:?} args {args:?}"
        );
    };
    check("", "", "/server --port 80");
    check("/other", "", "/other");
    check("", "--tls", "/server --tls");
    check("/other", "--tls", "/other --tls");
    let mut case = Case::new();
    case.image.entrypoint = vec![String::new()];
    assert_eq!(case.args(), ["--port", "80"]);
}

#[test]
fn a_container_without_a_program_is_refused() {
    let mut case = Case::new();
    case.image = ImageDefaults::default();
    assert_eq!(case.invalid().0, "command");
    case.config.command = vec!["a\0b".into()];
    assert_eq!(case.invalid().0, "command");
}

#[test]
fn later_variables_win_and_keep_their_place() {
    let mut case = Case::new();
    case.image.env = vec![
        "PATH=/bin".into(),
        "A=1".into(),
        "nonsense".into(),
        "=x".into(),
    ];
    case.config.env = vec![("B".into(), "x=y".into()), ("A".into(), "2".into())];
    case.config.tty = true;
    case.user.home = Some("/home/u".into());
    let expected = [
        "PATH=/bin",
        "TERM=xterm",
        "HOME=/home/u",
        "A=2",
        "HOSTNAME=web-1",
        "B=x=y",
    ];
    assert_eq!(case.env(), expected);
    assert_eq!(
        Case::new().env()[..2],
        [&format!("PATH={}", DEFAULT_PATH_TEXT), "HOME=/"]
    );
    for name in ["", "A=B", "A\0"] {
        case.config.env = vec![(name.into(), String::new())];
        assert_eq!(case.invalid().0, "envs", "{name:?}");
    }
}

const DEFAULT_PATH_TEXT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[test]
fn the_working_directory_is_absolute_in_the_end() {
    let check = |request: &str, image: &str, expected: &str| {
        let mut case = Case::new();
        case.config.working_dir = request.into();
        case.image.working_dir = image.into();
        let spec = case.spec();
        assert_eq!(spec.process().as_ref().unwrap().cwd(), Path::new(expected));
    };
    check("", "", "/");
    check("", "srv/app", "/srv/app");
    check("/tmp", "/srv", "/tmp");
    let mut case = Case::new();
    case.config.working_dir = "tmp".into();
    assert_eq!(case.invalid().0, "working_dir");
}

#[test]
fn the_oom_score_is_clamped_where_it_cannot_go_lower() {
    let check = |wanted, own, may_lower, expected| {
        let mut case = Case::new();
        case.config.resources.oom_score_adj = wanted;
        case.host.oom_score_adj = own;
        case.host.may_lower_oom = may_lower;
        let spec = case.spec();
        assert_eq!(
            spec.process().as_ref().unwrap().oom_score_adj(),
            Some(expected)
        );
    };
    check(-998, 0, false, 0);
    check(-998, -500, false, -500);
    check(-998, 0, true, -998);
    check(1000, 0, false, 1000);
    let mut case = Case::new();
    case.config.resources.oom_score_adj = 1001;
    assert_eq!(case.invalid().0, "linux.resources.oom_score_adj");
}

fn bound(destination: &str, source: &str) -> Mount {
    Mount {
        container_path: destination.into(),
        host_path: source.into(),
        readonly: false,
        recursive_readonly: false,
        selinux_relabel: false,
        propagation: Propagation::Private,
    }
}

#[test]
fn annotations_name_the_pod_and_steer_nothing() {
    let mut case = Case::new();
    for key in [
        "org.criu.config",
        "run.oci.handler",
        "org.systemd.property.X",
        "cdi.k8s.io/x",
        "io.kubernetes.cri.sandbox-id",
        "io.container.manager",
        "example.org/kept",
        "",
    ] {
        case.config
            .annotations
            .insert(key.into(), "from the request".into());
    }
    let spec = case.spec();
    let found: std::collections::BTreeMap<_, _> = spec.annotations().iter().flatten().collect();
    let expected = [
        ("example.org/kept", "from the request"),
        ("io.container.manager", "thawd"),
        ("io.kubernetes.cri.container-name", "server"),
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.image-name", "registry.example/server:1"),
        ("io.kubernetes.cri.sandbox-id", "5a5a"),
        ("io.kubernetes.cri.sandbox-name", "web"),
        ("io.kubernetes.cri.sandbox-namespace", "shop"),
        ("io.kubernetes.cri.sandbox-uid", "0a1b"),
    ];
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_profile_is_passed_on_and_a_label_needs_a_host_that_has_them() {
    let mut case = Case::new();
    case.apparmor_profile = Some("mine".into());
    case.config.security.selinux = Some(SelinuxOptions {
        level: "s0:c1,c2".into(),
        ..SelinuxOptions::default()
    });
    let spec = case.spec();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.apparmor_profile().as_deref(), Some("mine"));
    assert_eq!(process.selinux_label(), &None);
    case.host.selinux = true;
    let spec = case.spec();
    let label = spec
        .process()
        .as_ref()
        .unwrap()
        .selinux_label()
        .clone()
        .unwrap();
    assert_eq!(label, "system_u:system_r:container_t:s0:c1,c2");
    let label = spec
        .linux()
        .as_ref()
        .unwrap()
        .mount_label()
        .clone()
        .unwrap();
    assert_eq!(label, "system_u:object_r:container_file_t:s0:c1,c2");
}

#[test]
fn an_images_configuration_is_read_with_nulls_and_without() {
    let image = ImageDefaults::from_json(
        br#"{"architecture":"amd64","config":{"Entrypoint":null,"Cmd":["sh"],"Env":["A=1"],
            "WorkingDir":"/w","User":"1002","StopSignal":"SIGQUIT",
            "Volumes":{"/data":{},"/a/../b":{},"rel":null}}}"#,
    );
    let expected = ImageDefaults {
        cmd: words("sh"),
        env: words("A=1"),
        working_dir: "/w".into(),
        user: "1002".into(),
        stop_signal: "SIGQUIT".into(),
        volumes: vec!["/data".into()],
        ..ImageDefaults::default()
    };
    assert_eq!(image.unwrap(), expected);
    assert_eq!(
        ImageDefaults::from_json(b"{}").unwrap(),
        ImageDefaults::default()
    );
    assert!(ImageDefaults::from_json(b"{\"config\": 7}").is_err());
}

#[test]
fn the_same_request_gives_the_same_spec() {
    let mut case = Case::new();
    case.config.security.capabilities = CapabilityChange {
        add: words("ALL"),
        ..CapabilityChange::default()
    };
    assert_eq!(case.spec(), case.spec());
}
