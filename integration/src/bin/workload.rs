//! The program inside the test images; see [`integration::workloads`].

use std::process::ExitCode;

fn main() -> ExitCode {
    integration::workloads::main()
}
