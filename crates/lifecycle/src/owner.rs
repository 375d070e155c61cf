//! The owner task of one sandbox: the only code that changes the sandbox and its containers.
//!
//! ```text
//!  Node ──Request──▶ inbox ──▶ decide (no I/O but the store) ──▶ spawn work ──┐
//!    ▲                                                                       │ runtime, CNI,
//!    └── watch: SandboxView ◀── publish ◀── store ◀── apply ◀──── Done ◀─────┘ images, CRIU
//! ```
//!
//! Work runs beside the owner and reports back with a [`Done`]; the owner stores the outcome, then
//! publishes it, then answers. One operation at a time runs on a container; others wait in its
//! queue, except that a stop ends a running checkpoint and a second checkpoint is refused at once.
//! A caller that went away changes nothing: its work goes on and a retry finds the outcome.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::context::Context;
use crate::error::Error;
use crate::model::{
    CheckpointRequest, ContainerConfig, ContainerId, ContainerSnapshot, Exit, SandboxSnapshot,
};
use crate::record::{ContainerRecord, ContainerState, SandboxRecord, SandboxState};
use crate::{checkpoint, container, restore, sandbox};

/// Where an answer goes; the receiver may be gone.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// Requests that wait for the owner to take them.
const INBOX: usize = 64;

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
enum Busy {
    Creating,
    Starting,
    Stopping(watch::Sender<Instant>),
    Removing,
    Checkpointing(checkpoint::Cancel),
    Cleaning,
}

