//! Images as CRIU writes them pass.

use crate::policy::{PathUse, check};
use crate::testing;

#[test]
fn a_program_with_one_of_everything_open_passes() {
    let summary = check(&testing::images("python"), &testing::request("python"))
        .unwrap_or_else(|violations| panic!("{violations:#?}"));
    assert_eq!((summary.root_pid, summary.tasks, summary.threads), (1, 3, 4));
}

#[test]
fn a_shell_with_a_terminal_dumped_by_runc_passes() {
    let summary = check(&testing::images("terminal"), &testing::request("terminal"))
        .unwrap_or_else(|violations| panic!("{violations:#?}"));
    assert!(summary.terminal);
    assert!(summary.paths.iter().any(|path| path.purpose == PathUse::Open));
}
