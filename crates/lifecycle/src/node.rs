//! The node: every sandbox, container and image of this daemon, as `cri-server` uses it.
//!
//! A method may be dropped at any point: it only sends a request to an owner task and waits for
//! the answer. The one exception is intended: dropping [`Node::checkpoint_container`] cancels the
//! checkpoint, because nobody is left who could use the archive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sys::process::Deadline;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::checkpoint;
use crate::config::NodeConfig;
use crate::context::{Context, STEP, blocking, with};
use crate::engine::Engine;
use crate::error::Error;
use crate::model::{
    CheckpointRequest, Condition, ContainerConfig, ContainerFilter, ContainerId, ContainerSnapshot,
    ExecOutput, Labels, NodeStatus, SandboxConfig, SandboxFilter, SandboxId, SandboxSnapshot,
};
use crate::owner::{ContainerView, Handle, Op, Owner, Request, SandboxView};
use crate::record::{SandboxRecord, SandboxState, VERSION};
use crate::runtimes::Runtimes;
use crate::store::Store;

/// Which cgroup driver the kubelet should use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Cgroups are directories.
    Cgroupfs,
    /// Cgroups are systemd units.
    Systemd,
}

/// A name that a sandbox holds.
type SandboxName = (String, String, String, u32);

#[derive(Debug, Default)]
struct Registry {
    sandboxes: BTreeMap<SandboxId, Handle>,
    names: BTreeMap<SandboxName, SandboxId>,
}

/// The node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Node {
    ctx: Arc<Context>,
    registry: Arc<Mutex<Registry>>,
}