impl Busy {
    fn name(&self) -> &'static str {
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
struct Slot {
    record: ContainerRecord,
    busy: Option<Busy>,
    queue: VecDeque<Op>,
    /// Tells waiting work that the container has ended.
    ended: watch::Sender<bool>,
    /// The caller of create or start went away before the answer.
    abandoned: bool,
}

/// A finished piece of work.
#[derive(Debug)]
pub(crate) enum Done {
    /// Sandbox set-up.
    SetUp {
        result: Box<Result<SandboxRecord, Error>>,
        reply: Reply<()>,
    },
    /// Sandbox taken down (all containers have ended).
    TornDown { result: Result<(), Error> },
    /// Container built.
    Created {
        id: ContainerId,
        result: Box<Result<ContainerRecord, Error>>,
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
struct Ending {
    stop: Vec<Reply<()>>,
    remove: Vec<Reply<()>>,
    tearing_down: bool,
    torn_down: bool,
}

impl Ending {
    fn wanted(&self) -> bool {
        !self.stop.is_empty() || !self.remove.is_empty()
    }
}

/// The owner; see the module.
#[derive(Debug)]
pub(crate) struct Owner {
    ctx: Arc<Context>,
    record: SandboxRecord,
    slots: BTreeMap<ContainerId, Slot>,
    inbox: mpsc::Receiver<Request>,
    work: JoinSet<Done>,
    view: watch::Sender<Arc<SandboxView>>,
    ending: Ending,
    gone: bool,
}

impl Owner {
    /// Starts an owner for a sandbox and the containers that recovery found.
    pub(crate) fn spawn(
        ctx: &Arc<Context>,
        record: SandboxRecord,
        containers: Vec<ContainerRecord>,
        set_up: Option<Reply<()>>,
    ) -> Handle {
        let (sender, inbox) = mpsc::channel(INBOX);
        let (view, receiver) = watch::channel(Arc::new(SandboxView::default()));
        let mut owner = Self {
            ctx: Arc::clone(ctx),
            record,
            slots: BTreeMap::new(),
            inbox,
            work: JoinSet::new(),
            view,
            ending: Ending::default(),
            gone: false,
        };
        owner.ending.torn_down = owner.record.state == SandboxState::Stopped;
        for container in containers {
            owner.adopt(container);
        }
        owner.publish();
        if let Some(reply) = set_up {
            let (ctx, record) = (Arc::clone(ctx), owner.record.clone());
            owner.work.spawn(async move {
                let result = Box::new(sandbox::set_up(&ctx, record).await);
                Done::SetUp { result, reply }
            });
        }
        ctx.tracker.spawn(owner.run());
        Handle {
            inbox: sender,
            view: receiver,
        }
    }

    /// Takes a container of an earlier daemon over.
    fn adopt(&mut self, record: ContainerRecord) {
        let id = record.id.clone();
        let alive = record.init().is_some();
        let ended = matches!(
            record.state,
            ContainerState::Exited(_) | ContainerState::Unknown
        );
        self.slots.insert(id.clone(), Slot::new(record, ended));
        if alive {
            self.watch(&id);
        }
    }

    async fn run(mut self) {
        while !self.gone {
            tokio::select! {
                () = self.ctx.shutdown.cancelled() => break,
                Some(done) = self.work.join_next() => match done {
                    Ok(done) => self.apply(done).await,
                    Err(error) => warn!(sandbox = %self.record.id, %error, "work was lost"),
                },
                request = self.inbox.recv() => match request {
                    Some(request) => self.take(request).await,
                    None => break,
                },
            }
            self.go_on_ending().await;
        }
        // A checkpoint in flight must be cancelled and undone before the daemon ends; other work
        // is found again by recovery.
        for slot in self.slots.values() {
            if let Some(Busy::Checkpointing(cancel)) = &slot.busy {
                cancel.cancel();
            }
        }
        while self
            .slots
            .values()
            .any(|slot| matches!(slot.busy, Some(Busy::Checkpointing(_))))
        {
            match self.work.join_next().await {
                Some(Ok(done)) => self.apply(done).await,
                Some(Err(_)) => {}
                None => break,
            }
        }
    }

    async fn take(&mut self, request: Request) {
        match request {
            Request::Create { config, reply } => self.create(*config, reply).await,
            Request::Container { id, op } => self.queue(&id, op).await,
            Request::Stop { reply } => {
                self.ending.stop.push(reply);
                self.stop_containers().await;
            }
            Request::Remove { reply } => {
                self.ending.remove.push(reply);
                self.stop_containers().await;
            }
        }
    }

    async fn create(&mut self, config: ContainerConfig, reply: Reply<ContainerId>) {
        if self.record.state != SandboxState::Ready || self.ending.wanted() {
            let problem = format!("sandbox {} is not ready", self.record.id);
            return answer(reply, Err(Error::Precondition(problem)));
        }
        let twin = self.slots.values_mut().find(|slot| {
            slot.record.config.name == config.name && slot.record.config.attempt == config.attempt
        });
        if let Some(twin) = twin {
            if twin.abandoned && twin.busy.is_none() && twin.record.config == config {
                twin.abandoned = false;
                return answer(reply, Ok(twin.record.id.clone()));
            }
            let what = format!(
                "container {:?} attempt {} of sandbox {} (id {})",
                config.name, config.attempt, self.record.id, twin.record.id
            );
            return answer(reply, Err(Error::AlreadyExists { what }));
        }
        let record = match container::intent(&self.ctx, &self.record, config) {
            Ok(record) => record,
            Err(error) => return answer(reply, Err(error)),
        };
        if let Err(error) = self.ctx.store.put_container(&record).await {
            return answer(reply, Err(error));
        }
        let id = record.id.clone();
        let mut slot = Slot::new(record.clone(), false);
        slot.busy = Some(Busy::Creating);
        self.slots.insert(id.clone(), slot);
        let (ctx, sandbox) = (Arc::clone(&self.ctx), self.record.clone());
        self.work.spawn(async move {
            let result = Box::new(container::create(&ctx, &sandbox, record).await);
            Done::Created { id, result, reply }
        });
    }

    async fn queue(&mut self, id: &ContainerId, op: Op) {
        let Some(slot) = self.slots.get_mut(id) else {
            return op.refuse(|| Error::NotFound {
                kind: "container",
                id: id.to_string(),
            });
        };
        match (&slot.busy, &op) {
            (Some(busy), Op::Checkpoint { .. }) => {
                let problem = format!("container {id} is busy with {}; try again", busy.name());
                return op.refuse(|| Error::Busy(problem.clone()));
            }
            (Some(Busy::Checkpointing(cancel)), Op::Stop { .. } | Op::Remove(_)) => cancel.cancel(),
            (Some(Busy::Stopping(kill_at)), Op::Stop { timeout, .. }) => {
                let wanted = Instant::now() + *timeout;
                kill_at.send_if_modified(|at| {
                    wanted < *at && {
                        *at = wanted;
                        true
                    }
                });
            }
            (Some(Busy::Stopping(kill_at)), Op::Remove(_)) => {
                kill_at.send_replace(Instant::now());
            }
            _ => {}
        }
        slot.queue.push_back(op);
        self.advance(id).await;
    }

    /// Begins queued operations until one is under way.
    async fn advance(&mut self, id: &ContainerId) {
        loop {
            let Some(slot) = self.slots.get_mut(id) else {
                return;
            };
            if slot.busy.is_some() {
                return;
            }
            let Some(op) = slot.queue.pop_front() else {
                return;
            };
            match op {
                Op::Start(reply) => self.begin_start(id, reply),
                Op::Stop { timeout, reply } => self.begin_stop(id, timeout, Some(reply)),
                Op::Remove(reply) => self.begin_remove(id, Some(reply)),
                Op::Checkpoint {
                    request,
                    deadline,
                    cancel,
                    reply,
                } => {
                    self.begin_checkpoint(id, request, deadline, cancel, reply);
                }
            }
        }
    }

    fn begin_start(&mut self, id: &ContainerId, reply: Reply<()>) {
        let ready = self.record.state == SandboxState::Ready && !self.ending.wanted();
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        match &slot.record.state {
            ContainerState::Created { .. } if ready => {}
            ContainerState::Running { .. } if slot.abandoned => {
                slot.abandoned = false;
                return answer(reply, Ok(()));
            }
            ContainerState::Created { .. } => {
                let problem = format!("sandbox {} of container {id} is not ready", self.record.id);
                return answer(reply, Err(Error::Precondition(problem)));
            }
            _ => {
                let problem = format!(
                    "container {id} is {}; only a created container can be started",
                    slot.state_name()
                );
                return answer(reply, Err(Error::Precondition(problem)));
            }
        }
        slot.busy = Some(Busy::Starting);
        let (ctx, sandbox, record) = (
            Arc::clone(&self.ctx),
            self.record.clone(),
            slot.record.clone(),
        );
        let id = id.clone();
        self.work.spawn(async move {
            let result = if record.restore.is_some() {
                restore::start(&ctx, &sandbox, record).await
            } else {
                container::start(&ctx, &sandbox, record).await
            };
            Done::Started {
                id,
                result: Box::new(result),
                reply,
            }
        });
    }

    fn begin_stop(&mut self, id: &ContainerId, timeout: Duration, reply: Option<Reply<()>>) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        if slot.record.init().is_none() && !matches!(slot.record.state, ContainerState::Unknown) {
            if let Some(reply) = reply {
                answer(reply, Ok(()));
            }
            return;
        }
        let (sender, kill_at) = watch::channel(Instant::now() + timeout);
        slot.busy = Some(Busy::Stopping(sender));
        let (ctx, record) = (Arc::clone(&self.ctx), slot.record.clone());
        let (handler, ended) = (self.record.handler.clone(), slot.ended.subscribe());
        let id = id.clone();
        self.work.spawn(async move {
            let result = container::stop(&ctx, &handler, &record, kill_at, ended).await;
            Done::Stopped { id, result, reply }
        });
    }

    fn begin_remove(&mut self, id: &ContainerId, reply: Option<Reply<()>>) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.busy = Some(Busy::Removing);
        let (ctx, record) = (Arc::clone(&self.ctx), slot.record.clone());
        let (handler, ended) = (self.record.handler.clone(), slot.ended.subscribe());
        let id = id.clone();
        self.work.spawn(async move {
            let result = container::remove(&ctx, &handler, &record, ended).await;
            Done::Removed { id, result, reply }
        });
    }

