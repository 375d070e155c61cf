//! File names of images, their magic numbers and what lies in them.
//!
//! ```text
//! inventory.img    | magic | entry
//! NAME.img         | common magic | magic | entry | entry ...
//! stats-dump       | service magic | magic | entry
//! pages-N.img, tmpfs-N.tar.gz.img, tmpfs-dev-N.tar.gz.img, descriptors.json: no header
//!
//! entry            | length, 32 bits little endian | protobuf message | raw data in some files
//! ```
//!
//! Names, numbers and formats: `criu/image-desc.c`, `criu/include/magic.h` of CRIU 4.2. Files that
//! only other setups produce (network namespaces' rules, plugins, BPF maps, user namespaces, the
//! pre-2015 layout with `creds-N.img` and the like) are left out on purpose: they are refused.

/// Leads every image but the inventory.
const COMMON_MAGIC: u32 = 0x5456_4319;
/// Leads service files.
const SERVICE_MAGIC: u32 = 0x5510_5940;

/// A file of an image set, by what it holds. Numbers are those in the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ImageName {
    Inventory,
    Pstree,
    Core(u32),
    Ids(u32),
    Mm(u32),
    Pagemap(u32),
    ShmemPagemap(u64),
    Pages(u32),
    Fdinfo(u32),
    Files,
    Fs(u32),
    Mounts(u32),
    Utsns(u32),
    IpcVar(u32),
    IpcShm(u32),
    IpcSem(u32),
    IpcMsg(u32),
    Timens(u32),
    Pidns(u32),
    Netns(u32),
    Seccomp,
    Cgroup,
    Ghost(u32),
    RemapPath,
    Memfd,
    FileLocks,
    TtyInfo,
    TtyData,
    PipesData,
    FifoData,
    SocketQueues,
    TcpStream(u32),
    TmpfsTar(u32),
    TmpfsDevTar(u32),
    CpuInfo,
    StatsDump,
    Descriptors,
}

/// The bytes before the first entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    /// Nothing: the file is not made of entries.
    None,
    /// One magic number.
    One(u32),
    /// Two magic numbers.
    Two(u32, u32),
}

