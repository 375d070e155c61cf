//! The OCI bundle of a container: looking up what a spec needs, making the spec, writing it.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;

use crate::cgroups::{self, CgroupDriver};
use crate::context::Context;
use crate::error::Error;
use crate::model::{NamespaceMode, SecurityProfile};
use crate::record::{ContainerRecord, SandboxRecord};
use crate::spec::host;
use crate::spec::{self, ImageDefaults, Namespace, Namespaces, PodFile, PodFiles, Shm, SpecInput};
use crate::{sandbox, signals, users};

/// Largest `/etc/passwd` or `/etc/group` of an image, in bytes.
const ACCOUNTS_LIMIT: u64 = 4 * 1024 * 1024;

/// Largest seccomp profile file, in bytes.
const PROFILE_LIMIT: u64 = 8 * 1024 * 1024;

/// A bundle that was written, and what it decided.
#[derive(Debug)]
pub(crate) struct Made {
    /// `config.json` as written.
    pub(crate) spec: serde_json::Value,
    /// uid, gid, supplemental groups.
    pub(crate) user: (u32, u32, Vec<u32>),
    /// The image's stop signal, if it names one.
    pub(crate) stop_signal: Option<i32>,
}

/// Writes `<root>/containers/<id>/config.json`.
///
/// # Errors
///
/// [`Error::Invalid`] for what the request or the image asks for and cannot have;
/// [`Error::Failed`] for files that cannot be read or written.
pub(crate) fn write(
    ctx: &Context,
    sandbox: &SandboxRecord,
    record: &ContainerRecord,
    image: &images::Image,
    rootfs: &images::Rootfs,
) -> Result<Made, Error> {
    let config = &record.config;
    let defaults = ImageDefaults::from_json(&image.config)?;
    let root = sys::fs::open_dir(&rootfs.merged)
        .map_err(|error| Error::io("open", &rootfs.merged, error))?;
    let user = users::resolve(
        &config.security.user,
        &defaults.user,
        &read_in_root(&root, "etc/passwd")?,
        &read_in_root(&root, "etc/group")?,
    )?;
    make_volumes(&root, &defaults.volumes)?;
    let mut devices = Vec::new();
    if config.security.privileged {
        devices.extend(host::all_devices());
    }
    devices.extend(host::requested_devices(&config.devices)?);
    let mut mounts = host::prepare_mounts(&config.mounts)?;
    for mount in &mut mounts {
        mount.container_path = place(&root, &mount.container_path)?;
    }
    let profile = seccomp_profile(config.security.seccomp.as_ref())?;
    let apparmor = ctx.apparmor.profile_for(&config.security)?;
    let files = pod_files(ctx, sandbox, record, &root)?;
    let hostname = hostname(ctx, sandbox)?;
    let built = spec::build(&SpecInput {
        sandbox_id: sandbox.id.as_str(),
        sandbox: &sandbox.config,
        config,
        image: &defaults,
        user: &user,
        rootfs: &rootfs.merged,
        cgroups_path: &cgroups::for_runtime(&record.cgroup),
        cgroup_driver: CgroupDriver::of_container(&record.cgroup),
        namespaces: &namespaces(ctx, sandbox, record)?,
        hostname: &hostname,
        files: &files,
        mounts: &mounts,
        devices: &devices,
        seccomp_profile: profile.as_deref(),
        apparmor_profile: apparmor.as_deref(),
        host: &ctx.host,
    })?;
    let spec = serde_json::to_value(&built)
        .map_err(|error| Error::failed("encode the OCI spec", error))?;
    let bundle = ctx.config.container_dir(record.id.as_str());
    sys::fs::make_dir_all(&bundle, 0o700)
        .map_err(|error| Error::io("make directory", &bundle, error))?;
    let path = bundle.join("config.json");
    sys::fs::replace_path(&path, 0o600, spec.to_string().as_bytes())
        .map_err(|error| Error::io("write", &path, error))?;
    let stop_signal = match defaults.stop_signal.as_str() {
        "" => None,
        text => Some(signals::parse(text)?),
    };
    Ok(Made {
        spec,
        user: (user.uid, user.gid, user.groups),
        stop_signal,
    })
}

/// Where a mount at `path` will be: links of the root filesystem are followed, as the OCI runtime does.
/// What lies in one of the spec's own mounts is not in the root filesystem.
fn place(root: &OwnedFd, path: &Path) -> Result<PathBuf, Error> {
    let mounted = ["/dev", "/proc", "/sys"];
    let plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    if !plain || mounted.iter().any(|mount| path.starts_with(mount)) {
        return Ok(path.to_owned());
    }
    sys::fs::follow_in_root(root, path).map_err(|error| {
        let problem = format!("follow links of the image to {}: {error}", path.display());
        Error::invalid("mounts.container_path", problem)
    })
}

