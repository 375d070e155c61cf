//! What `/proc` tells of other processes (proc(5)); parsing is separate from reading.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// One open descriptor of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// Its number.
    pub fd: u32,
    /// What `/proc/PID/fd/N` links to: a path, `socket:[inode]`, `anon_inode:[…]`, …
    pub target: String,
}

/// The fields of `/proc/PID/status` that thawd uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Command name.
    pub name: String,
    /// State letter: `R`, `S`, `D`, `T`, `t`, `Z`, …
    pub state: char,
    /// Process that traces it, 0 for none.
    pub tracer: u32,
    /// Real, effective, saved and filesystem user.
    pub uids: Vec<u32>,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Resident anonymous memory in bytes.
    pub rss_anon_bytes: u64,
    /// Resident shared memory in bytes.
    pub rss_shmem_bytes: u64,
    /// Swapped-out memory in bytes.
    pub swap_bytes: u64,
    /// Process ids from the outermost to the innermost pid namespace.
    pub ns_pids: Vec<u32>,
}

impl Status {
    /// Parses the file's text; unknown lines are passed over, missing ones leave defaults.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut status = Self {
            state: '?',
            ..Self::default()
        };
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match key {
                "Name" => value.clone_into(&mut status.name),
                "State" => status.state = value.chars().next().unwrap_or('?'),
                "TracerPid" => status.tracer = value.parse().unwrap_or(0),
                "Uid" => status.uids = numbers(value),
                "NSpid" => status.ns_pids = numbers(value),
                "VmRSS" => status.rss_bytes = kibibytes(value),
                "RssAnon" => status.rss_anon_bytes = kibibytes(value),
                "RssShmem" => status.rss_shmem_bytes = kibibytes(value),
                "VmSwap" => status.swap_bytes = kibibytes(value),
                _ => {}
            }
        }
        status
    }
}

fn numbers(value: &str) -> Vec<u32> {
    value
        .split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

fn kibibytes(value: &str) -> u64 {
    let number = value
        .split_ascii_whitespace()
        .next()
        .and_then(|word| word.parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

/// `/proc/PID/status`.
///
/// # Errors
///
/// What open(2) or read(2) return; `NotFound` once the process is gone.
pub fn status(pid: u32) -> io::Result<Status> {
    Ok(Status::parse(&std::fs::read_to_string(format!(
        "/proc/{pid}/status"
    ))?))
}

/// The command line, arguments separated as they are; empty for kernel threads and zombies.
///
/// # Errors
///
/// What open(2) or read(2) return.
pub fn command_line(pid: u32) -> io::Result<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    Ok(bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect())
}

/// When the process started, in clock ticks since boot: with the pid, its identity on this boot.
///
/// # Errors
///
/// `NotFound` once it is gone; `InvalidData` for text that is no stat line.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in stat"))
}

/// The 22nd field of a stat line; the command name before it may hold spaces and parentheses.
fn parse_start_time(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The parent's pid, 0 where it is outside this pid namespace.
///
/// # Errors
///
/// `NotFound` once the process is gone; `InvalidData` for text that is no stat line.
pub fn parent(pid: u32) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').unwrap_or_default();
    let parsed = rest
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok());
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no parent in stat"))
}

/// A process's session, and the terminal that controls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Id: the pid of its leader.
    pub id: u32,
    /// Device number of the controlling terminal as the kernel encodes it for user space; 0 without.
    pub terminal: i64,
    /// Process group in the terminal's foreground.
    pub foreground: Option<u32>,
}

/// The session from `/proc/PID/stat` (fields `session`, `tty_nr` and `tpgid` of proc_pid_stat(5)).
///
/// # Errors
///
/// `NotFound` once it is gone; `InvalidData` for text that is no stat line.
pub fn session(pid: u32) -> io::Result<Session> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let parsed = text.rsplit_once(')').and_then(|(_, rest)| {
        let mut fields = rest.split_ascii_whitespace();
        let id = fields.nth(3)?.parse().ok()?;
        let terminal = fields.next()?.parse().ok()?;
        // -1 without a terminal.
        let foreground = fields.next()?.parse().ok();
        Some(Session {
            id,
            terminal,
            foreground,
        })
    });
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no session in stat"))
}

