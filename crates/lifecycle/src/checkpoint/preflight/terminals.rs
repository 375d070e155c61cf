//! Terminals that CRIU refuses, or fails to restore, because somebody has `/dev/tty` open.
//!
//! A shell with job control opens `/dev/tty`. CRIU 4.2 dumps that when the terminal's foreground
//! group is the session leader's own, and who holds `/dev/tty` first is also the first to hold the
//! terminal (`tty_verify_ctty` in its `criu/tty.c`). It restores `/dev/tty` only in the session's
//! leader; a descriptor inherited from there comes along, one that another process opened itself
//! fails with ENXIO. Each case was seen with busybox's shell as a container's first process:
//!
//! | the shell's script, after `set -m` | outcome |
//! |---|---|
//! | `sleep 1 & wait`; also `(while :; do sleep 1; done) &` | dumped and restored |
//! | `sleep 1` (its group is in the foreground) | refused by CRIU |
//! | `sleep 1 </dev/tty &` | dumped, and not restored |
//! | without `set -m`: `sleep 1 </dev/tty &` | refused by CRIU |

use std::collections::BTreeMap;

use sys::proc::Session;

/// Major numbers of the pseudo-terminals' ends, and of `/dev/tty` and `/dev/ptmx` (`Documentation/
/// admin-guide/devices.txt` of the kernel).
const SLAVE: u32 = 136;
const OTHERS: u32 = 5;

/// Who holds which terminal, in the order in which CRIU dumps.
#[derive(Debug, Default)]
pub(super) struct Terminals {
    /// Pid and descriptor of everybody who holds `/dev/tty`.
    controlling: Vec<(u32, u32)>,
    /// The first holder of either end of a pseudo-terminal, by its index.
    first: BTreeMap<u32, u32>,
}

impl Terminals {
    /// Notes an open character device. Processes come parents first, descriptors in order.
    pub(super) fn see(&mut self, pid: u32, fd: u32, (major, minor): (u32, u32)) {
        match (major, minor) {
            (OTHERS, 0) => self.controlling.push((pid, fd)),
            (OTHERS, 2) => {
                let info = sys::proc::fd_info(pid, fd).unwrap_or_default();
                let index = info
                    .lines()
                    .find_map(|line| line.strip_prefix("tty-index:"));
                if let Some(index) = index.and_then(|index| index.trim().parse().ok()) {
                    self.first.entry(index).or_insert(pid);
                }
            }
            (SLAVE, index) => {
                self.first.entry(index).or_insert(pid);
            }
            _ => {}
        }
    }

    /// What is wrong, by process.
    pub(super) fn problems(&self) -> Vec<(u32, String)> {
        let mut found = Vec::new();
        for &(pid, fd) in &self.controlling {
            // A process that ends meanwhile needs no dump.
            let Ok(session) = sys::proc::session(pid) else {
                continue;
            };
            if let Some(fault) = self.fault(pid, fd, session) {
                found.push((pid, format!("holds /dev/tty as fd {fd}, {fault}")));
            }
        }
        found
    }

    fn fault(&self, pid: u32, fd: u32, session: Session) -> Option<String> {
        if session.id != pid {
            let inherited = self.controlling.iter().any(|&(other, other_fd)| {
                other == session.id
                    && sys::kcmp::same_file((pid, fd), (other, other_fd)).unwrap_or(false)
            });
            let leader = session.id;
            return (!inherited).then(|| {
                format!("not from its session's leader {leader}, which CRIU cannot restore")
            });
        }
        if session.foreground != Some(pid) {
            let group = session.foreground.unwrap_or_default();
            return Some(format!(
                "and process group {group} is in the terminal's foreground, which CRIU cannot dump: \
                 end that job or let it run in the background"
            ));
        }
        let index = index(session.terminal)?;
        match self.first.get(&index) {
            Some(&first) if first == pid => None,
            Some(first) => Some(format!(
                "and process {first} holds the terminal too, which CRIU cannot dump"
            )),
            None => Some("but not the terminal itself, which CRIU cannot dump".to_owned()),
        }
    }
}

/// The index of a pseudo-terminal by the device number in proc: bits 8 to 19 are the major number,
/// the others the minor (`new_encode_dev` in the kernel's `include/linux/kdev_t.h`).
fn index(terminal: i64) -> Option<u32> {
    let number = u32::try_from(terminal).ok()?;
    let (major, minor) = (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xf_ff00),
    );
    (major == SLAVE).then_some(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_split_as_the_kernel_joins_them() {
        assert_eq!(index(136 << 8 | 3), Some(3));
        assert_eq!(index(136 << 8 | 0x34 | 0x1200 << 12), Some(0x1234));
        assert_eq!(index(0), None);
        assert_eq!(index(4 << 8 | 1), None);
    }

    #[test]
    fn the_leader_s_own_terminal_passes_and_what_criu_refuses_does_not() {
        let pid = std::process::id();
        let mut terminals = Terminals::default();
        let session = |id, foreground| Session {
            id,
            terminal: 136 << 8 | 7,
            foreground,
        };
        let leader = session(pid, Some(pid));
        terminals.see(pid, 10, (OTHERS, 0));
        let alone = terminals.fault(pid, 10, leader).unwrap();
        assert!(alone.contains("not the terminal itself"), "{alone}");
        terminals.see(pid, 0, (SLAVE, 7));
        assert_eq!(terminals.fault(pid, 10, leader), None);
        let job = terminals.fault(pid, 10, session(pid, Some(4321))).unwrap();
        assert!(job.contains("process group 4321"), "{job}");
        let child = terminals.fault(pid, 10, session(1, Some(1))).unwrap();
        assert!(child.contains("session's leader 1"), "{child}");
        let mut master_first = Terminals::default();
        master_first.first.insert(7, 99);
        master_first.see(pid, 0, (SLAVE, 7));
        let shared = master_first.fault(pid, 10, leader).unwrap();
        assert!(shared.contains("process 99"), "{shared}");
    }

    #[test]
    fn an_inherited_terminal_passes_and_without_kcmp_it_does_not() {
        use std::os::fd::{AsRawFd as _, OwnedFd};
        use sys::process::{Command, Stdio};
        use sys::testing::{Refusal, libc, refusing};
        let file = std::fs::File::open("/dev/null").unwrap();
        let copy = OwnedFd::from(file.try_clone().unwrap());
        let child = Command::new("cat").stdin(Stdio::Pipe).fd(copy, 5);
        let child = child.spawn().unwrap();
        let own = std::process::id();
        let mut terminals = Terminals::default();
        terminals.see(own, u32::try_from(file.as_raw_fd()).unwrap(), (OTHERS, 0));
        terminals.see(child.pid(), 5, (OTHERS, 0));
        let session = Session {
            id: own,
            terminal: 136 << 8 | 7,
            foreground: None,
        };
        assert_eq!(terminals.fault(child.pid(), 5, session), None);
        let kcmp = Refusal {
            call: libc::SYS_kcmp,
            argument: None,
            errno: libc::ENOSYS,
        };
        let fault = refusing(&[kcmp], || terminals.fault(child.pid(), 5, session)).unwrap();
        let fault = fault.unwrap();
        assert!(fault.contains("not from its session's leader"), "{fault}");
    }
}
