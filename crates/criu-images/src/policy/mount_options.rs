//! Options and flags of file systems that CRIU mounts anew.

use super::request::{Filesystem, Restrictions};

pub(super) const MS_RDONLY: u32 = 1;
const MS_NOSUID: u32 = 2;
const MS_NODEV: u32 = 4;
const MS_NOEXEC: u32 = 8;
const MS_SYNCHRONOUS: u32 = 16;
const MS_MANDLOCK: u32 = 64;
const MS_DIRSYNC: u32 = 128;
const MS_NOSYMFOLLOW: u32 = 256;
const MS_NOATIME: u32 = 1024;
const MS_NODIRATIME: u32 = 2048;
const MS_SILENT: u32 = 1 << 15;
const MS_POSIXACL: u32 = 1 << 16;
const MS_RELATIME: u32 = 1 << 21;
const MS_STRICTATIME: u32 = 1 << 24;
const MS_LAZYTIME: u32 = 1 << 25;

/// Flags that a mount may have.
const MOUNT_FLAGS: u32 = MS_RDONLY
    | MS_NOSUID
    | MS_NODEV
    | MS_NOEXEC
    | MS_NOSYMFOLLOW
    | MS_NOATIME
    | MS_NODIRATIME
    | MS_RELATIME
    | MS_STRICTATIME;

/// Flags that a file system may have.
const SUPER_FLAGS: u32 =
    MS_RDONLY | MS_SYNCHRONOUS | MS_MANDLOCK | MS_DIRSYNC | MS_SILENT | MS_POSIXACL | MS_LAZYTIME;

/// Options of the one cgroup2 file system of a host; mounts elsewhere do not change them.
const CGROUP2: [&str; 6] = [
    "nsdelegate",
    "favordynmods",
    "memory_localevents",
    "memory_recursiveprot",
    "memory_hugetlb_accounting",
    "pids_localevents",
];

/// What is wrong with the flags of a mount and of its file system. A file system that is mounted
/// anew and read-only itself needs no read-only mount.
pub(super) fn flags_fault(
    flags: u32,
    super_flags: u32,
    new: bool,
    required: Restrictions,
) -> Option<String> {
    let read_only = flags & MS_RDONLY != 0 || new && super_flags & MS_RDONLY != 0;
    let missing = [
        (required.read_only && !read_only, "ro"),
        (required.nosuid && flags & MS_NOSUID == 0, "nosuid"),
        (required.nodev && flags & MS_NODEV == 0, "nodev"),
        (required.noexec && flags & MS_NOEXEC == 0, "noexec"),
    ];
    if let Some((_, name)) = missing.into_iter().find(|(missing, _)| *missing) {
        return Some(format!("lacks {name}"));
    }
    if flags & !MOUNT_FLAGS != 0 {
        return Some(format!("has unknown flags {:#x}", flags & !MOUNT_FLAGS));
    }
    if super_flags & !SUPER_FLAGS != 0 {
        return Some(format!(
            "has unknown file system flags {:#x}",
            super_flags & !SUPER_FLAGS
        ));
    }
    None
}

/// What is wrong with the options of a file system, given those of the request.
///
/// The kernel prints options in its own way (`mode=0620` as `mode=620`, `size=16m` as
/// `size=16384k`), so numbers are compared as numbers.
pub(super) fn options_fault(
    filesystem: Filesystem,
    options: &[u8],
    granted: &[String],
) -> Option<String> {
    let Ok(options) = std::str::from_utf8(options) else {
        return Some("options are not text".to_owned());
    };
    let found: Vec<&str> = options
        .split(',')
        .filter(|option| !option.is_empty())
        .collect();
    let quote = |option: &str| format!("option {option:?} is not the request's");
    match filesystem {
        Filesystem::Tmpfs => {
            let unknown = found.iter().find(|option| !tmpfs_option(option, granted));
            if let Some(option) = unknown {
                return Some(quote(option));
            }
            size_fault("size", &found, granted).or_else(|| size_fault("nr_inodes", &found, granted))
        }
        Filesystem::Devpts => {
            if !found.contains(&"newinstance") {
                return Some("is not a new instance".to_owned());
            }
            let known = |option: &str| {
                option == "newinstance"
                    || granted.iter().any(|granted| granted == option)
                    || number(option, &["gid", "uid", "mode", "ptmxmode", "max"]).is_some()
            };
            found.into_iter().find(|option| !known(option)).map(quote)
        }
        Filesystem::Proc | Filesystem::Sysfs | Filesystem::Mqueue | Filesystem::Cgroup2 => {
            let known = |option: &str| {
                option == "seclabel"
                    || filesystem == Filesystem::Cgroup2 && CGROUP2.contains(&option)
                    || granted.iter().any(|granted| granted == option)
            };
            let extra = found.iter().find(|option| !known(option));
            if let Some(option) = extra {
                return Some(quote(option));
            }
            // Options of proc hide things: none may be missing.
            let hides =
                |option: &&String| option.starts_with("hidepid=") || option.starts_with("subset=");
            granted
                .iter()
                .filter(hides)
                .find(|granted| !found.contains(&granted.as_str()))
                .map(|option| format!("lacks option {option:?}"))
        }
    }
}

