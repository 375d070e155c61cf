//! A whole set of images, decoded.

use std::collections::{BTreeMap, BTreeSet};

use crate::proto;

/// One page map.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pagemap {
    /// Number of the page image that holds the data.
    pub(crate) pages_id: u32,
    pub(crate) entries: Vec<proto::PagemapEntry>,
}

/// Everything but the content of pages, queues and files. Keys are the numbers in file names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Images {
    pub(crate) sizes: BTreeMap<String, u64>,
    pub(crate) inventory: Option<proto::InventoryEntry>,
    pub(crate) processes: Vec<proto::PstreeEntry>,
    pub(crate) cores: BTreeMap<u32, proto::CoreEntry>,
    pub(crate) ids: BTreeMap<u32, proto::TaskKobjIdsEntry>,
    pub(crate) memory: BTreeMap<u32, proto::MmEntry>,
    pub(crate) pagemaps: BTreeMap<u32, Pagemap>,
    pub(crate) shmem_pagemaps: BTreeMap<u64, Pagemap>,
    pub(crate) pages: BTreeMap<u32, u64>,
    pub(crate) descriptors: BTreeMap<u32, Vec<proto::FdinfoEntry>>,
    pub(crate) files: BTreeMap<u32, proto::FileEntry>,
    pub(crate) roots: BTreeMap<u32, proto::FsEntry>,
    pub(crate) mounts: BTreeMap<u32, Vec<proto::MntEntry>>,
    pub(crate) hostnames: BTreeMap<u32, proto::UtsnsEntry>,
    pub(crate) ipc_settings: BTreeMap<u32, proto::IpcVarEntry>,
    pub(crate) ipc_segments: Vec<proto::IpcShmEntry>,
    pub(crate) clocks: BTreeMap<u32, proto::TimensEntry>,
    pub(crate) pid_namespaces: BTreeMap<u32, proto::PidnsEntry>,
    pub(crate) net_namespaces: BTreeMap<u32, proto::NetnsEntry>,
    pub(crate) filters: Vec<proto::SeccompFilter>,
    pub(crate) ghosts: BTreeMap<u32, proto::GhostFileEntry>,
    pub(crate) remaps: Vec<proto::RemapFilePathEntry>,
    pub(crate) memfds: Vec<proto::MemfdInodeEntry>,
    pub(crate) locks: Vec<proto::FileLockEntry>,
    pub(crate) terminals: BTreeMap<u32, proto::TtyInfoEntry>,
    pub(crate) rights_in_flight: Vec<u32>,
    pub(crate) tcp_streams: BTreeSet<u32>,
    pub(crate) tmpfs_archives: BTreeMap<String, u64>,
    pub(crate) stats: Option<proto::StatsEntry>,
}

impl Images {
    /// The root task's entry: the one without a parent, which CRIU writes first.
    pub(crate) fn root(&self) -> Option<&proto::PstreeEntry> {
        self.processes.iter().find(|process| process.ppid == 0)
    }

    /// Identifiers of the kernel objects of a process: `ids-PID.img`, or the copy in its core.
    pub(crate) fn ids_of(&self, pid: u32) -> Option<&proto::TaskKobjIdsEntry> {
        self.ids
            .get(&pid)
            .or_else(|| self.cores.get(&pid)?.ids.as_ref())
    }

    /// The mounts of the root task's mount namespace.
    pub(crate) fn root_mounts(&self) -> Option<(u32, &[proto::MntEntry])> {
        let id = self.ids_of(self.root()?.pid)?.mnt_ns_id?;
        Some((id, self.mounts.get(&id)?))
    }

    /// The open descriptors of a process.
    pub(crate) fn descriptors_of(&self, pid: u32) -> Option<(u32, &[proto::FdinfoEntry])> {
        let id = self.ids_of(pid)?.files_id;
        Some((id, self.descriptors.get(&id)?))
    }
}
