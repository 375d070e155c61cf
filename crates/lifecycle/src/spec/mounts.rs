//! The `mounts` part of a spec.
//!
//! ```text
//!  /proc /dev /dev/pts /dev/mqueue /sys /sys/fs/cgroup     made by the OCI runtime, in this order; the
//!                                                          last is the host's, bound, when privileged
//!  /dev/shm /etc/hostname /etc/hosts /etc/resolv.conf      the pod's, bound; the first may be its own
//!  the request's                                           bound; parents before children
//! ```
//!
//! A request that mounts at one of the first places takes that place. Destinations have no link on the way:
//! the OCI runtime follows those of the root filesystem, and CRIU knows only where a mount is then.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount as OciMount;

use super::{Shm, SpecInput};
use crate::error::Error;
use crate::model::{Mount, Propagation};

/// Where cgroups are mounted, on hosts and in containers (file-hierarchy(7)).
pub(crate) const CGROUPS: &str = "/sys/fs/cgroup";

/// All mounts, and the propagation that the root mount needs for them.
pub(super) struct Mounts {
    pub(super) list: Vec<OciMount>,
    pub(super) root_propagation: &'static str,
}

pub(super) fn build(input: &SpecInput<'_>) -> Result<Mounts, Error> {
    let requested = requested(input.mounts)?;
    let taken = |destination: &Path| {
        requested.iter().any(|(place, _)| place == destination)
            || (destination.starts_with("/dev") && requested.iter().any(|(p, _)| p == "/dev"))
    };
    let mut list: Vec<OciMount> = own(input)
        .into_iter()
        .filter(|mount| !taken(mount.destination()))
        .collect();
    let mut binds: Vec<OciMount> = pod_files(input)
        .into_iter()
        .filter(|mount| !taken(mount.destination()))
        .collect();
    let mut root_propagation = "rprivate";
    for (destination, mount) in requested {
        root_propagation = match (mount.propagation, root_propagation) {
            (Propagation::Bidirectional, _) => "rshared",
            (Propagation::HostToContainer, "rprivate") => "rslave",
            (_, so_far) => so_far,
        };
        binds.push(bind(&destination, &mount.host_path, &options(mount)?));
    }
    // Stable: of two at one depth, the request's comes after the pod's.
    binds.sort_by_key(|mount| mount.destination().components().count());
    list.extend(binds);
    Ok(Mounts {
        list,
        root_propagation,
    })
}

/// Cleaned destinations, each once: the last of a place wins.
fn requested(mounts: &[Mount]) -> Result<Vec<(PathBuf, &Mount)>, Error> {
    let mut found: Vec<(PathBuf, &Mount)> = Vec::new();
    for mount in mounts {
        let destination = clean("mounts.container_path", &mount.container_path)?;
        found.retain(|(place, _)| *place != destination);
        found.push((destination, mount));
    }
    Ok(found)
}

/// An absolute path of plain names, without `.`, `..` and doubled slashes, other than `/` itself.
pub(super) fn clean(field: &str, path: &Path) -> Result<PathBuf, Error> {
    let invalid = |problem: &str| Error::invalid(field, format!("{} {problem}", path.display()));
    if !path.is_absolute() {
        return Err(invalid("is not absolute"));
    }
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                if name.as_encoded_bytes().contains(&0) {
                    return Err(invalid("holds a NUL byte"));
                }
                cleaned.push(name);
            }
            Component::ParentDir | Component::Prefix(_) => return Err(invalid("holds \"..\"")),
        }
    }
    if cleaned == Path::new("/") {
        return Err(invalid("is the root filesystem itself"));
    }
    Ok(cleaned)
}

fn options(mount: &Mount) -> Result<Vec<&'static str>, Error> {
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let invalid = |problem: &str| {
        let problem = format!("{}: {problem}", mount.container_path.display());
        Error::invalid("mounts.recursive_read_only", problem)
    };
    let access = match (mount.recursive_readonly, mount.readonly) {
        (true, false) => return Err(invalid("needs readonly beside it")),
        (true, true) if mount.propagation != Propagation::Private => {
            return Err(invalid("needs private propagation"));
        }
        (true, true) => "rro",
        (false, true) => "ro",
        (false, false) => "rw",
    };
    Ok(vec!["rbind", propagation, access])
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> OciMount {
    let mut mount = OciMount::default();
    mount
        .set_destination(PathBuf::from(destination))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(
            options.iter().map(|&option| option.to_owned()).collect(),
        ));
    mount
}

fn bind(destination: &Path, source: &Path, options: &[&str]) -> OciMount {
    let mut mount = mount("", "bind", "", options);
    mount
        .set_destination(destination.to_path_buf())
        .set_source(Some(source.to_path_buf()));
    mount
}

/// What the OCI runtime mounts itself (runtime-spec config-linux, "Default Filesystems").
fn own(input: &SpecInput<'_>) -> Vec<OciMount> {
    let access = if input.config.security.privileged {
        "rw"
    } else {
        "ro"
    };
    let quiet = ["nosuid", "noexec", "nodev"];
    let with = |last: &[&'static str]| [&quiet[..], last].concat();
    vec![
        mount("/proc", "proc", "proc", &quiet),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            // 5 is the group `tty` of every distribution; terminals are theirs (devpts(5)).
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &quiet),
        mount("/sys", "sysfs", "sysfs", &with(&[access])),
        cgroups(input, &with(&["relatime", access])),
    ]
}

/// A privileged container is in the host's cgroup namespace. A cgroup2 that is mounted from there has
/// the one superblock of the host's, and takes `nsdelegate`, `memory_recursiveprot` and the like away
/// for everybody when it does not name them (`apply_cgroup_root_flags` in kernel/cgroup/cgroup.c). A
/// bind of the host's mount changes none.
fn cgroups(input: &SpecInput<'_>, options: &[&str]) -> OciMount {
    if input.config.security.privileged && input.host.unified_cgroups {
        let options = [&["rbind", "rprivate"], options].concat();
        return bind(Path::new(CGROUPS), Path::new(CGROUPS), &options);
    }
    mount(CGROUPS, "cgroup", "cgroup", options)
}

fn shm(wanted: &Shm) -> OciMount {
    let (place, quiet) = (Path::new("/dev/shm"), ["nosuid", "noexec", "nodev"]);
    let shared = |source| {
        let options = [&["rbind", "rprivate"], &quiet[..], &["rw"]].concat();
        bind(place, source, &options)
    };
    match wanted {
        Shm::Pod(path) => shared(path.as_path()),
        Shm::Host => shared(place),
        Shm::Own { limit_bytes } => {
            let size = format!("size={limit_bytes}");
            let options = [&quiet[..], &["mode=1777", &size]].concat();
            mount("/dev/shm", "tmpfs", "shm", &options)
        }
    }
}

fn pod_files(input: &SpecInput<'_>) -> Vec<OciMount> {
    let access = if input.config.security.readonly_rootfs {
        "ro"
    } else {
        "rw"
    };
    let files = input.files.files.iter();
    let options = ["rbind", "rprivate", access];
    let mut list = vec![shm(&input.files.shm)];
    list.extend(files.map(|file| bind(&file.destination, &file.source, &options)));
    list
}
