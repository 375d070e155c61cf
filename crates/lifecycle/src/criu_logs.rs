//! CRIU's logs of failed checkpoints and restores: `<root>/criu-logs/`, the newest of them.
//!
//! A pod that cannot be restored is made again and again, each time under another id; the logs of
//! all attempts would fill the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::context::{Context, with};

/// Most logs that are kept.
const MOST: usize = 64;

/// Most bytes of all of them together; the newest one is kept whatever its size.
const MOST_BYTES: u64 = 128 << 20;

/// Removes the oldest logs beyond the limits; a failure is logged, the next failure tries again.
pub(crate) async fn trim(ctx: &Arc<Context>) {
    let trimmed = with(ctx, |ctx| Ok(oldest_away(&ctx.config.criu_logs()))).await;
    if let Ok(Err(error)) = trimmed {
        tracing::warn!(%error, "old logs of CRIU stay");
    }
}

fn oldest_away(directory: &Path) -> io::Result<()> {
    let mut logs: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            logs.push((metadata.modified()?, metadata.len(), entry.path()));
        }
    }
    logs.sort();
    let mut bytes = 0_u64;
    for (place, (_, length, path)) in logs.into_iter().rev().enumerate() {
        bytes = bytes.saturating_add(length);
        if place > 0 && (place >= MOST || bytes > MOST_BYTES) {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Duration;

    /// What is left of logs of these lengths, the first one the oldest.
    fn check(lengths: &[u64], left: std::ops::Range<usize>) {
        let dir = tempfile::tempdir().unwrap();
        for (number, length) in lengths.iter().enumerate() {
            let path = dir.path().join(format!("{number:03}"));
            let file = File::options().write(true).create_new(true).open(path);
            let file = file.unwrap();
            file.set_len(*length).unwrap();
            let age = u64::try_from(lengths.len() - number).unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            file.set_modified(then).unwrap();
        }
        oldest_away(dir.path()).unwrap();
        let mut found: Vec<usize> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.parse().unwrap())
            .collect();
        found.sort_unstable();
        assert_eq!(found, left.collect::<Vec<_>>());
    }

    #[test]
    fn the_newest_logs_are_kept_within_number_and_size() {
        check(&[], 0..0);
        check(&[1; 64], 0..64);
        check(&[1; 70], 6..70);
        check(&[64 << 20, 64 << 20, 32 << 20, 32 << 20], 1..4);
        check(&[1, 1 << 30], 1..2);
    }
}
