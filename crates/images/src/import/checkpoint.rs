//! Checkpoint images: one layer that is the archive itself, marked by annotations.
//!
//! Keys: checkpointctl `lib/annotations.go` (`org.criu.checkpoint.*`), CRI-O
//! `internal/annotations/checkpoint.go`, Podman `pkg/annotations`.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::OFlags;

use super::{ImportedImage, Prepared, Staging, tagged};
use crate::content::Blobs;
use crate::digest::{Digest, digest_of};
use crate::documents::{
    Annotations, Descriptor, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Platform,
};
use crate::error::Error;

const COMMON: &str = "org.criu.checkpoint.";
const NAME_KEYS: [&str; 3] = [
    "org.criu.checkpoint.container.name",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
    "io.podman.annotations.checkpoint.name",
];

/// The container's name when the annotations of a manifest say that it is a checkpoint.
pub(crate) fn container_name(annotations: &Annotations) -> Option<&str> {
    NAME_KEYS
        .iter()
        .find_map(|key| annotations.get(*key))
        .map(String::as_str)
}

/// What the annotations of a checkpoint image tell about its archive. Empty fields are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckpointFacts {
    /// Name of the container; must not be empty.
    pub container_name: String,
    /// Program that made the archive.
    pub engine_name: String,
    /// Its version.
    pub engine_version: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Namespace of the pod.
    pub pod_namespace: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Id of the sandbox.
    pub pod_id: String,
    /// Reference of the image that the container was made from.
    pub rootfs_image_name: String,
    /// The same as the user wrote it.
    pub rootfs_image_user_requested: String,
    /// Id of that image.
    pub rootfs_image_id: String,
    /// Digest of that image's manifest.
    pub rootfs_image_sha: String,
    /// OCI runtime.
    pub runtime_name: String,
    /// Its version.
    pub runtime_version: String,
    /// Version of CRIU.
    pub criu_version: String,
    /// Architecture of the host.
    pub host_arch: String,
    /// Kernel release of the host.
    pub host_kernel: String,
    /// Time of the checkpoint, RFC 3339.
    pub created: String,
}

impl CheckpointFacts {
    fn annotations(&self) -> Annotations {
        let common = [
            ("container.name", &self.container_name),
            ("engine.name", &self.engine_name),
            ("engine.version", &self.engine_version),
            ("pod.name", &self.pod_name),
            ("pod.namespace", &self.pod_namespace),
            ("pod.uid", &self.pod_uid),
            ("pod.id", &self.pod_id),
            ("rootfsImageName", &self.rootfs_image_name),
            (
                "rootfsImageUserRequested",
                &self.rootfs_image_user_requested,
            ),
            ("rootfsImageID", &self.rootfs_image_id),
            ("rootfsImageSha", &self.rootfs_image_sha),
            ("runtime.name", &self.runtime_name),
            ("runtime.version", &self.runtime_version),
            ("criu.version", &self.criu_version),
            ("host.arch", &self.host_arch),
            ("host.kernel", &self.host_kernel),
        ];
        let common = common.into_iter().filter(|(_, value)| !value.is_empty());
        let mut all: Annotations = common
            .map(|(key, value)| (format!("{COMMON}{key}"), value.clone()))
            .collect();
        all.insert(
            "io.kubernetes.cri-o.annotations.checkpoint.name".to_owned(),
            self.container_name.clone(),
        );
        all
    }
}

/// Publishes the archive at `archive` for the daemon as a checkpoint image called `name`.
///
/// The archive becomes a blob by a hard link; where `root` is on another filesystem, by a reflink
/// or a copy. It is read once for its digest. Verifying what is in it is the caller's business.
///
/// # Errors
///
/// [`Error::Reference`] for the name, [`Error::Malformed`] for something that is no regular file or
/// facts without a container name, [`Error::Io`]. Nothing is left behind.
pub fn prepare_checkpoint(
    root: &Path,
    archive: &Path,
    name: &str,
    facts: &CheckpointFacts,
) -> Result<Prepared, Error> {
    let name = tagged(name)?;
    let shown = || archive.display().to_string();
    if facts.container_name.is_empty() {
        return Err(Error::malformed(shown(), "does not name its container"));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(archive, flags, rustix::fs::Mode::empty())
        .map(File::from)
        .map_err(|errno| Error::io("open", archive)(errno.into()))?;
    if !file
        .metadata()
        .map_err(Error::io("look at", archive))?
        .is_file()
    {
        return Err(Error::malformed(shown(), "is no regular file"));
    }
    let staging = Staging::new(root)?;
    let (digest, size) = digest_of(&file).map_err(Error::io("read", archive))?;
    take(&staging.blobs, &file, &digest).map_err(Error::io("link or copy", archive))?;
    let image = describe(&staging.blobs, &digest, size, facts)?;
    staging.publish(vec![ImportedImage {
        names: vec![name],
        ..image
    }])
}

/// The archive's one inode under the name of its digest, or a copy of its bytes.
fn take(blobs: &Blobs, file: &File, digest: &Digest) -> io::Result<()> {
    let path = blobs.path(digest);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = sys::fs::open_dir(parent)?;
    match sys::fs::link_into(file, &dir, name) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        other => return other,
    }
    let mut copy = sys::fs::create_new(&dir, name, 0o600)?;
    if rustix::fs::ioctl_ficlone(&copy, file).is_ok() {
        return Ok(());
    }
    let mut from = file;
    io::Seek::rewind(&mut from)?;
    io::copy(&mut from, &mut copy).map(drop)
}

fn describe(
    blobs: &Blobs,
    archive: &Digest,
    size: u64,
    facts: &CheckpointFacts,
) -> Result<ImportedImage, Error> {
    let platform = Platform::here();
    let mut config = serde_json::json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [archive] },
        "history": [{ "created_by": "thaw image from-checkpoint" }],
    });
    if !facts.created.is_empty()
        && let Some(fields) = config.as_object_mut()
    {
        fields.insert("created".to_owned(), facts.created.clone().into());
    }
    let config = config.to_string();
    let id = blobs.put(config.as_bytes())?;
    let descriptor = |media_type: &str, digest: &Digest, size: u64| Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.clone(),
        size,
        platform: None,
        annotations: Annotations::new(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.to_owned(),
        config: descriptor(OCI_CONFIG, &id, config.len() as u64),
        layers: vec![descriptor(OCI_LAYER, archive, size)],
        annotations: facts.annotations(),
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|error| Error::malformed("the manifest", error.to_string()))?;
    let manifest = blobs.put(&bytes)?;
    Ok(ImportedImage {
        id,
        names: Vec::new(),
        target: manifest.clone(),
        manifest,
    })
}
