//! Namespaces, limits, devices, hidden paths.

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType;

use super::*;

#[test]
fn privileged_containers_are_open_and_need_a_privileged_sandbox() {
    let mut case = Case::new();
    case.config.security = SecurityContext {
        privileged: true,
        seccomp: Some(SecurityProfile::RuntimeDefault),
        masked_paths: words("/proc/keys"),
        ..SecurityContext::default()
    };
    assert_eq!(case.invalid().0, "linux.security_context.privileged");
    case.sandbox.privileged = true;
    case.host.unified_cgroups = true;
    let spec = case.spec();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.seccomp(), &None);
    assert_eq!(linux.masked_paths().as_ref().unwrap().len(), 0);
    assert_eq!(linux.readonly_paths().as_ref().unwrap().len(), 0);
    let rules = linux
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    assert_eq!(
        rules.iter().map(|rule| rule.allow()).collect::<Vec<_>>(),
        [true]
    );
    let kinds: Vec<_> = linux
        .namespaces()
        .iter()
        .flatten()
        .map(|ns| ns.typ())
        .collect();
    assert!(!kinds.contains(&LinuxNamespaceType::Cgroup));
    assert!(
        case.mounts()
            .contains(&"/sys nosuid,noexec,nodev,rw".to_owned())
    );
    // A cgroup2 mounted from the host's namespace would change the host's own mount.
    let mounts = spec.mounts().clone().unwrap();
    let cgroups = mounts
        .iter()
        .find(|mount| mount.destination() == Path::new("/sys/fs/cgroup"));
    let cgroups = cgroups.unwrap();
    assert_eq!(cgroups.typ().as_deref(), Some("bind"));
    let source = cgroups.source().as_deref();
    assert_eq!(source, Some(Path::new("/sys/fs/cgroup")));
    assert!(
        case.mounts()
            .contains(&"/sys/fs/cgroup rbind,rprivate,nosuid,noexec,nodev,relatime,rw".to_owned())
    );
    case.host.unified_cgroups = false;
    assert!(
        case.mounts()
            .contains(&"/sys/fs/cgroup nosuid,noexec,nodev,relatime,rw".to_owned())
    );
    let caps = spec
        .process()
        .as_ref()
        .unwrap()
        .capabilities()
        .clone()
        .unwrap();
    assert_eq!(caps.bounding().as_ref().unwrap().len(), 40);
}

#[test]
fn hidden_paths_are_the_requests_or_the_default_ones() {
    let paths = |case: &Case| {
        let spec = case.spec();
        let linux = spec.linux().as_ref().unwrap();
        (
            linux.masked_paths().clone().unwrap(),
            linux.readonly_paths().clone().unwrap(),
        )
    };
    let mut case = Case::new();
    let (masked, readonly) = paths(&case);
    assert_eq!((masked.len(), readonly.len()), (12, 5));
    assert!(masked.contains(&"/proc/kcore".to_owned()));
    case.config.security.masked_paths = words("/bin/ls /a//b/");
    let (masked, readonly) = paths(&case);
    assert_eq!((masked, readonly.len()), (words("/bin/ls /a/b"), 5));
    case.config.security.readonly_paths = words("../proc");
    assert_eq!(case.invalid().0, "readonly_paths");
}

#[test]
fn namespaces_are_the_pods_the_hosts_or_new() {
    let mut case = Case::new();
    case.namespaces.net = Namespace::Host;
    case.host.unified_cgroups = true;
    let spec = case.spec();
    let found: Vec<_> = spec
        .linux()
        .as_ref()
        .unwrap()
        .namespaces()
        .iter()
        .flatten()
        .map(|ns| (ns.typ(), ns.path().clone()))
        .collect();
    let pinned = |name: &str| Some(PathBuf::from(format!("/run/pod/ns/{name}")));
    let expected = [
        (LinuxNamespaceType::Mount, None),
        (LinuxNamespaceType::Ipc, pinned("ipc")),
        (LinuxNamespaceType::Uts, pinned("uts")),
        (LinuxNamespaceType::Pid, None),
        (LinuxNamespaceType::Cgroup, None),
    ];
    assert_eq!(found, expected);
    assert_eq!(spec.hostname(), &None);
    case.namespaces.uts = Namespace::New;
    assert_eq!(case.spec().hostname().as_deref(), Some("web-1"));
}

