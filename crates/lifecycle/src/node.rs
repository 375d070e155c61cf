//! The node: every sandbox, container and image of this daemon, as `cri-server` uses it.
//!
//! A method may be dropped at any point: it only sends a request to an owner task and waits for
//! the answer. Two exceptions are intended: dropping [`Node::checkpoint_container`] cancels the
//! checkpoint, and dropping [`Node::exec_sync`] kills the command, because nobody is left who could
//! use the archive or the output.

mod containers;
mod sandboxes;
mod status;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sys::process::Deadline;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroups::{self, CgroupDriver};
use crate::checkpoint;
use crate::config::NodeConfig;
use crate::context::{CLEAN_UP, Context, EXECS, STEP, blocking};
use crate::engine::Engine;
use crate::error::{Error, not_found};
use crate::model::{Labels, SandboxConfig, SandboxId};
use crate::owner::{ContainerView, Handle, Op, Owner, Request, SandboxView};
use crate::runtimes::Runtimes;
use crate::store::Store;

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
    /// [`Error::Precondition`] when the kernel lacks something that there is no way around for;
    /// [`Error::Failed`] when directories, store or images cannot be opened. A single object that
    /// cannot be recovered is no error: it becomes `Unknown` or is cleaned away.
    pub async fn start(config: NodeConfig) -> Result<Self, Error> {
        let kernel = blocking(|| Ok(sys::kernel::probe())).await?;
        if let Some(refusal) = kernel.refusal() {
            return Err(Error::Precondition(refusal));
        }
        for (directory, mode) in [
            (&config.root, 0o700),
            // The socket is in it, which its group may use.
            (&config.run, 0o711),
            (&config.own_checkpoints(), 0o700),
            (&config.criu_logs(), 0o700),
        ] {
            sys::fs::make_dir_all(directory, mode)
                .map_err(|error| Error::io("make directory", directory, error))?;
        }
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| Error::failed(what, error)
        };
        let boot_id = sys::proc::boot_id().map_err(failed("read the boot id"))?;
        let hierarchies =
            sys::cgroup::Hierarchies::detect().map_err(failed("read the mounted cgroups"))?;
        let driver = CgroupDriver::of(config.cgroup_driver, &hierarchies)?;
        let store = Store::open(&config.root.join("state.redb"))?;
        // From here on no other daemon writes below the root directory.
        for directory in ["cni", "criu-logs", "checkpointing"] {
            let directory = config.root.join(directory);
            if let Err(error) = sys::fs::remove_temporaries(&directory) {
                tracing::warn!(directory = %directory.display(), %error, "temporary files stay");
            }
        }
        let images = images::ImageStore::open(&config.root)
            .await
            .map_err(|error| Error::failed("open the image store", error))?;
        let ctx = Arc::new(Context {
            host: crate::spec::host::HostFacts::probe(&hierarchies)
                .map_err(failed("look at the host"))?,
            apparmor: crate::apparmor::AppArmor::new(),
            runtimes: Runtimes::probe(&config, &hierarchies, driver),
            engine: Engine::default(),
            driver,
            cgroup_users: cgroups::Users::new(config.run.join("cgroups"), config.monitors_cgroup()),
            config,
            boot_id,
            kernel,
            store,
            images,
            hierarchies,
            execs: Semaphore::new(EXECS),
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
        let confining = Arc::clone(&ctx);
        ctx.tracker.spawn(async move {
            // Nobody waits for it either: a container that needs the profile sooner loads it.
            let load = move || {
                confining.apparmor.start();
                Ok(())
            };
            drop(blocking(load).await);
        });
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

    /// Stops taking part: running checkpoints are cancelled and undone, containers stay. What takes
    /// longer than half a minute is left for the next start to find.
    pub async fn shut_down(&self) {
        self.ctx.shutdown.cancel();
        self.ctx.tracker.close();
        if tokio::time::timeout(CLEAN_UP, self.ctx.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!("some work did not end in time; the next start finds what it left");
        }
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
        self.ctx.driver
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

#[cfg(test)]
mod tests;
