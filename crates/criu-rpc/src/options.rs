//! What to tell CRIU: plain values, checked when they are sent.
//!
//! `new` gives the set that was proven with containers of runc and crun; the rest is spelled by the
//! caller over it (`DumpOptions { leave_running: true, ..DumpOptions::new(…) }`).

mod common;
mod dump;
mod restore;

pub use dump::DumpOptions;
pub use restore::{CgroupRoot, InheritFd, JoinNamespace, RestoreOptions, RestoreStdio};

/// How much of the cgroups CRIU records and restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// Nothing: tasks are restored into the cgroup of the CRIU process.
    Ignore,
    /// Membership, in cgroups that exist.
    None,
    /// Membership and properties, in cgroups that exist.
    Props,
    /// Missing cgroups are made; properties are set on those only.
    Soft,
    /// Missing cgroups are made; properties are set on all.
    Full,
    /// All cgroups must be missing.
    Strict,
}

/// How the network is held still between freeze and thaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkLock {
    /// A chain `CRIU` of iptables: some 60 ms.
    Iptables,
    /// A table `CRIU-PID` of nftables: some 12 ms.
    Nftables,
    /// Not at all: right unless established connections are dumped.
    Skip,
}

/// What of the CPU must fit between the images and this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuCheck {
    /// CRIU's default: the FPU state's layout.
    Default,
    /// Nothing.
    None,
    /// The instructions that the images' machine had.
    Instructions,
    /// The processor as a whole.
    Cpu,
}
