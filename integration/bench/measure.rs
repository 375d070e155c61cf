//! The steps that are measured, the same for both sides.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::arguments::Options;
use super::baseline::Baseline;
use super::meter::{Meter, now_ns};
use super::subject::Subject;
use super::{interrupt, progress};
use crate::harness::wait::pause;
use crate::harness::{arena, needs};

/// The ticker's last step before the checkpoint's end is seen after this.
const SETTLE: Duration = Duration::from_millis(50);

/// A container to start.
pub(super) struct Job<'a> {
    /// Its memory.
    pub(super) mib: u64,
    /// What the memory's content follows from.
    pub(super) seed: u64,
    /// The meter's directory.
    pub(super) meter: &'a Path,
}

/// One of the two that are compared. The steps are called in this order, again and again.
pub(super) trait Side {
    /// Starts the original.
    fn start(&mut self, job: &Job<'_>) -> Result<()>;
    /// Freezes it to an archive while it runs on.
    fn checkpoint(&mut self) -> Result<()>;
    /// Has the archive on the disk, if it is not there.
    fn sync(&mut self) -> Result<()>;
    /// Removes the original and all of the checkpoint but the archive; makes what the restored
    /// container will find.
    fn replace(&mut self) -> Result<()>;
    /// Restores from the archive.
    fn restore(&mut self) -> Result<()>;
    /// Bytes written so far.
    fn written(&self) -> Result<u64>;
    /// Removes the restored container and the archive.
    fn clear(&mut self) -> Result<()>;
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Longest time that the container stood still.
    pub(super) frozen: Duration,
    /// Until there was an archive.
    pub(super) finished: Duration,
    /// Until that was on the disk.
    pub(super) synced: Duration,
    /// Bytes written per byte of memory.
    pub(super) written: f64,
    /// Until the restored container took a step.
    pub(super) restored: Duration,
}

/// All measurements of one size.
#[derive(Debug)]
pub(super) struct Size {
    pub(super) mib: u64,
    pub(super) thawd: Vec<Sample>,
    pub(super) baseline: Vec<Sample>,
}

/// Measures everything, and leaves nothing behind.
///
/// # Errors
/// When a step fails, restored memory is wrong, or something is left.
pub(super) fn all(options: &Options) -> Result<Vec<Size>> {
    let program = needs::program("bench")?;
    let mut thawd = Subject::start(&program)?;
    let mut baseline = Baseline::start(&program)?;
    let meters = tempfile::Builder::new()
        .prefix("thawd-bench-")
        .tempdir_in("/var/tmp")?;
    let mut number = 0;
    let mut round = |mib| -> Result<(Sample, Sample)> {
        let mut one = |name, side: &mut dyn Side| {
            number += 1;
            let meter = Meter::create(meters.path().join(number.to_string()))?;
            let began = Instant::now();
            let sample =
                sample(side, meter, mib, number).with_context(|| format!("{name}, {mib} MiB"))?;
            progress(&format!(
                "{mib:>5} MiB  {name:<8}  {sample}  ({:.0?})",
                began.elapsed()
            ));
            Ok::<_, anyhow::Error>(sample)
        };
        Ok((one("thawd", &mut thawd)?, one("baseline", &mut baseline)?))
    };
    progress("one round that is not counted:");
    round(options.sizes.iter().copied().min().context("no sizes")?)?;
    let mut results = Vec::new();
    for &mib in &options.sizes {
        let mut size = Size {
            mib,
            thawd: Vec::new(),
            baseline: Vec::new(),
        };
        for repetition in 1..=options.repetitions {
            progress(&format!(
                "{mib} MiB, {repetition} of {}:",
                options.repetitions
            ));
            let (thawd, baseline) = round(mib)?;
            size.thawd.push(thawd);
            size.baseline.push(baseline);
        }
        results.push(size);
    }
    thawd.finish()?;
    Ok(results)
}

fn sample(side: &mut dyn Side, mut meter: Meter, mib: u64, seed: u64) -> Result<Sample> {
    let directory = meter.directory().to_owned();
    let job = Job {
        mib,
        seed,
        meter: &directory,
    };
    interrupt::check()?;
    side.start(&job).context("starting the original")?;
    let memory_bytes = meter.wait_ready(mib)?;
    write_out(&directory)?;

    let written = side.written()?;
    meter.begin()?;
    meter.wait_step()?;
    let began = Instant::now();
    side.checkpoint().context("freezing")?;
    let finished = began.elapsed();
    side.sync().context("syncing the archive")?;
    let synced = began.elapsed();
    pause(SETTLE);
    let frozen = Duration::from_nanos(meter.ticks()?.longest_ns);
    let written = side.written()?.saturating_sub(written);
    meter
        .verify(mib)
        .context("the original, after the checkpoint")?;

    interrupt::check()?;
    side.replace().context("ending the original")?;
    write_out(&directory)?;
    meter.begin()?;
    let began_ns = now_ns()?;
    side.restore().context("restoring")?;
    let step_ns = meter.wait_step().context("the restored container")?;
    meter.verify(mib)?;

    interrupt::check()?;
    side.clear().context("clearing")?;
    write_out(&directory)?;
    Ok(Sample {
        frozen,
        finished,
        synced,
        written: ratio(written, memory_bytes),
        restored: Duration::from_nanos(step_ns.saturating_sub(began_ns)),
    })
}

/// Has everything dirty of the disk that all archives are on written out.
fn write_out(directory: &Path) -> Result<()> {
    arena::run("sync", &["--file-system", &directory.display().to_string()]).map(drop)
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of sizes")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(
            f,
            "frozen {:7.0} ms  finished {:7.0} ms  synced {:7.0} ms  written {:.3}  restore {:7.0} ms",
            ms(self.frozen),
            ms(self.finished),
            ms(self.synced),
            self.written,
            ms(self.restored)
        )
    }
}
