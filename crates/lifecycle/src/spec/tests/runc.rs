//! Specs accepted and obeyed by the real runc, as root. The root filesystem is the host's busybox.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use sys::process::{Command, Deadline, OutputLimits};

use super::super::host::{all_devices, prepare_mounts, requested_devices};
use super::*;
use crate::model::Device;

const APPLETS: [&str; 13] = [
    "sh", "cat", "touch", "grep", "hostname", "mount", "ls", "wc", "id", "echo", "readlink",
    "test", "chmod",
];

/// busybox with the libraries that it is linked with.
fn make_rootfs(root: &Path) {
    for directory in [
        "bin", "dev", "etc", "proc", "sys", "tmp", "data", "ro", "slave", "shared",
    ] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let copy = |file: &str| {
        let target = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap_or_else(|error| panic!("busybox needs {file}: {error}"));
    };
    copy("/usr/bin/busybox");
    let arch = std::env::consts::ARCH;
    for library in ["libresolv.so.2", "libc.so.6"] {
        copy(&format!("/lib/{arch}-linux-gnu/{library}"));
    }
    copy(match arch {
        "aarch64" => "/lib/ld-linux-aarch64.so.1",
        _ => "/lib64/ld-linux-x86-64.so.2",
    });
    for applet in APPLETS {
        symlink("/usr/bin/busybox", root.join("bin").join(applet)).unwrap();
    }
}

/// A case with real directories and the real host's facts, whose program is a shell script.
struct Bundle {
    dir: tempfile::TempDir,
    case: Case,
}

impl Bundle {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        make_rootfs(&path.join("rootfs"));
        let mut case = Case::new();
        for (file, text) in [
            ("hostname", "web-1\n"),
            ("hosts", "#\n"),
            ("resolv.conf", "#\n"),
        ] {
            sys::fs::replace_path(&path.join(file), 0o644, text.as_bytes()).unwrap();
        }
        fs::create_dir(path.join("shm")).unwrap();
        case.rootfs = path.join("rootfs");
        case.files = PodFiles {
            files: pod_files(path),
            shm: Shm::Pod(path.join("shm")),
        };
        let name = path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_start_matches('.')
            .to_owned();
        case.cgroups_path = format!("/thawd-spec-test-{name}");
        let hierarchies = sys::cgroup::Hierarchies::detect().unwrap();
        case.host = HostFacts::probe(&hierarchies).unwrap();
        let new = Namespace::New;
        case.namespaces = Namespaces {
            net: new.clone(),
            ipc: new.clone(),
            uts: new.clone(),
            pid: new,
        };
        Self { dir, case }
    }

    fn try_run(&mut self, script: &str) -> Result<String, String> {
        self.case.config.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
        self.case.config.mounts = prepare_mounts(&self.case.config.mounts).unwrap();
        let path = self.dir.path();
        let json = serde_json::to_vec_pretty(&self.case.spec()).unwrap();
        sys::fs::replace_path(&path.join("config.json"), 0o600, &json).unwrap();
        let id = path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_start_matches('.');
        let runc = |words: &[&str]| {
            let limits = OutputLimits {
                max_stdout_bytes: 1 << 20,
                max_stderr_bytes: 1 << 16,
            };
            Command::new("runc")
                .args(["--root", path.join("state").to_str().unwrap()])
                .args(words.iter().copied())
                .output(&[], limits, Deadline::after(Duration::from_secs(60)))
                .unwrap()
        };
        let output = runc(&["run", "--bundle", path.to_str().unwrap(), id]);
        runc(&["delete", "--force", id]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("{}: {}", output.status, text(&output.stderr_tail)))
        }
    }

    fn run(&mut self, script: &str) -> String {
        self.try_run(script).unwrap()
    }
}

/// `Key: value` lines of /proc/self/status.
fn status(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(k, v)| (k, v.trim()))
        .collect()
}

fn hex(status: &BTreeMap<&str, &str>, key: &str) -> u64 {
    u64::from_str_radix(status[key], 16).unwrap()
}