/// Threads of a process, the leader among them.
///
/// # Errors
///
/// `NotFound` once it is gone.
pub fn threads(pid: u32) -> io::Result<Vec<u32>> {
    numeric_entries(Path::new(&format!("/proc/{pid}/task")))
}

/// The process and everything below it, depth first: a process, then its children's trees in the
/// order of their birth. CRIU dumps in this order (`pstree_item_next` in its `criu/pstree.c`).
///
/// A snapshot without a lock: processes may come and go meanwhile.
///
/// # Errors
///
/// `NotFound` when the first process is gone.
pub fn tree(root: u32) -> io::Result<Vec<u32>> {
    threads(root)?;
    let mut found = Vec::new();
    let mut pending = vec![root];
    while let Some(pid) = pending.pop() {
        if found.contains(&pid) {
            continue;
        }
        found.push(pid);
        let mut children = Vec::new();
        for thread in threads(pid).unwrap_or_default() {
            let path = format!("/proc/{pid}/task/{thread}/children");
            children.extend(numbers(&std::fs::read_to_string(path).unwrap_or_default()));
        }
        pending.extend(children.into_iter().rev());
    }
    Ok(found)
}

/// Open descriptors, in order; those that close meanwhile are left out.
///
/// # Errors
///
/// `NotFound` once the process is gone.
pub fn open_files(pid: u32) -> io::Result<Vec<OpenFile>> {
    let directory = PathBuf::from(format!("/proc/{pid}/fd"));
    let mut files = Vec::new();
    for fd in numeric_entries(&directory)? {
        if let Ok(target) = std::fs::read_link(directory.join(fd.to_string())) {
            files.push(OpenFile {
                fd,
                target: target.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(files)
}

/// `/proc/PID/fdinfo/FD`.
///
/// # Errors
///
/// `NotFound` once the process or the descriptor is gone.
pub fn fd_info(pid: u32, fd: u32) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))
}

/// The identity of each of a process's namespaces: link name (`net`, `pid`, …) to `kind:[inode]`.
///
/// # Errors
///
/// `NotFound` once the process is gone.
pub fn namespaces(pid: u32) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/ns"))? {
        let entry = entry?;
        if let Ok(target) = std::fs::read_link(entry.path()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.insert(name, target.to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

/// The bounding set of the calling process as a mask of capability numbers (capabilities(7)).
///
/// # Errors
///
/// What read(2) returns; `InvalidData` when the line is missing.
pub fn own_bounding_set() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    text.lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no CapBnd in status"))
}

/// The calling process's own `oom_score_adj`.
///
/// # Errors
///
/// What read(2) returns; `InvalidData` when it is no number.
pub fn own_oom_score_adj() -> io::Result<i64> {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj")?;
    text.trim()
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// This boot's random id.
///
/// # Errors
///
/// What read(2) returns.
pub fn boot_id() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

fn numeric_entries(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name: OsString = entry?.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_text_is_parsed() {
        let status = Status::parse(
            "Name:\ta b\nState:\tT (stopped)\nTracerPid:\t7\nUid:\t1\t2\t3\t4\nVmRSS:\t   12 kB\nNSpid:\t99\t1\n",
        );
        assert_eq!(status.name, "a b");
        assert_eq!(status.state, 'T');
        assert_eq!(status.tracer, 7);
        assert_eq!(status.uids, [1, 2, 3, 4]);
        assert_eq!(status.rss_bytes, 12 * 1024);
        assert_eq!(status.ns_pids, [99, 1]);
    }

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_start_time() {
        let line = "5 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(parse_start_time(line), Some(4242));
        assert_eq!(parse_start_time("nonsense"), None);
    }

    #[test]
    fn the_own_process_is_found() {
        let pid = std::process::id();
        assert!(start_time(pid).unwrap() > 0);
        assert!(tree(pid).unwrap().contains(&pid));
        assert!(namespaces(pid).unwrap().contains_key("net"));
        assert!(!open_files(pid).unwrap().is_empty());
    }
}
