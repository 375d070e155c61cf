//! The stages at which CRIU asks whether to go on.
//!
//! ```text
//!  dump     PreDump ▶ [freeze] ▶ NetworkLock ▶ QueryExtFiles ▶ [memory, files, mounts] ▶ PostDump
//!           ▶ NetworkUnlock ▶ [thaw]
//!  restore  PreRestore ▶ SetupNamespaces ▶ PostSetupNamespaces ▶ [tasks] ▶ PostRestore
//!           ▶ NetworkUnlock ▶ PreResume ▶ [tasks run] ▶ PostResume
//! ```
//! (Observed with CRIU 4.2.1; `OrphanPtsMaster` and `StatusReady` come where they apply. The network
//! stages and `SetupNamespaces` are left out for a tree that shares the namespaces of CRIU.)

use std::fmt;
use std::os::fd::OwnedFd;

use crate::proto::CriuNotify;

/// A stage that CRIU has reached. It waits for the answer.
#[derive(Debug)]
pub enum Notify {
    /// Dump: nothing is frozen yet.
    PreDump,
    /// Dump: the tasks are frozen, nothing has been taken yet. Sent whether or not CRIU locks the
    /// network itself, but not when they are in CRIU's own network namespace (`network_lock` in
    /// `criu/net.c` of CRIU 4.2).
    NetworkLock,
    /// Dump: the tasks are frozen, nothing has been taken yet. More external resources may be named in
    /// the answer.
    QueryExtFiles,
    /// Dump: the images are complete, the tasks still frozen. What lies in a pipe that CRIU writes
    /// page images to are references to the tasks' live pages: drain it before answering.
    PostDump,
    /// The network may be unlocked: tasks are about to run again. A refusal is ignored.
    NetworkUnlock,
    /// Restore: nothing has been made yet.
    PreRestore,
    /// Restore: the root task exists, in its new namespaces, and does nothing yet.
    SetupNamespaces {
        /// The root task, in CRIU's PID namespace; 0 when CRIU does not tell.
        pid: u32,
    },
    /// Restore: the namespaces are complete.
    PostSetupNamespaces,
    /// Restore: all tasks are rebuilt and stopped. The last stage that can be refused: CRIU 4.2
    /// ignores a refusal of those that follow.
    PostRestore {
        /// The root task, in CRIU's PID namespace.
        pid: u32,
    },
    /// Restore: the last moment at which no task has run. A refusal is ignored: see `PostRestore`.
    PreResume,
    /// Restore: the tasks run.
    PostResume,
    /// The page server, or the daemon for lazy pages, can be connected to.
    StatusReady,
    /// Restore: the master of a pseudo-terminal that no task holds, as asked for by
    /// `orphan_pts_master`. Its receiver owns it.
    OrphanPtsMaster(OwnedFd),
    /// A stage that this version does not know.
    Other(String),
}

impl Notify {
    /// From the message; descriptors belong to stages that carry one.
    pub(crate) fn from_proto(notify: &CriuNotify, fds: Vec<OwnedFd>) -> Self {
        let pid = notify
            .pid
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or(0);
        let script = String::from_utf8_lossy(notify.script());
        match (script.as_ref(), fds.into_iter().next()) {
            ("pre-dump", _) => Self::PreDump,
            ("network-lock", _) => Self::NetworkLock,
            ("query-ext-files", _) => Self::QueryExtFiles,
            ("post-dump", _) => Self::PostDump,
            ("network-unlock", _) => Self::NetworkUnlock,
            ("pre-restore", _) => Self::PreRestore,
            ("setup-namespaces", _) => Self::SetupNamespaces { pid },
            ("post-setup-namespaces", _) => Self::PostSetupNamespaces,
            ("post-restore", _) => Self::PostRestore { pid },
            ("pre-resume", _) => Self::PreResume,
            ("post-resume", _) => Self::PostResume,
            ("status-ready", _) => Self::StatusReady,
            ("orphan-pts-master", Some(fd)) => Self::OrphanPtsMaster(fd),
            (other, _) => Self::Other(other.to_owned()),
        }
    }

    /// CRIU's name of the stage.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::PreDump => "pre-dump",
            Self::NetworkLock => "network-lock",
            Self::QueryExtFiles => "query-ext-files",
            Self::PostDump => "post-dump",
            Self::NetworkUnlock => "network-unlock",
            Self::PreRestore => "pre-restore",
            Self::SetupNamespaces { .. } => "setup-namespaces",
            Self::PostSetupNamespaces => "post-setup-namespaces",
            Self::PostRestore { .. } => "post-restore",
            Self::PreResume => "pre-resume",
            Self::PostResume => "post-resume",
            Self::StatusReady => "status-ready",
            Self::OrphanPtsMaster(_) => "orphan-pts-master",
            Self::Other(name) => name,
        }
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The answer to a [`Notify`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NotifyReply {
    /// Go on.
    #[default]
    Continue,
    /// Go on, and treat these resources as external, too. For [`Notify::QueryExtFiles`]; CRIU
    /// ignores them elsewhere.
    ContinueWithExternal(Vec<String>),
}
