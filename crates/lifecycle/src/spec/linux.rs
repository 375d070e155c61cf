//! The `linux` part of a spec: namespaces, cgroup and its limits, devices, what is hidden.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxHugepageLimit,
    LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxPids, LinuxResources, LinuxSeccomp,
};

use super::caps::CapabilitySets;
use super::host::{HostDevice, HostFacts};
use super::{Namespace, SpecInput, mounts, process, seccomp};
use crate::cgroups::CgroupDriver;
use crate::error::Error;
use crate::model::{Resources, SecurityProfile};

/// Hidden from containers whose request names nothing: the kubelet's own list for `procMount:
/// Default` (k8s.io/kubernetes, pkg/securitycontext).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only where the request names nothing, from the same place.
const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub(super) fn build(
    input: &SpecInput<'_>,
    caps: &CapabilitySets,
    root_propagation: &str,
) -> Result<Linux, Error> {
    let security = &input.config.security;
    let (masked, readonly) = if security.privileged {
        (Vec::new(), Vec::new())
    } else {
        (
            paths("masked_paths", &security.masked_paths, &MASKED)?,
            paths("readonly_paths", &security.readonly_paths, &READONLY)?,
        )
    };
    let mut linux = Linux::default();
    linux
        .set_resources(Some(resources(input)?))
        .set_cgroups_path(Some(PathBuf::from(input.cgroups_path)))
        .set_namespaces(Some(namespaces(input)))
        .set_devices(Some(devices(input)?))
        .set_rootfs_propagation(Some(root_propagation.to_owned()))
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(readonly))
        .set_seccomp(seccomp(input, caps)?)
        .set_sysctl(sysctls(input))
        .set_mount_label(process::selinux(input).map(|labels| labels.mount));
    Ok(linux)
}

/// An empty list cannot be told from an absent one in CRI, and hiding is the safe reading.
fn paths(field: &str, wanted: &[String], default: &[&str]) -> Result<Vec<String>, Error> {
    if wanted.is_empty() {
        return Ok(default.iter().map(|&path| path.to_owned()).collect());
    }
    let mut list = Vec::new();
    for path in wanted {
        let clean = mounts::clean(field, Path::new(path))?;
        let text = clean.into_os_string().into_string();
        list.push(text.map_err(|_| Error::invalid(field, format!("{path:?} is not UTF-8")))?);
    }
    Ok(list)
}

fn namespaces(input: &SpecInput<'_>) -> Vec<LinuxNamespace> {
    let wanted = input.namespaces;
    let mut list = Vec::new();
    let mut add = |kind, namespace: &Namespace| {
        let path = match namespace {
            Namespace::Host => return,
            Namespace::New => None,
            Namespace::Path(path) => Some(path.clone()),
        };
        let mut entry = LinuxNamespace::default();
        entry.set_typ(kind).set_path(path);
        list.push(entry);
    };
    add(LinuxNamespaceType::Mount, &Namespace::New);
    add(LinuxNamespaceType::Network, &wanted.net);
    add(LinuxNamespaceType::Ipc, &wanted.ipc);
    add(LinuxNamespaceType::Uts, &wanted.uts);
    add(LinuxNamespaceType::Pid, &wanted.pid);
    // With v1 programs expect to see their cgroup's real path, so only v2 hides it.
    if input.host.unified_cgroups && !input.config.security.privileged {
        add(LinuxNamespaceType::Cgroup, &Namespace::New);
    }
    list
}

/// Sysctls belong to the pod's namespaces, where they are set when those are made; what remains
/// are those of namespaces that this container gets for itself.
fn sysctls(input: &SpecInput<'_>) -> Option<HashMap<String, String>> {
    let own = |name: &str| {
        if name.starts_with("net.") {
            input.namespaces.net == Namespace::New
        } else {
            let of_ipc = name.starts_with("kernel.shm")
                || name.starts_with("kernel.msg")
                || name.starts_with("fs.mqueue.")
                || name == "kernel.sem";
            of_ipc && input.namespaces.ipc == Namespace::New
        }
    };
    let wanted = input.sandbox.sysctls.iter().filter(|(name, _)| own(name));
    let sysctls: HashMap<String, String> = wanted
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    (!sysctls.is_empty()).then_some(sysctls)
}

