//! The tmpfs mounts of a restored container, rebuilt on the host for CRIU to bind.
//!
//! Which ones there are, their sizes and flags, and every device node in them come from the request's
//! own spec; the archive gives only directories, files and links. Masked directories are an empty
//! read-only tmpfs whatever the archive says.

use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode};

use crate::checkpoint::mounts::strings;
use crate::error::Error;

/// Where the mounts of one restore hang, below the container's run directory.
const DIRECTORY: &str = "tmpfs";

/// Devices that every OCI runtime makes (runtime-spec `config-linux.md`, "Default Devices").
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Where a restore's tmpfs mounts hang.
pub(crate) fn directory(run_dir: &Path) -> PathBuf {
    run_dir.join(DIRECTORY)
}

/// Bytes of CRIU's log and sockets; a CRIU that writes without end meets this.
const WORK_BYTES: u64 = 64 << 20;

/// Makes CRIU's work directory, which is bounded and goes with the other mounts.
///
/// # Errors
///
/// [`Error::Failed`].
pub(crate) fn work(run_dir: &Path) -> Result<PathBuf, Error> {
    let target = directory(run_dir).join("work");
    let make = || -> std::io::Result<()> {
        sys::fs::make_dir_all(&target, 0o700)?;
        let mount = sys::mount::tmpfs(Some(WORK_BYTES), 0o700)?;
        sys::mount::attach(&mount, &target)
    };
    make().map_err(|error| Error::io("make CRIU's work directory", &target, error))?;
    Ok(target)
}

/// Makes the empty read-only directory that hides masked ones.
///
/// # Errors
///
/// [`Error::Failed`].
pub(crate) fn empty(run_dir: &Path) -> Result<PathBuf, Error> {
    let target = directory(run_dir).join("empty");
    let make = || -> std::io::Result<()> {
        sys::fs::make_dir_all(&target, 0o700)?;
        let mount = sys::mount::tmpfs(None, 0o755)?;
        sys::mount::attach(&mount, &target)?;
        make_read_only(&target)
    };
    make().map_err(|error| Error::io("make the directory of masks", &target, error))?;
    Ok(target)
}

/// What a tmpfs of the spec is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `/dev`: devices are added.
    Dev,
    /// A masked directory: empty and read-only.
    Masked,
    /// Any other tmpfs of the spec, and the directory of v1 cgroups.
    Plain,
}

/// Decides what the tmpfs at `destination` of the request's spec is for.
///
/// # Errors
///
/// [`Error::Denied`] when it has none there.
pub(crate) fn purpose(spec: &serde_json::Value, destination: &Path) -> Result<Purpose, Error> {
    if destination == Path::new("/dev") {
        return Ok(Purpose::Dev);
    }
    let text = destination.to_string_lossy();
    if strings(spec, "/linux/maskedPaths")
        .iter()
        .any(|path| *path == text)
    {
        return Ok(Purpose::Masked);
    }
    let mounts = spec.get("mounts").and_then(serde_json::Value::as_array);
    let plain = mounts.into_iter().flatten().any(|mount| {
        let is = |key: &str, value: &str| {
            mount.get(key).and_then(serde_json::Value::as_str) == Some(value)
        };
        is("destination", &text) && (is("type", "tmpfs") || is("type", "cgroup"))
    });
    plain.then_some(Purpose::Plain).ok_or_else(|| {
        Error::Denied(format!(
            "the checkpoint has a tmpfs at {text}, the request has none there"
        ))
    })
}

/// Mounts and fills one tmpfs and returns its path on the host.
///
/// # Errors
///
/// [`Error::Invalid`] for content that does not belong in a tmpfs; [`Error::Failed`] otherwise.
pub(crate) fn build(
    run_dir: &Path,
    index: usize,
    destination: &Path,
    spec: &serde_json::Value,
    purpose: Purpose,
    content: Option<impl Read>,
) -> Result<PathBuf, Error> {
    let target = directory(run_dir).join(index.to_string());
    let failed = |error: std::io::Error| {
        Error::failed(
            format!("rebuild the tmpfs {}", destination.display()),
            error,
        )
    };
    sys::fs::make_dir_all(&target, 0o700).map_err(failed)?;
    let (size, mode) = size_and_mode(spec, destination);
    let mount = sys::mount::tmpfs(size, mode).map_err(failed)?;
    sys::mount::attach(&mount, &target).map_err(failed)?;
    match (purpose, content) {
        (Purpose::Masked, _) => {
            make_read_only(&target).map_err(failed)?;
            return Ok(target);
        }
        (_, Some(content)) => {
            let root = sys::fs::open_dir(&target).map_err(failed)?;
            bundler::restore_tree(content, &root, &bundler::Limits::tmpfs()).map_err(|error| {
                let member = format!("content of {}", destination.display());
                Error::invalid(member, crate::error::chain(&error))
            })?;
        }
        (_, None) => {}
    }
    if purpose == Purpose::Dev {
        make_devices(&target, spec).map_err(failed)?;
    }
    Ok(target)
}

fn make_read_only(target: &Path) -> std::io::Result<()> {
    let attributes = sys::mount::Attributes {
        read_only: true,
        ..sys::mount::Attributes::default()
    };
    sys::mount::set_flags(target, attributes)
}