#[test]
fn an_ordinary_container_is_confined_as_requested() {
    let mut bundle = Bundle::new();
    bundle.case.config.security.readonly_rootfs = true;
    bundle.case.config.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    bundle.case.config.resources.oom_score_adj = -998;
    bundle.case.config.resources.memory_limit_bytes = 64 << 20;
    bundle
        .case
        .sandbox
        .sysctls
        .insert("net.ipv4.ip_forward".into(), "1".into());
    let text = bundle.run(
        "cat /proc/self/status; echo forward: $(cat /proc/sys/net/ipv4/ip_forward); \
         echo oom: $(cat /proc/self/oom_score_adj); echo name: $(hostname) $HOSTNAME; \
         echo interrupts: $(wc -c </proc/interrupts); touch /x 2>&1; \
         echo 1 2>&1 >/proc/sys/kernel/panic; touch /dev/shm/ok && echo shm: $(ls /dev/shm); \
         echo cgroup: $(cat /proc/self/cgroup | grep memory)",
    );
    let found = status(&text);
    let caps = CapabilitySets::of(&SecurityContext::default(), bundle.case.host.bounding_set);
    let caps = caps.unwrap();
    assert_eq!(hex(&found, "CapBnd"), caps.bounding);
    assert_eq!(hex(&found, "CapEff"), caps.effective);
    assert_eq!(hex(&found, "CapPrm"), caps.permitted);
    assert_eq!((hex(&found, "CapInh"), hex(&found, "CapAmb")), (0, 0));
    assert_eq!(
        (found["Seccomp"], found["NoNewPrivs"], found["forward"]),
        ("2", "0", "1")
    );
    assert_eq!(found["name"], "web-1 web-1");
    assert_eq!(found["interrupts"], "0");
    assert_eq!(found["shm"], "ok");
    if !bundle.case.host.may_lower_oom {
        assert_eq!(found["oom"], bundle.case.host.oom_score_adj.to_string());
    }
    assert!(text.contains("touch: /x: Read-only file system"), "{text}");
    assert!(
        text.contains("/proc/sys/kernel/panic: Read-only file system"),
        "{text}"
    );
    assert!(text.contains(&bundle.case.cgroups_path), "{text}");
    assert!(bundle.dir.path().join("shm/ok").exists());
}

#[test]
fn users_groups_and_ambient_capabilities_reach_the_process() {
    let mut bundle = Bundle::new();
    let passwd = b"app:x:1000:1000::/home/app:/bin/sh\n";
    let group = b"extra:x:50000:app\n";
    let request = crate::model::RequestedUser {
        name: Some("app".into()),
        supplemental_groups: vec![1234],
        ..Default::default()
    };
    bundle.case.user = crate::users::resolve(&request, "", passwd, group).unwrap();
    bundle.case.config.security.no_new_privs = true;
    bundle.case.config.security.capabilities = CapabilityChange {
        drop: words("ALL"),
        add_ambient: words("NET_BIND_SERVICE"),
        ..CapabilityChange::default()
    };
    let text = bundle.run("cat /proc/self/status; echo home: $HOME; echo limit: $(ulimit -Hn)");
    let found = status(&text);
    assert_eq!(found["Uid"], "1000\t1000\t1000\t1000");
    assert_eq!(found["Gid"], "1000\t1000\t1000\t1000");
    assert_eq!(found["Groups"], "1000 1234 50000");
    assert_eq!((found["NoNewPrivs"], found["Seccomp"]), ("1", "0"));
    assert_eq!(
        (hex(&found, "CapEff"), hex(&found, "CapBnd")),
        (1 << 10, 1 << 10)
    );
    assert_eq!(hex(&found, "CapAmb"), 1 << 10);
    assert_eq!(found["home"], "/home/app");
    assert_eq!(found["limit"], bundle.case.host.open_files.hard.to_string());
}

#[test]
fn a_privileged_container_has_the_daemons_capabilities_and_devices() {
    let mut bundle = Bundle::new();
    bundle.case.sandbox.privileged = true;
    bundle.case.config.security.privileged = true;
    bundle.case.devices = all_devices();
    let text = bundle.run(
        "cat /proc/self/status; touch /sys/fs/cgroup/memory 2>&1; test -e /dev/kmsg && \
         echo kmsg: yes; grep ' /sys ' /proc/self/mountinfo",
    );
    let found = status(&text);
    assert_eq!(hex(&found, "CapEff"), bundle.case.host.bounding_set);
    assert_eq!((found["Seccomp"], found["kmsg"]), ("0", "yes"));
    assert!(text.contains(" /sys rw,"), "{text}");
}

