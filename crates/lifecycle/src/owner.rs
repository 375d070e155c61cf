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

mod begin;
mod ending;
mod messages;
mod outcome;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use crate::context::Context;
use crate::error::{Error, not_found};
use crate::model::{ContainerConfig, ContainerId, NamespaceMode};
use crate::record::{ContainerRecord, ContainerState, SandboxRecord, SandboxState};
use crate::{container, sandbox};

use messages::{Busy, Done, Ending, Slot, answer};
pub(crate) use messages::{ContainerView, Handle, Op, Reply, Request, SandboxView};

/// Requests that wait for the owner to take them.
const INBOX: usize = 64;

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
        owner.ending.torn_down = owner.record.torn_down;
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
        if self.gone {
            return self.refuse_late().await;
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

    /// Answers what came while the sandbox was being removed.
    async fn refuse_late(&mut self) {
        self.inbox.close();
        while let Some(request) = self.inbox.recv().await {
            match request {
                Request::Stop { reply } | Request::Remove { reply } => answer(reply, Ok(())),
                Request::Create { reply, .. } => {
                    answer(reply, Err(not_found("sandbox", self.record.id.as_str())));
                }
                Request::Container { id, op } => op.removed(&id),
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
        if let NamespaceMode::Target(target) = &config.security.namespaces.pid
            && !self.slots.contains_key(target)
        {
            let field = "linux.security_context.namespace_options.target_id";
            let problem = format!(
                "{target} is no container of sandbox {}: name one of the same pod",
                self.record.id
            );
            return answer(reply, Err(Error::invalid(field, problem)));
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
            return op.removed(id);
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