impl Node {
    /// Opens the store, looks at the host, and takes over what an earlier daemon left.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when directories, store or images cannot be opened. A single object that
    /// cannot be recovered is no error: it becomes `Unknown` or is cleaned away.
    pub async fn start(config: NodeConfig) -> Result<Self, Error> {
        for directory in [
            &config.root,
            &config.run,
            &config.own_checkpoints(),
            &config.criu_logs(),
        ] {
            sys::fs::make_dir_all(directory, 0o700)
                .map_err(|error| Error::io("make directory", directory, error))?;
        }
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| Error::failed(what, error)
        };
        let boot_id = sys::proc::boot_id().map_err(failed("read the boot id"))?;
        let hierarchies =
            sys::cgroup::Hierarchies::detect().map_err(failed("read the mounted cgroups"))?;
        let store = Store::open(&config.root.join("state.redb"))?;
        let images = images::ImageStore::open(&config.root)
            .await
            .map_err(|error| Error::failed("open the image store", error))?;
        let ctx = Arc::new(Context {
            host: crate::spec::host::HostFacts::probe(&hierarchies)
                .map_err(failed("look at the host"))?,
            runtimes: Runtimes::probe(&config, &hierarchies),
            engine: Engine::default(),
            config,
            boot_id,
            store,
            images,
            hierarchies,
            tracker: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        });
        let node = Self {
            ctx: Arc::clone(&ctx),
            registry: Arc::default(),
        };
        for (record, containers) in crate::recovery::recover(&ctx).await? {
            let (id, name) = (record.id.clone(), name_of(&record.config));
            let handle = Owner::spawn(&ctx, record, containers, None);
            let mut registry = node.registry();
            registry.names.insert(name, id.clone());
            registry.sandboxes.insert(id, handle);
        }
        let probing = Arc::clone(&ctx);
        ctx.tracker.spawn(async move {
            // Nobody waits for it: who needs CRIU sooner joins this probe, and reports.
            let warm = move || {
                let none = checkpoint::Cancel::new();
                let engine = &probing.engine;
                engine.usable(&probing.config, Deadline::after(STEP), &none)
            };
            drop(blocking(warm).await);
        });
        Ok(node)
    }

    /// Stops taking part: running checkpoints are cancelled, containers stay.
    pub async fn shut_down(&self) {
        self.ctx.shutdown.cancel();
        self.ctx.tracker.close();
        self.ctx.tracker.wait().await;
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> &images::ImageStore {
        &self.ctx.images
    }

    /// The cgroup driver that the kubelet should use.
    #[must_use]
    pub fn cgroup_driver(&self) -> CgroupDriver {
        CgroupDriver::Cgroupfs
    }

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
        let cgroup_parent = if config.cgroup_parent.is_empty() {
            format!(
                "{}/{id}",
                self.ctx.config.cgroup_parent.trim_end_matches('/')
            )
        } else {
            config.cgroup_parent.clone()
        };
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
        };
        self.reserve(name.clone(), &id)?;
        if let Err(error) = self.ctx.store.put_sandbox(&record).await {
            self.registry().names.remove(&name);
            return Err(error);
        }
        let (reply, answer) = oneshot::channel();
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

    /// Runs a command in a running container and waits for its end.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Precondition`] unless it runs, [`Error::Deadline`] after
    /// `timeout` (the command has been killed then), [`Error::Failed`] when it cannot be run.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        let view = self.container(id)?;
        let handler = view.handler;
        let record = Arc::clone(&view.record);
        with(&self.ctx, move |ctx| {
            crate::exec::run(ctx, &handler, &record, command, timeout)
        })
        .await
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

    /// Conditions and configuration.
    pub async fn status(&self) -> NodeStatus {
        let handlers = self.ctx.runtimes.usable();
        let runtime = Condition {
            ok: !handlers.is_empty(),
            reason: if handlers.is_empty() {
                "NoRuntime".into()
            } else {
                String::new()
            },
            message: if handlers.is_empty() {
                self.ctx.runtimes.problems()
            } else {
                String::new()
            },
        };
        let network = with(&self.ctx, |ctx| {
            let loaded = crate::cni::Cni::load(&ctx.config.cni_conf_dirs, &ctx.config.cni_bin_dirs);
            Ok(match loaded {
                Ok(_) => Condition {
                    ok: true,
                    reason: String::new(),
                    message: String::new(),
                },
                Err(error) => Condition {
                    ok: false,
                    reason: "NetworkPluginNotReady".into(),
                    message: crate::error::chain(&error),
                },
            })
        })
        .await;
        let network = network.unwrap_or_else(|error| Condition {
            ok: false,
            reason: "NetworkPluginNotReady".into(),
            message: error.to_string(),
        });
        let config = &self.ctx.config;
        let checkpoint = match self.ctx.engine.known() {
            Some(Ok(criu)) => criu,
            Some(Err(problem)) => problem,
            None => "not probed yet".to_owned(),
        };
        let info = serde_json::json!({
            "rootDirectory": config.root,
            "runDirectory": config.run,
            "runtimeHandlers": handlers,
            "unusableRuntimes": self.ctx.runtimes.problems(),
            "checkpoint": checkpoint,
            "restoreDirectories": config.checkpoint.restore_directories,
            "cniConfDirectories": config.cni_conf_dirs,
            "cniBinDirectories": config.cni_bin_dirs,
        });
        NodeStatus {
            runtime,
            network,
            handlers,
            info,
        }
    }

    /// Takes the kubelet's runtime configuration. CNI configurations name their own ranges, so
    /// the pod CIDR needs nothing done.
    ///
    /// # Errors
    ///
    /// None today.
    pub async fn update_runtime_config(&self, pod_cidr: String) -> Result<(), Error> {
        tracing::info!(pod_cidr, "runtime configuration received");
        Ok(())
    }

    fn views(&self) -> Vec<Arc<SandboxView>> {
        self.registry()
            .sandboxes
            .values()
            .map(|handle| handle.view.borrow().clone())
            .collect()
    }

    fn sandbox(&self, id: &str) -> Result<(SandboxId, Handle), Error> {
        let registry = self.registry();
        let live = registry
            .sandboxes
            .iter()
            .filter(|(key, handle)| {
                key.as_str().starts_with(id) && handle.view.borrow().sandbox.is_some()
            })
            .map(|(key, handle)| (key.clone(), handle.clone()));
        one(live, "sandbox", id, |(key, _)| key.as_str())
    }

    fn container(&self, id: &str) -> Result<ContainerView, Error> {
        let views = self.views();
        let found = views.iter().flat_map(|view| {
            let matching = view
                .containers
                .iter()
                .filter(|(key, _)| key.as_str().starts_with(id));
            matching.map(|(_, container)| container.clone())
        });
        one(found, "container", id, |container| {
            container.record.id.as_str()
        })
    }

    async fn operate(&self, id: &str, op: Op) -> Result<(), Error> {
        let container = self.container(id)?;
        let (sandbox, id) = (
            container.record.sandbox_id.clone(),
            container.record.id.clone(),
        );
        let handle = self.registry().sandboxes.get(&sandbox).cloned();
        let handle = handle.ok_or_else(|| not_found("container", id.as_str()))?;
        self.send(&handle, Request::Container { id, op }).await
    }

    async fn send(&self, handle: &Handle, request: Request) -> Result<(), Error> {
        handle.inbox.send(request).await.map_err(|_| {
            if self.ctx.shutdown.is_cancelled() {
                Error::ShuttingDown
            } else {
                not_found("sandbox", "the one asked for, which was just removed")
            }
        })
    }
}

fn name_of(config: &SandboxConfig) -> SandboxName {
    (
        config.name.clone(),
        config.namespace.clone(),
        config.uid.clone(),
        config.attempt,
    )
}

fn not_found(kind: &'static str, id: &str) -> Error {
    Error::NotFound {
        kind,
        id: id.to_owned(),
    }
}

/// The only match of an id or prefix.
fn one<T>(
    found: impl Iterator<Item = T>,
    kind: &'static str,
    id: &str,
    key: impl Fn(&T) -> &str,
) -> Result<T, Error> {
    if id.is_empty() {
        return Err(Error::invalid(format!("{kind}_id"), "an id is needed"));
    }
    let mut found: Vec<T> = found.collect();
    if let Some(exact) = found.iter().position(|one| key(one) == id) {
        return Ok(found.swap_remove(exact));
    }
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(not_found(kind, id)),
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(Error::invalid(
            format!("{kind}_id"),
            format!("{id:?} begins several ids"),
        )),
    }
}

fn prefix(wanted: Option<&str>, id: &str) -> bool {
    wanted.is_none_or(|wanted| id.starts_with(wanted))
}

fn has_labels(labels: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

async fn wait<T>(answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
    answer.await.unwrap_or(Err(Error::ShuttingDown))
}