fn size_and_mode(spec: &serde_json::Value, destination: &Path) -> (Option<u64>, u32) {
    let mounts = spec.get("mounts").and_then(serde_json::Value::as_array);
    let text = destination.to_string_lossy();
    let mount = mounts.into_iter().flatten().find(|mount| {
        mount.get("destination").and_then(serde_json::Value::as_str) == Some(text.as_ref())
    });
    let options = mount.and_then(|mount| mount.get("options")?.as_array());
    let (mut size, mut mode) = (None, 0o755);
    for option in options
        .into_iter()
        .flatten()
        .filter_map(serde_json::Value::as_str)
    {
        if let Some(value) = option.strip_prefix("size=") {
            size = parse_size(value);
        } else if let Some(value) = option.strip_prefix("mode=") {
            mode = u32::from_str_radix(value, 8).unwrap_or(mode);
        }
    }
    (size, mode)
}

/// A tmpfs size as mount(8) takes it: bytes, or with `k`, `m`, `g`.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Makes the default devices and those of the request; a name that the archive took is replaced.
fn make_devices(target: &Path, spec: &serde_json::Value) -> std::io::Result<()> {
    let root = sys::fs::open_dir(target)?;
    for (name, major, minor) in DEFAULT_DEVICES {
        make_device(
            &root,
            Path::new(name),
            FileType::CharacterDevice,
            0o666,
            (major, minor),
        )?;
    }
    let devices = spec
        .pointer("/linux/devices")
        .and_then(serde_json::Value::as_array);
    for device in devices.into_iter().flatten() {
        let number = |key: &str| {
            device
                .get(key)
                .and_then(serde_json::Value::as_u64)
                .and_then(|n| u32::try_from(n).ok())
        };
        let path = device
            .get("path")
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default();
        let Some(name) = path.strip_prefix("/dev/") else {
            continue;
        };
        let kind = match device.get("type").and_then(serde_json::Value::as_str) {
            Some("c" | "u") => FileType::CharacterDevice,
            Some("b") => FileType::BlockDevice,
            _ => continue,
        };
        let numbers = (number("major").unwrap_or(0), number("minor").unwrap_or(0));
        let mode = number("fileMode").unwrap_or(0o666);
        make_device(&root, Path::new(name), kind, mode, numbers)?;
    }
    Ok(())
}

fn make_device(
    root: &std::os::fd::OwnedFd,
    name: &Path,
    kind: FileType,
    mode: u32,
    (major, minor): (u32, u32),
) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, OFlags, chmodat, mknodat, unlinkat};
    let parent = match name
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => sys::fs::open_beneath(root, parent, OFlags::DIRECTORY | OFlags::CLOEXEC)?,
        None => root.try_clone()?,
    };
    let Some(file) = name.file_name() else {
        return Ok(());
    };
    match unlinkat(&parent, file, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let permissions = Mode::from_raw_mode(mode & 0o7777);
    mknodat(
        &parent,
        file,
        kind,
        permissions,
        rustix::fs::makedev(major, minor),
    )?;
    chmodat(&parent, file, permissions, AtFlags::empty())?;
    Ok(())
}

/// Takes the host's side of the mounts away; the container keeps its own binds.
///
/// # Errors
///
/// What umount2(2) or rmdir(2) return.
pub(crate) fn drop_mounts(run_dir: &Path) -> std::io::Result<()> {
    let directory = directory(run_dir);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        sys::mount::unmount(&entry?.path(), true)?;
    }
    sys::fs::remove_tree(&directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_request_s_own_tmpfs_mounts_are_known() {
        let spec = serde_json::json!({
            "mounts": [
                {"destination": "/run", "type": "tmpfs", "options": ["size=64m", "mode=1777"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup"},
                {"destination": "/data", "type": "bind"},
            ],
            "linux": {"maskedPaths": ["/proc/acpi"]},
        });
        let check = |path: &str| purpose(&spec, Path::new(path)).ok();
        assert_eq!(check("/dev"), Some(Purpose::Dev));
        assert_eq!(check("/proc/acpi"), Some(Purpose::Masked));
        assert_eq!(check("/run"), Some(Purpose::Plain));
        assert_eq!(check("/sys/fs/cgroup"), Some(Purpose::Plain));
        assert_eq!(check("/data"), None);
        let error = purpose(&spec, Path::new("/etc")).unwrap_err();
        assert!(matches!(&error, Error::Denied(text) if text.contains("/etc")));
        assert_eq!(
            size_and_mode(&spec, Path::new("/run")),
            (Some(64 << 20), 0o1777)
        );
    }

    #[test]
    fn dev_has_its_devices_and_dropping_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let spec = serde_json::json!({"linux": {"devices": [
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600}]}});
        let none: Option<&[u8]> = None;
        let path = build(dir.path(), 0, Path::new("/dev"), &spec, Purpose::Dev, none).unwrap();
        let stat = rustix::fs::stat(path.join("fuse")).unwrap();
        assert_eq!(stat.st_mode & 0o7777, 0o600);
        assert_eq!(rustix::fs::major(stat.st_rdev), 10);
        assert!(path.join("null").exists());
        drop_mounts(dir.path()).unwrap();
        drop_mounts(dir.path()).unwrap();
        assert!(!path.exists());
    }
}
