//! What CRIU cannot dump, found before anything is frozen.
//!
//! CRIU finds most of this too, but only after it has stopped every task (0.1 to 0.3 s in which
//! clients wait for nothing), and often says it in words that name no file. Here each finding names
//! pid, descriptor and path. The list follows what CRIU 4.2 refuses (its `criu/files.c`,
//! `criu/sockets.c`, `criu/namespaces.c`); what passes here may still be refused there.

mod terminals;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustix::io::Errno;
use sys::proc::OpenFile;

use self::terminals::Terminals;
use crate::error::Error;

/// Kernel state of a connected unix socket.
const CONNECTED: u8 = 1;
/// `SOCK_DGRAM`.
const DATAGRAM: u8 = 2;

/// Findings reported at most; one is enough to refuse.
const MOST: usize = 16;

/// What the scan learnt of the container's tasks.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Processes, parents first.
    pub(crate) pids: Vec<u32>,
    /// Memory that the dump will write at most, in bytes, a process each.
    pub(crate) memory_bytes: Vec<u64>,
    /// `(device, inode)` of everything watched by inotify.
    pub(crate) watches: BTreeSet<(u64, u64)>,
    /// A process that is stopped by job control, if there is one.
    pub(crate) stopped: Option<u32>,
    /// Memory that is swapped out, in bytes.
    pub(crate) swapped_bytes: u64,
}

