//! What all owner tasks of one daemon share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroups::{CgroupDriver, Users};
use crate::config::NodeConfig;
use crate::engine::Engine;
use crate::error::Error;
use crate::runtimes::Runtimes;
use crate::store::Store;

/// Time for one call of the OCI runtime or of a CNI plugin chain.
pub(crate) const STEP: Duration = Duration::from_secs(60);

/// Time for clean-up after a failure; it never shares the failed request's deadline.
pub(crate) const CLEAN_UP: Duration = Duration::from_secs(30);

/// Commands of ExecSync at a time; more of them wait.
pub(crate) const EXECS: usize = 256;

/// Shared by every owner task.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: NodeConfig,
    pub(crate) boot_id: String,
    /// What this kernel has of what may be missing.
    pub(crate) kernel: sys::kernel::Kernel,
    pub(crate) store: Store,
    pub(crate) images: images::ImageStore,
    pub(crate) runtimes: Runtimes,
    pub(crate) engine: Engine,
    pub(crate) hierarchies: sys::cgroup::Hierarchies,
    /// Who makes the cgroups of new pods.
    pub(crate) driver: CgroupDriver,
    pub(crate) cgroup_users: Users,
    pub(crate) host: crate::spec::host::HostFacts,
    pub(crate) apparmor: crate::apparmor::AppArmor,
    /// Commands of ExecSync; each holds one of tokio's 512 blocking threads, which stops and starts
    /// need as well.
    pub(crate) execs: Semaphore,
    /// Owners and their work; the daemon waits for them when it ends.
    pub(crate) tracker: TaskTracker,
    /// Set when the daemon ends.
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    /// The monitor program.
    pub(crate) fn monitor(&self) -> PathBuf {
        self.config.monitor.clone()
    }
}

/// Runs synchronous work on tokio's blocking threads.
///
/// The callers pass work that is bounded by a deadline of its own.
///
/// # Errors
///
/// What the work returns; [`Error::Failed`] when it panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::failed("a worker thread ended early", error)),
    }
}

/// [`blocking`] with the context.
pub(crate) async fn with<T: Send + 'static>(
    ctx: &Arc<Context>,
    work: impl FnOnce(&Arc<Context>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let ctx = Arc::clone(ctx);
    blocking(move || work(&ctx)).await
}
