//! The mount table against the one that the request makes.
//!
//! Every mount of the images must be one that is expected, once, in its place in the tree, from an
//! accepted origin, with at least the expected restrictions; every expected one that must be there
//! must be there.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;

use super::request::{ExpectedMount, Filesystem, MountOrigin, PartRoot, Presence, Propagation};
use super::{Context, mount_options, paths};
use crate::proto::{Fstype, MntEntry};
use crate::violation::{Place, Report};

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    let Some((id, mounts)) = context.images.root_mounts() else {
        return report.malformed(Place::image("mountpoints-*.img"), "", "is missing");
    };
    let image = format!("mountpoints-{id}.img");
    let table = Table {
        mounts,
        place: Place::image(&image),
        expected: &context.request.mounts,
    };
    if table.structure(report) {
        table.compare(report);
        table.tmpfs_archives(context, report);
    }
}

struct Table<'a> {
    mounts: &'a [MntEntry],
    place: Place<'a>,
    expected: &'a [ExpectedMount],
}

impl Table<'_> {
    /// Paths, numbers and parents. The rest makes sense only where these do.
    fn structure(&self, report: &mut Report) -> bool {
        let mut numbers = BTreeSet::new();
        let mut points = BTreeSet::new();
        let mut sound = true;
        for mount in self.mounts {
            let field = paths::show(&mount.mountpoint);
            let faults = [
                paths::fault(&mount.mountpoint).map(|fault| format!("mount point {fault}")),
                paths::fault(&mount.root).map(|fault| format!("root {fault}")),
                (!numbers.insert(mount.mnt_id)).then(|| "number appears twice".to_owned()),
            ];
            for fault in faults.into_iter().flatten() {
                report.malformed(self.place, &field, fault);
                sound = false;
            }
            if !points.insert(&mount.mountpoint) {
                report.privilege(self.place, &field, "is mounted on twice");
                sound = false;
            }
        }
        for mount in self.mounts.iter().filter(|mount| mount.mountpoint != b"/") {
            let parent = paths::parent(&mount.mountpoint);
            let nearest = paths::mount_of(self.mounts, parent);
            // Elsewhere in the tree it would be hidden, or hide another.
            if nearest.map(|parent| parent.mnt_id) != Some(mount.parent_mnt_id) {
                let field = paths::show(&mount.mountpoint);
                report.privilege(self.place, &field, "is not mounted on the mount it lies on");
                sound = false;
            }
        }
        sound
    }

    fn compare(&self, report: &mut Report) {
        let mut found = BTreeSet::new();
        for mount in self.mounts {
            let field = paths::show(&mount.mountpoint);
            let Some((index, expected)) = self.expectation(mount) else {
                report.privilege(self.place, &field, "is not a mount of the request");
                continue;
            };
            found.insert(index);
            if let Some(fault) = self.fault(mount, expected) {
                report.privilege(self.place, &field, fault);
            }
        }
        for (index, expected) in self.expected.iter().enumerate() {
            if expected.presence == Presence::Required && !found.contains(&index) {
                let field = paths::show(expected.mountpoint.as_os_str().as_bytes());
                report.privilege(self.place, &field, "mount of the request is missing");
            }
        }
    }

    fn expectation(&self, mount: &MntEntry) -> Option<(usize, &ExpectedMount)> {
        let matches = |expected: &ExpectedMount, point: &[u8]| {
            expected.mountpoint.as_os_str().as_bytes() == point
        };
        let exact = self.expected.iter().enumerate().find(|(_, expected)| {
            expected.presence != Presence::EachChild && matches(expected, &mount.mountpoint)
        });
        exact.or_else(|| {
            let parent = paths::parent(&mount.mountpoint);
            self.expected.iter().enumerate().find(|(_, expected)| {
                expected.presence == Presence::EachChild
                    && mount.mountpoint != b"/"
                    && matches(expected, parent)
            })
        })
    }

    /// What is wrong with a mount at an expected place.
    fn fault(&self, mount: &MntEntry, expected: &ExpectedMount) -> Option<String> {
        if mount.with_plugin == Some(true) {
            return Some("asks for a CRIU plugin".to_owned());
        }
        if mount.deleted == Some(true) {
            return Some("is of a deleted file".to_owned());
        }
        if mount.ext_mount.is_some() {
            return Some("is marked external in the old way".to_owned());
        }
        // CRIU does things of its own for these, wherever they come from.
        let Some(filesystem) = mount.filesystem() else {
            return Some(format!("has the unknown file system {}", mount.fstype));
        };
        if matches!(filesystem, Fstype::Autofs | Fstype::BinfmtMisc) {
            return Some(format!("has the file system {filesystem:?}"));
        }
        let mut first = None;
        for origin in &expected.origins {
            match self.origin_fault(mount, expected, origin) {
                None => return self.common_fault(mount, expected, origin),
                Some(fault) => first = first.or(Some(fault)),
            }
        }
        first.or_else(|| Some("has no accepted origin".to_owned()))
    }

    fn common_fault(
        &self,
        mount: &MntEntry,
        expected: &ExpectedMount,
        origin: &MountOrigin,
    ) -> Option<String> {
        let Some(super_flags) = mount.sb_flags else {
            return Some("has no file system flags".to_owned());
        };
        let new = matches!(origin, MountOrigin::New { .. });
        let checked = if new { super_flags } else { 0 };
        mount_options::flags_fault(mount.flags, checked, new, expected.restrictions).or_else(|| {
            let shared = mount.shared_id.unwrap_or(0) != 0;
            let slave = mount.master_id.unwrap_or(0) != 0;
            // The root is what the OCI runtime made it; its master is the host's.
            let root = matches!(origin, MountOrigin::Root);
            match expected.propagation {
                Propagation::Private if shared => Some("is shared".to_owned()),
                Propagation::Private if slave && !root => Some("is a slave".to_owned()),
                Propagation::Slave if shared => Some("is shared".to_owned()),
                _ => None,
            }
        })
    }

    fn origin_fault(
        &self,
        mount: &MntEntry,
        expected: &ExpectedMount,
        origin: &MountOrigin,
    ) -> Option<String> {
        match origin {
            MountOrigin::Root => {
                let known = matches!(
                    mount.filesystem(),
                    Some(Fstype::Overlayfs | Fstype::Auto | Fstype::Unsupported | Fstype::Tmpfs)
                );
                (!known || mount.ext_key.is_some())
                    .then(|| format!("root is {}", file_system_name(mount)))
            }
            MountOrigin::External { keys, within } => {
                let Some(key) = &mount.ext_key else {
                    return Some("is not external".to_owned());
                };
                let accepted = if expected.presence == Presence::EachChild {
                    *key == mount.mountpoint
                } else {
                    keys.iter()
                        .any(|accepted| accepted.as_bytes() == key.as_slice())
                };
                if !accepted {
                    return Some(format!("has the external key {}", paths::show(key)));
                }
                let within = within.as_ref().map(|path| path.as_os_str().as_bytes());
                self.device_fault(mount, within)
            }
            MountOrigin::New {
                filesystem,
                options,
            } => self.new_fault(mount, *filesystem, options),
            MountOrigin::Part { of, root } => {
                self.part_fault(mount, of.as_os_str().as_bytes(), root)
            }
        }
    }

    fn new_fault(
        &self,
        mount: &MntEntry,
        filesystem: Filesystem,
        options: &[String],
    ) -> Option<String> {
        let fstype = match filesystem {
            Filesystem::Proc => Fstype::Proc,
            Filesystem::Sysfs => Fstype::Sysfs,
            Filesystem::Tmpfs => Fstype::Tmpfs,
            Filesystem::Devpts => Fstype::Devpts,
            Filesystem::Mqueue => Fstype::Mqueue,
            Filesystem::Cgroup2 => Fstype::Cgroup2,
        };
        if mount.filesystem() != Some(fstype) {
            return Some(format!("has the file system {}", file_system_name(mount)));
        }
        if mount.ext_key.is_some() || mount.fsname.is_some() {
            return Some("is not a new file system".to_owned());
        }
        if mount.root != b"/" {
            return Some(format!(
                "shows {} of its file system",
                paths::show(&mount.root)
            ));
        }
        let twin = self.mounts.iter().find(|other| {
            other.mnt_id != mount.mnt_id
                && other.root_dev == mount.root_dev
                && other.ext_key.is_none()
                && other.root == b"/"
        });
        if let Some(other) = twin {
            return Some(format!(
                "claims the file system of {}",
                paths::show(&other.mountpoint)
            ));
        }
        mount_options::options_fault(filesystem, &mount.options, options)
    }

    fn part_fault(&self, mount: &MntEntry, of: &[u8], root: &PartRoot) -> Option<String> {
        let Some(whole) = self.mounts.iter().find(|other| other.mountpoint == of) else {
            return Some(format!(
                "is part of {}, which is not mounted",
                paths::show(of)
            ));
        };
        if mount.ext_key.is_some() {
            return Some("is external".to_owned());
        }
        if mount.root_dev != whole.root_dev || mount.fstype != whole.fstype {
            return Some(format!("is not part of {}", paths::show(of)));
        }
        let fits = match root {
            PartRoot::Exactly(path) => mount.root == path.as_bytes(),
            PartRoot::Number => mount.root.strip_prefix(b"/").is_some_and(|digits| {
                (1..=7).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
            }),
        };
        (!fits).then(|| format!("shows {} of its file system", paths::show(&mount.root)))
    }

    /// CRIU takes mounts of one device number for binds of one file system. An external mount may
    /// share its number with other external ones and with the mount it honestly lies in.
    fn device_fault(&self, mount: &MntEntry, within: Option<&[u8]>) -> Option<String> {
        let other = self.mounts.iter().find(|other| {
            other.root_dev == mount.root_dev
                && other.ext_key.is_none()
                && other.mountpoint != b"/"
                && Some(other.mountpoint.as_slice()) != within
        })?;
        Some(format!(
            "claims the file system of {}",
            paths::show(&other.mountpoint)
        ))
    }

    /// Tar archives of tmpfs content: each of a tmpfs that CRIU mounts, and only where allowed.
    fn tmpfs_archives(&self, context: &Context<'_>, report: &mut Report) {
        let own: BTreeSet<String> = self
            .mounts
            .iter()
            .filter(|mount| mount.ext_key.is_none() && mount.filesystem() == Some(Fstype::Tmpfs))
            .flat_map(|mount| {
                [
                    format!("tmpfs-{}.tar.gz.img", mount.mnt_id),
                    format!("tmpfs-dev-{}.tar.gz.img", mount.root_dev),
                ]
            })
            .collect();
        for name in context.images.tmpfs_archives.keys() {
            let place = Place::image(name);
            if !own.contains(name) {
                report.malformed(place, "", "belongs to no tmpfs of the mount table");
            } else if !context.request.tmpfs_archives {
                report.privilege(place, "", "tmpfs archives are not accepted");
            }
        }
    }
}

fn file_system_name(mount: &MntEntry) -> String {
    mount
        .filesystem()
        .map_or_else(|| mount.fstype.to_string(), |known| format!("{known:?}"))
}
