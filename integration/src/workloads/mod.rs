//! Programs that can prove they survived a checkpoint.
//!
//! `workload NAME[=VALUE]...` sets the named features up and then takes a step of each ten times a
//! second: it uses the feature and compares what it finds with what it left there. After every step
//! it prints one line, and keeps the same line in the file `/status`:
//!
//! ```text
//! count=17 ok counter pipes timerfd:ticks=3 memory:gap_us=412
//! count=18 FAIL timerfd: no expiry within 2 s
//! ```
//!
//! The count begins at 1 and lives in memory only: after a restore it goes on, after a restart it
//! begins anew. A failure is kept and repeated in every later line. `workload check` prints the
//! kept line and succeeds when it is fresh and ok, so that a test can ask through ExecSync.

mod disturbed;
mod files;
mod ipc;
mod memory;
mod names;
mod net;
mod raw;
mod refused;
mod tasks;
mod writers;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

/// File that holds the last status line.
const STATUS: &str = "/status";
/// Time between two steps.
const STEP: Duration = Duration::from_millis(100);
/// How long a workload waits for its peer.
const PEER: Duration = Duration::from_secs(2);
/// A status older than this means that the workload hangs.
const FRESH: Duration = Duration::from_secs(5);

/// One feature that must survive.
trait Workload {
    /// Uses the feature, compares with the step before, and returns details for the status line.
    fn step(&mut self, count: u64) -> Result<String>;
}

/// Makes a workload from the text after `=`.
type Setup = fn(value: &str) -> Result<Box<dyn Workload>>;

const WORKLOADS: &[(&str, Setup)] = &[
    ("counter", memory::Counter::setup),
    ("memory", memory::Memory::setup),
    ("guards", memory::Guards::setup),
    ("threads", memory::Threads::setup),
    ("writers", writers::Writers::setup),
    ("stack", disturbed::Stack::setup),
    ("asleep", disturbed::Asleep::setup),
    ("caught", disturbed::Caught::setup),
    ("pipes", ipc::Pipes::setup),
    ("unix", ipc::UnixSockets::setup),
    ("semaphore", ipc::NamedSemaphore::setup),
    ("append", files::Append::setup),
    ("deleted", files::Deleted::setup),
    ("linked", files::Linked::setup),
    ("locks", files::Locks::setup),
    ("inotify", names::Watch::setup),
    ("tmpfs", names::Tmpfs::setup),
    ("overlay", names::Overlay::setup),
    ("bind", names::Bind::setup),
    ("timerfd", tasks::Timer::setup),
    ("children", tasks::Child::setup),
    ("stopped", tasks::Stopped::setup),
    ("signals", tasks::Signals::setup),
    ("tty", tasks::Terminal::setup),
    ("tcp", net::Tcp::setup),
    ("udp", net::Udp::setup),
    ("io-uring", refused::IoUring::setup),
    ("nested-pid", refused::NestedPid::setup),
    ("outside-unix", refused::OutsideUnix::setup),
    ("traced", refused::Traced::setup),
];

/// Runs the program with the arguments of the process.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match names.as_slice() {
        [] | ["--help"] => usage(),
        ["check"] => check(),
        ["echo"] => tasks::echo(),
        ["writer", mib] => writers::child(mib),
        names => run(names),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell a failed write to.
            drop(writeln!(std::io::stderr(), "workload: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> Result<()> {
    let known: Vec<&str> = WORKLOADS.iter().map(|(name, _)| *name).collect();
    bail!(
        "usage: workload check | NAME[=VALUE]...; names: {}",
        known.join(", ")
    )
}

fn run(names: &[&str]) -> Result<()> {
    raw::exit_on_terminate();
    raw::block_user_signal()?;
    let mut active = Vec::new();
    for word in names {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let Some((name, setup)) = WORKLOADS.iter().find(|(known, _)| *known == name) else {
            return usage();
        };
        active.push((
            *name,
            setup(value).with_context(|| format!("setting up {name}"))?,
        ));
    }
    let status = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(STATUS)
        .context(STATUS)?;
    let mut failed = None;
    for count in 1.. {
        let mut details = String::new();
        for (name, workload) in &mut active {
            match workload.step(count) {
                Ok(detail) if detail.is_empty() => details.push_str(&format!(" {name}")),
                Ok(detail) => details.push_str(&format!(" {name}:{detail}")),
                Err(error) => {
                    failed.get_or_insert_with(|| format!("{name}: {error:#}"));
                }
            }
        }
        let line = match &failed {
            None => format!("count={count} ok{details}"),
            Some(reason) => format!("count={count} FAIL {reason}"),
        };
        report(&status, &line)?;
        pause(STEP);
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the clock of a program under test, not a wait"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Prints the line and keeps it, padded, so that no older and longer line shines through.
fn report(status: &File, line: &str) -> Result<()> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_millis();
    let kept = format!("{now} {line}\n");
    status
        .write_all_at(format!("{kept:<4095}\n").as_bytes(), 0)
        .context(STATUS)?;
    let mut stdout = std::io::stdout().lock();
    // A reader that went away must not end the workload.
    drop(stdout.write_all(format!("{line}\n").as_bytes()));
    drop(stdout.flush());
    Ok(())
}

fn check() -> Result<()> {
    let text = std::fs::read_to_string(Path::new(STATUS)).context(STATUS)?;
    let kept = text.lines().next().unwrap_or_default();
    let (time, line) = kept
        .split_once(' ')
        .with_context(|| format!("{STATUS}: no status yet"))?;
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(time.parse().context(STATUS)?);
    writeln!(std::io::stdout(), "{line}")?;
    let age = SystemTime::now().duration_since(at).unwrap_or_default();
    if age > FRESH {
        bail!("the last step was {age:?} ago");
    }
    if !line.contains(" ok ") {
        bail!("the workload failed");
    }
    Ok(())
}

/// Pseudo-random bytes that follow from the seed (SplitMix64), so that contents can be checked
/// without a second copy.
fn pattern(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    })
}

/// The pattern as bytes.
fn pattern_bytes(seed: u64, length: usize) -> Vec<u8> {
    pattern(seed)
        .take(length / 8)
        .flat_map(u64::to_le_bytes)
        .collect()
}
