//! `Status`: whether the node can take pods.

use std::collections::HashMap;

use lifecycle::model::{Condition, NodeStatus};
use lifecycle::node::Node;
use serde_json::Value;
use tonic::Status;

use crate::v1;

pub(super) async fn call(
    node: &Node,
    request: v1::StatusRequest,
) -> Result<v1::StatusResponse, Status> {
    Ok(response(node.status().await, request.verbose))
}

fn response(status: NodeStatus, verbose: bool) -> v1::StatusResponse {
    // The empty name is the default handler's, as in a pod without a RuntimeClass.
    let names = std::iter::once(String::new()).chain(status.handlers);
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: vec![
                condition("RuntimeReady", status.runtime),
                condition("NetworkReady", status.network),
            ],
        }),
        info: if verbose {
            info(&status.info)
        } else {
            HashMap::new()
        },
        runtime_handlers: names.map(handler).collect(),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
            mount_options: false,
        }),
    }
}

fn condition(kind: &str, from: Condition) -> v1::RuntimeCondition {
    v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status: from.ok,
        reason: from.reason,
        message: from.message,
    }
}

fn handler(name: String) -> v1::RuntimeHandler {
    let features = v1::RuntimeHandlerFeatures {
        recursive_read_only_mounts: true,
        user_namespaces: false,
    };
    v1::RuntimeHandler {
        name,
        features: Some(features),
    }
}

/// One document under the name that the other runtimes use too; `thaw` finds thawd's root directory
/// in it.
fn info(from: &Value) -> HashMap<String, String> {
    HashMap::from([("config".to_owned(), from.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> NodeStatus {
        let good = Condition {
            ok: true,
            reason: String::new(),
            message: String::new(),
        };
        let bad = Condition {
            ok: false,
            reason: "NetworkPluginNotReady".into(),
            message: "no configuration in /etc/cni/net.d".into(),
        };
        NodeStatus {
            runtime: good,
            network: bad,
            handlers: vec!["runc".into(), "crun".into()],
            info: serde_json::json!({"rootDirectory": "/var/lib/thawd", "handlers": ["runc"]}),
        }
    }

    #[test]
    fn both_conditions_are_told_with_their_reasons() {
        let conditions = response(status(), false).status.unwrap().conditions;
        let told: Vec<_> = conditions
            .iter()
            .map(|c| (c.r#type.as_str(), c.status, c.reason.as_str()))
            .collect();
        let expected = [
            ("RuntimeReady", true, ""),
            ("NetworkReady", false, "NetworkPluginNotReady"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn the_default_handler_has_the_empty_name() {
        let handlers = response(status(), false).runtime_handlers;
        let names: Vec<_> = handlers
            .iter()
            .map(|handler| handler.name.as_str())
            .collect();
        assert_eq!(names, ["", "runc", "crun"]);
    }

    #[test]
    fn verbose_adds_the_configuration() {
        assert!(response(status(), false).info.is_empty());
        let info = response(status(), true).info;
        let config: Value = serde_json::from_str(&info["config"]).unwrap();
        assert_eq!(config, status().info);
    }
}
