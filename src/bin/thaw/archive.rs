//! `thaw inspect` and `thaw verify`.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

/// Shows what is in an archive.
pub(crate) fn inspect(path: &Path, json: bool) -> anyhow::Result<()> {
    let _ = (path, json);
    anyhow::bail!("not yet")
}

/// Prints one line for each thing that is wrong.
pub(crate) fn verify(path: &Path) -> anyhow::Result<ExitCode> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let findings = bundler::findings(file, &bundler::ReadLimits::default(), &mut |_| {})?;
    let mut out = std::io::stdout();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    if findings.is_empty() {
        writeln!(out, "{}: nothing wrong", path.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
