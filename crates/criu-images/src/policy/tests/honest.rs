//! Images as CRIU writes them pass.

use std::path::Path;

use crate::policy::{PathUse, check};
use crate::testing;

#[test]
fn a_program_with_one_of_everything_open_passes() {
    let summary = check(&testing::images("python"), &testing::confined("python"))
        .unwrap_or_else(|violations| panic!("{violations:#?}"));
    assert_eq!(
        (summary.root_pid, summary.tasks, summary.threads),
        (1, 3, 4)
    );
    assert!(summary.tcp_close && !summary.terminal);
    assert_eq!(summary.page_images[0].1, 5_365_760);
    assert_eq!(
        summary.page_bytes,
        summary
            .page_images
            .iter()
            .map(|(_, size)| size)
            .sum::<u64>()
    );
    assert!(summary.stdio_pipes[0].is_none());
    assert!(summary.stdio_pipes[1].is_some() && summary.stdio_pipes[1] == summary.stdio_pipes[2]);
    assert!(summary.external_mounts.contains(&"/etc/hosts".to_owned()));
    let purpose = |path: &str| {
        let found = summary.paths.iter().find(|p| p.path == Path::new(path));
        found.map(|p| (p.purpose, p.mountpoint.to_str().unwrap()))
    };
    assert_eq!(purpose("/var/lock"), Some((PathUse::Open, "/")));
    assert_eq!(purpose("/var/ghost"), Some((PathUse::Deleted, "/")));
    assert_eq!(purpose("/var/watched"), Some((PathUse::Watch, "/")));
    assert_eq!(
        purpose("/etc/hosts"),
        Some((PathUse::MountPoint, "/etc/hosts"))
    );
    assert!(
        summary.paths.iter().any(|p| {
            (p.path.as_path(), p.purpose) == (Path::new("/tmp"), PathUse::SocketParent)
        })
    );
}

#[test]
fn a_shell_with_a_terminal_dumped_by_runc_passes() {
    let summary = check(&testing::images("terminal"), &testing::confined("terminal"))
        .unwrap_or_else(|violations| panic!("{violations:#?}"));
    assert!(summary.terminal);
    assert_eq!(summary.stdio_pipes, [None; 3]);
}
