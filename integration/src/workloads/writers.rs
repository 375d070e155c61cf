//! Memory that is written without a pause, and that tells whether all of it is of one moment.
//!
//! ```text
//!  pages     │  g  │  g  │  g  │ g-1 │ g-1 │ g-1 │    written in this order, again and again
//!  position           2                               the last one that was written
//! ```
//! A writer is a thread that gives each of its pages the next generation. Its registers tell which page
//! comes next; in there it must find the generation before, and in its position the page before. After
//! a thaw the registers are those of the moment of the freeze. A page that was taken earlier or later
//! than that has another generation, and the writer is there within one round.

use std::convert::Infallible;
use std::io::{BufRead as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::Workload;
use super::raw::{self, Kind};
use super::tasks::Peer;

const MIB: usize = 1024 * 1024;
const PAGE: usize = 4096;
const PAGE_WORDS: usize = PAGE / size_of::<u64>();
/// Bytes of each mapping that fork(2) does not copy.
const FEW_BYTES: usize = 16 * PAGE;

/// What a writer tells.
#[derive(Default)]
struct Told {
    /// The page that was written last.
    position: AtomicU64,
    /// Rounds that are complete.
    rounds: AtomicU64,
    /// What was wrong; the writer has ended.
    wrong: OnceLock<String>,
}

/// A thread that writes.
struct Writer {
    name: &'static str,
    told: Arc<Told>,
}

impl Writer {
    /// Starts one for these mappings, which it walks in this order.
    fn start(name: &'static str, mappings: &[(usize, Kind)]) -> Result<Self> {
        let memory = mappings
            .iter()
            .map(|&(bytes, kind)| raw::map(bytes, kind).with_context(|| format!("{kind:?}")))
            .collect::<Result<Vec<_>>>()?;
        let told = Arc::new(Told::default());
        let thread = std::thread::Builder::new().name(name.to_owned());
        let teller = Arc::clone(&told);
        thread.spawn(move || {
            let Err(error) = write(&memory, &teller);
            // Nobody else sets it.
            drop(teller.wrong.set(format!("{error:#}")));
        })?;
        Ok(Self { name, told })
    }

    /// Rounds that are complete.
    fn rounds(&self) -> Result<u64> {
        match self.told.wrong.get() {
            Some(wrong) => Err(anyhow!("{}: {wrong}", self.name)),
            None => Ok(self.told.rounds.load(Ordering::Relaxed)),
        }
    }
}

/// Writes for ever.
fn write(memory: &[&'static [AtomicU64]], told: &Told) -> Result<Infallible> {
    let mut last = 0;
    for generation in 1.. {
        let pages = memory.iter().flat_map(|part| part.chunks_exact(PAGE_WORDS));
        for (page, words) in (0_u64..).zip(pages) {
            let position = told.position.load(Ordering::Relaxed);
            ensure!(
                position == last,
                "page {page} comes next in generation {generation}, but the position is {position}"
            );
            let (Some(first), Some(end)) = (words.first(), words.last()) else {
                bail!("a page without words");
            };
            let found = (first.load(Ordering::Relaxed), end.load(Ordering::Relaxed));
            let before = generation - 1;
            ensure!(
                found == (before, before),
                "page {page} is to have generation {generation}, and has {found:?}"
            );
            told.position.store(page, Ordering::Relaxed);
            first.store(generation, Ordering::Relaxed);
            end.store(generation, Ordering::Relaxed);
            last = page;
        }
        told.rounds.store(generation, Ordering::Relaxed);
    }
    bail!("generations have an end")
}

/// Writers of private memory, of so many MiB together, a writer of what fork(2) does not make
/// copy-on-write, an eighth of that, and a child with as much memory of its own.
///
/// Tells the rounds of each.
pub(super) struct Writers {
    writers: Vec<Writer>,
    seen: Vec<u64>,
    child: Peer,
}

/// The part of all private memory that is shared, and that is the child's.
const PART: usize = 8;

impl Writers {
    pub(super) fn setup(value: &str) -> Result<Box<dyn Workload>> {
        let mib: usize = if value.is_empty() { 24 } else { value.parse()? };
        let third = (mib * MIB / 3).next_multiple_of(PAGE);
        let part = (mib / PART).max(1);
        let child = Peer::start(&["writer", &part.to_string()])?;
        let unprotected = [
            (part * MIB, Kind::Shared),
            (FEW_BYTES, Kind::Wiped),
            (FEW_BYTES, Kind::LeftOut),
        ];
        let writers = vec![
            Writer::start("private", &[(third, Kind::Private)])?,
            Writer::start("huge", &[(third, Kind::Huge)])?,
            Writer::start("small", &[(third, Kind::Small)])?,
            Writer::start("unprotected", &unprotected)?,
        ];
        Ok(Box::new(Self {
            seen: vec![0; writers.len()],
            writers,
            child,
        }))
    }
}

impl Workload for Writers {
    fn step(&mut self, count: u64) -> Result<String> {
        let mut told = String::new();
        for (writer, seen) in self.writers.iter().zip(&mut self.seen) {
            let rounds = writer.rounds()?;
            ensure!(
                rounds >= *seen,
                "{} was at {seen} rounds, now {rounds}",
                writer.name
            );
            *seen = rounds;
            told.push_str(&format!("{}={rounds} ", writer.name));
        }
        let answer = self.child.say(&count.to_string())?;
        let rounds = answer
            .trim_end()
            .strip_prefix(&format!("{count} child="))
            .with_context(|| format!("the child says {answer:?}"))?;
        Ok(format!("{told}child={rounds}"))
    }
}

/// The `writer` subcommand: writes so many MiB, half of them shared, and answers each line with the
/// line and its rounds.
pub(super) fn child(mib: &str) -> Result<()> {
    let half = mib.parse::<usize>()? * MIB / 2;
    let writer = Writer::start("child", &[(half, Kind::Private), (half, Kind::Shared)])?;
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match writer.rounds() {
            Ok(rounds) => writeln!(stdout, "{line} child={rounds}")?,
            Err(error) => writeln!(stdout, "{line} {error:#}")?,
        }
        stdout.flush()?;
    }
    Ok(())
}
