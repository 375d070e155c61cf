//! What thawd asks of the kernel that not every Linux since 5.15 has.
//!
//! [`FEATURES`] is the whole list: since when a kernel has each, what it is for, and what happens without
//! it. [`probe`] asks for all of them by really using them, because distributions carry newer calls back
//! into old kernels, leave options out, and put filters between. What the other crates call beside that
//! is older than 4.4, or has a way around in the C library or the Rust library.
//!
//! Who needs one more adds a row here.

use std::io;

mod probes;

/// One thing that a kernel may lack.
#[derive(Debug)]
pub struct Feature {
    /// The call, with the request or option that matters.
    pub name: &'static str,
    /// The first release of Linux with it, or the option that a kernel must be built with.
    pub since: &'static str,
    /// What thawd does with it.
    pub used_for: &'static str,
    /// What happens without it.
    pub without: Without,
    /// Uses it. An error says that it is missing.
    probe: fn() -> io::Result<()>,
}

/// What happens where a feature is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// thawd does not start.
    Refusal,
    /// Something else does it, or it is done without. The text says what.
    WayAround(&'static str),
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The kernel has it.
    Present,
    /// It has not; the error that it gave.
    Missing(String),
    /// This process may not ask (`EPERM`, `EACCES`).
    Unknown(String),
}

/// A feature and what was found of it.
#[derive(Debug)]
pub struct Found {
    /// What was asked for.
    pub feature: &'static Feature,
    /// The answer.
    pub answer: Answer,
}

/// What the kernel at hand has.
#[derive(Debug)]
pub struct Kernel {
    /// Its release (uname(2)).
    pub release: String,
    /// One for each of [`FEATURES`], in its order.
    pub found: Vec<Found>,
}

impl Kernel {
    /// What is missing that there is no way around for, as a message for people; `None` when that is
    /// nothing.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let lacks: Vec<String> = self
            .found
            .iter()
            .filter(|found| found.feature.without == Without::Refusal)
            .filter_map(|found| match &found.answer {
                Answer::Missing(error) => {
                    let Feature {
                        name,
                        since,
                        used_for,
                        ..
                    } = found.feature;
                    Some(format!("{name} ({since} has it, for {used_for}): {error}"))
                }
                Answer::Present | Answer::Unknown(_) => None,
            })
            .collect();
        let release = &self.release;
        (!lacks.is_empty()).then(|| format!("kernel {release} lacks {}", lacks.join("; ")))
    }
}

/// Asks the kernel for each of [`FEATURES`]. Takes some milliseconds, and starts a process.
#[must_use]
pub fn probe() -> Kernel {
    let ask = |feature: &'static Feature| {
        let answer = match (feature.probe)() {
            Ok(()) => Answer::Present,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Answer::Unknown(error.to_string())
            }
            Err(error) => Answer::Missing(error.to_string()),
        };
        Found { feature, answer }
    };
    Kernel {
        release: crate::sysinfo::kernel().release,
        found: FEATURES.iter().map(ask).collect(),
    }
}

/// Without which memory is copied while the container stands, instead of after it runs again.
const COPIED: Without = Without::WayAround("memory is copied while the container stands");

/// Everything that is asked for.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: "fsopen, fsconfig, fsmount, move_mount",
        since: "Linux 5.2",
        used_for: "tmpfs mounts that appear when they are complete",
        without: Without::Refusal,
        probe: probes::attach,
    },
    Feature {
        name: "mount_setattr",
        since: "Linux 5.12",
        used_for: "read-only and restricted mounts",
        without: Without::Refusal,
        probe: probes::mount_setattr,
    },
    Feature {
        name: "statx(STATX_ATTR_MOUNT_ROOT)",
        since: "Linux 5.8",
        used_for: "telling a mount point from a directory",
        without: Without::Refusal,
        probe: probes::mount_root,
    },
    Feature {
        name: "overlay",
        since: "CONFIG_OVERLAY_FS",
        used_for: "root filesystems",
        without: Without::Refusal,
        probe: probes::overlay,
    },
    Feature {
        name: "openat2",
        since: "Linux 5.6",
        used_for: "opening files of others beneath a directory, without links",
        without: Without::Refusal,
        probe: probes::openat2,
    },
    Feature {
        name: "pidfd_open",
        since: "Linux 5.3",
        used_for: "processes that cannot be mistaken",
        without: Without::Refusal,
        probe: probes::pidfd_open,
    },
    Feature {
        name: "pidfd_send_signal",
        since: "Linux 5.1",
        used_for: "signals to such processes",
        without: Without::Refusal,
        probe: probes::pidfd_send_signal,
    },
    Feature {
        name: "waitid(P_PIDFD)",
        since: "Linux 5.4",
        used_for: "the ends of such processes",
        without: Without::Refusal,
        probe: probes::waitid,
    },
    Feature {
        name: "pidfd_getfd",
        since: "Linux 5.6",
        used_for: "taking over the OCI runtime's descriptors in a restore",
        without: Without::Refusal,
        probe: probes::pidfd_getfd,
    },
    Feature {
        name: "/proc/PID/task/TID/children",
        since: "CONFIG_PROC_CHILDREN",
        used_for: "finding all processes of a container",
        without: Without::Refusal,
        probe: probes::children,
    },
    Feature {
        name: "close_range",
        since: "Linux 5.9",
        used_for: "keeping descriptors from programs that are started",
        without: Without::WayAround("the C library closes those that /proc lists"),
        probe: probes::close_range,
    },
    Feature {
        name: "kcmp(KCMP_FILE)",
        since: "CONFIG_KCMP",
        used_for: "checkpoints of programs that inherited their terminal",
        without: Without::WayAround(
            "such a checkpoint is refused, as CRIU would, which needs it too",
        ),
        probe: probes::kcmp,
    },
    Feature {
        name: "sock_diag(AF_UNIX)",
        since: "CONFIG_UNIX_DIAG",
        used_for: "sockets that lead out of a container, before a checkpoint",
        without: Without::WayAround("CRIU, which needs it too, refuses the checkpoint"),
        probe: probes::unix_diag,
    },
    Feature {
        name: "fork keeps pages that lie in pipes",
        since: "Linux 5.19",
        used_for: "checkpoints whose memory is written while the container runs",
        without: COPIED,
        probe: probes::forked_pages,
    },
    Feature {
        name: "ptrace(PTRACE_O_SUSPEND_SECCOMP)",
        since: "Linux 4.3 with CONFIG_CHECKPOINT_RESTORE",
        used_for: "the same",
        without: COPIED,
        probe: probes::suspend_seccomp,
    },
    Feature {
        name: "ptrace(PTRACE_GET_RSEQ_CONFIGURATION)",
        since: "Linux 5.13",
        used_for: "the same",
        without: COPIED,
        probe: probes::sequence,
    },
    Feature {
        name: "tmpfs: attributes user.*",
        since: "Linux 6.6",
        used_for: "restoring such attributes of files in memory",
        without: Without::WayAround("they are left out, and the restore says which"),
        probe: probes::tmpfs_attributes,
    },
];

#[cfg(test)]
mod tests;