/// Makes the directories that the image declares as volumes, where no layer has them.
fn make_volumes(root: &OwnedFd, volumes: &[PathBuf]) -> Result<(), Error> {
    for volume in volumes {
        let mut walked = PathBuf::new();
        for part in volume.components().skip(1) {
            let at = if walked.as_os_str().is_empty() {
                Path::new(".")
            } else {
                &walked
            };
            let parent = sys::fs::open_in_root(root, at, OFlags::DIRECTORY | OFlags::CLOEXEC)
                .map_err(|error| Error::io("open the image's", volume, error))?;
            walked.push(part);
            let mode = rustix::fs::Mode::from_raw_mode(0o755);
            match rustix::fs::mkdirat(&parent, part.as_os_str(), mode) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(Error::io("make volume", volume, error.into())),
            }
        }
    }
    Ok(())
}

/// A file of the image, links within the image followed; absent is empty.
fn read_in_root(root: &OwnedFd, name: &str) -> Result<Vec<u8>, Error> {
    let shown = Path::new("/").join(name);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match sys::fs::open_in_root(root, Path::new(name), flags) {
        Ok(fd) => std::fs::File::from(fd),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("open the image's", shown, error)),
    };
    let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !regular {
        return Err(Error::invalid(
            "image",
            format!("its /{name} is no regular file"),
        ));
    }
    sys::fs::read_bounded(file, ACCOUNTS_LIMIT)
        .map_err(|error| Error::io("read the image's", shown, error))
}

fn seccomp_profile(profile: Option<&SecurityProfile>) -> Result<Option<Vec<u8>>, Error> {
    let Some(SecurityProfile::Localhost(path)) = profile else {
        return Ok(None);
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open seccomp profile", path, error)),
    };
    let bytes = sys::fs::read_bounded(file, PROFILE_LIMIT);
    let bytes = bytes.map_err(|error| Error::io("read seccomp profile", path, error))?;
    Ok(Some(bytes))
}

/// The pod's host name, as its `/etc/hostname` has it.
///
/// # Errors
///
/// [`Error::Failed`] when the file cannot be read.
pub(crate) fn hostname(ctx: &Context, sandbox: &SandboxRecord) -> Result<String, Error> {
    let directory = ctx.config.sandbox_dir(sandbox.id.as_str());
    let path = directory.join("hostname");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    Ok(text.trim_end().to_owned())
}

/// What of the pod its containers see.
fn pod_files(
    ctx: &Context,
    sandbox: &SandboxRecord,
    record: &ContainerRecord,
    root: &OwnedFd,
) -> Result<PodFiles, Error> {
    let directory = ctx.config.sandbox_dir(sandbox.id.as_str());
    let file = |name| {
        let destination = place(root, &Path::new("/etc").join(name))?;
        let source = directory.join(name);
        Ok(PodFile {
            destination,
            source,
        })
    };
    let files: Result<_, Error> = ["hostname", "hosts", "resolv.conf"]
        .into_iter()
        .map(file)
        .collect();
    Ok(PodFiles {
        files: files?,
        shm: sandbox::shm(&ctx.config, sandbox, record),
    })
}

fn namespaces(
    ctx: &Context,
    sandbox: &SandboxRecord,
    record: &ContainerRecord,
) -> Result<Namespaces, Error> {
    use sys::ns::Kind;
    let pin = |kind| sandbox::pin_path(&ctx.config, sandbox.id.as_str(), kind);
    let of_pod = &sandbox.config.namespaces;
    let of_network = |kind| match of_pod.network {
        NamespaceMode::Node => Namespace::Host,
        _ => Namespace::Path(pin(kind)),
    };
    let pid = match &record.config.security.namespaces.pid {
        NamespaceMode::Container => Namespace::New,
        NamespaceMode::Node => Namespace::Host,
        // A request that says nothing means the pod's mode; a pod that gives each container a
        // namespace of its own has none to share.
        NamespaceMode::Pod => match of_pod.pid {
            NamespaceMode::Pod => Namespace::Path(pin(Kind::Pid)),
            NamespaceMode::Node => Namespace::Host,
            NamespaceMode::Container | NamespaceMode::Target(_) => Namespace::New,
        },
        NamespaceMode::Target(target) => Namespace::Path(target_pid(ctx, target)?),
    };
    Ok(Namespaces {
        net: of_network(Kind::Net),
        uts: of_network(Kind::Uts),
        ipc: match sandbox::shm(&ctx.config, sandbox, record) {
            Shm::Pod(_) => Namespace::Path(pin(Kind::Ipc)),
            Shm::Host => Namespace::Host,
            Shm::Own { .. } => Namespace::New,
        },
        pid,
    })
}

/// The pid namespace of a running container, through its monitor.
fn target_pid(ctx: &Context, target: &crate::model::ContainerId) -> Result<PathBuf, Error> {
    let run_dir = ctx.config.container_run_dir(target.as_str());
    let status = monitor::Client::connect(&run_dir).and_then(|mut client| client.status());
    match status {
        Ok(status) if status.exited.is_none() => Ok(PathBuf::from(format!(
            "/proc/{}/ns/pid",
            status.container_pid
        ))),
        _ => Err(Error::Precondition(format!(
            "target container {target} is not running"
        ))),
    }
}
