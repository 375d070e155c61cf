//! What is in a set of images, for people: processes with command lines, sockets, mounts, files,
//! memory, and how long the container stood still.
//!
//! Describing trusts nothing and refuses little: what can be read is told, what cannot is a note
//! in [`Description::problems`]. It is no check; that is [`crate::policy::check`].

mod command_line;
mod mounts;
mod processes;
mod sockets;
mod stats;
mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use mounts::Mount;
pub use processes::{Process, ProcessState};
pub use sockets::{Socket, SocketKind};
pub use stats::{DumpStats, StatsError};

use crate::limits::Limits;
use crate::load::{self, Strictness};
use crate::model::Images;
use crate::proto::FdTypes;
use crate::source::ImageSource;
use crate::violation::Report;

/// A set of images in a person's terms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Description {
    /// Processor architecture of the tasks (`x86_64`, `aarch64`).
    pub machine: Option<String>,
    /// Host name of the container.
    pub hostname: Option<String>,
    /// Processes; a parent comes before its children.
    pub processes: Vec<Process>,
    /// Sockets, whether or not a process still has them open.
    pub sockets: Vec<Socket>,
    /// Mounts, by mount point.
    pub mounts: Vec<Mount>,
    /// Open files by kind.
    pub files: BTreeMap<String, usize>,
    /// Files that are open but have no name any more.
    pub deleted_files: usize,
    /// Images of those, in bytes.
    pub deleted_bytes: u64,
    /// Locks held.
    pub file_locks: usize,
    /// Sizes.
    pub memory: Memory,
    /// Measurements of the dump, when `stats-dump` is among the images.
    pub dump: Option<DumpStats>,
    /// Whether established TCP connections are closed in the copy.
    pub tcp_close: bool,
    /// What could not be read, in words.
    pub problems: Vec<String>,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Memory {
    /// Pages of the processes' own memory.
    pub private_bytes: u64,
    /// Pages of shared memory.
    pub shared_bytes: u64,
    /// Page images.
    pub page_image_bytes: u64,
    /// All other images.
    pub other_image_bytes: u64,
}

/// Describes the images of `source`.
#[must_use]
pub fn describe(source: &dyn ImageSource) -> Description {
    let limits = Limits::default();
    let mut report = Report::new(limits.max_violations);
    let images = load::load(source, &limits, Strictness::Lenient, &mut report);
    let problems = report
        .into_violations()
        .iter()
        .map(ToString::to_string)
        .collect();
    let inventory = images.inventory.as_ref();
    Description {
        machine: machine(&images),
        hostname: images
            .hostnames
            .values()
            .next()
            .map(|names| text_of(&names.nodename)),
        processes: processes::processes(source, &images),
        sockets: sockets::sockets(&images),
        mounts: mounts::mounts(&images),
        files: files(&images),
        deleted_files: images.ghosts.len(),
        deleted_bytes: images.ghosts.keys().fold(0, |sum, id| {
            let size = images.sizes.get(&format!("ghost-file-{id:x}.img"));
            sum.saturating_add(size.copied().unwrap_or(0))
        }),
        file_locks: images.locks.len(),
        memory: memory(&images),
        dump: images.stats.as_ref().and_then(DumpStats::new),
        tcp_close: inventory.is_some_and(|inventory| inventory.tcp_close == Some(true)),
        problems,
    }
}

fn machine(images: &Images) -> Option<String> {
    let core = images.cores.values().next()?;
    Some(core.mtype().as_str_name().to_lowercase())
}

fn files(images: &Images) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for file in images.files.values() {
        *counts
            .entry(kind_name(file.r#type()).to_owned())
            .or_default() += 1;
    }
    counts
}

fn kind_name(kind: FdTypes) -> &'static str {
    match kind {
        FdTypes::Reg => "path",
        FdTypes::Pipe => "pipe",
        FdTypes::Fifo => "named pipe",
        FdTypes::Inetsk => "inet socket",
        FdTypes::Unixsk => "unix socket",
        FdTypes::Packetsk => "packet socket",
        FdTypes::Netlinksk => "netlink socket",
        FdTypes::Eventfd => "eventfd",
        FdTypes::Eventpoll => "epoll",
        FdTypes::Inotify => "inotify",
        FdTypes::Fanotify => "fanotify",
        FdTypes::Signalfd => "signalfd",
        FdTypes::Timerfd => "timerfd",
        FdTypes::Tty => "terminal",
        FdTypes::Memfd => "memfd",
        FdTypes::Pidfd => "pidfd",
        FdTypes::Ns => "namespace",
        FdTypes::Tunf => "tun",
        FdTypes::Bpfmap => "BPF map",
        FdTypes::Ext => "external",
        FdTypes::Und | FdTypes::CtlTty | FdTypes::AutofsPipe => "other",
    }
}

fn memory(images: &Images) -> Memory {
    let bytes = |map: &crate::model::Pagemap| processes::stored_bytes(map);
    let all: u64 = images
        .sizes
        .values()
        .fold(0, |sum, size| sum.saturating_add(*size));
    let pages = images
        .pages
        .values()
        .fold(0u64, |sum, size| sum.saturating_add(*size));
    Memory {
        private_bytes: images
            .pagemaps
            .values()
            .map(bytes)
            .fold(0, u64::saturating_add),
        shared_bytes: images
            .shmem_pagemaps
            .values()
            .map(bytes)
            .fold(0, u64::saturating_add),
        page_image_bytes: pages,
        other_image_bytes: all.saturating_sub(pages),
    }
}

/// Bytes as text; what is not UTF-8 is replaced.
fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
