//! `docker save` archives: `manifest.json` names configurations and layers by path. Such an image
//! has no manifest of its own; one is made here.

use std::fs::File;

use super::input::{Files, Stored};
use super::{ImportedImage, Staging, tagged};
use crate::digest::Digest;
use crate::documents::{
    self, Annotations, Descriptor, DockerImage, Manifest, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use crate::error::Error;
use crate::layer::{Compression, sniff};

/// Most images in one archive.
const MAX_IMAGES: usize = 1000;

/// The images of the archive; their manifests are added to `staging`.
pub(super) fn images(files: &Files, staging: &Staging) -> Result<Vec<ImportedImage>, Error> {
    let list: Vec<DockerImage> =
        documents::parse("manifest.json", &files.document("manifest.json")?)?;
    if list.is_empty() {
        return Err(Error::malformed("manifest.json", "names no image"));
    }
    if list.len() > MAX_IMAGES {
        let (what, limit) = ("the number of images", MAX_IMAGES as u64);
        return Err(Error::Limit {
            entry: "manifest.json".to_owned(),
            what,
            limit,
        });
    }
    list.iter()
        .map(|image| convert(files, staging, image))
        .collect()
}

fn convert(files: &Files, staging: &Staging, image: &DockerImage) -> Result<ImportedImage, Error> {
    let find = |name: &str| {
        files
            .get(name)
            .ok_or_else(|| Error::malformed(name, "is named by manifest.json and missing"))
    };
    let config = find(&image.config)?;
    let layers = image
        .layers
        .iter()
        .map(|name| layer(find(name)?))
        .collect::<Result<_, Error>>()?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.to_owned(),
        config: describe(config, OCI_CONFIG),
        layers,
        annotations: Annotations::new(),
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|error| Error::malformed("manifest.json", error.to_string()))?;
    let digest: Digest = staging.blobs.put(&bytes)?;
    Ok(ImportedImage {
        id: config.digest.clone(),
        names: image
            .repo_tags
            .iter()
            .map(|tag| tagged(tag))
            .collect::<Result<_, _>>()?,
        manifest: digest.clone(),
        target: digest,
    })
}

fn layer(stored: &Stored) -> Result<Descriptor, Error> {
    let file = File::open(&stored.path).map_err(Error::io("open", &stored.path))?;
    let media_type = match sniff(file)?.0 {
        Compression::Plain => OCI_LAYER,
        Compression::Gzip => OCI_LAYER_GZIP,
        Compression::Zstd => OCI_LAYER_ZSTD,
    };
    Ok(describe(stored, media_type))
}

fn describe(stored: &Stored, media_type: &str) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: stored.digest.clone(),
        size: stored.size,
        platform: None,
        annotations: Annotations::new(),
    }
}