fn seccomp(input: &SpecInput<'_>, caps: &CapabilitySets) -> Result<Option<LinuxSeccomp>, Error> {
    let security = &input.config.security;
    if security.privileged {
        return Ok(None);
    }
    match &security.seccomp {
        None | Some(SecurityProfile::Unconfined) => Ok(None),
        Some(SecurityProfile::RuntimeDefault) => {
            seccomp::runtime_default(caps, input.host).map(Some)
        }
        Some(SecurityProfile::Localhost(name)) => {
            let bytes = input.seccomp_profile.ok_or_else(|| {
                Error::invalid("seccomp", format!("profile {name:?} is not on this node"))
            })?;
            seccomp::parse(name, bytes, caps, input.host).map(Some)
        }
    }
}

/// One node a place, the last one wins: a privileged request may name a device that is given anyway.
fn devices(input: &SpecInput<'_>) -> Result<Vec<LinuxDevice>, Error> {
    let mut nodes = BTreeMap::new();
    for wanted in input.devices {
        let path = mounts::clean("devices.container_path", &wanted.path)?;
        nodes.insert(path.clone(), device(wanted, path));
    }
    Ok(nodes.into_values().collect())
}

fn device(device: &HostDevice, path: PathBuf) -> LinuxDevice {
    let mut entry = LinuxDevice::default();
    entry
        .set_path(path)
        .set_typ(device_type(device))
        .set_major(i64::from(device.major))
        .set_minor(i64::from(device.minor))
        .set_file_mode(Some(device.mode))
        .set_uid(Some(device.uid))
        .set_gid(Some(device.gid));
    entry
}

fn device_type(device: &HostDevice) -> LinuxDeviceType {
    if device.block {
        LinuxDeviceType::B
    } else {
        LinuxDeviceType::C
    }
}

fn resources(input: &SpecInput<'_>) -> Result<LinuxResources, Error> {
    let wanted = &input.config.resources;
    has_controllers(wanted, input.host)?;
    let mut memory = memory(wanted, input.host)?;
    let mut unified = unified(wanted, input.host)?;
    if input.cgroup_driver == CgroupDriver::Systemd {
        swap_for_systemd(memory.as_mut(), &mut unified);
    }
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(device_rules(input)))
        .set_cpu(cpu(wanted)?)
        .set_memory(memory)
        .set_hugepage_limits(hugepages(wanted, input.host)?)
        .set_unified(unified)
        .set_pids(pids(wanted));
    Ok(resources)
}

/// Refuses a limit that no cgroup controller of this node could keep. Debian 13's kernel, for one, has
/// no memory controller for cgroup v1.
fn has_controllers(wanted: &Resources, host: &HostFacts) -> Result<(), Error> {
    let needs = [
        (
            "memory_limit_in_bytes",
            wanted.memory_limit_bytes > 0,
            "memory",
        ),
        (
            "memory_swap_limit_in_bytes",
            wanted.memory_swap_limit_bytes > 0,
            "memory",
        ),
        ("cpu_quota", wanted.cpu_quota_us > 0, "cpu"),
        ("cpuset_cpus", !wanted.cpuset_cpus.is_empty(), "cpuset"),
        ("cpuset_mems", !wanted.cpuset_mems.is_empty(), "cpuset"),
    ];
    for (field, asked, controller) in needs {
        if !asked || host.controllers.contains(controller) {
            continue;
        }
        let remedy = if host.unified_cgroups {
            "cgroup.controllers of the root cgroup lists those that it has; leave the limit out, or use another kernel"
        } else {
            "leave the limit out, or boot the node with cgroup v2, where kernels still have it"
        };
        return Err(Error::Precondition(format!(
            "linux.resources.{field} needs the cgroup controller {controller:?}, which this node does not have: {remedy}"
        )));
    }
    Ok(())
}

/// Says the limit on swap as cgroup v2's file has it: swap alone, not memory and swap. Of the spec's own
/// field runc (1.1) tells systemd nothing when no swap is left, and crun (1.28) the sum, so that
/// containers had swap from systemd's next reload on (seen with systemd 252).
fn swap_for_systemd(
    memory: Option<&mut LinuxMemory>,
    unified: &mut Option<HashMap<String, String>>,
) {
    let Some(memory) = memory else { return };
    let (Some(both), Some(limit)) = (memory.swap(), memory.limit()) else {
        return;
    };
    let swap = if both < 0 || limit < 0 {
        "max".to_owned()
    } else {
        (both - limit).max(0).to_string()
    };
    memory.set_swap(None);
    let files = unified.get_or_insert_default();
    files.entry("memory.swap.max".to_owned()).or_insert(swap);
}

