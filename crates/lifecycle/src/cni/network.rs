//! ADD, CHECK and DEL of all plugins of a network (CNI specification, section 3).

use std::io;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use sys::process::Deadline;

use super::cache::{self, Record};
use super::config::Network;
use super::exec::Call;
use super::result::CniResult;
use super::{CniError, Command, PodNetwork};

/// Longest name of an interface (`IFNAMSIZ` of `linux/if.h`, less the NUL).
const MAX_IFNAME_BYTES: usize = 15;

impl Network {
    /// Attaches the pod: brings `lo` up in its namespace and runs the plugins in order, each with
    /// the result of the one before. What an earlier attempt with the same id left is deleted
    /// first.
    ///
    /// After a failure the caller owes a [`Self::del`].
    ///
    /// # Errors
    ///
    /// [`CniError`]; the first plugin that fails ends the chain.
    pub fn add(&self, pod: &PodNetwork, deadline: Deadline) -> Result<CniResult, CniError> {
        if pod.ifname.len() > MAX_IFNAME_BYTES {
            return Err(CniError::Pod {
                field: "interface name",
                value: pod.ifname.clone(),
            });
        }
        if cache::exists(pod)? {
            self.del(pod, deadline)?;
        }
        sys::ns::enter(&pod.netns, sys::ns::Kind::Net, sys::ns::loopback_up).map_err(|source| {
            CniError::Io {
                action: "bring lo up in network namespace",
                path: pod.netns.clone(),
                source,
            }
        })?;
        let mut record = Record::new(pod, self.raw.clone(), arguments(self, pod));
        record.write(pod)?;
        let call = Call {
            network: self,
            pod,
            command: Command::Add,
            arguments: &record.arguments,
            deadline,
        };
        let mut result = None;
        for plugin in &self.plugins {
            let output = call.run(plugin, result.as_ref())?;
            let value: Value = serde_json::from_slice(&output)
                .map_err(|error| call.output_error(plugin, &error.to_string()))?;
            // Read each one, so that the plugin to blame is named.
            CniResult::parse(value.clone(), &pod.ifname)
                .map_err(|problem| call.output_error(plugin, &problem))?;
            result = Some(value);
        }
        record.result.clone_from(&result);
        record.write(pod)?;
        CniResult::parse(result.unwrap_or_default(), &pod.ifname).map_err(|problem| {
            CniError::Output {
                plugin: self.name.clone(),
                command: Command::Add,
                problem,
            }
        })
    }

    /// Asks every plugin whether what ADD made is still there. Nothing is asked of networks that
    /// do not want it or are older than 0.4.0, nor for pods without a result.
    ///
    /// # Errors
    ///
    /// [`CniError`]; the first plugin that misses something ends the chain.
    pub fn check(&self, pod: &PodNetwork, deadline: Deadline) -> Result<(), CniError> {
        let Some(record) = cache::read(pod)? else {
            return Ok(());
        };
        let network = recorded(&record, &self.bin_dirs)?;
        let Some(result) = &record.result else {
            return Ok(());
        };
        if !network.checked || !network.is_at_least_0_4() {
            return Ok(());
        }
        let call = Call {
            network: &network,
            pod,
            command: Command::Check,
            arguments: &record.arguments,
            deadline,
        };
        network
            .plugins
            .iter()
            .try_for_each(|plugin| call.run(plugin, Some(result)).map(drop))
    }

    /// Detaches the pod with the configuration and result that its cache file holds, or with this
    /// configuration when there is none or it cannot be understood. May be repeated, and works
    /// without the namespace.
    ///
    /// # Errors
    ///
    /// All plugins are run; [`CniError::Several`] when more than one failed. The cache file stays
    /// for the next try.
    pub fn del(&self, pod: &PodNetwork, deadline: Deadline) -> Result<(), CniError> {
        del(pod, Some(self), &self.bin_dirs, deadline)
    }
}

fn recorded(record: &Record, bin_dirs: &[PathBuf]) -> Result<Network, CniError> {
    Network::from_value(record.config.clone(), bin_dirs).map_err(|problem| CniError::Config {
        path: PathBuf::from(format!("of {}", record.id)),
        problem,
    })
}

/// [`Network::del`]; without a configuration only what the cache file knows is taken down.
pub(super) fn del(
    pod: &PodNetwork,
    current: Option<&Network>,
    bin_dirs: &[PathBuf],
    deadline: Deadline,
) -> Result<(), CniError> {
    let record = match cache::read(pod) {
        // Nothing to go by; the pod must be removable all the same.
        Err(CniError::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidData => None,
        other => other?,
    };
    let (network, arguments, result) = match (record, current) {
        (Some(record), _) => (
            recorded(&record, bin_dirs)?,
            record.arguments,
            record.result,
        ),
        (None, Some(current)) => (current.clone(), arguments(current, pod), None),
        (None, None) => return cache::remove(pod),
    };
    let call = Call {
        network: &network,
        pod,
        command: Command::Del,
        arguments: &arguments,
        deadline,
    };
    let previous = result.as_ref().filter(|_| network.is_at_least_0_4());
    let mut failures: Vec<CniError> = network
        .plugins
        .iter()
        .rev()
        .filter_map(|plugin| call.run(plugin, previous).err())
        .collect();
    match (failures.pop(), failures.is_empty()) {
        (None, _) => cache::remove(pod),
        (Some(only), true) => Err(only),
        (Some(last), false) => {
            failures.push(last);
            Err(CniError::Several(failures))
        }
    }
}

/// Arguments by capability: the pod's forwarded ports and what the network was given besides.
fn arguments(network: &Network, pod: &PodNetwork) -> Map<String, Value> {
    let mut arguments = network.arguments.clone();
    let forwarded = pod
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0);
    let ports: Vec<Value> = forwarded
        .map(|mapping| {
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol.to_ascii_lowercase(),
                "hostIP": mapping.host_ip,
            })
        })
        .collect();
    if !ports.is_empty() {
        arguments.insert("portMappings".into(), Value::Array(ports));
    }
    arguments
}
