//! What callers ask of sandboxes.

use std::time::SystemTime;

use tokio::sync::oneshot;

use super::{Node, SandboxName, has_labels, name_of, prefix, wait};
use crate::error::{Error, not_found};
use crate::model::{SandboxConfig, SandboxFilter, SandboxId, SandboxSnapshot};
use crate::owner::{Owner, Request};
use crate::record::{SandboxRecord, SandboxState, VERSION};

impl Node {
    /// Makes a sandbox and waits until it is ready.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] when another sandbox has the name; [`Error::Invalid`] for an
    /// unknown handler; [`Error::Failed`] for a step that failed, after everything was undone.
    pub async fn run_sandbox(
        &self,
        config: SandboxConfig,
        runtime_handler: String,
    ) -> Result<SandboxId, Error> {
        if self.ctx.shutdown.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        self.ctx.runtimes.get(&runtime_handler)?;
        let handler = if runtime_handler.is_empty() {
            self.ctx.runtimes.default_name()?.to_owned()
        } else {
            runtime_handler.clone()
        };
        let id = SandboxId::new(
            sys::sysinfo::random_hex(32)
                .map_err(|error| Error::failed("make a sandbox id", error))?,
        );
        let name = name_of(&config);
        let cgroup_parent = self.ctx.driver.pod(
            &self.ctx.config.cgroup_parent,
            &config.cgroup_parent,
            id.as_str(),
        )?;
        let record = SandboxRecord {
            version: VERSION,
            id: id.clone(),
            config,
            requested_handler: runtime_handler,
            handler,
            state: SandboxState::Creating,
            created_at: SystemTime::now(),
            ips: Vec::new(),
            boot_id: self.ctx.boot_id.clone(),
            init: None,
            cgroup_parent,
            torn_down: false,
        };
        let (reply, answer) = oneshot::channel();
        // Nothing is awaited between these: a caller that goes away leaves no name without a sandbox.
        self.reserve(name.clone(), &id)?;
        let handle = Owner::spawn(&self.ctx, record, Vec::new(), Some(reply));
        self.registry().sandboxes.insert(id.clone(), handle);
        let result = wait(answer).await;
        if result.is_err() {
            let mut registry = self.registry();
            registry.names.remove(&name);
            registry.sandboxes.remove(&id);
        }
        result.map(|()| id)
    }

    /// Holds a name for a new sandbox; names of sandboxes that are gone become free here.
    fn reserve(&self, name: SandboxName, id: &SandboxId) -> Result<(), Error> {
        let mut registry = self.registry();
        let gone: Vec<SandboxId> = registry
            .sandboxes
            .iter()
            .filter(|(_, handle)| handle.view.has_changed().is_err())
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            registry.sandboxes.remove(&id);
            registry.names.retain(|_, holder| *holder != id);
        }
        if let Some(holder) = registry.names.get(&name) {
            let what = format!(
                "sandbox {:?} of namespace {:?}, uid {:?}, attempt {} (id {holder})",
                name.0, name.1, name.2, name.3
            );
            return Err(Error::AlreadyExists { what });
        }
        registry.names.insert(name, id.clone());
        Ok(())
    }

    /// Stops a sandbox and its containers; one that is gone counts as stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with every step that failed; a retry begins again.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        self.end_sandbox(id, |reply| Request::Stop { reply }).await
    }

    /// Stops a sandbox and forgets it and its containers; one that is gone counts as removed.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with every step that failed; a retry begins again.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.end_sandbox(id, |reply| Request::Remove { reply })
            .await
    }

    async fn end_sandbox(
        &self,
        id: &str,
        request: impl FnOnce(oneshot::Sender<Result<(), Error>>) -> Request,
    ) -> Result<(), Error> {
        let (_, handle) = match self.sandbox(id) {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let (reply, answer) = oneshot::channel();
        if handle.inbox.send(request(reply)).await.is_err() {
            return if self.ctx.shutdown.is_cancelled() {
                Err(Error::ShuttingDown)
            } else {
                Ok(())
            };
        }
        wait(answer).await
    }

    /// A sandbox by id or unique prefix.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Invalid`] for a prefix of several ids.
    pub async fn sandbox_status(&self, id: &str) -> Result<SandboxSnapshot, Error> {
        let (_, handle) = self.sandbox(id)?;
        let view = handle.view.borrow().clone();
        view.sandbox.clone().ok_or_else(|| not_found("sandbox", id))
    }

    /// All sandboxes that the filter lets through, newest first.
    pub async fn list_sandboxes(&self, filter: SandboxFilter) -> Vec<SandboxSnapshot> {
        let mut found: Vec<SandboxSnapshot> = self
            .views()
            .iter()
            .filter_map(|view| view.sandbox.clone())
            .filter(|sandbox| {
                prefix(filter.id.as_deref(), sandbox.id.as_str())
                    && filter.phase.is_none_or(|phase| phase == sandbox.phase)
                    && has_labels(&sandbox.config.labels, &filter.labels)
            })
            .collect();
        found.sort_by_key(|one| std::cmp::Reverse(one.created_at));
        found
    }

    /// What `verbose` adds to a sandbox's status.
    ///
    /// # Errors
    ///
    /// As [`Node::sandbox_status`].
    pub async fn sandbox_info(&self, id: &str) -> Result<serde_json::Value, Error> {
        let sandbox = self.sandbox_status(id).await?;
        Ok(serde_json::json!({
            "pid": sandbox.init_pid,
            "netns": sandbox.netns,
            "ips": sandbox.ips,
        }))
    }
}
