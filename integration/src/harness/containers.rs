//! Pods and containers as a kubelet would make them.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;
use cri_server::v1::security_profile::ProfileType;
use tonic::Status;

use super::daemon::Thawd;
use super::log::Log;
use super::wait;
use crate::cri::Cri;

/// A pod and the request it was made from.
pub(crate) struct Pod {
    cri: Rc<Cri>,
    /// Id.
    pub(crate) id: String,
    /// The request.
    pub(crate) config: v1::PodSandboxConfig,
}

/// A container and the request it was made from.
pub(crate) struct Container {
    cri: Rc<Cri>,
    /// Id.
    pub(crate) id: String,
    /// The request.
    pub(crate) config: v1::ContainerConfig,
    /// Its log.
    pub(crate) log: Log,
}

/// What a program run by ExecSync left.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// The request for a pod.
pub(crate) fn pod_config(thawd: &Thawd, name: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: thawd.path("logs").join(name).display().to_string(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("{}/{name}", thawd.cgroup()),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Namespaces as a kubelet asks for them: the network and IPC are the pod's, pids the container's.
pub(crate) fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: v1::NamespaceMode::Pod.into(),
        pid: v1::NamespaceMode::Container.into(),
        ipc: v1::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

/// The request for a container that runs these arguments under the default seccomp profile.
pub(crate) fn container_config(name: &str, image: &str, command: &[&str]) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        envs: vec![v1::KeyValue {
            key: "GREETING".into(),
            value: "hello, world".into(),
        }],
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(v1::SecurityProfile {
                    profile_type: ProfileType::RuntimeDefault.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The request for a container that runs the workload with these features.
pub(crate) fn workload_config(name: &str, features: &[&str]) -> v1::ContainerConfig {
    let command: Vec<&str> = ["/bin/workload"].iter().chain(features).copied().collect();
    container_config(name, "localhost/thawd/workload:latest", &command)
}

/// The security part of a request, to change.
pub(crate) fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

impl Pod {
    /// Makes a pod with the usual request.
    ///
    /// # Errors
    /// What thawd answered.
    pub(crate) fn run(thawd: &Thawd, name: &str) -> Result<Self> {
        Self::run_with(thawd, pod_config(thawd, name), "")
            .with_context(|| format!("RunPodSandbox {name}"))
    }

    /// Makes a pod.
    ///
    /// # Errors
    /// What thawd answered.
    pub(crate) fn run_with(
        thawd: &Thawd,
        config: v1::PodSandboxConfig,
        handler: &str,
    ) -> Result<Self> {
        std::fs::create_dir_all(&config.log_directory)?;
        let request = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let id = thawd.cri().run_pod_sandbox(request)?.pod_sandbox_id;
        Ok(Self {
            cri: Rc::clone(thawd.cri()),
            id,
            config,
        })
    }

    /// Its status.
    ///
    /// # Errors
    /// What thawd answered.
    pub(crate) fn status(&self) -> Result<v1::PodSandboxStatus> {
        let pod_sandbox_id = self.id.clone();
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id,
            verbose: false,
        };
        self.cri
            .pod_sandbox_status(request)?
            .status
            .context("no status")
    }

    /// Its address.
    ///
    /// # Errors
    /// When it has none.
    pub(crate) fn ip(&self) -> Result<String> {
        let ip = self.status()?.network.context("no network")?.ip;
        ensure!(!ip.is_empty(), "pod {} has no address", self.id);
        Ok(ip)
    }

    /// Makes a container in it.
    ///
    /// # Errors
    /// What thawd answered.
    pub(crate) fn create(&self, config: v1::ContainerConfig) -> Result<Container, Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config.clone()),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self.cri.create_container(request)?.container_id;
        let log = Log::new(PathBuf::from(&self.config.log_directory).join(&config.log_path));
        Ok(Container {
            cri: Rc::clone(&self.cri),
            id,
            config,
            log,
        })
    }

    /// Makes and starts a container in it.
    ///
    /// # Errors
    /// What thawd answered.
    pub(crate) fn start(&self, config: v1::ContainerConfig) -> Result<Container> {
        let container = self.create(config).context("CreateContainer")?;
        container.start().context("StartContainer")?;
        Ok(container)
    }

    /// Stops and removes it with all its containers.
    ///
    /// # Errors
    /// What thawd answered.
    pub(crate) fn remove(self) -> Result<()> {
        let pod_sandbox_id = self.id.clone();
        self.cri
            .stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id })
            .context("StopPodSandbox")?;
        let pod_sandbox_id = self.id;
        self.cri
            .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id })
            .context("RemovePodSandbox")?;
        Ok(())
    }
}