#[test]
fn only_sysctls_of_namespaces_of_its_own_are_in_a_containers_spec() {
    let mut case = Case::new();
    for (name, value) in [("net.ipv4.ip_forward", "1"), ("kernel.shmmax", "4096")] {
        case.sandbox.sysctls.insert(name.into(), value.into());
    }
    let sysctls = |case: &Case| case.spec().linux().as_ref().unwrap().sysctl().clone();
    assert_eq!(sysctls(&case), None);
    case.namespaces.net = Namespace::New;
    let found = sysctls(&case).unwrap();
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        [("net.ipv4.ip_forward".into(), "1".into())]
    );
}

#[test]
fn limits_follow_what_the_host_can_limit() {
    let mut case = Case::new();
    case.config.resources = Resources {
        cpu_period_us: 100_000,
        cpu_quota_us: -5,
        cpu_shares: 512,
        memory_limit_bytes: 1 << 28,
        cpuset_cpus: "0-1".into(),
        hugepage_limits: [("2MB".to_owned(), 0)].into(),
        ..Resources::default()
    };
    let resources = |case: &Case| {
        case.spec()
            .linux()
            .as_ref()
            .unwrap()
            .resources()
            .clone()
            .unwrap()
    };
    let found = resources(&case);
    let cpu = found.cpu().as_ref().unwrap();
    assert_eq!(
        (cpu.shares(), cpu.quota(), cpu.period()),
        (Some(512), Some(-1), Some(100_000))
    );
    assert_eq!(
        (cpu.cpus().as_deref(), cpu.mems().as_deref()),
        (Some("0-1"), None)
    );
    let memory = found.memory().unwrap();
    assert_eq!(
        (memory.limit(), memory.swap()),
        (Some(1 << 28), Some(1 << 28))
    );
    assert_eq!((found.hugepage_limits(), found.unified()), (&None, &None));

    case.host.swap_limits = false;
    case.host.controllers.insert("hugetlb".into());
    let found = resources(&case);
    assert_eq!(found.memory().unwrap().swap(), None);
    assert_eq!(
        found.hugepage_limits().as_ref().unwrap()[0].page_size(),
        "2MB"
    );

    case.config
        .resources
        .unified
        .insert("memory.high".into(), "1".into());
    assert_eq!(case.invalid().0, "linux.resources.unified");
    case.host.unified_cgroups = true;
    assert_eq!(
        resources(&case).unified().as_ref().unwrap()["memory.high"],
        "1"
    );
    case.config
        .resources
        .unified
        .insert("../x".into(), "1".into());
    assert_eq!(case.invalid().0, "linux.resources.unified");
}

#[test]
fn impossible_limits_are_refused_by_name() {
    let check = |change: fn(&mut Resources), field: &str| {
        let mut case = Case::new();
        change(&mut case.config.resources);
        assert_eq!(case.invalid().0, format!("linux.resources.{field}"));
    };
    check(|r| r.cpu_shares = -1, "cpu_shares");
    check(|r| r.cpu_period_us = -1, "cpu_period");
    check(|r| r.memory_limit_bytes = -2, "memory_limit_in_bytes");
    check(
        |r| (r.memory_limit_bytes, r.memory_swap_limit_bytes) = (10, 5),
        "memory_swap_limit_in_bytes",
    );
}

#[test]
fn limits_without_a_controller_to_keep_them_are_refused_by_name() {
    let check = |change: fn(&mut Resources), field: &str, controller: &str| {
        let mut case = Case::new();
        change(&mut case.config.resources);
        drop(case.spec());
        case.host.controllers.remove(controller);
        for unified in [false, true] {
            case.host.unified_cgroups = unified;
            let Err(Error::Precondition(said)) = case.build() else {
                panic!("{field} is not refused");
            };
            assert!(
                said.contains(&format!("linux.resources.{field} ")),
                "{said}"
            );
            assert!(said.contains(&format!("{controller:?}")), "{said}");
            assert_eq!(said.contains("with cgroup v2"), !unified, "{said}");
        }
    };
    check(
        |r| r.memory_limit_bytes = 10,
        "memory_limit_in_bytes",
        "memory",
    );
    check(
        |r| r.memory_swap_limit_bytes = 10,
        "memory_swap_limit_in_bytes",
        "memory",
    );
    check(|r| r.cpu_quota_us = 10, "cpu_quota", "cpu");
    check(|r| r.cpuset_cpus = "0".into(), "cpuset_cpus", "cpuset");
    check(|r| r.cpuset_mems = "0".into(), "cpuset_mems", "cpuset");
    let mut case = Case::new();
    case.host.controllers.clear();
    drop(case.spec());
}

