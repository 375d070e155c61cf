//! The benchmark against plain runc, CRIU and tar; see `scripts/bench.sh`.

use std::process::ExitCode;

fn main() -> ExitCode {
    integration::bench()
}
