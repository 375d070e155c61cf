//! The first process of a pod's shared pid namespace: it holds the namespace and reaps what the
//! containers leave behind.
//!
//! The containers see it as process 1. One of them may be allowed to trace, for debugging, and gets
//! what its victim has (`/proc/1/root`, `/proc/1/fd`, its namespaces and capabilities): so there is
//! nothing to get. The daemon starts it in the pod's own namespaces.

use std::io;
use std::process::ExitCode;

use sys::epoll::{Epoll, Interest};
use sys::signal::{self, SignalFd};

/// Who it is: nobody.
const USER: u32 = 65534;

/// Says `ready` on standard output, then runs until `SIGTERM` or `SIGINT`.
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
    let epoll = Epoll::new()?;
    epoll.add(&signals, 0, Interest::Readable)?;
    sys::confine::empty_root()?;
    sys::confine::drop_privileges(USER)?;
    rustix::io::write(io::stdout(), b"ready\n")?;
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
