//! `thaw image …`: prepares an import in the daemon's root directory, then asks for it by CRI.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;

use anyhow::Context as _;
use images::import::{CheckpointFacts, Prepared};

use crate::client::Client;

/// Loads an OCI layout or docker-archive tar.
pub(crate) fn load(address: &str, file: &Path, names: &[String]) -> anyhow::Result<()> {
    let client = Client::connect(address)?;
    let root = client.root()?;
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(file).with_context(|| format!("open {}", file.display()))?)
    };
    let prepared = images::import::prepare(&root, reader, names)
        .with_context(|| format!("load {}", file.display()))?;
    pull(&client, &prepared)
}

/// Makes an image of a checkpoint archive.
pub(crate) fn from_checkpoint(address: &str, archive: &Path, name: &str) -> anyhow::Result<()> {
    let client = Client::connect(address)?;
    let root = client.root()?;
    let archive = archive
        .canonicalize()
        .with_context(|| format!("find archive {}", archive.display()))?;
    let prepared = images::import::prepare_checkpoint(&root, &archive, name, &facts(&archive)?)
        .with_context(|| format!("make an image of {}", archive.display()))?;
    pull(&client, &prepared)
}

fn pull(client: &Client, prepared: &Prepared) -> anyhow::Result<()> {
    for image in &prepared.images {
        let reference = image.reference();
        let id = client
            .pull(reference)
            .with_context(|| format!("import {reference}"))?;
        let names = if image.names.is_empty() {
            "(no name)"
        } else {
            &image.names.join(" ")
        };
        writeln!(std::io::stdout(), "{names} {id}")?;
    }
    Ok(())
}

/// What the image's annotations tell, from the archive's manifest.
fn facts(archive: &Path) -> anyhow::Result<CheckpointFacts> {
    let shown = archive.display();
    let file = File::open(archive).with_context(|| format!("open {shown}"))?;
    let opened = bundler::Archive::open(file).with_context(|| format!("read {shown}"))?;
    let manifest = opened.manifest().with_context(|| {
        format!("{shown} has no manifest.json: only archives of thawd can be made images")
    })?;
    let (container, pod) = (&manifest.container, &manifest.pod);
    Ok(CheckpointFacts {
        container_name: container.name.clone(),
        engine_name: manifest.engine.name.clone(),
        engine_version: manifest.engine.version.clone(),
        pod_name: pod.name.clone(),
        pod_namespace: pod.namespace.clone(),
        pod_uid: pod.uid.clone(),
        pod_id: pod.id.clone(),
        rootfs_image_name: container.image.name.clone(),
        rootfs_image_user_requested: container.image.name.clone(),
        rootfs_image_id: container.image.id.clone(),
        rootfs_image_sha: container.image.reference.clone(),
        runtime_name: manifest.runtime.kind.clone(),
        runtime_version: manifest.runtime.version.clone(),
        criu_version: manifest.criu_version.clone(),
        host_arch: manifest.arch.clone(),
        host_kernel: manifest.kernel.clone(),
        created: manifest.created_at.clone(),
    })
}
