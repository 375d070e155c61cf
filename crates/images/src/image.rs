//! An image as callers see it, and as it is stored.

use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::digest::Digest;
use crate::documents::{Annotations, Config};
use crate::error::Error;
use crate::reference::Reference;

/// Version of [`ImageRecord`] that this code writes.
pub(crate) const VERSION: u32 = 1;

/// One image of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Normalised names with a tag.
    pub repo_tags: Vec<String>,
    /// The same repositories by digest of the manifest or index that the names stood for.
    pub repo_digests: Vec<String>,
    /// Sum of the layers' and the configuration's blobs, as compressed as they came, in bytes.
    pub size_bytes: u64,
    /// `User` of its configuration: `uid`, `name`, either with `:group`, or empty.
    pub user: String,
    /// Its configuration (OCI `config.md`) as it came.
    pub config: RawConfig,
    /// Annotations of its manifest.
    pub annotations: Annotations,
    /// Whether it must not be removed to make space.
    pub pinned: bool,
    /// Set when it is a container's checkpoint and not a root filesystem.
    pub checkpoint: Option<CheckpointImage>,
}

/// What marks an image as a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointImage {
    /// The name of the container, as the annotation has it; for people only.
    pub container_name: String,
    /// Digest of the archive, uncompressed.
    pub(crate) archive: Digest,
}

/// A configuration's JSON text.
///
/// It dereferences to the bytes and serializes as the document that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawConfig(Arc<[u8]>);

impl RawConfig {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl Deref for RawConfig {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for RawConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value: serde_json::Value =
            serde_json::from_slice(&self.0).map_err(serde::ser::Error::custom)?;
        value.serialize(serializer)
    }
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// The blob.
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    /// The tar within.
    pub(crate) diff_id: Digest,
    /// The directory.
    pub(crate) chain_id: Digest,
}

/// One image on disk, keyed by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) version: u32,
    pub(crate) id: Digest,
    pub(crate) manifest: Digest,
    /// References with a tag.
    pub(crate) tags: Vec<String>,
    /// References with a digest.
    pub(crate) digests: Vec<String>,
    /// The bottom layer first; none for a checkpoint.
    pub(crate) layers: Vec<LayerRecord>,
    pub(crate) size_bytes: u64,
    pub(crate) annotations: Annotations,
    #[serde(default)]
    pub(crate) pinned: bool,
    #[serde(default)]
    pub(crate) checkpoint: Option<CheckpointImage>,
}

impl ImageRecord {
    /// Every blob that the image needs.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        let archive = self.checkpoint.iter().map(|checkpoint| &checkpoint.archive);
        [&self.id, &self.manifest]
            .into_iter()
            .chain(self.layers.iter().map(|layer| &layer.digest))
            .chain(archive)
    }

    /// The layers' directories, topmost first.
    pub(crate) fn chains(&self) -> Vec<Digest> {
        self.layers
            .iter()
            .rev()
            .map(|layer| layer.chain_id.clone())
            .collect()
    }

    /// Adds names that are not there yet.
    pub(crate) fn add_names(&mut self, tags: &[Reference], digests: &[Reference]) {
        let add = |list: &mut Vec<String>, names: &[Reference]| {
            for name in names.iter().map(ToString::to_string) {
                if !list.contains(&name) {
                    list.push(name);
                }
            }
            list.sort();
        };
        add(&mut self.tags, tags);
        add(&mut self.digests, digests);
    }

    /// The image for callers.
    pub(crate) fn image(&self, config: Vec<u8>) -> Result<Image, Error> {
        let parsed = Config::parse(self.id.as_str(), &config)?;
        Ok(Image {
            id: self.id.to_string(),
            repo_tags: self.tags.clone(),
            repo_digests: self.digests.clone(),
            size_bytes: self.size_bytes,
            user: parsed.user().to_owned(),
            config: RawConfig::new(config),
            annotations: self.annotations.clone(),
            pinned: self.pinned,
            checkpoint: self.checkpoint.clone(),
        })
    }
}
