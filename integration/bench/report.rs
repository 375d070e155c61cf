//! The report: ratios first, medians and the machine below them, in Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

use super::measure::{Sample, Size};
use crate::harness::arena;

/// From here on the ratios of times are expected.
const EXPECTED_FROM_MIB: u64 = 256;
/// Expected: frozen at most this part of the baseline's time.
const FROZEN: f64 = 0.5;
/// Expected: finished in at most this part of the baseline's time.
const FINISHED: f64 = 0.4;
/// Expected: bytes written per byte of memory.
const WRITTEN: f64 = 1.02;

/// Median of one figure.
fn median(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    match values.len() % 2 {
        0 => f64::midpoint(
            upper,
            values.get(values.len() / 2 - 1).copied().unwrap_or(upper),
        ),
        _ => upper,
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

type Figure = fn(&Sample) -> f64;

const FIGURES: [Figure; 5] = [
    |sample| ms(sample.frozen),
    |sample| ms(sample.finished),
    |sample| ms(sample.synced),
    |sample| sample.written,
    |sample| ms(sample.restored),
];

fn name(mib: u64) -> String {
    match mib {
        mib if mib >= 1024 && mib.is_multiple_of(1024) => format!("{} GiB", mib / 1024),
        mib => format!("{mib} MiB"),
    }
}

/// A size's ratios, thawd / baseline, in the order of [`FIGURES`].
fn ratios(size: &Size) -> [f64; 5] {
    FIGURES.map(|figure| median(&size.thawd, figure) / median(&size.baseline, figure))
}

/// The report.
///
/// # Errors
/// When the machine's facts cannot be read.
pub(super) fn markdown(results: &[Size]) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "thawd / baseline, medians; less is better:\n")?;
    writeln!(
        text,
        "| memory | time frozen | checkpoint finished | finished and on the disk | bytes written | \
         restore to first progress |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    for size in results {
        let [frozen, finished, synced, written, restored] = ratios(size);
        writeln!(
            text,
            "| {} | {frozen:.2} | {finished:.2} | {synced:.2} | {written:.2} | {restored:.2} |",
            name(size.mib)
        )?;
    }
    writeln!(
        text,
        "\nThe medians behind them (smallest to largest in parentheses):\n"
    )?;
    writeln!(
        text,
        "| memory | side | frozen ms | finished ms | on the disk ms | written per byte of memory | \
         restore ms |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|")?;
    for size in results {
        for (side, samples) in [("thawd", &size.thawd), ("baseline", &size.baseline)] {
            write!(text, "| {} | {side} |", name(size.mib))?;
            for (column, figure) in FIGURES.iter().enumerate() {
                let digits = if column == 3 { 3 } else { 0 };
                let values = || samples.iter().map(figure);
                let least = values().fold(f64::INFINITY, f64::min);
                let most = values().fold(0.0, f64::max);
                let middle = median(samples, figure);
                write!(
                    text,
                    " {middle:.digits$} ({least:.digits$}–{most:.digits$}) |"
                )?;
            }
            writeln!(text)?;
        }
    }
    let count = results.first().map_or(0, |size| size.thawd.len());
    writeln!(text, "\n{}; {count} repetitions, interleaved.", machine()?)?;
    Ok(text)
}

/// What was expected and is not so.
pub(super) fn missed(results: &[Size]) -> Vec<String> {
    let mut missed = Vec::new();
    for size in results.iter().filter(|size| size.mib >= EXPECTED_FROM_MIB) {
        let [frozen, finished, ..] = ratios(size);
        let written = median(&size.thawd, |sample| sample.written);
        let expected = [
            ("frozen / baseline", frozen, FROZEN),
            ("finished / baseline", finished, FINISHED),
            ("bytes written per byte of memory", written, WRITTEN),
        ];
        for (what, found, limit) in expected {
            // Not a number is a miss too.
            if !matches!(found.partial_cmp(&limit), Some(order) if order.is_le()) {
                let size = name(size.mib);
                missed.push(format!(
                    "{size}: {what} is {found:.3}, expected at most {limit}"
                ));
            }
        }
    }
    missed
}

/// What the measurements depend on.
fn machine() -> Result<String> {
    let first = |program: &str, arguments: &[&str]| -> Result<String> {
        let text = arena::run(program, arguments)?;
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    };
    let value = |path: &str, key: &str| -> Result<String> {
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split(':').nth(1)).unwrap_or("?");
        Ok(value.trim().to_owned())
    };
    let kib: u64 = value("/proc/meminfo", "MemTotal")?
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or_default();
    let criu = arena::run("/opt/thawd/criu/bin/criu", &["--version"])
        .or_else(|_| arena::run("criu", &["--version"]))?;
    let criu = criu
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("Version: ")
        .to_owned();
    Ok(format!(
        "{} × {}, {} GiB, Linux {}, {} on /var/tmp; {}, CRIU {criu}, {}",
        std::thread::available_parallelism()?,
        value("/proc/cpuinfo", "model name")?,
        kib.div_ceil(1024 * 1024),
        first("uname", &["-r"])?,
        first("findmnt", &["-n", "-o", "FSTYPE", "-T", "/var/tmp"])?,
        first("runc", &["--version"])?.replace(" version", ""),
        first("tar", &["--version"])?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(frozen_ms: &[u64], written: f64) -> Vec<Sample> {
        let sample = |&frozen_ms| Sample {
            frozen: Duration::from_millis(frozen_ms),
            finished: Duration::from_millis(frozen_ms),
            synced: Duration::from_millis(frozen_ms),
            written,
            restored: Duration::from_millis(10),
        };
        frozen_ms.iter().map(sample).collect()
    }

    #[test]
    fn the_median_is_the_middle_of_an_odd_and_the_mean_of_the_two_of_an_even_number() {
        let frozen = |values: &[u64]| median(&samples(values, 1.0), |sample| ms(sample.frozen));
        assert!((frozen(&[9, 1, 5]) - 5.0).abs() < 1e-9);
        assert!((frozen(&[8, 2, 4, 6]) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn only_what_is_worse_than_expected_is_named() {
        let size = |mib, thawd: &[u64], written| Size {
            mib,
            thawd: samples(thawd, written),
            baseline: samples(&[100, 100, 100], 2.0),
        };
        assert!(missed(&[size(256, &[40, 39, 41], 1.02)]).is_empty());
        assert!(missed(&[size(16, &[400], 3.0)]).is_empty());
        let found = missed(&[size(1024, &[45], 1.5)]);
        assert_eq!(
            found,
            [
                "1 GiB: finished / baseline is 0.450, expected at most 0.4",
                "1 GiB: bytes written per byte of memory is 1.500, expected at most 1.02",
            ]
        );
    }
}
