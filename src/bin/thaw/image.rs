//! `thaw image …`: prepares an import in the daemon's root directory, then asks for it by CRI.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;

use anyhow::Context as _;

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
    pull(&client, &prepared.names)
}

/// Makes an image of a checkpoint archive.
pub(crate) fn from_checkpoint(address: &str, archive: &Path, name: &str) -> anyhow::Result<()> {
    let client = Client::connect(address)?;
    let root = client.root()?;
    let archive = archive
        .canonicalize()
        .with_context(|| format!("find archive {}", archive.display()))?;
    let prepared = images::import::prepare_checkpoint(&root, &archive, name)
        .with_context(|| format!("make an image of {}", archive.display()))?;
    pull(&client, &prepared.names)
}

fn pull(client: &Client, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        let id = client.pull(name).with_context(|| format!("import {name}"))?;
        writeln!(std::io::stdout(), "{name} {id}")?;
    }
    Ok(())
}