fn fuse(path: &str, access: &str) -> HostDevice {
    HostDevice {
        path: path.into(),
        block: false,
        major: 10,
        minor: 229,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: access.into(),
    }
}

#[test]
fn devices_are_allowed_one_by_one() {
    let mut case = Case::new();
    case.devices = vec![fuse("/dev/fuse", "rw")];
    let spec = case.spec();
    let linux = spec.linux().as_ref().unwrap();
    let device = &linux.devices().as_ref().unwrap()[0];
    assert_eq!(
        (device.path().as_path(), device.minor()),
        (Path::new("/dev/fuse"), 229)
    );
    let rules = linux
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    let lines: Vec<String> = rules
        .iter()
        .map(|rule| format!("{} {rule}", rule.allow()))
        .collect();
    assert_eq!(lines, ["false a *:* rwm", "true c 10:229 rw"]);
}

#[test]
fn a_device_is_made_once_a_place_and_only_in_the_container() {
    let mut case = Case::new();
    case.devices = vec![
        fuse("/dev/fuse", "rw"),
        fuse("/dev/b", "r"),
        fuse("/dev//fuse", "r"),
    ];
    let spec = case.spec();
    let devices = spec.linux().as_ref().unwrap().devices().clone().unwrap();
    let paths: Vec<&Path> = devices
        .iter()
        .map(|device| device.path().as_path())
        .collect();
    assert_eq!(paths, [Path::new("/dev/b"), Path::new("/dev/fuse")]);
    case.devices = vec![fuse("/dev/../../x", "rw")];
    assert_eq!(case.invalid().0, "devices.container_path");
}

#[test]
fn systemd_is_told_of_the_number_of_tasks_and_crun_to_stay_in_the_scope() {
    let mut case = Case::new();
    case.host.unified_cgroups = true;
    let resources = |case: &Case| {
        let spec = case.spec();
        spec.linux().as_ref().unwrap().resources().clone().unwrap()
    };
    assert_eq!(resources(&case).pids(), &None);
    for (text, limit) in [("77", 77), ("max", -1)] {
        let unified = &mut case.config.resources.unified;
        unified.insert("pids.max".into(), text.into());
        let found = resources(&case);
        assert_eq!(found.pids().unwrap().limit(), limit);
        assert_eq!(found.unified().as_ref().unwrap()["pids.max"], text);
    }
    let subgroup = |case: &Case| {
        let annotations = case.spec().annotations().clone().unwrap();
        annotations.get("run.oci.systemd.subgroup").cloned()
    };
    assert_eq!(subgroup(&case), None);
    case.cgroup_driver = CgroupDriver::Systemd;
    let annotations = &mut case.config.annotations;
    annotations.insert("run.oci.systemd.subgroup".into(), "theirs".into());
    assert_eq!(subgroup(&case).as_deref(), Some(""));
}

#[test]
fn systemd_is_told_of_swap_in_the_words_of_cgroup_v2() {
    let mut case = Case::new();
    case.host.unified_cgroups = true;
    case.cgroup_driver = CgroupDriver::Systemd;
    let found = |case: &Case| {
        let spec = case.spec();
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        let swap = resources.memory().unwrap().swap();
        let unified = resources.unified().clone().unwrap_or_default();
        (swap, unified.get("memory.swap.max").cloned())
    };
    for (limit, both, file) in [
        (64, 64, "0"),
        (64, 0, "0"),
        (64, 100, "36"),
        (64, -1, "max"),
    ] {
        case.config.resources.memory_limit_bytes = limit;
        case.config.resources.memory_swap_limit_bytes = both;
        assert_eq!(
            found(&case),
            (None, Some(file.to_owned())),
            "{limit} {both}"
        );
    }
    let unified = &mut case.config.resources.unified;
    unified.insert("memory.swap.max".into(), "7".into());
    assert_eq!(found(&case), (None, Some("7".to_owned())));
    case.cgroup_driver = CgroupDriver::Cgroupfs;
    assert_eq!(found(&case), (Some(-1), Some("7".to_owned())));
}
