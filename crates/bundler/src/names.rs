//! The names that entries of an archive can have.
//!
//! Everything else is refused, not skipped: what a reader does not know it cannot check. The list
//! holds what thawd writes and what CRI-O, containerd and Podman write (the `lib/metadata.go` of
//! checkpointctl names most of them).

/// The directory of CRIU's images.
pub const CHECKPOINT_DIRECTORY: &str = "checkpoint/";
/// Index, digests and facts about the checkpoint; the last entry.
pub const MANIFEST: &str = "manifest.json";
/// What kind of container this was, for checkpointctl and the other engines.
pub const CONFIG_DUMP: &str = "config.dump";
/// The container's OCI runtime specification.
pub const SPEC_DUMP: &str = "spec.dump";
/// The container's CRI status, as containerd writes it.
pub const STATUS_DUMP: &str = "status.dump";
/// CRIU's statistics.
pub const STATS_DUMP: &str = "stats-dump";
/// CRIU's log.
pub const DUMP_LOG: &str = "dump.log";
/// What the container changed in its root filesystem, as an OCI layer.
pub const ROOTFS_DIFF: &str = "rootfs-diff.tar";
/// JSON array of paths that the container deleted.
pub const DELETED_FILES: &str = "deleted.files";
/// What the pod's /dev/shm held.
pub const DEVSHM: &str = "devshm-checkpoint.tar";
/// Where the three standard descriptors led.
pub const DESCRIPTORS: &str = "checkpoint/descriptors.json";

/// The longest name of an entry.
pub const MAX_NAME_BYTES: usize = 255;

const ROOT_NAMES: [&str; 18] = [
    MANIFEST,
    CONFIG_DUMP,
    SPEC_DUMP,
    STATUS_DUMP,
    STATS_DUMP,
    DUMP_LOG,
    ROOTFS_DIFF,
    DELETED_FILES,
    DEVSHM,
    "status",
    "bind.mounts",
    "io.kubernetes.cri-o.LogPath",
    "container.log",
    "ctr.log",
    "network.status",
    "artifacts",
    "pod.options",
    "pod.dump",
];

/// Name of the entry that holds the `index`-th private tmpfs.
#[must_use]
pub fn tmpfs(index: usize) -> String {
    format!("tmpfs-{index}.tar")
}

/// Name of the entry of one of CRIU's image files.
#[must_use]
pub fn image(file_name: &str) -> String {
    format!("{CHECKPOINT_DIRECTORY}{file_name}")
}

/// The number N when `name` is `checkpoint/pages-N.img`.
#[must_use]
pub fn page_image_number(name: &str) -> Option<u32> {
    let digits = name
        .strip_prefix("checkpoint/pages-")?
        .strip_suffix(".img")?;
    let plain = !digits.starts_with(['0', '+']) && digits.len() <= 9;
    if plain { digits.parse().ok() } else { None }
}

/// Whether a regular file of an archive can have this name.
#[must_use]
pub fn is_known_file(name: &str) -> bool {
    if !is_clean(name) {
        return false;
    }
    if let Some(image) = name.strip_prefix(CHECKPOINT_DIRECTORY) {
        return image == "descriptors.json"
            || image == "stats-dump"
            || image
                .strip_suffix(".img")
                .is_some_and(|stem| !stem.is_empty());
    }
    if let Some(volume) = name.strip_prefix("volumes/") {
        return volume
            .strip_suffix(".tar")
            .is_some_and(|stem| !stem.is_empty());
    }
    let tmpfs = name
        .strip_prefix("tmpfs-")
        .and_then(|rest| rest.strip_suffix(".tar"));
    ROOT_NAMES.contains(&name)
        || tmpfs.is_some_and(|digits| {
            !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit())
        })
}

/// Whether a directory of an archive can have this name (with or without the slash at its end).
#[must_use]
pub fn is_known_directory(name: &str) -> bool {
    matches!(
        name.strip_suffix('/').unwrap_or(name),
        "checkpoint" | "volumes"
    )
}

/// At most one slash, parts of letters, digits, `.`, `_`, `-`, `@`, `+`, `:` and `=`; no empty
/// part, none that is `.` or `..`.
#[must_use]
pub fn is_clean(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@+:=".contains(&byte);
    name.len() <= MAX_NAME_BYTES
        && name.matches('/').count() <= 1
        && name.split('/').all(|part| {
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(allowed)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_or_refused() {
        for name in [
            "config.dump",
            "checkpoint/core-1.img",
            "tmpfs-12.tar",
            "volumes/a_b.tar",
        ] {
            assert!(is_known_file(name), "{name}");
        }
        for name in [
            "",
            "/config.dump",
            "./config.dump",
            "../config.dump",
            "checkpoint",
            "checkpoint/",
            "checkpoint/.img",
            "checkpoint/../x.img",
            "checkpoint/a/b.img",
            "checkpoint/x",
            "tmpfs-.tar",
            "tmpfs-1x.tar",
            "volumes/.tar",
            "Config.dump",
            "config.dump\0",
            "evil",
            "checkpoint/a\nb.img",
            "config.dump/",
        ] {
            assert!(!is_known_file(name), "{name}");
        }
        assert!(!is_known_file(&format!(
            "checkpoint/{}.img",
            "a".repeat(300)
        )));
        assert!(is_known_directory("checkpoint") && is_known_directory("checkpoint/"));
        assert!(!is_known_directory("checkpoint//") && !is_known_directory("./checkpoint/"));
    }

    #[test]
    fn page_images_are_told_by_their_number() {
        assert_eq!(page_image_number("checkpoint/pages-12.img"), Some(12));
        for name in [
            "pages-1.img",
            "checkpoint/pages-.img",
            "checkpoint/pages-01.img",
        ] {
            assert_eq!(page_image_number(name), None, "{name}");
        }
    }
}
