//! Runs the end-to-end tests; `cargo test -p integration --test e2e -- --list` names them.

fn main() {}