impl ImageName {
    /// The file of that name, or `None` when thawd knows no such image.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "stats-dump" => return Some(Self::StatsDump),
            "descriptors.json" => return Some(Self::Descriptors),
            _ => {}
        }
        let stem = name.strip_suffix(".img")?;
        Self::fixed(stem).or_else(|| Self::numbered(stem))
    }

    fn fixed(stem: &str) -> Option<Self> {
        Some(match stem {
            "inventory" => Self::Inventory,
            "pstree" => Self::Pstree,
            "files" => Self::Files,
            "seccomp" => Self::Seccomp,
            "cgroup" => Self::Cgroup,
            "remap-fpath" => Self::RemapPath,
            "memfd" => Self::Memfd,
            "filelocks" => Self::FileLocks,
            "tty-info" => Self::TtyInfo,
            "tty-data" => Self::TtyData,
            "pipes-data" => Self::PipesData,
            "fifo-data" => Self::FifoData,
            "sk-queues" => Self::SocketQueues,
            "cpuinfo" => Self::CpuInfo,
            _ => return None,
        })
    }

    fn numbered(stem: &str) -> Option<Self> {
        if let Some(number) = stem.strip_prefix("pagemap-shmem-") {
            return decimal64(number).map(Self::ShmemPagemap);
        }
        if let Some(number) = stem.strip_prefix("ghost-file-") {
            return hexadecimal(number).map(Self::Ghost);
        }
        if let Some(number) = stem.strip_prefix("tcp-stream-") {
            return hexadecimal(number).map(Self::TcpStream);
        }
        let (stem, tarball) = match stem.strip_suffix(".tar.gz") {
            Some(stem) => (stem, true),
            None => (stem, false),
        };
        let (kind, number) = stem.rsplit_once('-')?;
        let make: fn(u32) -> Self = match (kind, tarball) {
            ("tmpfs", true) => Self::TmpfsTar,
            ("tmpfs-dev", true) => Self::TmpfsDevTar,
            ("core", false) => Self::Core,
            ("ids", false) => Self::Ids,
            ("mm", false) => Self::Mm,
            ("pagemap", false) => Self::Pagemap,
            ("pages", false) => Self::Pages,
            ("fdinfo", false) => Self::Fdinfo,
            ("fs", false) => Self::Fs,
            ("mountpoints", false) => Self::Mounts,
            ("utsns", false) => Self::Utsns,
            ("ipcns-var", false) => Self::IpcVar,
            ("ipcns-shm", false) => Self::IpcShm,
            ("ipcns-sem", false) => Self::IpcSem,
            ("ipcns-msg", false) => Self::IpcMsg,
            ("timens", false) => Self::Timens,
            ("pidns", false) => Self::Pidns,
            ("netns", false) => Self::Netns,
            _ => return None,
        };
        decimal(number).map(make)
    }

    /// The bytes before the first entry.
    pub(crate) fn header(self) -> Header {
        let magic = match self {
            Self::Inventory => return Header::One(0x5831_3116),
            Self::StatsDump => return Header::Two(SERVICE_MAGIC, 0x5709_3306),
            Self::Pages(_) | Self::TmpfsTar(_) | Self::TmpfsDevTar(_) | Self::Descriptors => {
                return Header::None;
            }
            Self::Pstree => 0x5027_3030,
            Self::Core(_) => 0x5505_3847,
            Self::Ids(_) => 0x5443_2030,
            Self::Mm(_) => 0x5749_2820,
            Self::Pagemap(_) | Self::ShmemPagemap(_) => 0x5608_4025,
            Self::Fdinfo(_) => 0x5621_3732,
            Self::Files => 0x5630_3138,
            Self::Fs(_) => 0x5140_3912,
            Self::Mounts(_) => 0x5556_3928,
            Self::Utsns(_) => 0x5447_3203,
            Self::IpcVar(_) => 0x5311_5007,
            Self::IpcShm(_) => 0x4628_3044,
            Self::IpcSem(_) => 0x5957_3019,
            Self::IpcMsg(_) => 0x5545_3737,
            Self::Timens(_) => 0x4311_4433,
            Self::Pidns(_) => 0x6115_7326,
            Self::Netns(_) => 0x5593_3752,
            Self::Seccomp => 0x6441_3049,
            Self::Cgroup => 0x5938_3330,
            Self::Ghost(_) => 0x5258_3605,
            Self::RemapPath => 0x5913_3954,
            Self::Memfd => 0x4845_3499,
            Self::FileLocks => 0x5432_3616,
            Self::TtyInfo => 0x5945_3036,
            Self::TtyData => 0x5941_3026,
            Self::PipesData => 0x5645_3709,
            Self::FifoData => 0x5933_3054,
            Self::SocketQueues => 0x5626_4026,
            Self::TcpStream(_) => 0x5146_5506,
            Self::CpuInfo => 0x6140_4013,
        };
        Header::Two(COMMON_MAGIC, magic)
    }

    /// The message type of the entries; for page maps, of those after the head.
    pub(crate) fn message(self) -> Option<&'static str> {
        Some(match self {
            Self::Inventory => "inventory_entry",
            Self::Pstree => "pstree_entry",
            Self::Core(_) => "core_entry",
            Self::Ids(_) => "task_kobj_ids_entry",
            Self::Mm(_) => "mm_entry",
            Self::Pagemap(_) | Self::ShmemPagemap(_) => "pagemap_entry",
            Self::Fdinfo(_) => "fdinfo_entry",
            Self::Files => "file_entry",
            Self::Fs(_) => "fs_entry",
            Self::Mounts(_) => "mnt_entry",
            Self::Utsns(_) => "utsns_entry",
            Self::IpcVar(_) => "ipc_var_entry",
            Self::IpcShm(_) => "ipc_shm_entry",
            Self::IpcSem(_) => "ipc_sem_entry",
            Self::IpcMsg(_) => "ipc_msg_entry",
            Self::Timens(_) => "timens_entry",
            Self::Pidns(_) => "pidns_entry",
            Self::Netns(_) => "netns_entry",
            Self::Seccomp => "seccomp_entry",
            Self::Cgroup => "cgroup_entry",
            Self::Ghost(_) => "ghost_file_entry",
            Self::RemapPath => "remap_file_path_entry",
            Self::Memfd => "memfd_inode_entry",
            Self::FileLocks => "file_lock_entry",
            Self::TtyInfo => "tty_info_entry",
            Self::TtyData => "tty_data_entry",
            Self::PipesData | Self::FifoData => "pipe_data_entry",
            Self::SocketQueues => "sk_packet_entry",
            Self::TcpStream(_) => "tcp_stream_entry",
            Self::CpuInfo => "cpuinfo_entry",
            Self::StatsDump => "stats_entry",
            Self::Pages(_) | Self::TmpfsTar(_) | Self::TmpfsDevTar(_) | Self::Descriptors => {
                return None;
            }
        })
    }
}

