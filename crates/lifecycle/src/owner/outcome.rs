//! Applying what finished work reports: store, publish, answer.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::{info, warn};

use super::Owner;
use super::messages::{Busy, Done, Reply, answer};
use crate::error::{Error, Failed};
use crate::model::{ContainerId, Exit};
use crate::record::{ContainerRecord, ContainerState, SandboxRecord};
use crate::{container, sandbox};

impl Owner {
    pub(super) async fn apply(&mut self, done: Done) {
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

    pub(super) async fn set_up_done(
        &mut self,
        result: Result<SandboxRecord, Failed>,
        reply: Reply<()>,
    ) {
        let result = match result {
            Ok(record) => match self.ctx.store.put_sandbox(&record).await {
                Ok(()) => Ok(record),
                Err(error) => {
                    let undone = sandbox::undo(&self.ctx, &record).await;
                    Err(Failed { error, undone })
                }
            },
            Err(failed) => Err(failed),
        };
        match result {
            Ok(record) => {
                info!(sandbox = %record.id, ips = ?record.ips, "sandbox is ready");
                self.record = record;
                self.publish();
                answer(reply, Ok(()));
            }
            Err(Failed { error, undone }) => {
                if undone && let Err(error) = self.ctx.store.remove_sandbox(&self.record.id).await {
                    warn!(sandbox = %self.record.id, error = &error as &dyn std::error::Error,
                        "the record of a sandbox that was not made stays");
                }
                answer(reply, Err(error));
                self.gone = true;
            }
        }
    }

    pub(super) async fn created(
        &mut self,
        id: &ContainerId,
        result: Result<ContainerRecord, Failed>,
        reply: Reply<ContainerId>,
    ) {
        let result = match result {
            Ok(record) => match self.ctx.store.put_container(&record).await {
                Ok(()) => Ok(record),
                Err(error) => {
                    let undone = container::undo(&self.ctx, &self.record.handler, &record).await;
                    Err(Failed { error, undone })
                }
            },
            Err(failed) => Err(failed),
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
            Err(Failed { error, undone }) => {
                let queued = self
                    .slots
                    .remove(id)
                    .map(|slot| slot.queue)
                    .unwrap_or_default();
                if undone && let Err(error) = self.ctx.store.remove_container(id).await {
                    warn!(container = %id, error = &error as &dyn std::error::Error,
                        "the record of a container that was not made stays");
                }
                answer(reply, Err(error));
                for op in queued {
                    op.removed(id);
                }
            }
        }
    }

    pub(super) async fn started(
        &mut self,
        id: &ContainerId,
        result: Result<ContainerRecord, Error>,
        reply: Reply<()>,
    ) {
        let outcome = match result {
            Ok(record) => {
                let restored = record.restore.is_some();
                let stored = match self.slots.get_mut(id) {
                    Some(slot) => {
                        slot.started(record);
                        let record = slot.record.clone();
                        self.ctx.store.put_container(&record).await
                    }
                    None => Ok(()),
                };
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
    pub(super) async fn start_failed(&mut self, id: &ContainerId, error: &Error) {
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

    pub(super) async fn exited(&mut self, id: &ContainerId, exit: Option<Exit>) {
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

    pub(super) async fn removed(
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
                op.removed(id);
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

    pub(super) async fn idle(&mut self, id: &ContainerId) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.busy = None;
        }
        // Boxed: advance and idle call each other through apply.
        Box::pin(self.advance(id)).await;
    }
}