    fn begin_checkpoint(
        &mut self,
        id: &ContainerId,
        request: CheckpointRequest,
        deadline: Option<std::time::Instant>,
        cancel: checkpoint::Cancel,
        reply: Reply<()>,
    ) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        if !matches!(slot.record.state, ContainerState::Running { .. }) {
            let problem = format!(
                "container {id} is {}; only a running container can be checkpointed",
                slot.state_name()
            );
            return answer(reply, Err(Error::Precondition(problem)));
        }
        slot.busy = Some(Busy::Checkpointing(cancel.clone()));
        let job = checkpoint::Job {
            sandbox: self.record.clone(),
            container: slot.record.clone(),
            request,
            deadline,
            cancel,
        };
        let (ctx, id) = (Arc::clone(&self.ctx), id.clone());
        self.work.spawn(async move {
            let result = checkpoint::run(&ctx, job).await;
            Done::Checkpointed { id, result, reply }
        });
    }

    async fn apply(&mut self, done: Done) {
        match done {
            Done::SetUp { result, reply } => self.set_up_done(*result, reply).await,
            Done::TornDown { result } => self.torn_down(result).await,
            Done::Created { id, result, reply } => self.created(&id, *result, reply).await,
            Done::Started { id, result, reply } => self.started(&id, *result, reply).await,
            Done::Stopped { id, result, reply } => {
                if let Some(reply) = reply {
                    answer(reply, result);
                } else if let Err(error) = result {
                    warn!(container = %id, error = &error as &dyn std::error::Error, "stop failed");
                }
                self.idle(&id).await;
            }
            Done::Removed { id, result, reply } => self.removed(&id, result, reply).await,
            Done::Checkpointed { id, result, reply } => {
                answer(reply, result);
                self.idle(&id).await;
            }
            Done::Exited { id, exit } => self.exited(&id, exit).await,
            Done::Cleaned { id } => self.idle(&id).await,
        }
    }

