//! Beginning an operation on a container: is it allowed now, and which work does it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Owner;
use super::messages::{Busy, Done, Reply, answer};
use crate::error::Error;
use crate::model::{CheckpointRequest, ContainerId};
use crate::record::{ContainerState, SandboxState};
use crate::{checkpoint, container, criu_logs, restore};

impl Owner {
    pub(super) fn begin_start(&mut self, id: &ContainerId, reply: Reply<()>) {
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
                let result = restore::start(&ctx, &sandbox, record).await;
                if result.is_err() {
                    criu_logs::trim(&ctx).await;
                }
                result
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

    pub(super) fn begin_stop(
        &mut self,
        id: &ContainerId,
        timeout: Duration,
        reply: Option<Reply<()>>,
    ) {
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

    pub(super) fn begin_remove(&mut self, id: &ContainerId, reply: Option<Reply<()>>) {
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

    pub(super) fn begin_checkpoint(
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
            if result.is_err() {
                criu_logs::trim(&ctx).await;
            }
            Done::Checkpointed { id, result, reply }
        });
    }
}