impl Container {
    /// The request that makes another one of it from a checkpoint.
    pub(crate) fn restored_config(&self, source: &str, name: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: source.to_owned(),
                ..Default::default()
            }),
            log_path: format!("{name}.log"),
            ..self.config.clone()
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// What thawd answered.
    pub(crate) fn start(&self) -> Result<(), Status> {
        let container_id = self.id.clone();
        self.cri
            .start_container(v1::StartContainerRequest { container_id })
            .map(drop)
    }

    /// Stops it, allowing two seconds.
    ///
    /// # Errors
    /// What thawd answered.
    pub(crate) fn stop(&self) -> Result<(), Status> {
        let request = v1::StopContainerRequest {
            container_id: self.id.clone(),
            timeout: 2,
        };
        self.cri.stop_container(request).map(drop)
    }

    /// Stops it, and its program has to end with 0.
    ///
    /// # Errors
    /// What thawd answered, or how it ended instead.
    pub(crate) fn stop_well(&self) -> Result<()> {
        self.stop()?;
        let status = self.wait_exit()?;
        ensure!(
            status.exit_code == 0,
            "exit code {}: {}",
            status.exit_code,
            status.reason
        );
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// What thawd answered.
    pub(crate) fn remove(&self) -> Result<(), Status> {
        let container_id = self.id.clone();
        self.cri
            .remove_container(v1::RemoveContainerRequest { container_id })
            .map(drop)
    }

    /// Its status.
    ///
    /// # Errors
    /// What thawd answered.
    pub(crate) fn status(&self) -> Result<v1::ContainerStatus> {
        let container_id = self.id.clone();
        let request = v1::ContainerStatusRequest {
            container_id,
            verbose: false,
        };
        self.cri
            .container_status(request)?
            .status
            .context("no status")
    }

    /// Waits until it has exited and returns its status.
    ///
    /// # Errors
    /// When it has not in time.
    pub(crate) fn wait_exit(&self) -> Result<v1::ContainerStatus> {
        wait::until("the container to exit", wait::PATIENCE, || {
            let status = self.status()?;
            Ok((status.state() == v1::ContainerState::ContainerExited).then_some(status))
        })
    }

    /// Runs a program in it.
    ///
    /// # Errors
    /// What thawd answered; an exit code other than 0 is no error.
    pub(crate) fn exec(&self, command: &[&str]) -> Result<Ran, Status> {
        let request = v1::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 20,
        };
        let answer = self.cri.exec_sync(request)?;
        Ok(Ran {
            code: answer.exit_code,
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
        })
    }

    /// Asks the workload in it how it is.
    ///
    /// # Errors
    /// When it is not well.
    pub(crate) fn check(&self) -> Result<()> {
        let ran = self.exec(&["/bin/workload", "check"]).context("ExecSync")?;
        ensure!(ran.code == 0, "workload check: {ran:?}");
        Ok(())
    }

    /// A checkpoint request.
    pub(crate) fn checkpoint_request(
        &self,
        location: &Path,
        timeout: i64,
    ) -> v1::CheckpointContainerRequest {
        v1::CheckpointContainerRequest {
            container_id: self.id.clone(),
            location: location.display().to_string(),
            timeout,
        }
    }

    /// Freezes it to an archive, within 60 s.
    ///
    /// # Errors
    /// What thawd answered.
    pub(crate) fn checkpoint(&self, location: &Path) -> Result<(), Status> {
        self.cri
            .checkpoint_container(self.checkpoint_request(location, 60))
            .map(drop)
    }

    /// Begins to freeze it to an archive.
    pub(crate) fn begin_checkpoint(
        &self,
        location: &Path,
        deadline: Option<Duration>,
    ) -> tokio::task::JoinHandle<Result<(), Status>> {
        self.cri
            .begin_checkpoint(self.checkpoint_request(location, 60), deadline)
    }
}