/// CRI has no field for the number of tasks but the file of cgroup v2. systemd must know of it too:
/// it writes its own default there at the next reload.
fn pids(wanted: &Resources) -> Option<LinuxPids> {
    let limit = match wanted.unified.get("pids.max")?.trim() {
        "max" => -1,
        number => number.parse().ok()?,
    };
    let mut pids = LinuxPids::default();
    pids.set_limit(limit);
    Some(pids)
}

/// Everything is refused first; the OCI runtime adds `/dev/null` and its like, which every
/// container has.
fn device_rules(input: &SpecInput<'_>) -> Vec<LinuxDeviceCgroup> {
    let rule = |allow: bool, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow).set_access(Some(access.to_owned()));
        rule
    };
    if input.config.security.privileged {
        return vec![rule(true, "rwm")];
    }
    let mut rules = vec![rule(false, "rwm")];
    for device in input.devices {
        let mut rule = rule(true, &device.access);
        rule.set_typ(Some(device_type(device)))
            .set_major(Some(i64::from(device.major)))
            .set_minor(Some(i64::from(device.minor)));
        rules.push(rule);
    }
    rules
}

fn negative(field: &str, value: i64) -> Error {
    Error::invalid(
        format!("linux.resources.{field}"),
        format!("{value} is negative"),
    )
}

fn positive(field: &str, value: i64) -> Result<Option<u64>, Error> {
    let value = u64::try_from(value).map_err(|_| negative(field, value))?;
    Ok((value > 0).then_some(value))
}

fn cpu(wanted: &Resources) -> Result<Option<LinuxCpu>, Error> {
    let list = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive("cpu_shares", wanted.cpu_shares)?)
        .set_period(positive("cpu_period", wanted.cpu_period_us)?)
        .set_quota((wanted.cpu_quota_us != 0).then_some(wanted.cpu_quota_us.max(-1)))
        .set_cpus(list(&wanted.cpuset_cpus))
        .set_mems(list(&wanted.cpuset_mems));
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

/// A memory limit without one for swap means no swap at all, as Kubernetes has it.
fn memory(wanted: &Resources, host: &HostFacts) -> Result<Option<LinuxMemory>, Error> {
    let (limit, swap) = (wanted.memory_limit_bytes, wanted.memory_swap_limit_bytes);
    for (field, value) in [
        ("memory_limit_in_bytes", limit),
        ("memory_swap_limit_in_bytes", swap),
    ] {
        // -1 is "unlimited".
        if value < -1 {
            return Err(negative(field, value));
        }
    }
    if swap > 0 && swap < limit {
        let problem = format!("{swap} for memory and swap is less than {limit} for memory");
        return Err(Error::invalid(
            "linux.resources.memory_swap_limit_in_bytes",
            problem,
        ));
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit((limit != 0).then_some(limit));
    if host.swap_limits {
        let swap = if swap == 0 { limit } else { swap };
        memory.set_swap((swap != 0).then_some(swap));
    }
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

/// The kubelet sends a limit for each page size that it knows, also where none can be set.
fn hugepages(
    wanted: &Resources,
    host: &HostFacts,
) -> Result<Option<Vec<LinuxHugepageLimit>>, Error> {
    if !host.controllers.contains("hugetlb") || wanted.hugepage_limits.is_empty() {
        return Ok(None);
    }
    let mut limits = Vec::new();
    for (page_size, &bytes) in &wanted.hugepage_limits {
        let limit = i64::try_from(bytes).map_err(|_| {
            let problem = format!("{bytes} for {page_size:?} is too large");
            Error::invalid("linux.resources.hugepage_limits", problem)
        })?;
        let mut entry = LinuxHugepageLimit::default();
        entry.set_page_size(page_size.clone()).set_limit(limit);
        limits.push(entry);
    }
    Ok(Some(limits))
}

fn unified(wanted: &Resources, host: &HostFacts) -> Result<Option<HashMap<String, String>>, Error> {
    const FIELD: &str = "linux.resources.unified";
    if wanted.unified.is_empty() {
        return Ok(None);
    }
    if !host.unified_cgroups {
        return Err(Error::invalid(
            FIELD,
            "this host has cgroup v1, where it has no meaning",
        ));
    }
    if let Some(file) = wanted
        .unified
        .keys()
        .find(|file| file.is_empty() || file.contains('/'))
    {
        return Err(Error::invalid(
            FIELD,
            format!("{file:?} is no file of a cgroup"),
        ));
    }
    Ok(Some(wanted.unified.clone().into_iter().collect()))
}