fn tmpfs_option(option: &str, granted: &[String]) -> bool {
    matches!(option, "inode32" | "inode64" | "seclabel")
        || granted.iter().any(|granted| granted == option)
        || number(option, &["mode", "uid", "gid"]).is_some()
        || ["size=", "nr_inodes="].iter().any(|key| {
            option
                .strip_prefix(key)
                .is_some_and(|value| size(value).is_some())
        })
}

/// A limit that the request sets and the images exceed or lack.
fn size_fault(key: &str, found: &[&str], granted: &[String]) -> Option<String> {
    let value = |option: &str| option.strip_prefix(key)?.strip_prefix('=').and_then(size);
    let limit = granted.iter().find_map(|option| value(option))?;
    match found.iter().find_map(|option| value(option)) {
        Some(found) if found <= limit => None,
        Some(found) => Some(format!("{key} {found} is above {limit}")),
        None => Some(format!("lacks option {key}={limit}")),
    }
}

/// The value of `key=NUMBER` for one of the keys.
fn number(option: &str, keys: &[&str]) -> Option<u32> {
    let (key, value) = option.split_once('=')?;
    if keys.contains(&key) {
        value.parse().ok()
    } else {
        None
    }
}

/// A size with the kernel's suffixes, in bytes.
fn size(text: &str) -> Option<u64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at_checked(split)?;
    let shift = match suffix {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::{flags_fault, options_fault};
    use crate::policy::request::{Filesystem, Restrictions};

    #[test]
    fn options_compare_as_the_kernel_prints_them() {
        let check = |filesystem, found: &str, granted: &[&str]| {
            let granted: Vec<String> = granted.iter().map(|&option| option.to_owned()).collect();
            options_fault(filesystem, found.as_bytes(), &granted)
        };
        let tmpfs = ["mode=755", "size=16m"];
        assert_eq!(
            check(Filesystem::Tmpfs, "size=16384k,mode=755", &tmpfs),
            None
        );
        assert_eq!(
            check(Filesystem::Tmpfs, "size=32768k", &tmpfs).unwrap(),
            "size 33554432 is above 16777216"
        );
        assert_eq!(
            check(Filesystem::Tmpfs, "", &tmpfs).unwrap(),
            "lacks option size=16777216"
        );
        assert!(check(Filesystem::Tmpfs, "size=4k,mpol=bind:0", &tmpfs).is_some());
        let devpts = ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
        assert_eq!(
            check(
                Filesystem::Devpts,
                "gid=5,mode=620,ptmxmode=666,newinstance",
                &devpts
            ),
            None
        );
        assert!(check(Filesystem::Devpts, "gid=5", &devpts).is_some());
        assert_eq!(check(Filesystem::Proc, "", &[]), None);
        assert!(check(Filesystem::Proc, "gid=7", &[]).is_some());
        assert_eq!(
            check(Filesystem::Cgroup2, "nsdelegate,memory_recursiveprot", &[]),
            None
        );
        assert!(check(Filesystem::Cgroup2, "none", &[]).is_some());
        assert_eq!(
            check(Filesystem::Proc, "", &["hidepid=2"]).unwrap(),
            "lacks option \"hidepid=2\""
        );
    }

    #[test]
    fn restrictions_may_be_added_but_not_dropped() {
        let all = Restrictions {
            read_only: true,
            nosuid: true,
            nodev: true,
            noexec: true,
        };
        assert_eq!(flags_fault(15, 0, false, all), None);
        assert_eq!(
            flags_fault(15 | 1 << 21, 0, false, Restrictions::default()),
            None
        );
        assert_eq!(flags_fault(14, 0, false, all).unwrap(), "lacks ro");
        assert_eq!(flags_fault(14, 1, false, all).unwrap(), "lacks ro");
        assert_eq!(flags_fault(14, 1, true, all), None);
        assert_eq!(flags_fault(7, 0, false, all).unwrap(), "lacks noexec");
        assert!(flags_fault(1 << 12, 0, false, Restrictions::default()).is_some());
    }
}
