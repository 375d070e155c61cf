//! Building a sandbox and taking it down.
//!
//! A sandbox is a set of pinned namespaces, a tmpfs for /dev/shm, three files and a CNI attachment.
//! It has a process only where containers share a pid namespace, which must have a first process.

mod init;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::process::Deadline;
use tracing::warn;

use crate::cgroups::CgroupDriver;
use crate::cni::{Cni, PodNetwork};
use crate::config::NodeConfig;
use crate::context::{CLEAN_UP, Context, STEP, with};
use crate::error::{Error, Failed};
use crate::model::{NamespaceMode, SandboxConfig};
use crate::record::{ContainerRecord, SandboxRecord, SandboxState};
use crate::spec::Shm;

/// Interface name in the pod.
const INTERFACE: &str = "eth0";

/// Where a sandbox's namespace is pinned.
pub(crate) fn pin_path(config: &NodeConfig, id: &str, kind: sys::ns::Kind) -> PathBuf {
    config.sandbox_run_dir(id).join("ns").join(kind.file_name())
}

/// The network namespace's path; `None` for host-network pods.
pub(crate) fn netns_path(config: &NodeConfig, record: &SandboxRecord) -> Option<PathBuf> {
    let own = record.config.namespaces.network != NamespaceMode::Node;
    own.then(|| pin_path(config, record.id.as_str(), sys::ns::Kind::Net))
}

/// What a container has at /dev/shm, which goes with its IPC namespace. A request that says nothing means
/// the pod's mode; a pod that gives each container one of its own has none to share.
pub(crate) fn shm(
    config: &NodeConfig,
    sandbox: &SandboxRecord,
    container: &ContainerRecord,
) -> Shm {
    let (own, of_pod) = (
        &container.config.security.namespaces.ipc,
        &sandbox.config.namespaces.ipc,
    );
    match (own, of_pod) {
        (NamespaceMode::Container, _) | (_, NamespaceMode::Container) => Shm::Own {
            limit_bytes: config.shm_bytes,
        },
        (_, NamespaceMode::Node) => Shm::Host,
        _ => Shm::Pod(config.sandbox_run_dir(sandbox.id.as_str()).join("shm")),
    }
}

/// Stores the intent, builds what the record asks for and returns it as `Ready`.
///
/// # Errors
///
/// The step that failed; everything made before it is undone.
pub(crate) async fn set_up(
    ctx: &Arc<Context>,
    record: SandboxRecord,
) -> Result<SandboxRecord, Failed> {
    if let Err(error) = ctx.store.put_sandbox(&record).await {
        let undone = true;
        return Err(Failed { error, undone });
    }
    let intent = record.clone();
    let (record, error) = match with(ctx, move |ctx| Ok(build(ctx, record))).await {
        Ok((record, Ok(()))) => {
            let state = SandboxState::Ready;
            return Ok(SandboxRecord { state, ..record });
        }
        Ok((record, Err(error))) => (record, error),
        Err(error) => (intent, error),
    };
    let undone = undo(ctx, &record).await;
    Err(Failed { error, undone })
}

/// The record comes back either way: it knows what was made.
fn build(ctx: &Context, mut record: SandboxRecord) -> (SandboxRecord, Result<(), Error>) {
    let result = make(ctx, &mut record);
    (record, result)
}

fn make(ctx: &Context, record: &mut SandboxRecord) -> Result<(), Error> {
    let id = record.id.as_str().to_owned();
    ctx.cgroup_users
        .acquire(&ctx.hierarchies, &id, &record.cgroup_parent)
        .map_err(|error| Error::failed("note which cgroups are there", error))?;
    let run = ctx.config.sandbox_run_dir(&id);
    let pins = run.join("ns");
    let files = ctx.config.sandbox_dir(&id);
    for directory in [&pins, &files] {
        sys::fs::make_dir_all(directory, 0o700)
            .map_err(|error| Error::io("make directory", directory, error))?;
    }
    write_files(&files, &record.config, &id)?;
    if record.config.namespaces.ipc != NamespaceMode::Node {
        mount_shm(&run.join("shm"), ctx.config.shm_bytes)?;
    }
    make_namespaces(ctx, &record.config, &id, &pins)?;
    if record.config.namespaces.pid == NamespaceMode::Pod {
        record.init = Some(init::start(ctx, record)?);
    }
    if let Some(netns) = netns_path(&ctx.config, record) {
        record.ips = attach(ctx, record, &netns)?;
        let hosts = files.join("hosts");
        let text = crate::dns::pod_hosts(&hostname(&record.config, &id), &record.ips);
        sys::fs::replace_path(&hosts, 0o644, text.as_bytes())
            .map_err(|error| Error::io("write", &hosts, error))?;
    }
    Ok(())
}

