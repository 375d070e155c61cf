//! Container logs in CRI's format, and what the workload writes there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::wait;

/// One container's log file.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    path: PathBuf,
}

/// A status line of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Steps taken.
    pub(crate) count: u64,
    /// Whether everything was as the step before left it.
    pub(crate) ok: bool,
    /// The line without the count.
    pub(crate) text: String,
}

impl Line {
    /// Reads `count=N ok ...`; other lines are no status.
    fn parse(text: &str) -> Option<Self> {
        let (count, rest) = text.strip_prefix("count=")?.split_once(' ')?;
        let count = count.parse().ok()?;
        Some(Self {
            count,
            ok: rest == "ok" || rest.starts_with("ok "),
            text: rest.to_owned(),
        })
    }

    /// The number after `key=`.
    ///
    /// # Errors
    /// When the line has no such number.
    pub(crate) fn number(&self, key: &str) -> Result<u64> {
        let key = format!("{key}=");
        let words = self.text.split([' ', ':']);
        let mut values = words.filter_map(|word| word.strip_prefix(&key));
        let value = values
            .next()
            .with_context(|| format!("no {key} in {:?}", self.text))?;
        Ok(value.parse()?)
    }
}

impl Log {
    /// The log at that path; it may not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Contents of all entries, checked for their format; partial entries are joined to lines.
    ///
    /// # Errors
    /// When an entry is not `TIME STREAM TAG CONTENT`.
    pub(crate) fn lines(&self) -> Result<Vec<String>> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context(self.path.display().to_string()),
        };
        let mut lines = Vec::new();
        let mut partial = String::new();
        for entry in text
            .split_inclusive('\n')
            .filter(|entry| entry.ends_with('\n'))
        {
            let mut fields = entry.trim_end_matches('\n').splitn(4, ' ');
            let (time, stream) = (fields.next(), fields.next());
            let (tag, content) = (fields.next(), fields.next().unwrap_or_default());
            ensure!(
                time.is_some_and(|time| time.contains('T'))
                    && matches!(stream, Some("stdout" | "stderr")),
                "bad log entry {entry:?}"
            );
            partial.push_str(content);
            match tag {
                Some("F") => lines.push(std::mem::take(&mut partial)),
                Some("P") => {}
                _ => bail!("bad tag in log entry {entry:?}"),
            }
        }
        // What a program wrote last without a newline stays partial.
        if !partial.is_empty() {
            lines.push(partial);
        }
        Ok(lines)
    }

    /// All status lines so far.
    ///
    /// # Errors
    /// As [`lines`](Self::lines).
    pub(crate) fn statuses(&self) -> Result<Vec<Line>> {
        // A terminal ends lines with a carriage return as well.
        Ok(self
            .lines()?
            .iter()
            .filter_map(|line| Line::parse(line.trim_end()))
            .collect())
    }

    /// The last count, 0 before the first.
    ///
    /// # Errors
    /// As [`lines`](Self::lines).
    pub(crate) fn count(&self) -> Result<u64> {
        Ok(self.statuses()?.last().map_or(0, |line| line.count))
    }

    /// Waits until the count is at least that; the workload must be well all the time.
    ///
    /// # Errors
    /// When it is not, or the time is over.
    pub(crate) fn wait_count(&self, at_least: u64) -> Result<Line> {
        let directory = self.path.parent().context("log directory")?;
        let what = format!("{} to reach count {at_least}", self.path.display());
        wait::until_changed(&what, directory, Duration::from_secs(60), || {
            let statuses = self.statuses()?;
            if let Some(bad) = statuses.iter().find(|line| !line.ok) {
                bail!("the workload says at count {}: {}", bad.count, bad.text);
            }
            Ok(statuses.into_iter().find(|line| line.count >= at_least))
        })
        .with_context(|| format!("log ends with {:?}", self.tail()))
    }

    /// Waits until a thawed workload has gone on five steps past a freeze that was between the two
    /// counts, and checks that it went on from there: the log begins with what the original wrote,
    /// possibly some lines beyond the freeze, and then no count is missing.
    ///
    /// # Errors
    /// When it began anew, lost steps, or the time is over.
    pub(crate) fn wait_thawed(&self, (before, after): (u64, u64)) -> Result<()> {
        self.wait_count(after + 5)?;
        let counts: Vec<u64> = self.statuses()?.iter().map(|line| line.count).collect();
        let mut back = 0;
        for (last, next) in counts.iter().zip(counts.iter().skip(1)) {
            if *next == last + 1 {
                continue;
            }
            back += 1;
            ensure!(
                back == 1 && (before + 1..=after + 1).contains(next),
                "frozen between {before} and {after}, but {next} follows {last}: {counts:?}"
            );
        }
        Ok(())
    }

    /// Waits for so many more steps than there are now.
    ///
    /// # Errors
    /// As [`wait_count`](Self::wait_count).
    pub(crate) fn wait_more(&self, steps: u64) -> Result<Line> {
        self.wait_count(self.count()? + steps)
    }

    /// Waits for a line that has the text in it.
    ///
    /// # Errors
    /// When the time is over.
    pub(crate) fn wait_text(&self, text: &str) -> Result<String> {
        let directory = self.path.parent().context("log directory")?;
        let what = format!("{text:?} in {}", self.path.display());
        wait::until_changed(&what, directory, wait::PATIENCE, || {
            Ok(self.lines()?.into_iter().find(|line| line.contains(text)))
        })
        .with_context(|| format!("log ends with {:?}", self.tail()))
    }

    fn tail(&self) -> Vec<String> {
        let lines = self.lines().unwrap_or_default();
        lines.into_iter().rev().take(5).rev().collect()
    }
}
