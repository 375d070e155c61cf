//! `criu`, as an OCI runtime finds it on the `PATH` that thawd gives it; see [`criu_rpc::relay`].

use std::process::ExitCode;

fn main() -> ExitCode {
    criu_rpc::relay::main(std::env::args_os().skip(1).collect())
}