#[test]
fn a_nodes_profile_and_requested_devices_are_in_force() {
    let mut bundle = Bundle::new();
    let device = |container_path: &str, host_path: &str, permissions: &str| Device {
        container_path: container_path.into(),
        host_path: host_path.into(),
        permissions: permissions.into(),
    };
    let wanted = [
        device("/dev/mine/msg", "/dev/kmsg", "w"),
        device("/dev/all", "/dev/pts", ""),
    ];
    bundle.case.devices = requested_devices(&wanted[..1]).unwrap();
    let refused = r#"{"defaultAction":"SCMP_ACT_ALLOW",
        "syscalls":[{"names":["chmod","fchmodat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    bundle.case.config.security.seccomp = Some(SecurityProfile::Localhost("no-chmod".into()));
    bundle.case.seccomp_profile = Some(refused.into());
    let text = bundle.run(
        "grep Seccomp: /proc/self/status; chmod 400 /tmp 2>&1; \
         cat /dev/mine/msg 2>&1; test -c /dev/mine/msg && echo there",
    );
    let expected = "Seccomp:\t2\nchmod: /tmp: Operation not permitted\n\
        cat: can't open '/dev/mine/msg': Operation not permitted\nthere\n";
    assert_eq!(text, expected);

    let check = |device: Device, wanted: &str| match requested_devices(&[device]) {
        Err(Error::Invalid { field, .. }) => assert_eq!(field, wanted),
        other => panic!("{other:?}"),
    };
    check(device("/dev/x", "/dev/null", "rwx"), "devices.permissions");
    check(device("/dev/x", "/dev/none", "r"), "devices.host_path");
    check(device("/dev/x", "/etc/passwd", "r"), "devices.host_path");
    check(device("/dev/x", "/etc", "r"), "devices.host_path");
    let all = requested_devices(&wanted[1..]).unwrap();
    let multiplexer = all
        .iter()
        .find(|device| device.path == Path::new("/dev/all/ptmx"));
    let multiplexer = multiplexer.unwrap();
    assert_eq!((multiplexer.major, multiplexer.minor), (5, 2));
    assert_eq!(
        (multiplexer.access.as_str(), multiplexer.block),
        ("rwm", false)
    );
}

#[test]
fn the_pods_namespaces_are_joined_by_path() {
    let mut bundle = Bundle::new();
    let pins = tempfile::tempdir().unwrap();
    use sys::ns::Kind;
    let kinds = [Kind::Net, Kind::Uts, Kind::Ipc];
    sys::ns::create(&kinds, pins.path(), || {
        sys::ns::set_hostname("pod-name")?;
        sys::ns::loopback_up()
    })
    .unwrap();
    let pin = |kind: Kind| Namespace::Path(pins.path().join(kind.file_name()));
    let namespaces = &mut bundle.case.namespaces;
    namespaces.net = pin(Kind::Net);
    namespaces.uts = pin(Kind::Uts);
    namespaces.ipc = pin(Kind::Ipc);
    let text = bundle.try_run("hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc");
    let inode = |kind: Kind| sys::ns::inode(&pins.path().join(kind.file_name())).unwrap();
    let expected = format!(
        "pod-name\nnet:[{}]\nipc:[{}]\n",
        inode(Kind::Net),
        inode(Kind::Ipc)
    );
    for kind in kinds {
        sys::ns::unpin(&pins.path().join(kind.file_name())).unwrap();
    }
    assert_eq!(text.unwrap(), expected);
}

#[test]
fn mounts_propagate_and_are_read_only_as_requested() {
    let mut bundle = Bundle::new();
    let at = |name: &str| bundle.dir.path().join(name);
    let (plain, source, slave, shared) = (at("plain"), at("tree"), at("slave"), at("shared"));
    fs::create_dir(&plain).unwrap();
    let with = |container_path: &str, host_path: &Path, propagation| Mount {
        propagation,
        ..bound(container_path, host_path.to_str().unwrap())
    };
    bundle.case.config.mounts = vec![
        with("/data", &at("made/on/demand"), Propagation::Private),
        Mount {
            readonly: true,
            ..with("/ro", &source, Propagation::Private)
        },
        with("/slave", &slave, Propagation::HostToContainer),
        with("/shared", &shared, Propagation::Bidirectional),
    ];
    let text = sys::mount::in_private_namespace(|| {
        for (target, change) in [(&source, None), (&slave, Some(true)), (&shared, Some(true))] {
            fs::create_dir(target)?;
            sys::mount::attach(sys::mount::tmpfs(None, 0o755)?, target)?;
            if change.is_some() {
                let flags = rustix::mount::MountPropagationFlags::SHARED;
                rustix::mount::mount_change(target.as_path(), flags)?;
            }
        }
        fs::create_dir(source.join("below"))?;
        sys::mount::attach(sys::mount::tmpfs(None, 0o755)?, &source.join("below"))?;
        let plain_ro = bundle.run(
            "touch /data/x /ro/below/x && echo written; touch /ro/x 2>&1; \
             cat /proc/self/mountinfo",
        );
        for mount in &mut bundle.case.config.mounts {
            mount.recursive_readonly = mount.readonly;
        }
        let recursive = bundle.run("touch /ro/below/y 2>&1; echo -");
        Ok::<_, io::Error>((plain_ro, recursive))
    });
    let (plain_ro, recursive) = text.unwrap();
    assert!(
        plain_ro.starts_with("written\ntouch: /ro/x: Read-only file system\n"),
        "{plain_ro}"
    );
    assert_eq!(recursive, "touch: /ro/below/y: Read-only file system\n-\n");
    let table = plain_ro.splitn(3, '\n').nth(2).unwrap();
    let table = sys::mount::parse_mountinfo(table).unwrap();
    let tags = |place: &str| {
        let mount = table
            .iter()
            .rfind(|m| m.mount_point == Path::new(place))
            .unwrap();
        mount
            .optional_fields
            .iter()
            .map(|tag| tag.split(':').next().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(tags("/data"), Vec::<&str>::new());
    assert_eq!(tags("/slave"), ["master"]);
    assert_eq!(tags("/shared"), ["shared"]);
}
