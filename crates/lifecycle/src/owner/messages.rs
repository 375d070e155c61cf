//! What an owner is asked, what it keeps for each container, and what work reports back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::checkpoint;
use crate::error::{Error, Failed, not_found};
use crate::model::{
    CheckpointRequest, ContainerConfig, ContainerId, ContainerSnapshot, Exit, SandboxSnapshot,
};
use crate::record::{ContainerRecord, ContainerState, SandboxRecord};

/// Where an answer goes; the receiver may be gone.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// Everything a sandbox is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    /// Make a container.
    Create {
        config: Box<ContainerConfig>,
        reply: Reply<ContainerId>,
    },
    /// Do something with one of its containers.
    Container { id: ContainerId, op: Op },
    /// Stop everything and take the network down.
    Stop { reply: Reply<()> },
    /// Stop, then forget.
    Remove { reply: Reply<()> },
}

/// Everything a container is asked to do.
#[derive(Debug)]
pub(crate) enum Op {
    /// Run its program, or thaw it.
    Start(Reply<()>),
    /// End it: its stop signal, then SIGKILL after `timeout`.
    Stop { timeout: Duration, reply: Reply<()> },
    /// End it and forget it.
    Remove(Reply<()>),
    /// Write a checkpoint archive.
    Checkpoint {
        /// What to write, where.
        request: CheckpointRequest,
        /// Latest moment, from the RPC.
        deadline: Option<std::time::Instant>,
        /// Set by the caller's side when it goes away.
        cancel: checkpoint::Cancel,
        /// The answer.
        reply: Reply<()>,
    },
}

/// What readers see of a sandbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct SandboxView {
    /// `None` until it is ready for the first time and after its removal.
    pub(crate) sandbox: Option<SandboxSnapshot>,
    /// Containers whose creation succeeded, with their records.
    pub(crate) containers: BTreeMap<ContainerId, ContainerView>,
}

/// What readers see of a container.
#[derive(Debug, Clone)]
pub(crate) struct ContainerView {
    /// For callers.
    pub(crate) snapshot: ContainerSnapshot,
    /// For operations that change no state (exec, log reopening).
    pub(crate) record: Arc<ContainerRecord>,
    /// The handler that its sandbox got.
    pub(crate) handler: String,
}

/// A way to reach an owner and to read what it published.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    /// Requests go here.
    pub(crate) inbox: mpsc::Sender<Request>,
    /// The newest view.
    pub(crate) view: watch::Receiver<Arc<SandboxView>>,
}

/// What a container is busy with.
#[derive(Debug)]
pub(super) enum Busy {
    Creating,
    Starting,
    Stopping(watch::Sender<Instant>),
    Removing,
    Checkpointing(checkpoint::Cancel),
    Cleaning,
}

impl Busy {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Creating => "its creation",
            Self::Starting => "its start",
            Self::Stopping(_) => "its stop",
            Self::Removing => "its removal",
            Self::Checkpointing(_) => "a checkpoint",
            Self::Cleaning => "cleaning up after its end",
        }
    }
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) record: ContainerRecord,
    pub(super) busy: Option<Busy>,
    pub(super) queue: VecDeque<Op>,
    /// Tells waiting work that the container has ended.
    pub(super) ended: watch::Sender<bool>,
    /// The caller of create or start went away before the answer.
    pub(super) abandoned: bool,
}

/// A finished piece of work.
#[derive(Debug)]
pub(crate) enum Done {
    /// Sandbox set-up.
    SetUp {
        result: Box<Result<SandboxRecord, Failed>>,
        reply: Reply<()>,
    },
    /// Sandbox taken down (all containers have ended).
    TornDown { result: Result<(), Error> },
    /// Container built.
    Created {
        id: ContainerId,
        result: Box<Result<ContainerRecord, Failed>>,
        reply: Reply<ContainerId>,
    },
    /// Container started or restored.
    Started {
        id: ContainerId,
        result: Box<Result<ContainerRecord, Error>>,
        reply: Reply<()>,
    },
    /// Stop finished.
    Stopped {
        id: ContainerId,
        result: Result<(), Error>,
        reply: Option<Reply<()>>,
    },
    /// What the OCI runtime and images kept of it is gone.
    Removed {
        id: ContainerId,
        result: Result<(), Error>,
        reply: Option<Reply<()>>,
    },
    /// Checkpoint finished.
    Checkpointed {
        id: ContainerId,
        result: Result<(), Error>,
        reply: Reply<()>,
    },
    /// Its first process and its monitor have ended.
    Exited { id: ContainerId, exit: Option<Exit> },
    /// The OCI runtime's state of an ended container is gone.
    Cleaned { id: ContainerId },
}

