//! Memory, guard pages, environment and threads.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::raw::GuardedPages;
use super::{Workload, pattern, pause};

const PAGE_WORDS: usize = 4096 / size_of::<u64>();

/// A MiB of memory, the arguments and the environment.
pub(super) struct Counter {
    memory: Vec<u64>,
    outside: u64,
}

impl Counter {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let memory = pattern(1).take(1024 * 1024 / 8).collect();
        Ok(Box::new(Self {
            memory,
            outside: outside(),
        }))
    }
}

/// A digest of what was given to the process at its start.
fn outside() -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut environment: Vec<_> = std::env::vars_os().collect();
    environment.sort();
    environment.hash(&mut hasher);
    std::env::args_os().collect::<Vec<_>>().hash(&mut hasher);
    hasher.finish()
}

impl Workload for Counter {
    fn step(&mut self, count: u64) -> Result<String> {
        // The first word of a page tells the step that touched it last, the others never change.
        let pages = self.memory.len() / PAGE_WORDS;
        let slot = |count: u64| -> Result<usize> {
            Ok(usize::try_from(count % u64::try_from(pages)?)? * PAGE_WORDS)
        };
        if count > 1 {
            let before = *self.memory.get(slot(count - 1)?).context("page")?;
            ensure!(
                before == count - 1,
                "the step before left {before}, not {}",
                count - 1
            );
        }
        *self.memory.get_mut(slot(count)?).context("page")? = count;
        let intact = self
            .memory
            .iter()
            .zip(pattern(1))
            .enumerate()
            .all(|(at, (found, wanted))| at % PAGE_WORDS == 0 || *found == wanted);
        ensure!(intact, "memory changed");
        ensure!(
            outside() == self.outside,
            "environment or arguments changed"
        );
        Ok(String::new())
    }
}

/// So many MiB of touched memory, and a thread that wakes every 100 µs and records its longest gap:
/// what a client of the program would have felt of a freeze.
pub(super) struct Memory {
    words: Vec<u64>,
    next: usize,
    rounds: u64,
    gap_us: Arc<AtomicU64>,
}

/// Words checked in a step: 16 MiB.
const CHECKED_WORDS: usize = 16 * 1024 * 1024 / 8;

impl Memory {
    pub(super) fn setup(value: &str) -> Result<Box<dyn Workload>> {
        let mib: usize = if value.is_empty() { 16 } else { value.parse()? };
        let words = pattern(2).take(mib * 1024 * 1024 / 8).collect();
        let gap_us = Arc::new(AtomicU64::new(0));
        let longest = Arc::clone(&gap_us);
        std::thread::Builder::new()
            .name("ticker".to_owned())
            .spawn(move || {
                let mut last = Instant::now();
                loop {
                    pause(Duration::from_micros(100));
                    let now = Instant::now();
                    let gap =
                        u64::try_from(now.duration_since(last).as_micros()).unwrap_or(u64::MAX);
                    longest.fetch_max(gap, Ordering::Relaxed);
                    last = now;
                }
            })?;
        Ok(Box::new(Self {
            words,
            next: 0,
            rounds: 0,
            gap_us,
        }))
    }
}

impl Workload for Memory {
    fn step(&mut self, _: u64) -> Result<String> {
        let from = self.next;
        let upto = (from + CHECKED_WORDS).min(self.words.len());
        // SplitMix64's state is a multiple of its increment: seeking is a multiplication.
        let skipped = u64::try_from(from)?.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let part = self.words.get(from..upto).context("part")?;
        let intact = part
            .iter()
            .zip(pattern(2_u64.wrapping_add(skipped)))
            .all(|(a, b)| *a == b);
        ensure!(intact, "memory between words {from} and {upto} changed");
        if upto == self.words.len() {
            self.next = 0;
            self.rounds += 1;
        } else {
            self.next = upto;
        }
        Ok(format!(
            "rounds={} gap_us={}",
            self.rounds,
            self.gap_us.load(Ordering::Relaxed)
        ))
    }
}

/// Pages of which some are guard pages. Each step touches all: guard pages raise SIGSEGV, the others
/// hold what the step before left.
pub(super) struct Guards {
    pages: GuardedPages,
}

impl Guards {
    const PAGES: usize = 16;

    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let pages = GuardedPages::map(Self::PAGES)?;
        for page in (0..Self::PAGES).filter(|&page| Self::is_guard(page)) {
            pages
                .guard(page)
                .context("MADV_GUARD_INSTALL, since Linux 6.13")?;
        }
        Ok(Box::new(Self { pages }))
    }

    /// Two that follow each other, and the last.
    fn is_guard(page: usize) -> bool {
        matches!(page, 4 | 5 | 15)
    }
}

impl Workload for Guards {
    fn step(&mut self, count: u64) -> Result<String> {
        for page in 0..Self::PAGES {
            let (word, raised) = self.pages.read(page)?;
            if Self::is_guard(page) {
                ensure!(raised, "page {page} raised no SIGSEGV");
                self.pages.guard(page)?;
            } else {
                ensure!(!raised, "page {page} raised SIGSEGV");
                ensure!(
                    word == count - 1,
                    "the step before left {word} in page {page}, not {}",
                    count - 1
                );
                self.pages.write(page, count)?;
            }
        }
        Ok(String::new())
    }
}

/// Threads that each count, and must all go on counting.
pub(super) struct Threads {
    counters: Vec<Arc<AtomicU64>>,
    seen: Vec<u64>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn setup(value: &str) -> Result<Box<dyn Workload>> {
        let wanted: usize = if value.is_empty() { 8 } else { value.parse()? };
        let counters: Vec<Arc<AtomicU64>> = std::iter::repeat_with(Default::default)
            .take(wanted)
            .collect();
        let mut handles = Vec::new();
        for (number, counter) in counters.iter().enumerate() {
            let counter = Arc::clone(counter);
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            handles.push(thread.spawn(move || {
                loop {
                    pause(Duration::from_millis(5));
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })?);
        }
        Ok(Box::new(Self {
            seen: vec![0; wanted],
            counters,
            handles,
        }))
    }
}

impl Workload for Threads {
    fn step(&mut self, _: u64) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(2);
        for (number, (counter, seen)) in self.counters.iter().zip(&mut self.seen).enumerate() {
            while counter.load(Ordering::Relaxed) <= *seen {
                ensure!(
                    Instant::now() < deadline,
                    "thread {number} stands still at {seen}"
                );
                pause(Duration::from_millis(1));
            }
            *seen = counter.load(Ordering::Relaxed);
        }
        ensure!(
            self.handles.iter().all(|thread| !thread.is_finished()),
            "a thread ended"
        );
        Ok(String::new())
    }
}