    async fn set_up_done(&mut self, result: Result<SandboxRecord, Error>, reply: Reply<()>) {
        match result {
            Ok(record) => match self.ctx.store.put_sandbox(&record).await {
                Ok(()) => {
                    info!(sandbox = %record.id, ips = ?record.ips, "sandbox is ready");
                    self.record = record;
                    self.publish();
                    answer(reply, Ok(()));
                }
                Err(error) => {
                    sandbox::undo(&self.ctx, &record).await;
                    answer(reply, Err(error));
                    self.gone = true;
                }
            },
            Err(error) => {
                if let Err(error) = self.ctx.store.remove_sandbox(&self.record.id).await {
                    warn!(sandbox = %self.record.id, error = &error as &dyn std::error::Error,
                        "the record of a sandbox that was not made stays");
                }
                answer(reply, Err(error));
                self.gone = true;
            }
        }
    }

    async fn created(
        &mut self,
        id: &ContainerId,
        result: Result<ContainerRecord, Error>,
        reply: Reply<ContainerId>,
    ) {
        let result = match result {
            Ok(record) => self.ctx.store.put_container(&record).await.map(|()| record),
            Err(error) => Err(error),
        };
        match result {
            Ok(record) => {
                info!(container = %id, sandbox = %self.record.id, "container created");
                if let Some(slot) = self.slots.get_mut(id) {
                    slot.record = record;
                    self.publish();
                    self.watch(id);
                }
                let abandoned = reply.send(Ok(id.clone())).is_err();
                if let Some(slot) = self.slots.get_mut(id) {
                    slot.abandoned = abandoned;
                }
                self.idle(id).await;
            }
            Err(error) => {
                let queued = self
                    .slots
                    .remove(id)
                    .map(|slot| slot.queue)
                    .unwrap_or_default();
                if let Err(error) = self.ctx.store.remove_container(id).await {
                    warn!(container = %id, error = &error as &dyn std::error::Error,
                        "the record of a container that was not made stays");
                }
                answer(reply, Err(error));
                for op in queued {
                    op.refuse(|| Error::NotFound {
                        kind: "container",
                        id: id.to_string(),
                    });
                }
            }
        }
    }

