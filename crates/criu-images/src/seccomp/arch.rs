//! System call conventions and the names of their calls.
//!
//! The tables in `syscalls/` (`NUMBER NAME` per line) hold the numbers of the kernel's headers:
//! `asm/unistd_{64,32,x32}.h`, `asm-generic/unistd.h`, `asm/unistd-common.h` of arm.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::proto::core_entry::March;

/// Set in the numbers of x32 calls (`__X32_SYSCALL_BIT`).
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// A system call convention, by its name in OCI profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit x86.
    #[serde(rename = "SCMP_ARCH_X86_64")]
    X86_64,
    /// 32-bit x86.
    #[serde(rename = "SCMP_ARCH_X86")]
    X86,
    /// 64-bit x86 with 32-bit pointers.
    #[serde(rename = "SCMP_ARCH_X32")]
    X32,
    /// 64-bit arm.
    #[serde(rename = "SCMP_ARCH_AARCH64")]
    Aarch64,
    /// 32-bit arm.
    #[serde(rename = "SCMP_ARCH_ARM")]
    Arm,
    /// Any other; no task of ours can use it.
    #[serde(other)]
    Other,
}

/// What a filter sees of a call: the kernel's `AUDIT_ARCH_*` and the conventions that share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `seccomp_data.arch`.
    pub(crate) audit: u32,
    /// Whether arguments have 32 bits.
    pub(crate) narrow: bool,
    conventions: [Option<Arch>; 2],
}

/// The ways into the kernel that a task on this machine has.
pub(crate) fn entries(march: March) -> Option<[Entry; 2]> {
    match march {
        March::X8664 => Some([
            Entry {
                audit: 0xc000_003e,
                narrow: false,
                conventions: [Some(Arch::X86_64), Some(Arch::X32)],
            },
            Entry {
                audit: 0x4000_0003,
                narrow: true,
                conventions: [Some(Arch::X86), None],
            },
        ]),
        March::Aarch64 => Some([
            Entry {
                audit: 0xc000_00b7,
                narrow: false,
                conventions: [Some(Arch::Aarch64), None],
            },
            Entry {
                audit: 0x4000_0028,
                narrow: true,
                conventions: [Some(Arch::Arm), None],
            },
        ]),
        _ => None,
    }
}

impl Entry {
    /// The convention of a call number, and the number within its table.
    pub(crate) fn convention(&self, number: u32) -> (Arch, u32) {
        match self.conventions {
            [_, Some(second)] if number & X32_BIT != 0 => (second, number & !X32_BIT),
            [Some(first), _] => (first, number),
            _ => (Arch::Other, number),
        }
    }

    /// Whether arguments of the call have 32 bits: in truth, or in the eyes of libseccomp, whose
    /// filters look at the lower halves only for x32.
    pub(crate) fn is_narrow(&self, number: u32) -> bool {
        self.narrow || matches!(self.convention(number), (Arch::X32, _))
    }

    /// The convention whose profile entry opens this way at all.
    pub(crate) fn first(&self) -> Arch {
        self.conventions
            .first()
            .copied()
            .flatten()
            .unwrap_or(Arch::Other)
    }

    /// Numbers to try: every known one, and some beyond the tables.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..1024).collect();
        if let [_, Some(Arch::X32)] = self.conventions {
            numbers.extend(X32_BIT..X32_BIT + 1024);
        }
        if self.first() == Arch::Arm {
            numbers.extend(0x000f_0000..0x000f_0010);
        }
        numbers.extend([X32_BIT - 1, X32_BIT + 1024, u32::MAX - 1]);
        numbers
    }
}

impl Arch {
    /// The names of a call number.
    pub(crate) fn names(self, number: u32) -> &'static [&'static str] {
        self.table()
            .and_then(|table| table.get(&number))
            .map_or(&[], Vec::as_slice)
    }

    fn table(self) -> Option<&'static Table> {
        static TABLES: OnceLock<HashMap<Arch, Table>> = OnceLock::new();
        let tables = TABLES.get_or_init(|| {
            [
                (Self::X86_64, include_str!("syscalls/x86_64.txt")),
                (Self::X86, include_str!("syscalls/x86.txt")),
                (Self::X32, include_str!("syscalls/x32.txt")),
                (Self::Aarch64, include_str!("syscalls/aarch64.txt")),
                (Self::Arm, include_str!("syscalls/arm.txt")),
            ]
            .map(|(arch, text)| (arch, parse(text)))
            .into()
        });
        tables.get(&self)
    }
}

type Table = HashMap<u32, Vec<&'static str>>;

fn parse(text: &'static str) -> Table {
    let mut table = Table::new();
    for (number, name) in text.lines().filter_map(|line| line.split_once(' ')) {
        if let Ok(number) = number.parse() {
            table.entry(number).or_default().push(name);
        }
    }
    table
}

/// Calls behind `socketcall(2)` of 32-bit x86, by its first argument (`linux/net.h`).
pub(crate) const SOCKETCALL: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

/// Calls behind `ipc(2)` of 32-bit x86, by its first argument (`linux/ipc.h`).
pub(crate) const IPC: [(u32, &str); 12] = [
    (1, "semop"),
    (2, "semget"),
    (3, "semctl"),
    (4, "semtimedop"),
    (11, "msgsnd"),
    (12, "msgrcv"),
    (13, "msgget"),
    (14, "msgctl"),
    (21, "shmat"),
    (22, "shmdt"),
    (23, "shmget"),
    (24, "shmctl"),
];

#[cfg(test)]
mod tests {
    use super::{Arch, entries};
    use crate::proto::core_entry::March;

    #[test]
    fn tables_hold_well_known_numbers() {
        for (arch, number, name) in [
            (Arch::X86_64, 0, "read"),
            (Arch::X86_64, 59, "execve"),
            (Arch::X86_64, 435, "clone3"),
            (Arch::X86, 102, "socketcall"),
            (Arch::X86, 11, "execve"),
            (Arch::X32, 520, "execve"),
            (Arch::Aarch64, 221, "execve"),
            (Arch::Arm, 11, "execve"),
        ] {
            assert_eq!(arch.names(number), [name], "{arch:?} {number}");
        }
        assert!(Arch::X86_64.names(1000).is_empty());
    }

    #[test]
    fn x32_numbers_are_told_from_native_ones() {
        let [wide, narrow] = entries(March::X8664).unwrap();
        assert_eq!(wide.convention(59), (Arch::X86_64, 59));
        assert_eq!(wide.convention(0x4000_0208), (Arch::X32, 520));
        assert_eq!(narrow.convention(0x4000_0208), (Arch::X86, 0x4000_0208));
        assert!(entries(March::Mips).is_none());
    }
}
