//! OCI image layouts (`image-layout.md`): which images of the index to take.

use std::collections::BTreeMap;

use super::input::Files;
use super::{ImportedImage, tagged};
use crate::digest::Digest;
use crate::documents::{self, Config, Descriptor, DockerImage, Index, Manifest, Platform};
use crate::error::Error;

/// An index may name indexes; deeper nesting is not an image.
const MAX_DEPTH: u32 = 4;
/// Most manifests in all indexes together.
const MAX_MANIFESTS: usize = 10_000;

/// A manifest and the entry of `index.json` that led to it.
#[derive(Debug)]
struct Candidate {
    manifest: Digest,
    target: Digest,
    platform: Option<Platform>,
}

/// The images for this machine.
pub(super) fn images(files: &Files) -> Result<Vec<ImportedImage>, Error> {
    let index: Index = documents::parse("index.json", &files.document("index.json")?)?;
    let mut groups: BTreeMap<Option<String>, Vec<Candidate>> = BTreeMap::new();
    let mut total = 0;
    for top in &index.manifests {
        let found = groups.entry(name_of(top)).or_default();
        flatten(files, top, &top.digest, MAX_DEPTH, found)?;
        total += found.len();
        if total > MAX_MANIFESTS {
            let (what, limit) = ("the number of manifests", MAX_MANIFESTS as u64);
            return Err(Error::Limit {
                entry: "index.json".to_owned(),
                what,
                limit,
            });
        }
    }
    let mut chosen: Vec<ImportedImage> = Vec::new();
    let mut others = Vec::new();
    for (name, candidates) in groups {
        let mut fitting = Vec::new();
        for candidate in candidates {
            match fits(files, &candidate)? {
                Ok(id) => fitting.push((candidate, id)),
                Err(platform) => others.push(platform),
            }
        }
        // One name stands for one image; without names each manifest is an image of its own.
        let wanted = if name.is_some() { 1 } else { fitting.len() };
        for (candidate, id) in fitting.into_iter().take(wanted) {
            add(&mut chosen, candidate, id, name.as_deref())?;
        }
    }
    if chosen.is_empty() {
        return Err(nothing(others));
    }
    name_by_docker(files, &mut chosen)?;
    Ok(chosen)
}

fn add(
    chosen: &mut Vec<ImportedImage>,
    candidate: Candidate,
    id: Digest,
    name: Option<&str>,
) -> Result<(), Error> {
    let name = name.map(tagged).transpose()?;
    match chosen
        .iter_mut()
        .find(|image| image.manifest == candidate.manifest)
    {
        Some(image) => image.names.extend(name),
        None => chosen.push(ImportedImage {
            id,
            names: name.into_iter().collect(),
            manifest: candidate.manifest,
            target: candidate.target,
        }),
    }
    Ok(())
}

fn nothing(mut others: Vec<String>) -> Error {
    if others.is_empty() {
        return Error::malformed("index.json", "names no image that is in the archive");
    }
    others.sort();
    others.dedup();
    others.truncate(20);
    Error::Platform {
        wanted: Platform::here().to_string(),
        found: others.join(", "),
    }
}

/// The full name that containerd, Docker or skopeo gave; a bare tag names nothing.
fn name_of(descriptor: &Descriptor) -> Option<String> {
    let annotations = &descriptor.annotations;
    let full = annotations.get("io.containerd.image.name");
    let short = annotations
        .get("org.opencontainers.image.ref.name")
        .filter(|name| name.contains([':', '/']));
    full.or(short).cloned()
}

fn flatten(
    files: &Files,
    descriptor: &Descriptor,
    target: &Digest,
    depth: u32,
    found: &mut Vec<Candidate>,
) -> Result<(), Error> {
    // Attestations of builds stand beside images.
    let attested = descriptor
        .annotations
        .contains_key("vnd.docker.reference.type");
    // docker save writes the whole index, but only one platform's blobs.
    let Some(stored) = files.by_digest(&descriptor.digest).filter(|_| !attested) else {
        return Ok(());
    };
    if descriptor.is_manifest() {
        found.push(Candidate {
            manifest: descriptor.digest.clone(),
            target: target.clone(),
            platform: descriptor.platform.clone(),
        });
        return Ok(());
    }
    if !descriptor.is_index() {
        return Ok(());
    }
    let entry = descriptor.digest.as_str();
    if depth == 0 {
        return Err(Error::malformed(entry, "is an index nested too deeply"));
    }
    let index: Index = documents::parse(entry, &stored.read()?)?;
    for inner in &index.manifests {
        if found.len() > MAX_MANIFESTS {
            break;
        }
        flatten(files, inner, target, depth - 1, found)?;
    }
    Ok(())
}

/// The id of the image when it is for this machine, else what it is for.
fn fits(files: &Files, candidate: &Candidate) -> Result<Result<Digest, String>, Error> {
    let here = Platform::here();
    if let Some(platform) = &candidate.platform
        && !platform.fits(&here)
    {
        return Ok(Err(platform.to_string()));
    }
    let entry = candidate.manifest.as_str();
    let Some(stored) = files.by_digest(&candidate.manifest) else {
        return Err(Error::malformed(entry, "the manifest is missing"));
    };
    let manifest = Manifest::parse(entry, &stored.read()?)?;
    let id = manifest.config.digest;
    if candidate.platform.is_none() {
        let config = files
            .by_digest(&id)
            .ok_or_else(|| Error::malformed(id.as_str(), "the configuration is missing"))?;
        match Config::parse(id.as_str(), &config.read()?)?.check_platform() {
            Err(Error::Platform { found, .. }) => return Ok(Err(found)),
            other => other?,
        }
    }
    Ok(Ok(id))
}

/// Docker writes an OCI layout with bare tags, and the full names into `manifest.json`.
fn name_by_docker(files: &Files, chosen: &mut [ImportedImage]) -> Result<(), Error> {
    if !files.contains("manifest.json") {
        return Ok(());
    }
    let list: Vec<DockerImage> =
        documents::parse("manifest.json", &files.document("manifest.json")?)?;
    for docker in list {
        let Some(config) = files.get(&docker.config) else {
            continue;
        };
        let Some(image) = chosen.iter_mut().find(|image| image.id == config.digest) else {
            continue;
        };
        for tag in &docker.repo_tags {
            let name = tagged(tag)?;
            if !image.names.contains(&name) {
                image.names.push(name);
            }
        }
    }
    Ok(())
}
