//! The files that a test's thawd is told its place by.

use anyhow::Result;

use super::{Thawd, write};
use crate::harness::needs;

impl Thawd {
    /// Its configuration file.
    pub(super) fn configuration(&self) -> String {
        let display = |name| self.path(name).display().to_string();
        let mut text = format!(
            "cgroup_driver = \"cgroupfs\"\n\
             cgroup_parent = {cgroup:?}\n\
             log_level = \"info,lifecycle::checkpoint=debug\"\n\
             [cni]\n\
             conf_dirs = [{cni:?}]\n\
             bin_dirs = [{plugins:?}]\n\
             [checkpoint]\n\
             restore_directories = [{archives:?}]\n",
            cgroup = self.cgroup(),
            cni = display("cni"),
            plugins = needs::plugins(),
            archives = display("archives"),
        );
        if let Some(criu) = &self.criu {
            text.push_str(&format!("criu = [{:?}]\n", criu.display().to_string()));
        }
        if !self.copy_on_write {
            text.push_str("copy_on_write = false\n");
        }
        for name in self.ground.handlers {
            let path = match *name {
                "crun" => self.crun.display().to_string(),
                other => other.to_owned(),
            };
            text.push_str(&format!("[[runtime]]\nname = {name:?}\npath = {path:?}\n"));
        }
        text
    }

    /// Its pods' bridge.
    pub(super) fn bridge(&self) -> String {
        format!("thawd{}", self.number)
    }

    /// A bridge of its own, addresses of its own, and published ports.
    pub(super) fn write_cni(&self) -> Result<()> {
        let network = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": self.bridge(),
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": self.bridge(),
                    "isGateway": true,
                    "ipMasq": false,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": self.path("ipam"),
                        "ranges": [[{"subnet": format!("10.77.{}.0/24", self.number % 256)}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        write(&self.path("cni/10-test.conflist"), &network.to_string())
    }
}
