//! `thawd-monitor`: the process that stands beside one container (`run`), the first process of a pod's
//! shared pid namespace (`pause`), the parent of one process that is run in a container (`exec`), what
//! makes a container's memory copy-on-write and freezes it for a checkpoint (`hold`), and what keeps CRIU
//! from waiting for a daemon that was killed (`pipes`).
//!
//! One thread, one epoll loop, no allocation that grows with what the container does. The contract with
//! the daemon is in the documentation of the library `monitor`.
//!
//! ```text
//!  main ─▶ setup (detach, subreaper, socket, log, pipes) ─▶ event_loop ─┬─ outputs ─▶ cri_log
//!    ├───▶ pause                                                        └─ server (monitor.sock)
//!    ├───▶ exec
//!    ├───▶ hold
//!    └───▶ pipes
//! ```

mod cri_log;
mod descendants;
mod event_loop;
mod exec;
#[cfg(target_arch = "x86_64")]
mod hold;
mod oom;
mod outputs;
mod pause;
mod pipes;
mod server;
mod setup;

use std::ffi::OsStr;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mode = std::env::args_os().nth(1);
    match mode.as_deref().and_then(OsStr::to_str) {
        Some("run") => run(),
        // Whose it is tells the daemon, and people, from the command line.
        Some("pause") if std::env::args_os().len() == 3 => pause::run(),
        Some("exec") => exec::run(std::env::args_os().skip(2)),
        Some("pipes") => pipes::run(std::env::args_os().skip(2)),
        #[cfg(target_arch = "x86_64")]
        Some("hold") => hold::run(std::env::args_os().skip(2)),
        Some("--version") => {
            let version = env!("CARGO_PKG_VERSION");
            status(writeln!(std::io::stdout(), "thawd-monitor version {version}").is_ok())
        }
        _ => {
            let usage = "usage: thawd-monitor run ID | exec PID_FILE RUNTIME ARG... | pause ID | \
                         hold PID FREEZER | pipes COUNT | --version";
            drop(writeln!(std::io::stderr(), "{usage}"));
            ExitCode::from(2)
        }
    }
}

fn run() -> ExitCode {
    // Without the channel there is nobody to tell, and nothing has been begun.
    let Ok(channel) = setup::take_channel() else {
        return ExitCode::from(2);
    };
    match setup::prepare(&channel) {
        Ok(prepared) => status(event_loop::run(prepared, channel).is_ok()),
        Err(failure) => {
            setup::tell_failure(&channel, failure);
            ExitCode::FAILURE
        }
    }
}

fn status(success: bool) -> ExitCode {
    if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
