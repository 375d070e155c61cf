//! The tests, by name, and the order in which they run.

mod applications;
mod bad_input;
mod containers;
mod cow;
mod crun;
mod ends;
mod engines;
mod forged;
mod hostile;
mod kubernetes;
mod network;
mod pods;
mod shapes;
mod story;
mod survival;
mod terminals;
mod tools;
mod undumpable;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::harness::daemon::{Ground, Thawd};
use crate::harness::{arena, cgroups, needs};

/// A test: it is given a thawd of its own.
type Test = fn(&mut Thawd) -> Result<()>;

/// Runs the tests that the program's arguments choose. They are those of libtest.
#[must_use]
pub fn run() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials()).exit_code();
    }
    let outcome = if arena::inside() {
        prepare().map(|()| {
            // One at a time: the tests measure, and share two processors with their daemons.
            arguments.test_threads = Some(1);
            libtest_mimic::run(&arguments, trials()).exit_code()
        })
    } else {
        let missing = needs::missing();
        if missing.is_empty() {
            arena::enter()
        } else {
            Err(anyhow::anyhow!("{}", missing.join("\n")))
        }
    };
    outcome.unwrap_or_else(|error| {
        drop(writeln!(std::io::stderr(), "integration: {error:#}"));
        ExitCode::FAILURE
    })
}

fn prepare() -> Result<()> {
    cgroups::sweep()?;
    arena::prepare()
}

fn trials() -> Vec<Trial> {
    let tests = [
        story::TESTS,
        pods::TESTS,
        containers::TESTS,
        ends::TESTS,
        survival::TESTS,
        cow::TESTS,
        bad_input::TESTS,
        engines::TESTS,
        undumpable::TESTS,
        terminals::TESTS,
        hostile::TESTS,
        forged::TESTS,
        applications::TESTS,
        tools::TESTS,
        kubernetes::TESTS,
        network::TESTS,
        shapes::TESTS,
    ]
    .into_iter()
    .flatten();
    let here = tests.map(|test| (Ground::default(), test));
    here.chain(crun::trials())
        .map(|(ground, (name, test))| {
            Trial::test(*name, move || {
                run_one(ground, *test).map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .collect()
}

fn run_one(ground: Ground, test: Test) -> Result<()> {
    let mut thawd = Thawd::start_on(ground)?;
    match test(&mut thawd) {
        Ok(()) => thawd.finish(),
        Err(error) => {
            let tail = thawd.log_tail();
            Err(error.context(format!("thawd's log ends with:\n{tail}\n---")))
        }
    }
}
