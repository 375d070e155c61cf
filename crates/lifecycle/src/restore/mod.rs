//! Bringing a container back from an archive.
//!
//! ```text
//! CreateContainer   find     path below an allowed directory, or a checkpoint image
//!                   verify   structure, digests; small images into a private directory
//!                   check    images held against the request's own spec; overlay changes applied
//! StartContainer    start    tmpfs mounts rebuilt, /dev/shm filled, relay configured;
//!                            monitor ▶ runtime restore ▶ relay ▶ CRIU
//! ```
//!
//! The archive decides nothing that concerns security: mounts, devices, credentials, filters and
//! namespaces are the request's; images that ask for more are refused before CRIU runs.

mod check;
mod labels;
mod place;
mod policy;
mod source;
mod staging;
mod start;
mod tmpfs;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use check::check;
pub(crate) use place::let_run;
pub(crate) use source::Source;
pub(crate) use start::start;

use crate::context::{Context, with};
use crate::error::{Error, chain};
use crate::model::{ContainerConfig, RestoredFrom};
use crate::record::{ContainerRecord, RestorePlan};

/// What a verified archive gives the creation of its container.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) plan: RestorePlan,
    /// The image that its root filesystem is based on, found on this node by digest.
    pub(crate) base: images::Image,
}

/// Opens the checkpoint that a request names, if it names one.
///
/// # Errors
///
/// See [`source::open`].
pub(crate) async fn find(
    ctx: &Arc<Context>,
    config: &ContainerConfig,
) -> Result<Option<Source>, Error> {
    if config.image.starts_with('/') {
        let path = config.image.clone();
        return with(ctx, move |ctx| {
            source::open(Path::new(&path), &ctx.config.checkpoint.restore_directories).map(Some)
        })
        .await;
    }
    if config.image.is_empty() {
        return Ok(None);
    }
    let failed = |error| Error::failed(format!("look up image {:?}", config.image), error);
    let Some(image) = ctx.images.resolve(&config.image).await.map_err(failed)? else {
        return Ok(None);
    };
    if image.checkpoint.is_none() {
        return Ok(None);
    }
    let Some(path) = ctx.images.checkpoint_blob(&image) else {
        return Ok(None);
    };
    let file = std::fs::File::open(&path)
        .map_err(|error| Error::io("open checkpoint image", &path, error))?;
    Ok(Some(Source {
        path,
        name: config.image.clone(),
        file,
    }))
}

/// Verifies the archive and stages what CRIU needs of it.
///
/// # Errors
///
/// [`Error::Invalid`] naming the entry for anything wrong with the archive, or the mount that the
/// request lacks; [`Error::Precondition`] for a missing base image, another machine's archive, or
/// another cgroup version.
pub(crate) async fn verify(
    ctx: &Arc<Context>,
    record: &ContainerRecord,
    source: Source,
) -> Result<Prepared, Error> {
    let config = record.config.clone();
    let directory = ctx.config.container_dir(record.id.as_str());
    let (name, path) = (source.name.clone(), source.path.clone());
    let manifest = with(ctx, move |ctx| {
        let manifest = staging::stage(source, &directory)?;
        request_fits(&manifest, &config)?;
        place::same_cgroups(&manifest, &ctx.hierarchies)?;
        Ok(manifest)
    })
    .await?;
    let image = &manifest.container.image;
    let failed = |error| Error::failed(format!("look up base image {}", image.id), error);
    let base = match image.id.as_str() {
        "" => None,
        id => ctx.images.resolve(id).await.map_err(failed)?,
    };
    let base = base.ok_or_else(|| {
        Error::Precondition(format!(
            "the checkpoint needs its base image {:?} ({}), which is not on this node: load it first",
            image.name, image.id
        ))
    })?;
    let checkpointed_at =
        humantime::parse_rfc3339(&manifest.created_at).unwrap_or(SystemTime::UNIX_EPOCH);
    let plan = RestorePlan {
        from: RestoredFrom {
            source: name,
            checkpointed_at,
        },
        archive: path,
    };
    Ok(Prepared { plan, base })
}

/// What can be told from the manifest alone.
fn request_fits(manifest: &bundler::Manifest, config: &ContainerConfig) -> Result<(), Error> {
    let machine = sys::sysinfo::kernel().machine;
    if manifest.arch != machine {
        return Err(Error::Precondition(format!(
            "the checkpoint was taken on {}, this node is {machine}",
            manifest.arch
        )));
    }
    let own = sys::sysinfo::cpu_features();
    let missing: Vec<&str> = manifest
        .cpu_features
        .iter()
        .map(String::as_str)
        .filter(|feature| needed(feature) && !own.iter().any(|known| known == feature))
        .collect();
    if !missing.is_empty() {
        return Err(Error::Precondition(format!(
            "the checkpoint may depend on CPU features that this node lacks: {}",
            missing.join(", ")
        )));
    }
    if manifest.terminal != config.tty {
        let (was, is) = (manifest.terminal, config.tty);
        let problem = format!("the checkpoint has tty {was}, the request {is}: make them equal");
        return Err(Error::invalid("tty", problem));
    }
    let missing: Vec<&str> = manifest
        .mounts
        .iter()
        .map(|need| need.destination.as_str())
        .filter(|destination| {
            !config
                .mounts
                .iter()
                .any(|mount| mount.container_path == Path::new(destination))
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(
        "mounts",
        format!(
            "the checkpoint needs mounts at {} that the request lacks: add them",
            missing.join(", ")
        ),
    ))
}

/// Whether programs can depend on a CPU flag: instruction sets can be used without asking the
/// kernel; the others in `/proc/cpuinfo` are the kernel's own affair.
fn needed(feature: &str) -> bool {
    [
        "sse", "ssse", "avx", "aes", "sha", "bmi", "fma", "popcnt", "movbe", "xsave", "asimd",
        "sve",
    ]
    .iter()
    .any(|prefix| feature.starts_with(prefix))
}

/// Takes the host's side of a restore's mounts away.
///
/// # Errors
///
/// [`Error::Failed`] with the directory.
pub(crate) fn drop_mounts(run_dir: &Path) -> Result<(), Error> {
    tmpfs::drop_mounts(run_dir)
        .map_err(|error| Error::io("unmount", tmpfs::directory(run_dir), error))
}

/// An archive's fault as an answer: whose entry, what is wrong.
fn archive_error(name: &str, error: bundler::Error) -> Error {
    match error {
        bundler::Error::Invalid(finding) => {
            Error::invalid(format!("archive {name}"), chain(&finding))
        }
        bundler::Error::Missing { .. } => Error::invalid(format!("archive {name}"), chain(&error)),
        bundler::Error::NoSpace { .. } => Error::Exhausted(chain(&error)),
        other => Error::failed(format!("read archive {name}"), other),
    }
}
