//! `thaw inspect` and `thaw verify`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use bundler::{Archive, Manifest, names};
use criu_images::ImageSource;

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("open {}", path.display()))
}

/// Shows what is in an archive, of thawd or of another engine.
pub(crate) fn inspect(path: &Path, json: bool) -> anyhow::Result<()> {
    let archive = Archive::open(open(path)?).with_context(|| format!("read {}", path.display()))?;
    let images = criu_images::describe::describe(&Images(&archive));
    let mut out = io::stdout();
    if json {
        let entries: Vec<serde_json::Value> = archive
            .entries()
            .map(|(name, at)| serde_json::json!({"name": name, "bytes": at.size}))
            .collect();
        let all = serde_json::json!({
            "archive": path,
            "bytes": archive.file().metadata()?.len(),
            "manifest": archive.manifest(),
            "images": images,
            "entries": entries,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    write!(out, "{}", heading(path, &archive)?)?;
    writeln!(out, "{images}")?;
    Ok(())
}

fn heading(path: &Path, archive: &Archive) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| writeln!(text, "{label:<12} {value}");
    line("archive", &path.display().to_string())?;
    line(
        "size",
        &format!("{} bytes", archive.file().metadata()?.len()),
    )?;
    match archive.manifest() {
        Some(manifest) => manifest_lines(manifest, &mut line)?,
        None => line("manifest", "none: this archive was not written by thawd")?,
    }
    for (name, at) in archive.entries() {
        if !name.starts_with(names::CHECKPOINT_DIRECTORY) {
            line("entry", &format!("{name} ({} bytes)", at.size))?;
        }
    }
    Ok(text)
}

fn manifest_lines(
    manifest: &Manifest,
    line: &mut impl FnMut(&str, &str) -> std::fmt::Result,
) -> std::fmt::Result {
    let (container, pod) = (&manifest.container, &manifest.pod);
    line(
        "container",
        &format!("{} ({})", container.name, container.id),
    )?;
    line(
        "pod",
        &format!("{}/{} ({})", pod.namespace, pod.name, pod.id),
    )?;
    line(
        "image",
        &format!("{} ({})", container.image.name, container.image.id),
    )?;
    line("time", &manifest.created_at)?;
    let engine = &manifest.engine;
    let runtime = &manifest.runtime;
    line(
        "engine",
        &format!(
            "{} {}, CRIU {}, {} ({}), Linux {} {}",
            engine.name,
            engine.version,
            manifest.criu_version,
            runtime.kind,
            runtime.handler,
            manifest.kernel,
            manifest.arch
        ),
    )?;
    let frozen = std::time::Duration::from_nanos(manifest.frozen_ns);
    line(
        "frozen",
        &format!("{:.1} ms", frozen.as_secs_f64() * 1000.0),
    )?;
    line("memory", &format!("{} bytes", manifest.page_bytes))?;
    for mount in &manifest.mounts {
        let mode = if mount.readonly {
            "read-only"
        } else {
            "read-write"
        };
        line(
            "needs mount",
            &format!("{} ({}, {mode})", mount.destination, mount.kind),
        )?;
    }
    Ok(())
}

/// Prints one line for each thing that is wrong.
pub(crate) fn verify(path: &Path) -> anyhow::Result<ExitCode> {
    let limits = bundler::ReadLimits::default();
    let findings = bundler::findings(open(path)?, &limits, &mut |_| {})
        .with_context(|| format!("read {}", path.display()))?;
    let mut out = io::stdout();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    if !findings.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    let archive = Archive::open(open(path)?)?;
    let images = criu_images::describe::describe(&Images(&archive));
    for problem in &images.problems {
        writeln!(out, "{problem}")?;
    }
    if !images.problems.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    let proof = match archive.manifest() {
        Some(_) => "nothing wrong",
        None => "nothing wrong, but without a manifest nothing is proven",
    };
    writeln!(out, "{}: {proof}", path.display())?;
    Ok(ExitCode::SUCCESS)
}

/// CRIU's images within an archive.
struct Images<'a>(&'a Archive);

impl ImageSource for Images<'_> {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let entries = self.0.entries().filter_map(|(name, at)| {
            let image = name.strip_prefix(names::CHECKPOINT_DIRECTORY);
            let stats = (name == names::STATS_DUMP).then_some(name);
            let image = image
                .or(stats)
                .filter(|image| *image != "descriptors.json")?;
            Some((image.to_owned(), at.size))
        });
        Ok(entries.collect())
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read + '_>>> {
        let entry = if name == names::STATS_DUMP {
            name.to_owned()
        } else {
            names::image(name)
        };
        match self.0.reader(&entry) {
            Ok(reader) => Ok(Some(Box::new(reader))),
            Err(bundler::Error::Missing { .. }) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