/// What the sandbox as a whole waits for.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) stop: Vec<Reply<()>>,
    pub(super) remove: Vec<Reply<()>>,
    pub(super) tearing_down: bool,
    pub(super) torn_down: bool,
}

impl Ending {
    pub(super) fn wanted(&self) -> bool {
        !self.stop.is_empty() || !self.remove.is_empty()
    }
}

impl Slot {
    pub(super) fn new(record: ContainerRecord, ended: bool) -> Self {
        Self {
            record,
            busy: None,
            queue: VecDeque::new(),
            ended: watch::Sender::new(ended),
            abandoned: false,
        }
    }

    /// Takes over what a start has done. A short program may have ended before its start was
    /// reported: then its end stays, and gets to know when it began.
    pub(super) fn started(&mut self, started: ContainerRecord) {
        match &self.record.state {
            ContainerState::Created { .. } => self.record = started,
            ContainerState::Exited(exit) => {
                self.record.started_at = started.started_at.map(|at| at.min(exit.finished_at));
            }
            _ => {}
        }
    }

    pub(super) fn state_name(&self) -> &'static str {
        match self.record.state {
            ContainerState::Creating => "being created",
            ContainerState::Created { .. } => "created, not running",
            ContainerState::Running { .. } => "running",
            ContainerState::Exited(_) => "exited",
            ContainerState::Unknown => "in an unknown state",
        }
    }
}

impl Op {
    /// For a container that is gone: that it is stopped and removed is what was asked for.
    pub(super) fn removed(self, id: &ContainerId) {
        match self {
            Self::Stop { reply, .. } | Self::Remove(reply) => answer(reply, Ok(())),
            other => other.refuse(|| not_found("container", id.as_str())),
        }
    }

    pub(super) fn refuse(self, error: impl Fn() -> Error) {
        match self {
            Self::Start(reply)
            | Self::Stop { reply, .. }
            | Self::Remove(reply)
            | Self::Checkpoint { reply, .. } => answer(reply, Err(error())),
        }
    }
}

/// Answers; a caller that went away is no failure (see the module).
pub(super) fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    drop(reply.send(result));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerConfig, SandboxId};
    use crate::record::{ProcessId, VERSION};
    use std::time::SystemTime;

    const INIT: ProcessId = ProcessId {
        pid: 7,
        start_time: 70,
    };

    fn record(state: ContainerState, started_at: Option<SystemTime>) -> ContainerRecord {
        ContainerRecord {
            version: VERSION,
            id: ContainerId::new("c"),
            sandbox_id: SandboxId::new("s"),
            config: ContainerConfig::default(),
            image_id: String::new(),
            image_ref: String::new(),
            state,
            created_at: SystemTime::UNIX_EPOCH,
            started_at,
            log_path: None,
            restore: None,
            user: (0, 0, Vec::new()),
            stop_signal: 15,
            cgroup: String::new(),
            monitor: None,
            boot_id: String::new(),
        }
    }

    fn second(number: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(number)
    }

    #[test]
    fn a_started_container_runs() {
        let created = record(ContainerState::Created { init: Some(INIT) }, None);
        let mut slot = Slot::new(created, false);
        let running = record(ContainerState::Running { init: INIT }, Some(second(5)));
        slot.started(running.clone());
        assert_eq!(slot.record, running);
    }

    #[test]
    fn an_end_that_came_before_the_report_of_the_start_stays() {
        for (started, finished, shown) in [(5, 6, 5), (6, 5, 5)] {
            let exited = ContainerState::Exited(Exit {
                code: 3,
                finished_at: second(finished),
                oom_killed: false,
                reason: "Error".into(),
                message: String::new(),
            });
            let mut slot = Slot::new(record(exited.clone(), None), true);
            let running = ContainerState::Running { init: INIT };
            slot.started(record(running, Some(second(started))));
            assert_eq!(slot.record, record(exited, Some(second(shown))));
        }
    }
}