/// The name that programs in the pod see.
fn hostname(config: &SandboxConfig, id: &str) -> String {
    if !config.hostname.is_empty() {
        config.hostname.clone()
    } else if config.namespaces.network == NamespaceMode::Node {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    } else {
        id.chars().take(12).collect()
    }
}

fn write_files(directory: &Path, config: &SandboxConfig, id: &str) -> Result<(), Error> {
    let hostname = hostname(config, id);
    let host_network = config.namespaces.network == NamespaceMode::Node;
    let files = [
        ("resolv.conf", crate::dns::resolv_conf(config.dns.as_ref())?),
        ("hostname", crate::dns::hostname_file(&hostname)),
        ("hosts", crate::dns::hosts_file(&hostname, host_network)?),
    ];
    for (name, text) in files {
        let path = directory.join(name);
        sys::fs::replace_path(&path, 0o644, text.as_bytes())
            .map_err(|error| Error::io("write", &path, error))?;
    }
    Ok(())
}

fn mount_shm(target: &Path, bytes: u64) -> Result<(), Error> {
    let mount = || -> io::Result<()> {
        sys::fs::make_dir_all(target, 0o1777)?;
        let tmpfs = sys::mount::tmpfs(Some(bytes), 0o1777)?;
        sys::mount::attach(&tmpfs, target)?;
        let restricted = sys::mount::Attributes {
            nosuid: true,
            nodev: true,
            noexec: true,
            ..sys::mount::Attributes::default()
        };
        sys::mount::set_flags(target, restricted)
    };
    mount().map_err(|error| Error::io("mount the pod's /dev/shm at", target, error))
}

fn make_namespaces(
    ctx: &Context,
    config: &SandboxConfig,
    id: &str,
    pins: &Path,
) -> Result<(), Error> {
    use sys::ns::Kind;
    let mut kinds = Vec::new();
    let own_network = config.namespaces.network != NamespaceMode::Node;
    if own_network {
        kinds.extend([Kind::Net, Kind::Uts]);
    }
    if config.namespaces.ipc != NamespaceMode::Node {
        kinds.push(Kind::Ipc);
    }
    if kinds.is_empty() {
        return refuse_sysctls(config, false, false);
    }
    refuse_sysctls(config, own_network, kinds.contains(&Kind::Ipc))?;
    let hostname = hostname(config, id);
    let mptcp = ctx.config.mptcp;
    sys::ns::create(&kinds, pins, || {
        if own_network {
            sys::ns::set_hostname(&hostname)?;
            sys::ns::loopback_up()?;
            if !mptcp && !config.sysctls.contains_key("net.mptcp.enabled") {
                disable_mptcp()?;
            }
        }
        write_sysctls(&config.sysctls)
    })
    .map_err(|error| Error::failed(format!("make the namespaces of sandbox {id}"), error))
}

