//! The OCI runtime specification of a container, made from what is asked for.
//!
//! [`build`] is a pure function: the same input gives the same spec, and nothing is opened. What
//! must be looked up is looked up before, by [`host`] (devices, mount sources, the daemon's own
//! limits) and [`users`](crate::users) (names in the image).
//!
//! ```text
//!  request + image ─┐
//!  pod's files ─────┼──▶ build ──▶ config.json (runtime-spec 1.0.2) ──▶ runc, crun
//!  HostFacts ───────┘
//! ```
//!
//! # Invariants
//! - No image and no archive selects a host path, a device, a mount, a hook or a capability here.
//! - What the host cannot give (capabilities beyond the daemon's own, a lower OOM score, limits
//!   without a controller) is cut, never passed on for the OCI runtime to fail of.
//! - Annotations that steer OCI runtimes or CRIU do not get through.

mod annotations;
pub mod caps;
pub mod host;
mod image;
mod linux;
mod mounts;
mod process;
pub mod seccomp;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Root, Spec};

pub use image::ImageDefaults;
pub(crate) use mounts::CGROUPS;

use crate::cgroups::CgroupDriver;
use crate::error::Error;
use crate::model::{ContainerConfig, Mount, SandboxConfig};
use crate::users::ResolvedUser;
use caps::CapabilitySets;
use host::{HostDevice, HostFacts};

/// The version whose rules the specs follow; runc 1.1 and crun 1.8 know it.
const OCI_VERSION: &str = "1.0.2";

/// Where one of a container's namespaces comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespace {
    /// The host's own.
    Host,
    /// A new one for this container alone.
    New,
    /// The one at this path.
    Path(PathBuf),
}

/// A container's namespaces; that for mounts is always its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// Network.
    pub net: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// Process ids.
    pub pid: Namespace,
}

/// What of the pod is bound into each of its containers; all paths are on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFiles {
    /// `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`.
    pub files: Vec<PodFile>,
    /// For `/dev/shm`.
    pub shm: Shm,
}

/// A file of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFile {
    /// Where it is in the container; no component is a link of the image.
    pub destination: PathBuf,
    /// Where it is on the host.
    pub source: PathBuf,
}

/// What a container has at `/dev/shm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shm {
    /// The pod's, which is mounted there on the host.
    Pod(PathBuf),
    /// The host's.
    Host,
    /// A tmpfs of its own.
    Own {
        /// Its size.
        limit_bytes: u64,
    },
}

/// Everything that a spec is made from.
#[derive(Debug, Clone, Copy)]
pub struct SpecInput<'a> {
    /// The pod's id.
    pub sandbox_id: &'a str,
    /// The pod's request.
    pub sandbox: &'a SandboxConfig,
    /// The container's request.
    pub config: &'a ContainerConfig,
    /// What its image says.
    pub image: &'a ImageDefaults,
    /// Its user.
    pub user: &'a ResolvedUser,
    /// Its root filesystem on the host.
    pub rootfs: &'a Path,
    /// Its cgroup in each hierarchy, or for systemd `SLICE:PREFIX:NAME`.
    pub cgroups_path: &'a str,
    /// Who makes that cgroup.
    pub cgroup_driver: CgroupDriver,
    /// Its namespaces.
    pub namespaces: &'a Namespaces,
    /// Host name as programs in it see it; for the environment only, since the pod's namespace
    /// has it already.
    pub hostname: &'a str,
    /// The pod's files.
    pub files: &'a PodFiles,
    /// The request's mounts as [`host::prepare_mounts`] returned them.
    pub mounts: &'a [Mount],
    /// [`host::requested_devices`] of the request, after [`host::all_devices`] when privileged.
    pub devices: &'a [HostDevice],
    /// Bytes of the seccomp profile file that the request names; `None` when it names none or
    /// there is no such file.
    pub seccomp_profile: Option<&'a [u8]>,
    /// The AppArmor profile that it gets; `None` for none.
    pub apparmor_profile: Option<&'a str>,
    /// Facts about the host.
    pub host: &'a HostFacts,
}

/// Makes the spec.
///
/// # Errors
///
/// [`Error::Invalid`] naming the request's field and what is wrong with it.
pub fn build(input: &SpecInput<'_>) -> Result<Spec, Error> {
    let security = &input.config.security;
    if security.privileged && !input.sandbox.privileged {
        let problem = "a privileged container needs a sandbox made for privileged ones";
        return Err(Error::invalid("linux.security_context.privileged", problem));
    }
    let caps = CapabilitySets::of(security, input.host.bounding_set)?;
    let mounts = mounts::build(input)?;
    let linux = linux::build(input, &caps, mounts.root_propagation)?;
    let mut root = Root::default();
    root.set_path(input.rootfs.to_path_buf())
        .set_readonly(Some(security.readonly_rootfs));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_process(Some(process::build(input, &caps)?))
        // The pod's UTS namespace has its name already; runtimes set it in a new one only.
        .set_hostname((input.namespaces.uts == Namespace::New).then(|| input.hostname.to_owned()))
        .set_mounts(Some(mounts.list))
        .set_annotations(Some(annotations::build(input)))
        .set_linux(Some(linux));
    Ok(spec)
}
