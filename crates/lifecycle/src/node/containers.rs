//! What callers ask of containers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Node, has_labels, prefix, wait};
use crate::checkpoint;
use crate::context::{blocking, with};
use crate::error::Error;
use crate::model::{
    CheckpointRequest, ContainerConfig, ContainerFilter, ContainerId, ContainerSnapshot, ExecOutput,
};
use crate::owner::{Op, Request};

impl Node {
    /// Makes a container in a sandbox.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for the sandbox or the image, [`Error::Precondition`] for a sandbox that
    /// is not ready, [`Error::AlreadyExists`] for a taken name, [`Error::Invalid`] for what cannot
    /// be made as asked; for a checkpoint also [`Error::Denied`].
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId, Error> {
        let (_, handle) = self.sandbox(sandbox)?;
        let (reply, answer) = oneshot::channel();
        self.send(
            &handle,
            Request::Create {
                config: Box::new(config),
                reply,
            },
        )
        .await?;
        wait(answer).await
    }

    /// Runs a created container's program, or restores it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Precondition`] unless it is created and its sandbox ready;
    /// [`Error::Failed`] with the runtime's or CRIU's words.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.operate(id, Op::Start(reply)).await?;
        wait(answer).await
    }

    /// Ends a container: its stop signal, SIGKILL after `timeout`. One that is gone has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Deadline`] when it does not end on SIGKILL either.
    pub async fn stop_container(&self, id: &str, timeout: Duration) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        match self.operate(id, Op::Stop { timeout, reply }).await {
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => wait(answer).await,
        }
    }

    /// Ends a container and forgets it; one that is gone counts as removed.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with the steps that failed; a retry begins again.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        match self.operate(id, Op::Remove(reply)).await {
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => wait(answer).await,
        }
    }

    /// A container by id or unique prefix.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Invalid`] for a prefix of several ids.
    pub async fn container_status(&self, id: &str) -> Result<ContainerSnapshot, Error> {
        Ok(self.container(id)?.snapshot)
    }

    /// All containers that the filter lets through, newest first.
    pub async fn list_containers(&self, filter: ContainerFilter) -> Vec<ContainerSnapshot> {
        let mut found: Vec<ContainerSnapshot> = self
            .views()
            .iter()
            .flat_map(|view| view.containers.values().map(|c| c.snapshot.clone()))
            .filter(|container| {
                prefix(filter.id.as_deref(), container.id.as_str())
                    && prefix(filter.sandbox_id.as_deref(), container.sandbox_id.as_str())
                    && filter.phase.is_none_or(|phase| phase == container.phase)
                    && has_labels(&container.config.labels, &filter.labels)
            })
            .collect();
        found.sort_by_key(|one| std::cmp::Reverse(one.created_at));
        found
    }

    /// What `verbose` adds to a container's status.
    ///
    /// # Errors
    ///
    /// As [`Node::container_status`].
    pub async fn container_info(&self, id: &str) -> Result<serde_json::Value, Error> {
        let view = self.container(id)?;
        let bundle = self.ctx.config.container_dir(view.record.id.as_str());
        let spec = std::fs::read(bundle.join("config.json")).ok();
        let spec: Option<serde_json::Value> =
            spec.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(serde_json::json!({
            "sandboxID": view.record.sandbox_id.as_str(),
            "pid": view.snapshot.pid,
            "runtimeSpec": spec,
            "bundle": bundle,
            "restored": view.record.restore.is_some(),
            "checkpointedAt": view.record.restore.as_ref().map(|restore| {
                humantime::format_rfc3339_nanos(restore.from.checkpointed_at).to_string()
            }),
            "checkpointSource": view.record.restore.as_ref().map(|r| r.from.source.clone()),
        }))
    }

    /// Runs a command in a running container and waits for its end.
    ///
    /// Dropping the returned future kills the command: its output has nowhere to go.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Precondition`] unless it runs, [`Error::Deadline`] after
    /// `timeout` (the command has been killed then), [`Error::ShuttingDown`] when the daemon ends
    /// meanwhile (likewise), [`Error::Failed`] when it cannot be run.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        let view = self.container(id)?;
        let handler = view.handler;
        let record = Arc::clone(&view.record);
        let (wanted, _waits) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| Error::failed("make a pipe", error))?;
        let job = crate::exec::Job {
            command,
            timeout,
            wanted,
        };
        let ran = async {
            let _turn = self.ctx.execs.acquire().await;
            with(&self.ctx, move |ctx| {
                crate::exec::run(ctx, &handler, &record, job)
            })
            .await
        };
        tokio::select! {
            output = ran => output,
            () = self.ctx.shutdown.cancelled() => Err(Error::ShuttingDown),
        }
    }

    /// Tells a container's monitor to open its log file anew, after a rotation.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Precondition`] unless it runs, [`Error::Failed`].
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let view = self.container(id)?;
        if view.snapshot.pid.is_none() {
            return Err(Error::Precondition(format!(
                "container {} is not running",
                view.record.id
            )));
        }
        let run_dir = self.ctx.config.container_run_dir(view.record.id.as_str());
        blocking(move || {
            monitor::Client::connect(&run_dir)
                .and_then(|mut client| client.reopen_log())
                .map_err(|error| Error::failed("reopen the container's log", error))
        })
        .await
    }

    /// Writes a checkpoint of a running container to `request.location`.
    ///
    /// Dropping the returned future cancels the checkpoint: the container runs on, no file stays.
    ///
    /// # Errors
    ///
    /// See `design.md`'s table of bad input; whatever the error, the container runs on with its
    /// network open and no file is left.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        request: CheckpointRequest,
        rpc_deadline: Option<Duration>,
    ) -> Result<(), Error> {
        let cancel = checkpoint::Cancel::new();
        let guard = checkpoint::CancelOnDrop::new(cancel.clone());
        let (reply, answer) = oneshot::channel();
        let deadline = rpc_deadline.and_then(|left| Instant::now().checked_add(left));
        self.operate(
            id,
            Op::Checkpoint {
                request,
                deadline,
                cancel,
                reply,
            },
        )
        .await?;
        let result = wait(answer).await;
        guard.disarm();
        result
    }
}
