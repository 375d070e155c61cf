//! The end of a sandbox: its containers first, then its network and namespaces, then its record.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Owner;
use super::messages::{Done, Op, SandboxView, answer};
use crate::error::Error;
use crate::model::ContainerId;
use crate::record::SandboxState;
use crate::sandbox;

impl Owner {
    /// Asks every container to end, for a sandbox that is stopped or removed.
    pub(super) async fn stop_containers(&mut self) {
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
    pub(super) async fn go_on_ending(&mut self) {
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

    pub(super) async fn torn_down(&mut self, result: Result<(), Error>) {
        self.ending.tearing_down = false;
        match result {
            Ok(()) => {
                info!(sandbox = %self.record.id, "sandbox stopped");
                self.ending.torn_down = true;
                self.record.torn_down = true;
                if let Err(error) = self.ctx.store.put_sandbox(&self.record).await {
                    warn!(sandbox = %self.record.id, error = &error as &dyn std::error::Error,
                        "that a sandbox was taken down is not on disk; a restart does it again");
                }
            }
            Err(error) => self.fail_ending(&error),
        }
    }

    pub(super) async fn forget(&mut self) {
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
    pub(super) fn fail_ending(&mut self, error: &Error) {
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
}
