//! Processes.

use serde::{Deserialize, Serialize};

use super::{command_line, text_of};
use crate::model::{Images, Pagemap};
use crate::policy::{PAGE, PE_PRESENT, pages_of};
use crate::proto::{PstreeEntry, SeccompMode};
use crate::source::ImageSource;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Process {
    /// Its id in the container.
    pub pid: u32,
    /// Its parent's, 0 for the first.
    pub ppid: u32,
    /// Process group.
    pub pgid: u32,
    /// Session.
    pub sid: u32,
    /// Name, as `ps` shows it.
    pub name: String,
    /// Arguments; empty when their memory is not in the images.
    pub command_line: Vec<String>,
    /// State.
    pub state: ProcessState,
    /// Threads.
    pub threads: usize,
    /// Real user id.
    pub uid: Option<u32>,
    /// Real group id.
    pub gid: Option<u32>,
    /// Whether a seccomp filter is set.
    pub seccomp: bool,
    /// Path of the program.
    pub executable: Option<String>,
    /// Working directory.
    pub working_directory: Option<String>,
    /// Open descriptors.
    pub descriptors: usize,
    /// Memory of its own in the images, in bytes.
    pub memory_bytes: u64,
}

/// State of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProcessState {
    /// It runs.
    Alive,
    /// Stopped by a signal.
    Stopped,
    /// It has ended and its parent has not taken notice.
    Zombie,
    /// The images do not say.
    Unknown,
}

pub(super) fn processes(source: &dyn ImageSource, images: &Images) -> Vec<Process> {
    images
        .processes
        .iter()
        .map(|entry| process(source, images, entry))
        .collect()
}

fn process(source: &dyn ImageSource, images: &Images, entry: &PstreeEntry) -> Process {
    let pid = entry.pid;
    let core = images.cores.get(&pid);
    let task = core.and_then(|core| core.tc.as_ref());
    let thread = core.and_then(|core| core.thread_core.as_ref());
    let creds = thread.and_then(|thread| thread.creds.as_ref());
    let path = |id: u32| {
        images
            .files
            .get(&id)?
            .reg
            .as_ref()
            .map(|file| text_of(&file.name))
    };
    Process {
        pid,
        ppid: entry.ppid,
        pgid: entry.pgid,
        sid: entry.sid,
        name: task.map(|task| text_of(&task.comm)).unwrap_or_default(),
        command_line: command_line::arguments(source, images, pid),
        state: match task.map(|task| task.task_state) {
            Some(1) => ProcessState::Alive,
            Some(3) => ProcessState::Stopped,
            Some(2 | 6) => ProcessState::Zombie,
            _ => ProcessState::Unknown,
        },
        threads: entry.threads.len(),
        uid: creds.map(|creds| creds.uid),
        gid: creds.map(|creds| creds.gid),
        seccomp: thread.is_some_and(|thread| {
            thread.seccomp_mode.is_some() && thread.seccomp_mode() != SeccompMode::Disabled
        }),
        executable: images
            .memory
            .get(&pid)
            .and_then(|memory| path(memory.exe_file_id)),
        working_directory: images.roots.get(&pid).and_then(|root| path(root.cwd_id)),
        descriptors: images.descriptors_of(pid).map_or(0, |(_, list)| list.len()),
        memory_bytes: images.pagemaps.get(&pid).map_or(0, stored_bytes),
    }
}

/// Bytes of pages that a map takes from its page image.
pub(super) fn stored_bytes(map: &Pagemap) -> u64 {
    map.entries
        .iter()
        .filter(|entry| entry.flags.unwrap_or(PE_PRESENT) & PE_PRESENT != 0)
        .fold(0, |sum, entry| {
            sum.saturating_add(pages_of(entry).saturating_mul(PAGE))
        })
}
