//! What callers ask of the node itself.

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
            "cgroupDriver": self.ctx.driver.name(),
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