    async fn started(
        &mut self,
        id: &ContainerId,
        result: Result<ContainerRecord, Error>,
        reply: Reply<()>,
    ) {
        let outcome = match result {
            Ok(record) => {
                let restored = record.restore.is_some();
                let stored = self.ctx.store.put_container(&record).await;
                if let Some(slot) = self.slots.get_mut(id)
                    && slot.record.phase() == crate::model::ContainerPhase::Created
                {
                    slot.record = record;
                }
                if restored {
                    self.watch(id);
                }
                info!(container = %id, restored, "container started");
                stored
            }
            Err(error) => {
                self.start_failed(id, &error).await;
                Err(error)
            }
        };
        self.publish();
        let abandoned = reply.send(outcome).is_err();
        if let Some(slot) = self.slots.get_mut(id) {
            slot.abandoned = abandoned;
        }
        self.idle(id).await;
    }

    /// A container that could not be started has ended: code 128, reason `StartError`, as callers
    /// of the peers know it.
    async fn start_failed(&mut self, id: &ContainerId, error: &Error) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        if !matches!(slot.record.state, ContainerState::Exited(_)) {
            slot.record.state = ContainerState::Exited(Exit {
                code: 128,
                finished_at: SystemTime::now(),
                oom_killed: false,
                reason: "StartError".into(),
                message: crate::error::chain(error),
            });
        }
        slot.record.monitor = None;
        slot.ended.send_replace(true);
        let record = slot.record.clone();
        self.save(&record).await;
    }

    async fn exited(&mut self, id: &ContainerId, exit: Option<Exit>) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        if slot.record.init().is_some() {
            let exit = exit.unwrap_or_else(|| Exit {
                code: 255,
                finished_at: SystemTime::now(),
                oom_killed: false,
                reason: "Unknown".into(),
                message: "the container's monitor was killed; its exit code is not known".into(),
            });
            info!(container = %id, code = exit.code, reason = %exit.reason, "container exited");
            slot.record.state = ContainerState::Exited(exit);
            slot.record.monitor = None;
            let record = slot.record.clone();
            self.save(&record).await;
            self.publish();
        }
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.ended.send_replace(true);
        if slot.busy.is_none() {
            slot.busy = Some(Busy::Cleaning);
            let (ctx, record) = (Arc::clone(&self.ctx), slot.record.clone());
            let handler = self.record.handler.clone();
            let id = id.clone();
            self.work.spawn(async move {
                container::clean_up(&ctx, &handler, &record).await;
                Done::Cleaned { id }
            });
        }
    }

    async fn removed(
        &mut self,
        id: &ContainerId,
        result: Result<(), Error>,
        reply: Option<Reply<()>>,
    ) {
        let result = match result {
            Ok(()) => self.ctx.store.remove_container(id).await,
            Err(error) => Err(error),
        };
        if result.is_ok() {
            info!(container = %id, "container removed");
            let queued = self
                .slots
                .remove(id)
                .map(|slot| slot.queue)
                .unwrap_or_default();
            self.publish();
            for op in queued {
                match op {
                    Op::Remove(reply) | Op::Stop { reply, .. } => answer(reply, Ok(())),
                    other => other.refuse(|| Error::NotFound {
                        kind: "container",
                        id: id.to_string(),
                    }),
                }
            }
        }
        match reply {
            Some(reply) => answer(reply, result),
            None => {
                if let Err(error) = result {
                    self.fail_ending(&error);
                }
            }
        }
        self.idle(id).await;
    }

    async fn idle(&mut self, id: &ContainerId) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.busy = None;
        }
        // Boxed: advance and idle call each other through apply.
        Box::pin(self.advance(id)).await;
    }

    /// Asks every container to end, for a sandbox that is stopped or removed.
    async fn stop_containers(&mut self) {
        let ids: Vec<ContainerId> = self.slots.keys().cloned().collect();
        for id in ids {
            let (reply, _) = oneshot::channel();
            self.queue(
                &id,
                Op::Stop {
                    timeout: Duration::ZERO,
                    reply,
                },
            )
            .await;
        }
    }

    /// Takes the next step of a stop or removal of the sandbox once nothing stands in its way.
    async fn go_on_ending(&mut self) {
        if !self.ending.wanted() || self.gone {
            return;
        }
        let busy = self.slots.values().any(|slot| slot.busy.is_some());
        let alive = self.slots.values().any(|slot| slot.record.init().is_some());
        if busy || self.ending.tearing_down {
            return;
        }
        if alive {
            return self.fail_ending(&Error::Precondition(format!(
                "a container of sandbox {} could not be ended",
                self.record.id
            )));
        }
        if !self.ending.torn_down {
            self.ending.tearing_down = true;
            self.record.state = SandboxState::Stopped;
            if let Err(error) = self.ctx.store.put_sandbox(&self.record).await {
                self.ending.tearing_down = false;
                return self.fail_ending(&error);
            }
            self.publish();
            let (ctx, record) = (Arc::clone(&self.ctx), self.record.clone());
            self.work.spawn(async move {
                Done::TornDown {
                    result: sandbox::tear_down(&ctx, &record).await,
                }
            });
            return;
        }
        for reply in self.ending.stop.drain(..) {
            answer(reply, Ok(()));
        }
        if self.ending.remove.is_empty() {
            return;
        }
        let ids: Vec<ContainerId> = self.slots.keys().cloned().collect();
        if ids.is_empty() {
            return self.forget().await;
        }
        for id in ids {
            self.begin_remove(&id, None);
        }
    }

    async fn torn_down(&mut self, result: Result<(), Error>) {
        self.ending.tearing_down = false;
        match result {
            Ok(()) => {
                info!(sandbox = %self.record.id, "sandbox stopped");
                self.ending.torn_down = true;
            }
            Err(error) => self.fail_ending(&error),
        }
    }

    async fn forget(&mut self) {
        let result = match sandbox::remove(&self.ctx, &self.record).await {
            Ok(()) => self.ctx.store.remove_sandbox(&self.record.id).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            return self.fail_ending(&error);
        }
        info!(sandbox = %self.record.id, "sandbox removed");
        self.gone = true;
        self.view.send_replace(Arc::new(SandboxView::default()));
        for reply in self.ending.remove.drain(..) {
            answer(reply, Ok(()));
        }
    }

    /// Answers everyone who waits for the sandbox's end; a retry begins again.
    fn fail_ending(&mut self, error: &Error) {
        let text = crate::error::chain(error);
        for reply in self
            .ending
            .stop
            .drain(..)
            .chain(self.ending.remove.drain(..))
        {
            answer(
                reply,
                Err(Error::failed(
                    format!("stop sandbox {}", self.record.id),
                    text.clone(),
                )),
            );
        }
    }

    fn watch(&mut self, id: &ContainerId) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        if slot.record.init().is_none() {
            return;
        }
        let (ctx, record) = (Arc::clone(&self.ctx), slot.record.clone());
        let id = id.clone();
        self.work.spawn(async move {
            let exit = container::wait_exit(&ctx, &record).await;
            Done::Exited { id, exit }
        });
    }

    async fn save(&self, record: &ContainerRecord) {
        if let Err(error) = self.ctx.store.put_container(record).await {
            warn!(container = %record.id, error = &error as &dyn std::error::Error,
                "the new state of a container is not on disk; a restart will find it again");
        }
    }

    fn publish(&self) {
        let shown = self.record.state != SandboxState::Creating;
        let netns = sandbox::netns_path(&self.ctx.config, &self.record);
        let handler = &self.record.requested_handler;
        let containers = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.record.state != ContainerState::Creating)
            .map(|(id, slot)| {
                let view = ContainerView {
                    snapshot: slot.record.snapshot(handler),
                    record: Arc::new(slot.record.clone()),
                    handler: self.record.handler.clone(),
                };
                (id.clone(), view)
            })
            .collect();
        self.view.send_replace(Arc::new(SandboxView {
            sandbox: shown.then(|| self.record.snapshot(netns)),
            containers,
        }));
    }
}

impl Slot {
    fn new(record: ContainerRecord, ended: bool) -> Self {
        Self {
            record,
            busy: None,
            queue: VecDeque::new(),
            ended: watch::Sender::new(ended),
            abandoned: false,
        }
    }

    fn state_name(&self) -> &'static str {
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
    fn refuse(self, error: impl Fn() -> Error) {
        match self {
            Self::Start(reply)
            | Self::Stop { reply, .. }
            | Self::Remove(reply)
            | Self::Checkpoint { reply, .. } => answer(reply, Err(error())),
        }
    }
}

/// Answers; a caller that went away is no failure (see the module).
fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    drop(reply.send(result));
}
