//! From an import to the store: every byte verified, layers unpacked, records made.
//!
//! Blobs are linked, not moved: until the record is stored and the import removed, the import is
//! whole and can be adopted again.

use std::path::Path;

use crate::content::Blobs;
use crate::digest::{Digest, digest_of};
use crate::documents::{Config, Descriptor, Manifest};
use crate::error::Error;
use crate::image::{CheckpointImage, ImageRecord, LayerRecord, VERSION};
use crate::import::{self, ImportFile, ImportedImage, container_name};
use crate::layers::{Layers, Wanted};
use crate::reference::Reference;

/// Takes in the content of the import at `dir`; returns its images for the catalog. Content is on
/// the disk when it returns.
pub(crate) fn records(
    dir: &Path,
    file: &ImportFile,
    blobs: &Blobs,
    layers: &Layers,
) -> Result<Vec<ImageRecord>, Error> {
    let source = Blobs::at(dir);
    let taken = file
        .images
        .iter()
        .map(|image| take(&source, image, blobs, layers));
    let records = taken.collect::<Result<Vec<_>, _>>()?;
    // One sync for all layers: each was renamed into place, and none is used before the record.
    let fd = sys::fs::open_dir(dir).map_err(Error::io("open", dir))?;
    rustix::fs::syncfs(fd).map_err(|errno| Error::io("sync", dir)(errno.into()))?;
    Ok(records)
}

fn take(
    source: &Blobs,
    image: &ImportedImage,
    blobs: &Blobs,
    layers: &Layers,
) -> Result<ImageRecord, Error> {
    let manifest = Manifest::parse(image.manifest.as_str(), &source.document(&image.manifest)?)?;
    let id = manifest.config.digest.clone();
    id.expect("the configuration", &image.id)?;
    let config = Config::parse(id.as_str(), &source.document(&id)?)?;
    import::check(&manifest, &config)?;
    blobs.link_from(&source.path(&image.manifest), &image.manifest)?;
    blobs.link_from(&source.path(&id), &id)?;
    let checkpoint = container_name(&manifest.annotations).map(str::to_owned);
    let pairs = manifest.layers.iter().zip(config.diff_ids());
    let mut record = ImageRecord {
        version: VERSION,
        id,
        manifest: image.manifest.clone(),
        tags: Vec::new(),
        digests: Vec::new(),
        layers: Vec::new(),
        size_bytes: size(&manifest),
        annotations: manifest.annotations.clone(),
        pinned: false,
        checkpoint: None,
    };
    let mut chains: Vec<Digest> = Vec::new();
    for (descriptor, diff_id) in pairs {
        let path = source.path(&descriptor.digest);
        let wanted = Wanted {
            blob: &path,
            digest: &descriptor.digest,
            diff_id,
        };
        check_size(source, descriptor)?;
        if let Some(container_name) = &checkpoint {
            take_archive(&wanted, blobs, layers)?;
            let container_name = container_name.clone();
            record.checkpoint = Some(CheckpointImage {
                container_name,
                archive: diff_id.clone(),
            });
            continue;
        }
        let chain_id = take_layer(&wanted, &chains, blobs, layers)?;
        chains.insert(0, chain_id.clone());
        record.layers.push(LayerRecord {
            digest: descriptor.digest.clone(),
            size_bytes: descriptor.size,
            diff_id: diff_id.clone(),
            chain_id,
        });
    }
    let tags = image.names.iter().map(|name| Reference::parse(name));
    let tags = tags.collect::<Result<Vec<_>, _>>()?;
    let digests: Vec<Reference> = tags
        .iter()
        .map(|tag| tag.at_digest(&image.target))
        .collect();
    record.add_names(&tags, &digests);
    Ok(record)
}

/// What a registry would transfer.
fn size(manifest: &Manifest) -> u64 {
    let layers = manifest.layers.iter().map(|layer| layer.size);
    layers
        .chain([manifest.config.size])
        .fold(0, u64::saturating_add)
}

fn check_size(source: &Blobs, descriptor: &Descriptor) -> Result<(), Error> {
    match source.size(&descriptor.digest)? {
        Some(size) if size == descriptor.size => Ok(()),
        Some(size) => {
            let problem = format!("has {size} bytes where {} were announced", descriptor.size);
            Err(Error::malformed(descriptor.digest.as_str(), problem))
        }
        None => Err(Error::malformed(
            descriptor.digest.as_str(),
            "a layer is missing",
        )),
    }
}

fn take_layer(
    wanted: &Wanted<'_>,
    below: &[Digest],
    blobs: &Blobs,
    layers: &Layers,
) -> Result<Digest, Error> {
    let chain = crate::digest::chain_id(below.first(), wanted.diff_id);
    if layers.contains(&chain) {
        // Unpacked earlier, and verified then; this blob may still be another compression of it.
        verify(wanted, blobs)?;
    } else {
        layers.ensure(wanted, below)?;
    }
    blobs.link_from(wanted.blob, wanted.digest)?;
    Ok(chain)
}

fn take_archive(wanted: &Wanted<'_>, blobs: &Blobs, layers: &Layers) -> Result<(), Error> {
    verify(wanted, blobs)?;
    if wanted.digest == wanted.diff_id {
        return blobs.link_from(wanted.blob, wanted.digest);
    }
    layers.decompress(blobs, wanted)
}

/// Reads a blob for its digest, unless the store has verified it before.
fn verify(wanted: &Wanted<'_>, blobs: &Blobs) -> Result<(), Error> {
    if blobs.size(wanted.digest)?.is_some() {
        return Ok(());
    }
    let file = std::fs::File::open(wanted.blob).map_err(Error::io("open", wanted.blob))?;
    let (found, _) = digest_of(file).map_err(Error::io("read", wanted.blob))?;
    wanted.digest.expect(wanted.digest.as_str(), &found)
}