/// CRIU cannot dump MPTCP sockets, which Go servers listen with by default.
fn disable_mptcp() -> io::Result<()> {
    match sys::cgroup::write_value(Path::new("/proc/sys/net/mptcp/enabled"), "0") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Sysctls of a namespace that the pod does not own would change the host.
fn refuse_sysctls(config: &SandboxConfig, network: bool, ipc: bool) -> Result<(), Error> {
    for name in config.sysctls.keys() {
        let allowed = if name.starts_with("net.") {
            network
        } else {
            let of_ipc = name.starts_with("kernel.shm")
                || name.starts_with("kernel.msg")
                || name.starts_with("fs.mqueue.")
                || name == "kernel.sem";
            of_ipc && ipc
        };
        if !allowed {
            return Err(Error::invalid(
                format!("linux.sysctls[{name:?}]"),
                "belongs to no namespace that this pod has of its own",
            ));
        }
    }
    Ok(())
}

fn write_sysctls(sysctls: &BTreeMap<String, String>) -> io::Result<()> {
    for (name, value) in sysctls {
        let path = PathBuf::from(format!("/proc/sys/{}", name.replace('.', "/")));
        sys::cgroup::write_value(&path, value).map_err(|error| {
            io::Error::new(error.kind(), format!("sysctl {name}={value}: {error}"))
        })?;
    }
    Ok(())
}

fn pod_network(ctx: &Context, record: &SandboxRecord, netns: &Path) -> PodNetwork {
    PodNetwork {
        netns: netns.to_path_buf(),
        id: record.id.as_str().to_owned(),
        name: record.config.name.clone(),
        namespace: record.config.namespace.clone(),
        uid: record.config.uid.clone(),
        ifname: INTERFACE.to_owned(),
        port_mappings: record.config.port_mappings.clone(),
        cache_dir: ctx.config.root.join("cni"),
    }
}

fn attach(ctx: &Context, record: &SandboxRecord, netns: &Path) -> Result<Vec<String>, Error> {
    let failed = |error: crate::cni::CniError| {
        Error::failed(
            format!("set up the network of sandbox {}", record.id),
            error,
        )
    };
    let network = Cni::load(&ctx.config.cni_conf_dirs, &ctx.config.cni_bin_dirs).map_err(failed)?;
    let result = network
        .add(&pod_network(ctx, record, netns), Deadline::after(STEP))
        .map_err(failed)?;
    Ok(result.ips)
}

/// Undoes a sandbox that was not, or not quite, made; whether nothing of it is left.
pub(crate) async fn undo(ctx: &Arc<Context>, record: &SandboxRecord) -> bool {
    let undone = match tear_down(ctx, record).await {
        Ok(()) => remove(ctx, record).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &undone {
        warn!(sandbox = %record.id, error = error as &dyn std::error::Error,
            "undoing a sandbox left something behind; the next start of thawd tries again");
    }
    undone.is_ok()
}

/// Takes network, namespaces and /dev/shm down; what is gone already is fine.
///
/// # Errors
///
/// All steps are tried; the failures are joined into one error.
pub(crate) async fn tear_down(ctx: &Arc<Context>, record: &SandboxRecord) -> Result<(), Error> {
    let record = record.clone();
    with(ctx, move |ctx| dismantle(ctx, &record)).await
}

fn dismantle(ctx: &Context, record: &SandboxRecord) -> Result<(), Error> {
    let id = record.id.as_str();
    let text = |error: io::Error| error.to_string();
    let mut steps: Vec<(&str, Result<(), String>)> = Vec::new();
    if let Some(netns) = netns_path(&ctx.config, record) {
        steps.push(("network", detach(ctx, record, &netns)));
    }
    // On another boot its pid and start time may be another process's.
    if record.config.namespaces.pid == NamespaceMode::Pod && record.boot_id == ctx.boot_id {
        steps.push(("pid namespace", init::end(record).map_err(text)));
    }
    for kind in [
        sys::ns::Kind::Net,
        sys::ns::Kind::Uts,
        sys::ns::Kind::Ipc,
        sys::ns::Kind::Pid,
    ] {
        let path = pin_path(&ctx.config, id, kind);
        steps.push(("namespace", sys::ns::unpin(&path).map_err(text)));
    }
    let run = ctx.config.sandbox_run_dir(id);
    steps.push((
        "/dev/shm",
        sys::mount::unmount(&run.join("shm"), true).map_err(text),
    ));
    if steps.iter().all(|(_, result)| result.is_ok()) {
        steps.push(("run directory", sys::fs::remove_tree(&run).map_err(text)));
    }
    let failures: Vec<String> = steps
        .into_iter()
        .filter_map(|(what, result)| Some(format!("{what}: {}", result.err()?)))
        .collect();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Error::failed(
            format!("take down sandbox {id}"),
            failures.join("; "),
        ))
    }
}

fn detach(ctx: &Context, record: &SandboxRecord, netns: &Path) -> Result<(), String> {
    let network = Cni::load(&ctx.config.cni_conf_dirs, &ctx.config.cni_bin_dirs);
    let pod = pod_network(ctx, record, netns);
    match network {
        Ok(network) => network.del(&pod, Deadline::after(CLEAN_UP)),
        // Without a configuration there is only the cached result to go by.
        Err(_) => Cni::del_cached(&pod, &ctx.config.cni_bin_dirs, Deadline::after(CLEAN_UP)),
    }
    .map_err(|error| crate::error::chain(&error))
}

/// Removes the files of a sandbox that has been taken down.
///
/// # Errors
///
/// What removing a directory returns.
pub(crate) async fn remove(ctx: &Arc<Context>, record: &SandboxRecord) -> Result<(), Error> {
    let record = record.clone();
    with(ctx, move |ctx| {
        let files = ctx.config.sandbox_dir(record.id.as_str());
        sys::fs::remove_tree(&files).map_err(|error| Error::io("remove", &files, error))?;
        if let Err(error) = ctx
            .cgroup_users
            .release(&ctx.hierarchies, record.id.as_str())
        {
            warn!(sandbox = %record.id, %error, "a cgroup that was made for a pod stays");
        }
        // A daemon before there were notes made it.
        if record.config.cgroup_parent.is_empty()
            && CgroupDriver::of_pod(&record.cgroup_parent) == CgroupDriver::Cgroupfs
            && let Err(error) = ctx.hierarchies.remove(&record.cgroup_parent)
        {
            warn!(sandbox = %record.id, %error, "the pod's cgroup stays");
        }
        Ok(())
    })
    .await
}
