//! What the benchmark is told.

use anyhow::{Context as _, Result, bail, ensure};

/// Shown for `--help`.
pub(super) const USAGE: &str = "\
usage: bench [--sizes MIB,MIB...] [--repetitions N] [--check]
  --sizes        memory of the container, in MiB (16,256,1024,4096)
  --repetitions  measurements of each side at each size (3)
  --check        fail when a ratio is worse than expected";

/// Largest size: both archives of the baseline and the memory itself must fit.
const MOST_MIB: u64 = 64 * 1024;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arguments {
    Help,
    /// Be the program in the container.
    Workload {
        mib: u64,
        seed: u64,
    },
    Compare(Options),
}

/// What to measure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// Sizes of memory, in MiB.
    pub(super) sizes: Vec<u64>,
    /// Measurements of each side at each size.
    pub(super) repetitions: u64,
    /// Whether a ratio that is worse than expected is a failure.
    pub(super) check: bool,
}

/// Reads the command line.
///
/// # Errors
/// When it is not as in [`USAGE`].
pub(super) fn parse(words: &[String]) -> Result<Arguments> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["workload", mib, seed] = words.as_slice() {
        let (mib, seed) = (size(mib)?, seed.parse().context("SEED")?);
        return Ok(Arguments::Workload { mib, seed });
    }
    let mut options = Options {
        sizes: vec![16, 256, 1024, 4096],
        repetitions: 3,
        check: false,
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        match word {
            "--sizes" => options.sizes = value()?.split(',').map(size).collect::<Result<_>>()?,
            "--repetitions" => {
                options.repetitions = value()?.parse().context("--repetitions")?;
                ensure!(options.repetitions > 0, "--repetitions must be 1 or more");
            }
            "--check" => options.check = true,
            "-h" | "--help" => return Ok(Arguments::Help),
            _ => bail!("unknown argument {word}\n{USAGE}"),
        }
    }
    Ok(Arguments::Compare(options))
}

fn size(text: &str) -> Result<u64> {
    let mib = text.parse().with_context(|| format!("size {text:?}"))?;
    ensure!(
        (1..=MOST_MIB).contains(&mib),
        "size {mib} MiB is not between 1 and {MOST_MIB}"
    );
    Ok(mib)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn sizes_and_repetitions_have_defaults() {
        let Arguments::Compare(options) = parse(&[]).unwrap() else {
            panic!("not a comparison");
        };
        assert_eq!(options.sizes, [16, 256, 1024, 4096]);
        assert_eq!((options.repetitions, options.check), (3, false));
    }

    #[test]
    fn sizes_and_repetitions_can_be_chosen() {
        let chosen = parse(&words("--sizes 16,64 --repetitions 7 --check")).unwrap();
        let wanted = Options {
            sizes: vec![16, 64],
            repetitions: 7,
            check: true,
        };
        assert_eq!(chosen, Arguments::Compare(wanted));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "--sizes",
            "--sizes 0",
            "--sizes 16,x",
            "--repetitions 0",
            "--fast",
            "16",
        ] {
            assert!(parse(&words(text)).is_err(), "{text}");
        }
    }
}
