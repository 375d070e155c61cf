//! The first process of a pod's shared pid namespace: it holds the namespace and reaps what the
//! containers leave behind.

use std::io;
use std::process::ExitCode;

use sys::epoll::{Epoll, Interest};
use sys::signal::{self, SignalFd};

/// Runs until `SIGTERM` or `SIGINT`.
pub(crate) fn run() -> ExitCode {
    match wait() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn wait() -> io::Result<()> {
    // Blocked signals reach even the init of a pid namespace, for which those without a handler are
    // otherwise thrown away.
    let signals = SignalFd::block(&[signal::TERM, signal::INT, signal::CHLD])?;
    // No mount is kept busy.
    rustix::process::chdir("/")?;
    let epoll = Epoll::new()?;
    epoll.add(&signals, 0, Interest::Readable)?;
    loop {
        while sys::pidfd::reap_any()?.is_some() {}
        epoll.wait(None)?;
        while let Some(number) = signals.read()? {
            if number != signal::CHLD {
                return Ok(());
            }
        }
    }
}
