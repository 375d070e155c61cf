//! Which mounts, in which order, with which options.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::host::prepare_mounts;
use super::*;

#[test]
fn parents_are_mounted_before_children_and_the_last_of_a_place_wins() {
    let mut case = Case::new();
    case.config.mounts = vec![
        bound("/data/deep/er", "/1"),
        bound("/data/", "/2"),
        bound("/etc//hosts", "/3"),
        bound("/data", "/4"),
        Mount {
            readonly: true,
            ..bound("/./srv", "/5")
        },
    ];
    case.config.security.readonly_rootfs = true;
    let expected = [
        "/proc nosuid,noexec,nodev",
        "/dev nosuid,strictatime,mode=755,size=65536k",
        "/dev/pts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        "/dev/mqueue nosuid,noexec,nodev",
        "/sys nosuid,noexec,nodev,ro",
        "/sys/fs/cgroup nosuid,noexec,nodev,relatime,ro",
        "/data rbind,rprivate,rw",
        "/srv rbind,rprivate,ro",
        "/dev/shm rbind,rprivate,nosuid,noexec,nodev,rw",
        "/etc/hostname rbind,rprivate,ro",
        "/etc/resolv.conf rbind,rprivate,ro",
        "/etc/hosts rbind,rprivate,rw",
        "/data/deep/er rbind,rprivate,rw",
    ];
    assert_eq!(case.mounts(), expected);
    case.files.shm = Shm::Own {
        limit_bytes: 1 << 20,
    };
    let own = "/dev/shm nosuid,noexec,nodev,mode=1777,size=1048576";
    assert_eq!(case.mounts()[8], own);
    case.files.files[2].destination = "/run/resolv.conf".into();
    assert_eq!(case.mounts()[10], "/run/resolv.conf rbind,rprivate,ro");
    let spec = case.spec();
    let source = spec.mounts().as_ref().unwrap()[6].source().clone().unwrap();
    assert_eq!(source, Path::new("/4"));
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
}

#[test]
fn a_request_for_dev_replaces_everything_below_it() {
    let mut case = Case::new();
    case.config.mounts = vec![bound("/dev", "/dev")];
    let lines = case.mounts();
    let below: Vec<&String> = lines
        .iter()
        .filter(|line| line.starts_with("/dev"))
        .collect();
    assert_eq!(below, ["/dev rbind,rprivate,rw"]);
}

#[test]
fn destinations_outside_the_root_are_refused() {
    for path in ["/", "//", "/./", "relative", "", "/a/../b", "/..", "/a\0b"] {
        let mut case = Case::new();
        case.config.mounts = vec![bound(path, "/src")];
        assert_eq!(case.invalid().0, "mounts.container_path", "{path:?}");
    }
}

#[test]
fn propagation_reaches_the_root_mount_and_recursive_readonly_needs_its_company() {
    let with = |propagation| Mount {
        propagation,
        ..bound("/data", "/1")
    };
    let root = |mounts: Vec<Mount>| {
        let mut case = Case::new();
        case.config.mounts = mounts;
        let spec = case.spec();
        spec.linux()
            .as_ref()
            .unwrap()
            .rootfs_propagation()
            .clone()
            .unwrap()
    };
    let slave = with(Propagation::HostToContainer);
    let shared = Mount {
        container_path: "/b".into(),
        ..with(Propagation::Bidirectional)
    };
    assert_eq!(root(vec![with(Propagation::Private)]), "rprivate");
    assert_eq!(root(vec![slave.clone()]), "rslave");
    assert_eq!(root(vec![shared.clone(), slave.clone()]), "rshared");
    assert_eq!(root(vec![slave.clone(), shared]), "rshared");

    let recursive = Mount {
        readonly: true,
        recursive_readonly: true,
        ..bound("/data", "/1")
    };
    let mut case = Case::new();
    case.config.mounts = vec![recursive.clone()];
    assert!(
        case.mounts()
            .contains(&"/data rbind,rprivate,rro".to_owned())
    );
    for bad in [
        Mount {
            readonly: false,
            ..recursive.clone()
        },
        Mount {
            propagation: Propagation::HostToContainer,
            ..recursive.clone()
        },
        Mount {
            propagation: Propagation::Bidirectional,
            ..recursive
        },
    ] {
        case.config.mounts = vec![bad];
        assert_eq!(case.invalid().0, "mounts.recursive_read_only");
    }
}

#[test]
fn propagation_needs_a_source_that_shares() {
    let dir = tempfile::tempdir().unwrap();
    let (source, link) = (dir.path().join("source"), dir.path().join("link"));
    fs::create_dir(&source).unwrap();
    symlink(&source, &link).unwrap();
    let check = |propagation| {
        sys::mount::in_private_namespace(|| {
            let mount = Mount {
                propagation,
                ..bound("/x", link.to_str().unwrap())
            };
            Ok(prepare_mounts(&[mount]))
        })
        .unwrap()
    };
    let prepared = check(Propagation::Private).unwrap();
    assert_eq!(prepared[0].host_path, source.canonicalize().unwrap());
    for propagation in [Propagation::HostToContainer, Propagation::Bidirectional] {
        match check(propagation) {
            Err(Error::Invalid { field, problem }) => {
                assert_eq!(field, "mounts.propagation");
                assert!(problem.contains(source.to_str().unwrap()), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    }
}
