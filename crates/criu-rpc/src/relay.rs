//! The relay: a program that an OCI runtime takes for CRIU.
//!
//! `runc restore` and `crun restore` look `criu` up on their `PATH` and run `criu swrk N`. With the
//! relay first on it under that name, thawd stands between the two:
//!
//! ```text
//!  runc restore ══ fd N ══ thawd-criu-relay swrk N ══ fd N ══ criu --no-default-config swrk N
//!       │                        │       ▲                      │
//!       │       parent's descriptors    config (THAWD_RELAY_CONFIG)   tasks (rst_sibling: children
//!       └── puts the relay into the container's cgroup                of the relay, then of the
//!                                │                                    nearest subreaper)
//!                                └── hold_socket ══ whoever releases the restored tasks
//! ```
//!
//! # What it does
//! - It starts CRIU when the first request arrives: by then the runtime has put the relay into the
//!   container's cgroup, and CRIU is born there.
//! - It opens `images_dir_fd`, `work_dir_fd`, `status_fd` and `pidfd_store_sk`, which are numbers in
//!   the runtime, and puts its own numbers in their place: CRIU opens them through the `/proc` entry
//!   of whoever made the socket. Numbers in `inherit_fd` belong to the CRIU process and stay: it
//!   inherits what the relay inherited, under the same numbers.
//! - For a runtime that does not put it there (crun), it joins the container's cgroup itself, and
//!   keeps the restored tasks frozen until limits and device rules are set; see [`CgroupEntry`].
//! - It edits RESTORE requests as [`RelayConfig`] says. Fields it does not know pass unchanged.
//! - With `hold_socket` it delays the runtime's answer to the stage `post-restore`: all tasks are
//!   rebuilt, none has run, the runtime knows them, and CRIU still removes them when it is told to
//!   give up. (It would not at `pre-resume`, the stage after: CRIU 4.2 ignores a refusal there.)
//! - Packets otherwise pass both ways as they are, with their descriptors.
//!
//! # What it does not do
//! It waits for CRIU only, never for "any child": the restored tasks' exits are the subreaper's to
//! see. It prints nothing while it relays, because its standard descriptors may be the container's;
//! its own failures are told to the runtime as CRIU's would be. Anything but `swrk` in its arguments
//! makes it become CRIU unchanged.

mod cgroup;
mod config;
mod edit;
mod forward;
mod hold;
mod wire;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use sys::process::{Command, take_inherited};

pub use config::{CONFIG_VARIABLE, CgroupEntry, ConfigError, RelayConfig};
pub use hold::{HeldRestore, HoldError};

use forward::Relay;

/// Exit status when the relay could not do its part, as a shell's for a command not found.
const FAILED: u8 = 127;

/// The relay program: `args` without the program's name. Returns CRIU's exit status.
///
/// Must be called at the start of `main`, before other threads exist: it takes the descriptors that
/// the process was started with.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let config = RelayConfig::from_environment();
    let Some(number) = swrk_number(&args) else {
        return match config {
            Ok(config) => complain(&become_criu(config.criu, args).to_string()),
            Err(error) => complain(&with_causes(&error)),
        };
    };
    let inherited = match take_inherited() {
        Ok(inherited) => inherited,
        Err(error) => return complain(&error.to_string()),
    };
    let (client, others) = split(inherited, number);
    let Some(client) = client else {
        return complain(&format!("descriptor {number} is not open"));
    };
    ExitCode::from(Relay::new(client, number, others).run(config))
}

/// The number after `swrk`.
fn swrk_number(args: &[OsString]) -> Option<i32> {
    let at = args.iter().position(|arg| arg == "swrk")?;
    args.get(at.checked_add(1)?)?.to_str()?.parse().ok()
}

type Numbered = Vec<(i32, OwnedFd)>;

fn split(inherited: Numbered, number: i32) -> (Option<OwnedFd>, Numbered) {
    let (client, others): (Numbered, Numbered) =
        inherited.into_iter().partition(|(fd, _)| *fd == number);
    (client.into_iter().next().map(|(_, fd)| fd), others)
}

fn become_criu(criu: PathBuf, args: Vec<OsString>) -> io::Error {
    Command::new(criu).args(args).exec()
}

/// Before anything is relayed, standard error is where a person looks.
fn complain(text: &str) -> ExitCode {
    writeln!(io::stderr(), "thawd-criu-relay: {text}").ok();
    ExitCode::from(FAILED)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
