//! The JSON documents of OCI images and of `docker save`: index, manifest, configuration.
//!
//! Field names: OCI image specification v1.1 (`image-index.md`, `manifest.md`, `config.md`) and
//! Docker's image specification v1.2 (`manifest.json`). Unknown fields are ignored; the bytes of a
//! document, which its digest covers, are kept as they came.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;

/// Largest index, manifest or configuration in bytes (the OCI distribution specification
/// recommends 4 MiB for manifests).
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYERS: [&str; 8] = [
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Key-value pairs of a manifest or descriptor.
pub type Annotations = BTreeMap<String, String>;

/// A reference to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub(crate) annotations: Annotations,
}

impl Descriptor {
    pub(crate) fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }

    pub(crate) fn is_manifest(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
    }
}

/// What a manifest in an index is for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

impl Platform {
    /// This machine, in Go's words (`GOARCH`).
    pub(crate) fn here() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// Whether an image for `self` runs on `here`; baseline variants are left out by many.
    pub(crate) fn fits(&self, here: &Self) -> bool {
        let variant = |platform: &Self| match (platform.architecture.as_str(), &*platform.variant) {
            ("arm64", "") => "v8".to_owned(),
            ("amd64", "v1") => String::new(),
            (_, variant) => variant.to_owned(),
        };
        self.os == here.os
            && self.architecture == here.architecture
            && variant(self) == variant(here)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.variant)
        }
    }
}

/// An index: manifests to choose from.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Index {
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
}

/// A manifest: one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub(crate) annotations: Annotations,
}

impl Manifest {
    /// Reads and checks a manifest; `entry` names it in errors.
    pub(crate) fn parse(entry: &str, bytes: &[u8]) -> Result<Self, Error> {
        let manifest: Self = parse(entry, bytes)?;
        if manifest.schema_version != 2 {
            return Err(Error::malformed(
                entry,
                "is not a manifest of schema version 2",
            ));
        }
        if !matches!(
            manifest.config.media_type.as_str(),
            OCI_CONFIG | DOCKER_CONFIG
        ) {
            let problem = format!(
                "is no container image: its configuration is of type {:?}",
                manifest.config.media_type
            );
            return Err(Error::malformed(entry, problem));
        }
        if manifest.layers.len() > sys::mount::MAX_LOWER_LAYERS {
            return Err(Error::Limit {
                entry: entry.to_owned(),
                what: "the number of layers",
                limit: sys::mount::MAX_LOWER_LAYERS as u64,
            });
        }
        let strange = |layer: &&Descriptor| !LAYERS.contains(&layer.media_type.as_str());
        if let Some(layer) = manifest.layers.iter().find(strange) {
            let problem = format!("has a layer of unknown type {:?}", layer.media_type);
            return Err(Error::malformed(entry, problem));
        }
        Ok(manifest)
    }
}

/// What this crate needs of a configuration.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: String,
    #[serde(default)]
    rootfs: Option<RootFs>,
    #[serde(default)]
    config: Option<Process>,
}

#[derive(Debug, Clone, Deserialize)]
struct RootFs {
    #[serde(default, deserialize_with = "nullable")]
    diff_ids: Vec<Digest>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Process {
    #[serde(default, rename = "User", deserialize_with = "nullable")]
    user: String,
}

impl Config {
    /// Reads a configuration; `entry` names it in errors.
    pub(crate) fn parse(entry: &str, bytes: &[u8]) -> Result<Self, Error> {
        parse(entry, bytes)
    }

    pub(crate) fn diff_ids(&self) -> &[Digest] {
        self.rootfs.as_ref().map_or(&[], |rootfs| &rootfs.diff_ids)
    }

    pub(crate) fn user(&self) -> &str {
        self.config.as_ref().map_or("", |config| &config.user)
    }

    /// Fails unless the image is for this machine; what says nothing passes.
    pub(crate) fn check_platform(&self) -> Result<(), Error> {
        let platform = Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
        };
        let here = Platform::here();
        if platform.architecture.is_empty() || platform.fits(&here) {
            return Ok(());
        }
        Err(Error::Platform {
            wanted: here.to_string(),
            found: platform.to_string(),
        })
    }
}

/// One image of a `docker save` archive's `manifest.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerImage {
    pub(crate) config: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) layers: Vec<String>,
}

/// Reads any of the documents, bounded.
pub(crate) fn parse<T: DeserializeOwned>(entry: &str, bytes: &[u8]) -> Result<T, Error> {
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(Error::Limit {
            entry: entry.to_owned(),
            what: "a document's length in bytes",
            limit: MAX_DOCUMENT_BYTES,
        });
    }
    serde_json::from_slice(bytes).map_err(|error| Error::malformed(entry, error.to_string()))
}

/// Go writes an empty list or map as `null`.
fn nullable<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
