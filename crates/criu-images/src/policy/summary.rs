//! What a set of images that passed the check needs and holds.

use crate::model::Images;
use crate::policy::paths::{self, FilePath};

/// Facts about images that passed, for the restore to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Pid of the root task in its pid namespace.
    pub root_pid: u32,
    /// Processes.
    pub tasks: usize,
    /// Threads of all processes.
    pub threads: usize,
    /// Bytes in page images.
    pub page_bytes: u64,
    /// Page images by size, largest first.
    pub page_images: Vec<(String, u64)>,
    /// Every path that CRIU will open or bind, to be verified free of symbolic links.
    pub paths: Vec<FilePath>,
    /// Keys under which CRIU must be told what to mount.
    pub external_mounts: Vec<String>,
    /// Inodes of pipes at descriptors 0 to 2 of the root task (`pipe:[N]`), `None` where the
    /// descriptor is something else or closed.
    pub stdio_pipes: [Option<u32>; 3],
    /// Whether the root task has a terminal at one of the descriptors 0 to 2.
    pub terminal: bool,
    /// Whether CRIU was told to close established TCP connections.
    pub tcp_close: bool,
}

impl Summary {
    pub(super) fn new(images: &Images) -> Self {
        let root_pid = images.root().map_or(0, |root| root.pid);
        let mut page_images: Vec<(String, u64)> = images
            .pages
            .iter()
            .map(|(id, size)| (format!("pages-{id}.img"), *size))
            .collect();
        page_images.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let (_, mounts) = images.root_mounts().unwrap_or_default();
        let mut external_mounts: Vec<String> = mounts
            .iter()
            .filter_map(|mount| mount.ext_key.as_deref())
            .map(|key| String::from_utf8_lossy(key).into_owned())
            .collect();
        external_mounts.sort();
        external_mounts.dedup();
        Self {
            root_pid,
            tasks: images.processes.len(),
            threads: images
                .processes
                .iter()
                .map(|process| process.threads.len())
                .sum(),
            page_bytes: page_images.iter().map(|(_, size)| size).sum(),
            page_images,
            paths: paths::collect(images),
            external_mounts,
            stdio_pipes: [0, 1, 2].map(|fd| stdio_pipe(images, root_pid, fd)),
            terminal: has_terminal(images, root_pid),
            tcp_close: images
                .inventory
                .as_ref()
                .is_some_and(|inventory| inventory.tcp_close == Some(true)),
        }
    }
}

fn stdio_pipe(images: &Images, pid: u32, fd: u32) -> Option<u32> {
    let (_, descriptors) = images.descriptors_of(pid)?;
    let descriptor = descriptors.iter().find(|descriptor| descriptor.fd == fd)?;
    Some(images.files.get(&descriptor.id)?.pipe.as_ref()?.pipe_id)
}

fn has_terminal(images: &Images, pid: u32) -> bool {
    images.descriptors_of(pid).is_some_and(|(_, descriptors)| {
        descriptors.iter().filter(|fd| fd.fd < 3).any(|fd| {
            images
                .files
                .get(&fd.id)
                .is_some_and(|file| file.tty.is_some())
        })
    })
}
