//! What callers ask of the node itself.

use sys::kernel::{Answer, Found, Kernel, Without};

use super::Node;
use crate::context::with;
use crate::error::Error;
use crate::model::{Condition, NodeStatus};

impl Node {
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
        let apparmor = with(&self.ctx, |ctx| Ok(ctx.apparmor.status())).await;
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
            "kernel": kernel_info(&self.ctx.kernel),
            "apparmor": apparmor.unwrap_or_default(),
            "restoreDirectories": config.checkpoint.restore_directories,
            "cgroupDriver": self.ctx.driver.name(),
            "cgroupControllers": self.ctx.host.controllers,
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
}

/// The kernel's release, and of each feature that it may lack: `true`, or what is done without it, or why
/// that is not known.
fn kernel_info(kernel: &Kernel) -> serde_json::Value {
    let shown = |found: &Found| match (&found.answer, found.feature.without) {
        (Answer::Present, _) => true.into(),
        (Answer::Missing(_), Without::WayAround(way)) => format!("way around: {way}").into(),
        // A daemon does not get that far.
        (Answer::Missing(_), Without::Refusal) => false.into(),
        (Answer::Unknown(error), _) => format!("not known: {error}").into(),
    };
    let features: serde_json::Map<String, serde_json::Value> = kernel
        .found
        .iter()
        .map(|found| (found.feature.name.to_owned(), shown(found)))
        .collect();
    serde_json::json!({"release": kernel.release, "features": features})
}
