//! The mount table.

use super::{Malformed, Privilege, passes, refused, refused_by};
use crate::policy::{Filesystem, MountOrigin, Presence, Propagation};
use crate::proto::MntEntry;
use crate::{MemoryImages, testing};

const TABLE: &str = "mountpoints-13.img";

fn table(set: &mut MemoryImages, change: impl FnMut(&mut Vec<MntEntry>)) {
    testing::edit(set, TABLE, change);
}

/// Changes the mount at `point`.
fn at(set: &mut MemoryImages, point: &str, change: impl Fn(&mut MntEntry)) {
    table(set, |mounts| change(find(mounts, point)));
}

fn find<'m>(mounts: &'m mut [MntEntry], point: &str) -> &'m mut MntEntry {
    let found = mounts
        .iter_mut()
        .find(|mount| mount.mountpoint == point.as_bytes());
    found.unwrap_or_else(|| panic!("no mount at {point}"))
}

/// Adds a mount at `/extra`.
fn add(set: &mut MemoryImages, change: impl Fn(&mut MntEntry)) {
    table(set, |mounts| {
        let mut extra = find(mounts, "/tmp").clone();
        extra.mnt_id = 9999;
        extra.root_dev = 9999;
        extra.mountpoint = b"/extra".to_vec();
        change(&mut extra);
        mounts.push(extra);
    });
}

#[test]
fn a_mount_more_is_refused_whatever_it_is() {
    type Forge = fn(&mut MntEntry);
    let cases: [Forge; 5] = [
        |_| {},
        |m| {
            m.fstype = 17;
            m.options = b"lowerdir=/,upperdir=/etc,workdir=/tmp".to_vec();
        },
        |m| m.fstype = 11,
        |m| (m.fstype, m.fsname) = (16, Some(b"debugfs".to_vec())),
        |m| m.ext_key = Some(b"/etc/hosts".to_vec()),
    ];
    for forge in cases {
        refused(
            |images| add(images, forge),
            (Privilege, None, TABLE, "\"/extra\""),
        );
    }
}

#[test]
fn another_file_system_in_an_expected_place_is_refused() {
    type Forge = fn(&mut MntEntry);
    let cases: [(&str, Forge); 8] = [
        ("/tmp", |m| {
            (m.fstype, m.options) = (17, b"lowerdir=/".to_vec())
        }),
        ("/tmp", |m| {
            (m.fstype, m.fsname) = (16, Some(b"debugfs".to_vec()))
        }),
        ("/proc", |m| m.root = b"/1/root".to_vec()),
        ("/var/cfg", |m| m.ext_key = None),
        ("/var/cfg", |m| m.ext_key = Some(b"/etc/hosts".to_vec())),
        ("/sys/fs/cgroup/cpu", |m| {
            m.ext_key = Some(b"/sys/fs/cgroup/memory".to_vec())
        }),
        ("/proc/sys", |m| m.root = b"/".to_vec()),
        ("/proc/keys", |m| m.ext_key = Some(b"/etc/hosts".to_vec())),
    ];
    for (point, forge) in cases {
        let field = format!("{point:?}");
        refused(
            |images| at(images, point, forge),
            (Privilege, None, TABLE, &field),
        );
    }
    refused(
        |images| at(images, "/", |m| m.fstype = 1),
        (Privilege, None, TABLE, "\"/\""),
    );
    refused(
        |images| at(images, "/", |m| m.fstype = 99),
        (Privilege, None, TABLE, "\"/\""),
    );
}

#[test]
fn protections_of_the_request_cannot_be_dropped() {
    for (point, flag) in [
        ("/proc", 2),
        ("/proc", 4),
        ("/proc", 8),
        ("/proc/sys", 1),
        ("/var/cfg", 1),
        ("/sys/fs/cgroup/cpu", 1),
        ("/dev", 2),
    ] {
        let field = format!("{point:?}");
        refused(
            |images| at(images, point, |m| m.flags &= !flag),
            (Privilege, None, TABLE, &field),
        );
    }
    refused(
        |images| {
            at(images, "/sys", |m| {
                (m.flags, m.sb_flags) = (m.flags & !1, Some(0))
            })
        },
        (Privilege, None, TABLE, "\"/sys\""),
    );
    refused(
        |images| at(images, "/sys", |m| m.sb_flags = None),
        (Privilege, None, TABLE, "\"/sys\""),
    );
    passes(&testing::request("python"), |images| {
        at(images, "/tmp", |m| m.flags |= 9)
    });
    for gone in ["/proc/keys", "/proc/sys", "/proc/acpi", "/etc/hosts"] {
        let field = format!("{gone:?}");
        refused(
            |images| table(images, |m| m.retain(|m| m.mountpoint != gone.as_bytes())),
            (Privilege, None, TABLE, &field),
        );
    }
}

