//! Runs the end-to-end tests.
//!
//! `cargo test -p integration --test e2e -- --list` names them, a name or a part of it runs some.

use std::process::ExitCode;

fn main() -> ExitCode {
    integration::run()
}
