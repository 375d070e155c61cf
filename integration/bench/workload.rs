//! The program in the container: memory whose every word is known, and a thread that ticks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::meter::{self, Inside, Ticks};
use crate::harness::wait::pause;

const PAGE_WORDS: u64 = 4096 / 8;
/// The ticker's sleep.
const TICK: Duration = Duration::from_micros(100);
/// How often the main thread looks for orders.
const LOOK: Duration = Duration::from_millis(5);
/// Pages that the ticker writes to in turn, spread over all.
const WRITTEN_PAGES: u64 = 1024;

/// What the word at this place holds from the beginning to the end (SplitMix64).
fn word(seed: u64, at: u64) -> u64 {
    let state = seed.wrapping_add(at.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Words of memory. The first word of each page is the ticker's, all others never change.
type Memory = Arc<Vec<AtomicU64>>;

/// Fills so much memory, then ticks and takes orders until it is killed.
///
/// # Errors
/// When the two files cannot be used.
pub(super) fn run(mib: u64, seed: u64) -> Result<()> {
    // The benchmark may run at a high priority, which a container is not granted at its restore.
    rustix::process::setpriority_process(None, 0)?;
    let inside = Arc::new(Inside::open()?);
    let words = mib * 1024 * 1024 / 8;
    let fill = |at| match at % PAGE_WORDS {
        0 => 0,
        _ => word(seed, at),
    };
    let memory: Memory = Arc::new((0..words).map(|at| AtomicU64::new(fill(at))).collect());
    let ticker = {
        let (inside, memory) = (Arc::clone(&inside), Arc::clone(&memory));
        std::thread::Builder::new()
            .name("ticker".to_owned())
            .spawn(move || tick(&inside, &memory))?
    };
    inside.tell_ready(anonymous_bytes()?)?;
    let mut checked = 0;
    while !ticker.is_finished() {
        let check = inside.check()?;
        if check != checked {
            inside.tell_checked(check, wrong_words(&memory, seed))?;
            checked = check;
        }
        pause(LOOK);
    }
    ticker
        .join()
        .map_err(|_| anyhow::anyhow!("the ticker panicked"))?
}

fn wrong_words(memory: &Memory, seed: u64) -> u64 {
    let wrong = (0..).zip(memory.iter()).filter(|(at, found)| {
        at % PAGE_WORDS != 0 && found.load(Ordering::Relaxed) != word(seed, *at)
    });
    wrong.map(|_| 1_u64).sum()
}

/// Wakes every 100 µs. Each time it counts one page up, and knows what must have been there: had a
/// page been captured at a later moment than this thread, it would have been counted up already.
fn tick(inside: &Inside, memory: &Memory) -> Result<()> {
    let pages = u64::try_from(memory.len())? / PAGE_WORDS;
    let written = pages.min(WRITTEN_PAGES);
    let mut ticks = Ticks::default();
    let mut last = Instant::now();
    for step in 0_u64.. {
        pause(TICK);
        let now = Instant::now();
        let gap = u64::try_from(now.duration_since(last).as_nanos())?;
        last = now;
        let before = ticks;
        let epoch = inside.epoch()?;
        if epoch == ticks.epoch {
            ticks.longest_ns = ticks.longest_ns.max(gap);
        } else {
            ticks = Ticks {
                epoch,
                first_ns: meter::now_ns()?,
                longest_ns: 0,
                ..ticks
            };
        }
        let at = (step % written) * (pages / written) * PAGE_WORDS;
        let page = memory.get(usize::try_from(at)?).context("page")?;
        let round = step / written;
        if page.swap(round + 1, Ordering::Relaxed) != round {
            ticks.torn += 1;
        }
        if ticks != before {
            inside.tell_ticks(&ticks)?;
        }
    }
    Ok(())
}

/// `RssAnon` of this process: what a checkpoint has to carry.
fn anonymous_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .context("RssAnon")?
        .trim()
        .parse()?;
    ensure!(kib > 0, "RssAnon is 0");
    Ok(kib * 1024)
}
