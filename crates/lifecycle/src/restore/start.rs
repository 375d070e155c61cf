//! StartContainer of a container made from a checkpoint.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use criu_rpc::relay::RelayConfig;
use rustix::fs::OFlags;
use sys::cgroup::Hierarchies;
use sys::process::Deadline;

use super::{place, staging, tmpfs};
use crate::checkpoint::Cancel;
use crate::container::{self, Run};
use crate::context::{Context, with};
use crate::error::{Error, chain};
use crate::record::{ContainerRecord, ContainerState, SandboxRecord};
use crate::sandbox;
use crate::spec::{CGROUPS, Shm};

/// Largest log text of the archive that goes into the new log, in bytes.
const LOG_BYTES: u64 = 16 << 20;

/// Restores the container.
///
/// # Errors
///
/// [`Error::Failed`] with CRIU's own first errors; what was restored has been killed, mounts are
/// gone and CRIU's log is kept.
pub(crate) async fn start(
    ctx: &Arc<Context>,
    sandbox: &SandboxRecord,
    record: ContainerRecord,
) -> Result<ContainerRecord, Error> {
    let sandbox = sandbox.clone();
    with(ctx, move |ctx| {
        let (id, cgroup) = (record.id.clone(), record.cgroup.clone());
        let result = restore(ctx, &sandbox, record);
        let run_dir = ctx.config.container_run_dir(id.as_str());
        if result.is_err() {
            let runtime = ctx.runtimes.get(&sandbox.handler)?;
            let deadline = Deadline::after(crate::context::CLEAN_UP);
            if let Err(error) = runtime.delete(id.as_str(), true, deadline) {
                tracing::warn!(container = %id, error = &error as &dyn std::error::Error,
                    "a failed restore left something behind");
            }
            // CRIU and every task it made live in the container's cgroup.
            if let Err(error) = ctx.hierarchies.kill(&cgroup, crate::context::CLEAN_UP) {
                tracing::warn!(container = %id, %error, "the cgroup of a failed restore stays");
            }
        }
        super::drop_mounts(&run_dir)?;
        result
    })
    .await
}

fn restore(
    ctx: &Context,
    sandbox: &SandboxRecord,
    mut record: ContainerRecord,
) -> Result<ContainerRecord, Error> {
    let id = record.id.as_str();
    let directory = ctx.config.container_dir(id);
    let run_dir = ctx.config.container_run_dir(id);
    let patience = Deadline::after(ctx.config.checkpoint.restore_timeout);
    let engine = ctx.engine.usable(&ctx.config, patience, &Cancel::new())?;
    let path = directory.join("config.json");
    let bytes = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    let spec: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::failed(format!("parse {}", path.display()), error))?;
    // Between creation and start the node's profiles may have been loaded anew, without ours.
    if let Some(profile) = crate::apparmor::of_spec(&spec) {
        ctx.apparmor.ensure(profile)?;
    }
    let manifest = staging::manifest(&directory)?;
    sys::fs::make_dir_all(&run_dir, 0o700)
        .map_err(|error| Error::io("make directory", &run_dir, error))?;
    let mut mounts = rebuild_tmpfs(&directory, &run_dir, &spec, &manifest)?;
    staging::free_of_links(&directory, &mounts)?;
    mounts.extend(own_cgroups(&ctx.hierarchies, &record.cgroup)?);
    let masks = place::masks(&run_dir, &spec, &mounts)?;
    mounts.extend(masks);
    if let Some(shm) = pod_shm(ctx, sandbox, &record, &directory)? {
        fill_shm(shm)?;
    }
    carry_log(&record, &directory)?;
    let config = RelayConfig {
        tcp_close: true,
        file_locks: true,
        manage_cgroups_ignore: true,
        ext_mounts: mounts,
        log_level: Some(4),
        cgroup: place::cgroup(ctx, ctx.runtimes.get(&sandbox.handler)?.kind, &record)?,
        cgroup_namespace: place::cgroup_namespace(&spec),
        ..RelayConfig::new(&engine.binary)
    };
    let relay_config = run_dir.join("relay.json");
    config
        .write(&relay_config)
        .map_err(|error| Error::failed("write the relay's configuration", error))?;
    let images = staging::images(&directory);
    let work = tmpfs::work(&run_dir)?;
    let env = vec![
        ("PATH".to_owned(), relay_path(ctx)?),
        (
            "THAWD_RELAY_CONFIG".to_owned(),
            relay_config.to_string_lossy().into_owned(),
        ),
    ];
    let run = Run::Restore {
        images,
        work: work.clone(),
        env,
    };
    let spawned = container::spawn_monitor(ctx, sandbox, &record, run)
        .map_err(|error| explain(ctx, &record, &work, error))?;
    place::let_run(ctx, &record)?;
    record.monitor = Some(spawned.monitor);
    record.state = ContainerState::Running { init: spawned.init };
    record.started_at = Some(SystemTime::now());
    if let Err(error) = staging::drop_staged(&directory) {
        tracing::warn!(container = %record.id, %error, "staged images of a restore stay");
    }
    Ok(record)
}

