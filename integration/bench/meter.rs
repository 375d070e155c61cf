//! Two small files through which the benchmark and the program in the container speak. They lie in
//! a directory that is mounted into the container, so that both sides are watched in the same way
//! and a restored container finds them at once.
//!
//! ```text
//! orders   0  epoch: begin to measure anew      state   0  epoch that is being measured
//!          8  check: verify the memory                  8  its first step, ns since 1970
//!                                                       16  longest time between two steps, ns
//!                                                       24  pages found torn
//!                                                       64  RssAnon in bytes, when memory is ready
//!                                                       72  check that was done
//!                                                       80  words found wrong by it
//! ```
//! Words are little endian. Both files have 4096 bytes and never another length: CRIU compares.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::interrupt;
use crate::harness::wait;

/// Where the directory is in the container.
pub(super) const INSIDE: &str = "/bench";

const ORDERS: &str = "orders";
const STATE: &str = "state";
const FILE_BYTES: usize = 4096;
/// Where the fields of the main thread begin; those of the ticker begin at 0.
const MAIN: u64 = 64;

/// Time since 1970, in ns.
pub(super) fn now_ns() -> Result<u64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::try_from(since.as_nanos())?)
}

fn open(directory: &Path, name: &str) -> Result<File> {
    let path = directory.join(name);
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| path.display().to_string())
}

fn read<const N: usize>(file: &File, offset: u64) -> Result<[u64; N]> {
    let mut words = [0; N];
    let mut bytes = [0; 8];
    for (at, word) in (offset..).step_by(8).zip(&mut words) {
        file.read_exact_at(&mut bytes, at)?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

fn write(file: &File, offset: u64, words: &[u64]) -> Result<()> {
    let bytes: Vec<u8> = words.iter().copied().flat_map(u64::to_le_bytes).collect();
    Ok(file.write_all_at(&bytes, offset)?)
}

/// The end in the container.
pub(super) struct Inside {
    orders: File,
    state: File,
}

/// What the ticker tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ticks {
    pub(super) epoch: u64,
    pub(super) first_ns: u64,
    pub(super) longest_ns: u64,
    pub(super) torn: u64,
}

impl Inside {
    pub(super) fn open() -> Result<Self> {
        let directory = Path::new(INSIDE);
        Ok(Self {
            orders: open(directory, ORDERS)?,
            state: open(directory, STATE)?,
        })
    }

    pub(super) fn epoch(&self) -> Result<u64> {
        let [epoch] = read(&self.orders, 0)?;
        Ok(epoch)
    }

    pub(super) fn check(&self) -> Result<u64> {
        let [check] = read(&self.orders, 8)?;
        Ok(check)
    }

    pub(super) fn tell_ticks(&self, ticks: &Ticks) -> Result<()> {
        let Ticks {
            epoch,
            first_ns,
            longest_ns,
            torn,
        } = *ticks;
        // The epoch last: who sees it sees the others as well.
        write(&self.state, 8, &[first_ns, longest_ns, torn])?;
        write(&self.state, 0, &[epoch])
    }

    pub(super) fn tell_ready(&self, anonymous_bytes: u64) -> Result<()> {
        write(&self.state, MAIN, &[anonymous_bytes])
    }

    pub(super) fn tell_checked(&self, check: u64, wrong: u64) -> Result<()> {
        write(&self.state, MAIN + 16, &[wrong])?;
        write(&self.state, MAIN + 8, &[check])
    }
}

/// The benchmark's end.
pub(super) struct Meter {
    directory: PathBuf,
    orders: File,
    state: File,
    epoch: u64,
    check: u64,
}

impl Meter {
    /// Makes the files in a new directory.
    pub(super) fn create(directory: PathBuf) -> Result<Self> {
        std::fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        for name in [ORDERS, STATE] {
            let file = OpenOptions::new()
                .create_new(true)
                .write(true)
                .open(directory.join(name))?;
            file.write_all_at(&[0; FILE_BYTES], 0)?;
        }
        Ok(Self {
            orders: open(&directory, ORDERS)?,
            state: open(&directory, STATE)?,
            directory,
            epoch: 0,
            check: 0,
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut probe: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        wait::until(what, patience, || {
            interrupt::check()?;
            probe(self)
        })
    }

    /// Waits until the memory is filled; its size in bytes.
    pub(super) fn wait_ready(&self, mib: u64) -> Result<u64> {
        // A page of memory may have to come from a host that is slow to give it.
        let patience = wait::PATIENCE + Duration::from_millis(20 * mib);
        self.wait("the container's memory to be filled", patience, |meter| {
            let [bytes] = read(&meter.state, MAIN)?;
            Ok((bytes > 0).then_some(bytes))
        })
    }

    /// Has the container measure anew, without waiting for it.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.epoch += 1;
        write(&self.orders, 0, &[self.epoch])
    }

    /// Waits for the first step since [`begin`](Self::begin); when that was, in ns since 1970.
    pub(super) fn wait_step(&self) -> Result<u64> {
        self.wait("a step of the container", wait::PATIENCE, |meter| {
            let ticks = meter.ticks()?;
            Ok((ticks.epoch == meter.epoch).then_some(ticks.first_ns))
        })
    }

    pub(super) fn ticks(&self) -> Result<Ticks> {
        let [epoch, first_ns, longest_ns, torn] = read(&self.state, 0)?;
        Ok(Ticks {
            epoch,
            first_ns,
            longest_ns,
            torn,
        })
    }

    /// Has the container look at all of its memory, and waits for what it found.
    pub(super) fn verify(&mut self, mib: u64) -> Result<()> {
        self.check += 1;
        write(&self.orders, 8, &[self.check])?;
        let patience = wait::PATIENCE + Duration::from_millis(20 * mib);
        let wrong = self.wait("the memory to be verified", patience, |meter| {
            let [check, wrong] = read(&meter.state, MAIN + 8)?;
            Ok((check == meter.check).then_some(wrong))
        })?;
        let torn = self.ticks()?.torn;
        if wrong > 0 || torn > 0 {
            bail!("restored memory is wrong: {wrong} words, {torn} torn pages");
        }
        Ok(())
    }
}