impl Scan {
    /// Memory that the dump will write at most, in bytes.
    pub(crate) fn all_memory_bytes(&self) -> u64 {
        let each = self.memory_bytes.iter();
        each.fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

/// Looks at every task below `init`.
///
/// # Errors
///
/// [`Error::Precondition`] that lists what cannot be dumped; [`Error::Failed`] when the container
/// ended meanwhile.
pub(crate) fn scan(init: u32) -> Result<Scan, Error> {
    let gone = |error| Error::failed("look at the container's processes", error);
    let pids = sys::proc::tree(init).map_err(gone)?;
    let namespaces = sys::proc::namespaces(init).map_err(gone)?;
    let mut look = Look {
        init,
        namespaces,
        ..Look::default()
    };
    for pid in &pids {
        look.process(*pid);
    }
    look.unix_sockets();
    for (pid, problem) in look.terminals.problems() {
        look.problem(pid, problem);
    }
    if look.problems.is_empty() {
        return Ok(Scan {
            pids,
            memory_bytes: look.memory,
            watches: look.watches,
            stopped: look.stopped,
            swapped_bytes: look.swapped,
        });
    }
    look.problems.truncate(MOST);
    Err(Error::Precondition(format!(
        "the container cannot be checkpointed: {}",
        look.problems.join("; ")
    )))
}

#[derive(Debug, Default)]
struct Look {
    init: u32,
    namespaces: BTreeMap<String, String>,
    problems: Vec<String>,
    memory: Vec<u64>,
    swapped: u64,
    stopped: Option<u32>,
    watches: BTreeSet<(u64, u64)>,
    terminals: Terminals,
    /// Unix sockets by inode: pid and descriptor of the first holder.
    unix: BTreeMap<u32, (u32, u32)>,
}

impl Look {
    fn process(&mut self, pid: u32) {
        // A process that ends while it is looked at needs no dump.
        let Ok(status) = sys::proc::status(pid) else {
            return;
        };
        if status.state == 'Z' {
            return;
        }
        if status.tracer != 0 {
            let tracer = status.tracer;
            self.problem(
                pid,
                format!("is traced by process {tracer}: stop the debugger"),
            );
        }
        if status.state == 'T' {
            self.stopped = Some(pid);
        }
        self.swapped = self.swapped.saturating_add(status.swap_bytes);
        self.memory.push(
            status
                .rss_anon_bytes
                .saturating_add(status.rss_shmem_bytes)
                .saturating_add(status.swap_bytes),
        );
        self.nested_namespaces(pid);
        self.mappings(pid);
        for file in sys::proc::open_files(pid).unwrap_or_default() {
            self.file(pid, &file);
        }
    }

    fn problem(&mut self, pid: u32, text: impl AsRef<str>) {
        let name = sys::proc::status(pid)
            .map(|status| status.name)
            .unwrap_or_default();
        self.problems
            .push(format!("process {pid} ({name}) {}", text.as_ref()));
    }

    fn nested_namespaces(&mut self, pid: u32) {
        let Ok(found) = sys::proc::namespaces(pid) else {
            return;
        };
        for kind in ["pid", "uts", "ipc", "user", "cgroup", "time"] {
            let (Some(own), Some(first)) = (found.get(kind), self.namespaces.get(kind)) else {
                continue;
            };
            if own != first {
                let text =
                    format!("is in a nested {kind} namespace ({own}), which CRIU cannot dump");
                self.problem(pid, text);
            }
        }
    }

    fn mappings(&mut self, pid: u32) {
        let Ok(maps) = std::fs::read_to_string(format!("/proc/{pid}/maps")) else {
            return;
        };
        let cannot = [
            ("/secretmem", "memfd_secret memory"),
            ("anon_inode:[io_uring]", "io_uring"),
        ];
        for (mark, what) in cannot {
            if let Some(line) = maps.lines().find(|line| line.contains(mark)) {
                let range = line.split(' ').next().unwrap_or_default();
                self.problem(pid, format!("maps {what} at {range}"));
            }
        }
    }

    fn file(&mut self, pid: u32, file: &OpenFile) {
        let OpenFile { fd, target } = file;
        if let Some(kind) = target.strip_prefix("anon_inode:") {
            self.anonymous(pid, *fd, kind);
        } else if let Some(inode) = target.strip_prefix("socket:[") {
            self.socket(pid, *fd, inode.trim_end_matches(']'));
        } else if target.starts_with('/') {
            self.device(pid, *fd, target);
        }
    }

    fn anonymous(&mut self, pid: u32, fd: u32, kind: &str) {
        match kind {
            "inotify" => self.watches(pid, fd),
            "[eventfd]" | "[eventpoll]" | "[signalfd]" | "[timerfd]" | "[fanotify]" | "[pidfd]" => {
            }
            other => {
                let hint = match other {
                    "[io_uring]" => " (thawd's RuntimeDefault seccomp profile refuses io_uring)",
                    _ => "",
                };
                let name = other.trim_matches(['[', ']']);
                self.problem(
                    pid,
                    format!("holds {name} as fd {fd}, which CRIU cannot dump{hint}"),
                );
            }
        }
    }

    fn watches(&mut self, pid: u32, fd: u32) {
        let Ok(info) = sys::proc::fd_info(pid, fd) else {
            return;
        };
        for line in info.lines().filter(|line| line.starts_with("inotify ")) {
            let field = |name: &str| {
                let word = line.split(' ').find_map(|word| word.strip_prefix(name))?;
                u64::from_str_radix(word, 16).ok()
            };
            if let (Some(inode), Some(device)) = (field("ino:"), field("sdev:")) {
                self.watches.insert((device, inode));
            }
        }
    }

    fn socket(&mut self, pid: u32, fd: u32, inode: &str) {
        let path = format!("/proc/{pid}/fd/{fd}");
        let Ok(protocol) = socket_protocol(&path) else {
            return;
        };
        let text = match protocol.as_str() {
            "MPTCP" | "MPTCPv6" => {
                "an MPTCP socket; set net.mptcp.enabled=0 in the pod or GODEBUG=multipathtcp=0"
            }
            "AF_VSOCK" | "VSOCK" => "a vsock socket",
            "ALG" => "an AF_ALG socket",
            "SCTP" | "SCTPv6" => "an SCTP socket",
            "XDP" => "an AF_XDP socket",
            "UNIX" | "UNIX-STREAM" => {
                if let Ok(inode) = inode.parse() {
                    self.unix.entry(inode).or_insert((pid, fd));
                }
                return;
            }
            _ => return,
        };
        self.problem(
            pid,
            format!("holds {text} as fd {fd}, which CRIU cannot dump"),
        );
    }

    fn device(&mut self, pid: u32, fd: u32, target: &str) {
        use rustix::fs::FileType;
        let Ok(stat) = rustix::fs::stat(format!("/proc/{pid}/fd/{fd}")) else {
            return;
        };
        let (major, minor) = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice if !dumpable_device(major, minor) => {
                let text = format!("holds device {target} ({major}:{minor}) as fd {fd}");
                self.problem(pid, format!("{text}, which CRIU cannot dump"));
            }
            FileType::CharacterDevice => self.terminals.see(pid, fd, (major, minor)),
            FileType::BlockDevice => {
                let text = format!("holds block device {target} ({major}:{minor}) as fd {fd}");
                self.problem(pid, format!("{text}, which CRIU cannot dump"));
            }
            _ => {}
        }
    }

    /// A connection whose other end is no process of the container cannot be dumped.
    fn unix_sockets(&mut self) {
        if self.unix.is_empty() {
            return;
        }
        let netns = format!("/proc/{}/ns/net", self.init);
        let inside = sys::ns::enter(
            Path::new(&netns),
            sys::ns::Kind::Net,
            sys::unix_diag::sockets,
        );
        let Ok(all) = inside else { return };
        // The other end is often in the host's network namespace; numbers are the same everywhere.
        let host = sys::unix_diag::sockets().unwrap_or_default();
        let pending: BTreeSet<u32> = self
            .unix
            .keys()
            .filter_map(|inode| all.get(inode))
            .flat_map(|socket| socket.pending.iter().copied())
            .collect();
        let held = self.unix.clone();
        for (inode, (pid, fd)) in &held {
            let Some(socket) = all.get(inode) else {
                continue;
            };
            let inside = match socket.peer {
                Some(peer) => held.contains_key(&peer),
                // Connected without a peer: not accepted yet, or the peer was closed. Who sends datagrams
                // to a socket of that kind leaves it connected, too (`unix_dgram_connect` in the kernel).
                None => {
                    socket.kind == DATAGRAM
                        || socket.state != CONNECTED
                        || socket.shutdown != 0
                        || pending.contains(inode)
                }
            };
            if inside {
                continue;
            }
            let others = || all.iter().chain(&host);
            let path = others()
                .filter(|(other, there)| {
                    socket.peer == Some(**other) || there.pending.contains(inode)
                })
                .map(|(_, there)| there.name.as_str())
                .chain([socket.name.as_str()])
                .find(|name| !name.is_empty())
                .unwrap_or("unnamed")
                .to_owned();
            let text = format!("has unix socket fd {fd} ({path}) connected to a process outside");
            self.problem(
                *pid,
                format!("{text} of the container, which CRIU cannot dump"),
            );
        }
    }
}

/// The protocol's name as the kernel gives it (sockfs's only extended attribute).
fn socket_protocol(path: &str) -> Result<String, Errno> {
    let mut buffer = [0_u8; 64];
    let length = rustix::fs::getxattr(path, "system.sockprotoname", &mut buffer)?;
    let name = buffer.get(..length).unwrap_or_default();
    Ok(String::from_utf8_lossy(name)
        .trim_end_matches('\0')
        .to_owned())
}

/// Memory devices, terminals and the ones that CRIU reopens by path (`Documentation/admin-guide/
/// devices.txt` of the kernel).
fn dumpable_device(major: u32, minor: u32) -> bool {
    match major {
        // null, zero, full, random, urandom, kmsg
        1 => matches!(minor, 3 | 5 | 7 | 8 | 9 | 11),
        // virtual consoles; tty, console, ptmx; pseudo-terminals (legacy and devpts)
        4 => minor < 64,
        5 => matches!(minor, 0..=2),
        2 | 3 | 128..=143 => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