/// Mounts every tmpfs of the archive that the request's spec has too, and names it for CRIU.
fn rebuild_tmpfs(
    directory: &Path,
    run_dir: &Path,
    spec: &serde_json::Value,
    manifest: &bundler::Manifest,
) -> Result<Vec<(String, String)>, Error> {
    let mut mounts = Vec::new();
    for (index, content) in manifest.tmpfs.iter().enumerate() {
        let destination = Path::new(&content.destination);
        let purpose = tmpfs::purpose(spec, destination)?;
        let file = staging::open(directory, &content.entry)?;
        let path = tmpfs::build(run_dir, index, destination, spec, purpose, file)?;
        mounts.push((
            content.destination.clone(),
            path.to_string_lossy().into_owned(),
        ));
    }
    Ok(mounts)
}

/// On v1 the runtime would bind the roots of the host's hierarchies into a restored container; its
/// own cgroups belong there. A runtime makes those whose controllers it knows (runc 1.1 does not know
/// `misc`), and CRIU needs all of them, so they are made here.
///
/// # Errors
///
/// What mkdir(2) returns.
fn own_cgroups(hierarchies: &Hierarchies, cgroup: &str) -> Result<Vec<(String, String)>, Error> {
    let mut mounts = Vec::new();
    for mount in hierarchies.mounts().iter().filter(|mount| !mount.unified) {
        let Some(name) = mount.mount_point.file_name() else {
            continue;
        };
        let own = mount.mount_point.join(cgroup.trim_start_matches('/'));
        std::fs::create_dir_all(&own).map_err(|error| Error::io("make cgroup", &own, error))?;
        mounts.push((
            Path::new(CGROUPS).join(name).to_string_lossy().into_owned(),
            own.to_string_lossy().into_owned(),
        ));
    }
    Ok(mounts)
}

/// The content of /dev/shm that the archive has, and the new pod's /dev/shm.
///
/// # Errors
///
/// [`Error::Denied`] for a request that shares the host's or has one of its own.
pub(super) fn pod_shm(
    ctx: &Context,
    sandbox: &SandboxRecord,
    record: &ContainerRecord,
    directory: &Path,
) -> Result<Option<(File, PathBuf)>, Error> {
    let Some(content) = staging::open(directory, bundler::names::DEVSHM)? else {
        return Ok(None);
    };
    let denied = |whose| {
        let problem = "the checkpoint has content for the pod's /dev/shm, but the request has";
        Err(Error::Denied(format!("{problem} {whose}")))
    };
    match sandbox::shm(&ctx.config, sandbox, record) {
        Shm::Pod(path) => Ok(Some((content, path))),
        Shm::Host => denied("the host's"),
        Shm::Own { .. } => denied("the container's own"),
    }
}

/// Puts the archive's /dev/shm into the new pod's.
fn fill_shm((content, path): (File, PathBuf)) -> Result<(), Error> {
    let root = sys::fs::open_dir(&path).map_err(|error| Error::io("open", &path, error))?;
    bundler::restore_tree(content, &root, &bundler::Limits::tmpfs())
        .map(drop)
        .map_err(|error| Error::invalid(bundler::names::DEVSHM, chain(&error)))
}