#[test]
fn what_need_not_be_there_may_be_missing() {
    let mut request = testing::request("python");
    for mount in &mut request.mounts {
        if mount.mountpoint.starts_with("/proc/keys") {
            mount.presence = Presence::Optional;
        }
    }
    passes(&request, |images| {
        table(images, |m| m.retain(|m| m.mountpoint != b"/proc/keys"))
    });
    passes(&request, |images| {
        table(images, |m| {
            m.retain(|m| m.mountpoint != b"/sys/fs/cgroup/cpu")
        });
    });
}

#[test]
fn options_are_the_requests() {
    refused(
        |images| at(images, "/tmp", |m| m.options = b"size=1g".to_vec()),
        (Privilege, None, TABLE, "\"/tmp\""),
    );
    refused(
        |images| at(images, "/tmp", |m| m.options = Vec::new()),
        (Privilege, None, TABLE, "\"/tmp\""),
    );
    let mut request = testing::request("python");
    for mount in &mut request.mounts {
        if let [
            MountOrigin::New {
                filesystem: Filesystem::Proc,
                options,
            },
        ] = mount.origins.as_mut_slice()
        {
            options.push("hidepid=2".into());
        }
    }
    refused_by(&request, |_| {}, (Privilege, None, TABLE, "\"/proc\""));
}

#[test]
fn the_shape_of_the_tree_is_held() {
    for (point, forge) in [
        // Mounted on the root below proc's mount point: proc would hide it.
        ("/proc/sys", 73),
        ("/etc/hosts", 9999),
    ] {
        let field = format!("{point:?}");
        refused(
            |images| {
                table(images, |mounts| {
                    let root = find(mounts, "/").mnt_id;
                    let mount = find(mounts, point);
                    mount.parent_mnt_id = if forge == 73 { root } else { forge };
                });
            },
            (Privilege, None, TABLE, &field),
        );
    }
    refused(
        |images| {
            at(images, "/etc/hosts", |m| {
                m.mountpoint = b"/etc/hostname".to_vec()
            })
        },
        (Privilege, None, TABLE, "\"/etc/hostname\""),
    );
    refused(
        |images| {
            at(images, "/etc/hosts", |m| {
                m.mountpoint = b"/etc/../x".to_vec()
            })
        },
        (Malformed, None, TABLE, "\"/etc/../x\""),
    );
    refused(
        |images| {
            table(images, |mounts| {
                let id = find(mounts, "/tmp").mnt_id;
                find(mounts, "/dev").mnt_id = id;
            });
        },
        (Malformed, None, TABLE, "\"/dev\""),
    );
}

#[test]
fn mounts_do_not_pass_for_others() {
    // A tmpfs that claims the device of a read-only volume would become a writable bind of it.
    refused(
        |images| {
            table(images, |mounts| {
                let device = find(mounts, "/var/cfg").root_dev;
                find(mounts, "/tmp").root_dev = device;
            });
        },
        (Privilege, None, TABLE, "\"/var/cfg\""),
    );
    refused(
        |images| {
            table(images, |mounts| {
                let device = find(mounts, "/").root_dev;
                find(mounts, "/tmp").root_dev = device;
            });
        },
        (Privilege, None, TABLE, "\"/tmp\""),
    );
    refused(
        |images| at(images, "/proc/sys", |m| m.root_dev += 1),
        (Privilege, None, TABLE, "\"/proc/sys\""),
    );
}

#[test]
fn plugins_deleted_sources_and_peer_groups_are_refused() {
    type Forge = fn(&mut MntEntry);
    let cases: [Forge; 5] = [
        |m| m.with_plugin = Some(true),
        |m| m.deleted = Some(true),
        |m| m.ext_mount = Some(true),
        |m| m.shared_id = Some(1),
        |m| m.master_id = Some(1),
    ];
    for forge in cases {
        refused(
            |images| at(images, "/var/cfg", forge),
            (Privilege, None, TABLE, "\"/var/cfg\""),
        );
    }
    let mut request = testing::request("python");
    let volume = request
        .mounts
        .iter_mut()
        .find(|m| m.mountpoint.ends_with("cfg"))
        .unwrap();
    volume.propagation = Propagation::Slave;
    passes(&request, |images| {
        at(images, "/var/cfg", |m| m.master_id = Some(1))
    });
    passes(&testing::request("python"), |images| {
        at(images, "/", |m| m.master_id = Some(1))
    });
    refused(
        |images| at(images, "/", |m| m.shared_id = Some(1)),
        (Privilege, None, TABLE, "\"/\""),
    );
}

#[test]
fn tmpfs_content_is_of_a_tmpfs_and_allowed() {
    let set = testing::images("python");
    let archive = set
        .0
        .keys()
        .find(|name| name.starts_with("tmpfs-dev-"))
        .unwrap()
        .clone();
    let mut request = testing::request("python");
    request.tmpfs_archives = false;
    refused_by(&request, |_| {}, (Privilege, None, &archive, ""));
    refused(
        |images| drop(images.0.insert("tmpfs-dev-1.tar.gz.img".into(), Vec::new())),
        (Malformed, None, "tmpfs-dev-1.tar.gz.img", ""),
    );
}
