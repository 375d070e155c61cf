//! Profiles, resolved for capabilities and machines.

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};

use super::super::caps::CapabilitySets;
use super::super::seccomp::{parse, runtime_default};
use super::Case;
use crate::error::Error;
use crate::model::SecurityProfile;

fn caps(names: &[(&str, u32)]) -> CapabilitySets {
    let bounding = names.iter().fold(0, |mask, (_, number)| mask | 1 << number);
    CapabilitySets {
        bounding,
        ..CapabilitySets::default()
    }
}

const SYS_ADMIN: (&str, u32) = ("CAP_SYS_ADMIN", 21);
const SYS_PTRACE: (&str, u32) = ("CAP_SYS_PTRACE", 19);

/// Rules for a call: action and whether it has conditions on arguments.
fn rules(profile: &LinuxSeccomp, name: &str) -> Vec<(LinuxSeccompAction, bool)> {
    let rules = profile.syscalls().as_ref().unwrap();
    rules
        .iter()
        .filter(|rule| rule.names().iter().any(|n| n == name))
        .map(|rule| (rule.action(), rule.args().is_some()))
        .collect()
}

const ALLOW: (LinuxSeccompAction, bool) = (LinuxSeccompAction::ScmpActAllow, false);
const ERRNO: (LinuxSeccompAction, bool) = (LinuxSeccompAction::ScmpActErrno, false);

#[test]
fn the_default_profile_refuses_what_cannot_be_frozen() {
    let profile = runtime_default(&caps(&[]), &Case::new().host).unwrap();
    assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActErrno);
    assert_eq!(profile.default_errno_ret(), Some(1));
    for name in [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "memfd_secret",
        "clone3",
    ] {
        assert_eq!(rules(&profile, name), [ERRNO], "{name}");
    }
    for name in [
        "mount",
        "setns",
        "unshare",
        "bpf",
        "kexec_load",
        "init_module",
        "keyctl",
        "kcmp",
    ] {
        assert_eq!(rules(&profile, name), [], "{name}");
    }
    for name in [
        "read",
        "futex_waitv",
        "ptrace",
        "arch_prctl",
        "epoll_pwait2",
        "mseal",
    ] {
        assert_eq!(rules(&profile, name), [ALLOW], "{name}");
    }
    let conditional = (LinuxSeccompAction::ScmpActAllow, true);
    assert_eq!(rules(&profile, "clone"), [conditional]);
    assert_eq!(rules(&profile, "socket"), [conditional]);
    assert_eq!(rules(&profile, "personality").len(), 5);
    let arches = profile.architectures().clone().unwrap();
    assert_eq!(
        arches,
        [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    );
}

#[test]
fn capabilities_and_machines_open_the_default_profile() {
    let mut host = Case::new().host;
    let profile = runtime_default(&caps(&[SYS_ADMIN, SYS_PTRACE]), &host).unwrap();
    for name in ["mount", "setns", "unshare", "clone", "clone3", "kcmp"] {
        assert_eq!(rules(&profile, name), [ALLOW], "{name}");
    }
    host.machine = "aarch64".into();
    host.kernel = (4, 7);
    let profile = runtime_default(&caps(&[]), &host).unwrap();
    assert_eq!(rules(&profile, "arch_prctl"), []);
    assert_eq!(rules(&profile, "cacheflush"), [ALLOW]);
    assert_eq!(rules(&profile, "ptrace"), []);
    let arches = profile.architectures().clone().unwrap();
    assert_eq!(arches, [Arch::ScmpArchAarch64, Arch::ScmpArchArm]);
}

#[test]
fn a_nodes_own_profile_is_taken_as_it_is() {
    let mut case = Case::new();
    case.config.security.seccomp = Some(SecurityProfile::Localhost("/p/block.json".into()));
    assert_eq!(
        case.invalid(),
        (
            "seccomp".into(),
            "profile \"/p/block.json\" is not on this node".into()
        )
    );
    let profile = br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
        "flags":["SECCOMP_FILTER_FLAG_LOG"],"unknown":1,
        "syscalls":[{"names":["sethostname"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
                    {"name":"chmod","action":"SCMP_ACT_LOG","args":null,
                     "excludes":{"arches":["arm64"]}},
                    {"names":["chroot"],"action":"SCMP_ACT_ERRNO",
                     "includes":{"caps":["CAP_SYS_BOOT"]}},
                    {"names":["mknod"],"action":"SCMP_ACT_ERRNO","includes":{"minKernel":"99.0"}}]}"#;
    case.seccomp_profile = Some(profile.to_vec());
    let spec = case.spec();
    let found = spec.linux().as_ref().unwrap().seccomp().clone().unwrap();
    assert_eq!(found.default_action(), LinuxSeccompAction::ScmpActAllow);
    assert_eq!(found.flags().as_ref().unwrap().len(), 1);
    let names: Vec<_> = found
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|rule| rule.names().clone())
        .collect();
    assert_eq!(names, ["sethostname", "chmod"]);
    assert_eq!(found.syscalls().as_ref().unwrap()[0].errno_ret(), Some(38));
}

#[test]
fn what_is_no_profile_is_refused_with_its_name() {
    let bad: [&[u8]; 6] = [
        b"",
        b"{}",
        b"{\"defaultAction\":\"SCMP_ACT_SHRUG\"}",
        b"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"action\":\"SCMP_ACT_ALLOW\"}]}",
        b"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"\"],\
          \"action\":\"SCMP_ACT_ALLOW\"}]}",
        b"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"read\"],\
          \"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":6,\"op\":\"SCMP_CMP_EQ\"}]}]}",
    ];
    for bytes in bad {
        match parse("p.json", bytes, &caps(&[]), &Case::new().host) {
            Err(Error::Invalid { field, problem }) => {
                assert_eq!(field, "seccomp");
                assert!(problem.starts_with("p.json: "), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    }
}