/// Begins the new log with the archive's; the container's own output is appended.
fn carry_log(record: &ContainerRecord, directory: &Path) -> Result<(), Error> {
    use std::io::{Read as _, Write as _};
    let (Some(path), Some(old)) = (&record.log_path, staging::open(directory, "container.log")?)
    else {
        return Ok(());
    };
    let failed = |error: std::io::Error| Error::io("carry the log over to", path, error);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    sys::fs::make_dir_all(parent, 0o755).map_err(failed)?;
    let parent = sys::fs::open_dir(parent).map_err(failed)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let fd = sys::fs::open_beneath(&parent, Path::new(name), flags).map_err(failed)?;
    let mut new = File::from(fd);
    let permissions = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::fchmod(new.as_fd(), permissions).map_err(|error| failed(error.into()))?;
    let mut text = Vec::new();
    old.take(LOG_BYTES).read_to_end(&mut text).map_err(failed)?;
    new.write_all(&text).map_err(failed)
}

/// A PATH on which `criu` is the relay.
fn relay_path(ctx: &Context) -> Result<String, Error> {
    let directory = ctx.config.run.join("relay");
    let failed = |error: std::io::Error| Error::io("prepare the relay in", &directory, error);
    sys::fs::make_dir_all(&directory, 0o700).map_err(failed)?;
    let relay = crate::runtimes::find_program(&ctx.config.relay).ok_or_else(|| {
        let shown = ctx.config.relay.display();
        Error::Precondition(format!(
            "the relay {shown} was not found: install it beside thawd"
        ))
    })?;
    let link = directory.join("criu");
    if std::fs::read_link(&link).ok().as_deref() != Some(relay.as_path()) {
        drop(std::fs::remove_file(&link));
        match std::os::unix::fs::symlink(&relay, &link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
    }
    let inherited =
        std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    Ok(format!("{}:{inherited}", directory.display()))
}

/// The number that a restored process cannot have, by CRIU's words (criu/cr-restore.c, `fork_with_pid`).
fn taken_pid(words: &str) -> Option<u32> {
    let (_, rest) = words.split_once("Can't fork for ")?;
    let (pid, reason) = rest.split_once(':')?;
    let taken = reason.trim_start().starts_with("File exists");
    taken.then(|| pid.trim().parse().ok()).flatten()
}

/// CRIU's own words for a restore that failed, and where its log is kept.
fn explain(ctx: &Context, record: &ContainerRecord, work: &Path, error: Error) -> Error {
    let report = sys::fs::open_dir(work)
        .and_then(|directory| criu_rpc::LogReport::read(directory.as_fd(), "restore.log"))
        .unwrap_or_default();
    let kept: PathBuf = ctx
        .config
        .criu_logs()
        .join(format!("{}-restore.log", record.id));
    let log = std::fs::read(work.join("restore.log")).unwrap_or_default();
    let at = match sys::fs::replace_path(&kept, 0o600, &log) {
        Ok(()) if !log.is_empty() => format!(" (CRIU's log: {})", kept.display()),
        _ => String::new(),
    };
    if report.first_errors.is_empty() {
        return error;
    }
    let words = report.first_errors.join("; ");
    if let Some(pid) = taken_pid(&words) {
        return Error::Precondition(format!(
            "container {} cannot be restored: process {pid} of the archive needs its number again, \
             and another process of the pid namespace has it; restore into a pod that does not \
             share its pid namespace with that process{at}",
            record.id
        ));
    }
    Error::failed(
        format!("restore container {}: CRIU says: {words}{at}", record.id),
        chain(&error),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_v1_hierarchy_has_the_cgroup_that_a_restored_container_sees() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().display();
        let line =
            |name: &str| format!("31 30 0:27 / {root}/{name} rw - cgroup cgroup rw,{name}\n");
        let table = format!(
            "{}{}34 30 0:30 / {root}/unified rw - cgroup2 cgroup2 rw\n",
            line("pids"),
            line("misc")
        );
        let found = own_cgroups(&Hierarchies::parse(&table), "/pods/a").unwrap();
        let wanted = ["pids", "misc"].map(|name| {
            let own = temp.path().join(name).join("pods/a");
            assert!(own.is_dir(), "{name}");
            (format!("{CGROUPS}/{name}"), own.display().to_string())
        });
        assert_eq!(found, wanted);
        assert!(!temp.path().join("unified").exists());
    }

    #[test]
    fn a_taken_number_is_told_from_other_failures() {
        let taken = "Can't fork for 4711: File exists; Restoring FAILED.";
        assert_eq!(taken_pid(taken), Some(4711));
        for other in [
            "Can't fork for 4711: Out of memory",
            "Can't fork for x: File exists",
            "",
        ] {
            assert_eq!(taken_pid(other), None, "{other}");
        }
    }
}
