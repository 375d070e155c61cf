//! Mounts.

use serde::{Deserialize, Serialize};

use super::text_of;
use crate::model::Images;
use crate::proto::{Fstype, MntEntry};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Mount {
    /// Where.
    pub mountpoint: String,
    /// File system (`overlay`, `proc`), or `external` for what the restore must provide.
    pub filesystem: String,
    /// Directory of the file system that is shown.
    pub root: String,
    /// What is mounted, in the words of the mount table.
    pub source: String,
    /// Flags in the words of mount(8).
    pub flags: Vec<String>,
    /// Options of the file system.
    pub options: String,
    /// Key under which the restore must be told what to mount.
    pub external_key: Option<String>,
}

pub(super) fn mounts(images: &Images) -> Vec<Mount> {
    let mut all: Vec<Mount> = images.mounts.values().flatten().map(mount).collect();
    all.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    all
}

fn mount(entry: &MntEntry) -> Mount {
    Mount {
        mountpoint: text_of(&entry.mountpoint),
        filesystem: filesystem(entry),
        root: text_of(&entry.root),
        source: text_of(&entry.source),
        flags: flags(entry.flags | entry.sb_flags.unwrap_or(0) & 1),
        options: text_of(&entry.options),
        external_key: entry.ext_key.as_deref().map(text_of),
    }
}

fn filesystem(entry: &MntEntry) -> String {
    let name = match entry.filesystem() {
        _ if entry.ext_key.is_some() => "external",
        Some(Fstype::Auto) => {
            return entry
                .fsname
                .as_deref()
                .map_or_else(|| "auto".to_owned(), text_of);
        }
        Some(Fstype::Unsupported) => "other",
        Some(Fstype::Overlayfs) => "overlay",
        Some(known) => return known.as_str_name().to_lowercase(),
        None => "unknown",
    };
    name.to_owned()
}

fn flags(bits: u32) -> Vec<String> {
    let names = [
        (2, "nosuid"),
        (4, "nodev"),
        (8, "noexec"),
        (256, "nosymfollow"),
        (1024, "noatime"),
        (2048, "nodiratime"),
        (1 << 21, "relatime"),
        (1 << 24, "strictatime"),
    ];
    let access = if bits & 1 == 0 { "rw" } else { "ro" };
    let set = names
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| *name);
    std::iter::once(access)
        .chain(set)
        .map(str::to_owned)
        .collect()
}