/// Whether an image has the connections that the kernel tracked in a network namespace, or expected
/// (`netns-ct-N.img`, `netns-exp-N.img`).
///
/// CRIU dumps them also of a namespace that it is told to leave alone, where something in it has
/// connections tracked, and sends them to the kernel as they are: a forged one is any request to any
/// part of netfilter, in the new pod's namespace (`dump_net_ns`, `restore_nf_ct` in `criu/net.c` of CRIU
/// 4.2). They belong to the old pod, and have no use in another: leave them out of an image set.
/// [`crate::policy::check`] refuses them.
#[must_use]
pub fn has_tracked_connections(name: &str) -> bool {
    let number = |kind| name.strip_prefix(kind)?.strip_suffix(".img");
    let number = number("netns-ct-").or_else(|| number("netns-exp-"));
    number.and_then(decimal).is_some()
}

/// A number as `%u` prints it: no sign, no leading zero.
fn decimal(text: &str) -> Option<u32> {
    decimal64(text).and_then(|number| u32::try_from(number).ok())
}

fn decimal64(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A number as `%x` prints it.
fn hexadecimal(text: &str) -> Option<u32> {
    let number = u32::from_str_radix(text, 16).ok()?;
    (format!("{number:x}") == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::{Header, ImageName, has_tracked_connections};

    #[test]
    fn known_names_are_told_apart() {
        let check = |name, image| assert_eq!(ImageName::parse(name), Some(image), "{name}");
        check("inventory.img", ImageName::Inventory);
        check("core-17.img", ImageName::Core(17));
        check("pagemap-17.img", ImageName::Pagemap(17));
        check(
            "pagemap-shmem-9000000000.img",
            ImageName::ShmemPagemap(9_000_000_000),
        );
        check("ghost-file-1a.img", ImageName::Ghost(26));
        check("tmpfs-dev-73.tar.gz.img", ImageName::TmpfsDevTar(73));
        check("tmpfs-73.tar.gz.img", ImageName::TmpfsTar(73));
        check("ipcns-shm-11.img", ImageName::IpcShm(11));
        check("stats-dump", ImageName::StatsDump);
    }

    #[test]
    fn everything_else_is_unknown() {
        for name in [
            "",
            ".img",
            "core-.img",
            "core-01.img",
            "core--1.img",
            "core-+1.img",
            "Core-1.img",
            "core-1.img/",
            "core-4294967296.img",
            "creds-1.img",
            "iptables-9.img",
            "route-9.img",
            "apparmor.img",
            "userns-10.img",
            "tmpfs-dev-73.img",
            "core-1.tar.gz.img",
            "parent",
            "ghost-file-1A.img",
            "reg-files.img",
            "irmap-cache",
            "bpfmap-data.img",
        ] {
            assert_eq!(ImageName::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn tracked_connections_are_told_apart_and_are_no_image_that_is_known() {
        for name in ["netns-ct-10.img", "netns-exp-10.img"] {
            assert!(has_tracked_connections(name), "{name}");
            assert_eq!(ImageName::parse(name), None, "{name}");
        }
        for name in [
            "netns-10.img",
            "netns-ct-.img",
            "netns-ct-1",
            "netns-nf-1.img",
        ] {
            assert!(!has_tracked_connections(name), "{name}");
        }
    }

    #[test]
    fn the_inventory_alone_has_a_single_magic() {
        assert_eq!(ImageName::Inventory.header(), Header::One(0x5831_3116));
        assert_eq!(
            ImageName::Pstree.header(),
            Header::Two(0x5456_4319, 0x5027_3030)
        );
        assert_eq!(ImageName::Pages(1).header(), Header::None);
    }
}
