//! thawd side by side with plain runc, CRIU and tar, as ratios.
//!
//! Two sides run the same program from the same image, one after the other, again and again:
//!
//! ```text
//!           thawd                                  baseline
//! start     pod, CreateContainer, StartContainer   runc run --detach
//! freeze    CheckpointContainer                    runc checkpoint --leave-running; tar -cf
//! end       StopContainer, RemoveContainer         runc kill, delete; images removed
//! restore   CreateContainer, StartContainer        tar -xf; runc restore --detach
//! verify    every word of the restored memory, and that no page is torn
//! ```
//! What is measured of each, and where:
//!
//! * *frozen*: the longest time between two steps of a thread in the container that sleeps 100 µs
//!   between them, while the checkpoint was taken.
//! * *finished*: from the call until it returned (thawd), or until tar ended (baseline). thawd's
//!   archive is on the disk by then; the baseline does not wait for the disk.
//! * *on the disk*: until the baseline's archive was synced as well.
//! * *written*: `write_bytes` in /proc/PID/io of the daemon, or of the commands, with the children
//!   that they waited for: bytes that became dirty for a disk or went to it past the page cache. A
//!   tmpfs does not count. It is divided by the container's anonymous memory (`RssAnon`).
//! * *restore*: from the call, or from the start of tar, until that thread in the restored
//!   container has taken a step. thawd's new pod is there already, as is the baseline's network.
//!
//! Before each measured step everything dirty is written out, so that neither pays for the other.
//! Only one container exists at a time. One round of the smallest size goes first and is not
//! counted. The times of one machine mean little; the report gives ratios, and medians below them.

mod arguments;
mod baseline;
mod interrupt;
mod measure;
mod meter;
mod pipes;
mod report;
mod subject;
mod workload;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;

use crate::harness::{arena, cgroups, needs};
use arguments::{Arguments, Options};

/// Runs the program with the arguments of the process.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments::parse(&words) {
        Ok(Arguments::Workload { mib, seed }) => workload::run(mib, seed).map(|()| true),
        Ok(Arguments::Help) => say(arguments::USAGE).map(|()| true),
        Ok(Arguments::Compare(options)) => compare(&options),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            progress(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Measures and reports; whether everything that was asked for holds.
fn compare(options: &Options) -> Result<bool> {
    if !arena::inside() {
        let missing = needs::missing();
        anyhow::ensure!(missing.is_empty(), "{}", missing.join("\n"));
        // Its packages may have to be downloaded, and there is no network inside.
        let program = needs::program("bench")?;
        needs::program_image(&program.display().to_string())?;
        return Err(arena::become_inside());
    }
    interrupt::catch()?;
    cgroups::sweep()?;
    arena::prepare()?;
    // As on a node, and unlike in some containers: CRIU keeps what it found out about the kernel in
    // /run, but only on a tmpfs, and each of its runs takes 28 ms longer when it cannot.
    arena::run(
        "mount",
        &["-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"],
    )?;
    let limit = pipes::Limit::lift()?;
    let results = measure::all(options)?;
    drop(limit);
    say(&report::markdown(&results)?)?;
    let missed = report::missed(&results);
    for line in &missed {
        progress(&format!("not as expected: {line}"));
    }
    Ok(missed.is_empty() || !options.check)
}

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{}", text.trim_end())?;
    Ok(())
}

/// A line for whoever waits.
fn progress(text: &str) {
    // Nothing is left to tell a failed write to.
    drop(writeln!(std::io::stderr(), "{text}"));
}
