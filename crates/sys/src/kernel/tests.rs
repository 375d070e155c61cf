use super::*;
use crate::testing::{Argument, Refusal, refusing};

fn all(call: libc::c_long, errno: i32) -> Refusal {
    Refusal {
        call,
        argument: None,
        errno,
    }
}

fn where_argument(call: libc::c_long, index: u32, value: u32, errno: i32) -> Refusal {
    Refusal {
        call,
        argument: Some(Argument {
            index,
            mask: u32::MAX,
            value,
        }),
        errno,
    }
}

/// Names of what is missing.
fn missing(kernel: &Kernel) -> Vec<&'static str> {
    kernel
        .found
        .iter()
        .filter(|found| matches!(found.answer, Answer::Missing(_)))
        .map(|found| found.feature.name)
        .collect()
}

#[test]
fn every_feature_is_asked_for_and_a_kernel_of_today_lacks_none_that_is_needed() {
    let kernel = probe();
    assert_eq!(kernel.found.len(), FEATURES.len());
    assert_eq!(kernel.release, crate::sysinfo::kernel().release);
    assert_eq!(kernel.refusal(), None, "{kernel:?}");
    let unknown = kernel.found.iter().find(|found| {
        let answer = &found.answer;
        matches!(answer, Answer::Unknown(_))
    });
    assert!(unknown.is_none(), "{unknown:?}");
}

/// What is missing where these calls fail so, beside what is missing here anyway.
fn check(refusals: &[Refusal], expected: &[&str]) -> Kernel {
    let before = missing(&probe());
    let kernel = refusing(refusals, probe).unwrap();
    let mut found = missing(&kernel);
    found.retain(|name| !before.contains(name));
    assert_eq!(found, expected, "{kernel:?}");
    kernel
}

#[test]
fn what_is_missing_and_needed_is_refused_with_its_name_and_the_release_that_has_it() {
    for (refusal, names, since) in [
        (
            all(libc::SYS_mount_setattr, libc::ENOSYS),
            &["mount_setattr"][..],
            "Linux 5.12",
        ),
        (
            all(libc::SYS_openat2, libc::ENOSYS),
            &["openat2"],
            "Linux 5.6",
        ),
        (
            all(libc::SYS_pidfd_send_signal, libc::ENOSYS),
            &["pidfd_send_signal"],
            "Linux 5.1",
        ),
        (
            all(libc::SYS_pidfd_getfd, libc::ENOSYS),
            &["pidfd_getfd"],
            "Linux 5.6",
        ),
        (
            // P_PIDFD
            where_argument(libc::SYS_waitid, 0, 3, libc::EINVAL),
            &["waitid(P_PIDFD)"],
            "Linux 5.4",
        ),
        (
            all(libc::SYS_pidfd_open, libc::ENOSYS),
            &[
                "pidfd_open",
                "pidfd_send_signal",
                "waitid(P_PIDFD)",
                "pidfd_getfd",
                "ptrace(PTRACE_O_SUSPEND_SECCOMP)",
                "ptrace(PTRACE_GET_RSEQ_CONFIGURATION)",
            ],
            "Linux 5.3",
        ),
    ] {
        let kernel = check(&[refusal], names);
        let text = kernel.refusal().unwrap();
        let begin = format!(
            "kernel {} lacks {} ({since} has it",
            kernel.release, names[0]
        );
        assert!(text.starts_with(&begin), "{text}");
        let error = io::Error::from_raw_os_error(refusal.errno).to_string();
        assert!(text.ends_with(&error), "{text}");
    }
}

#[test]
fn what_there_is_a_way_around_for_is_missing_and_not_refused() {
    for (refusal, names) in [
        (
            all(libc::SYS_close_range, libc::ENOSYS),
            &["close_range"][..],
        ),
        (all(libc::SYS_kcmp, libc::ENOSYS), &["kcmp(KCMP_FILE)"]),
        (
            // AF_NETLINK
            where_argument(libc::SYS_socket, 0, 16, libc::EAFNOSUPPORT),
            &["sock_diag(AF_UNIX)"],
        ),
        (
            all(libc::SYS_vmsplice, libc::EINVAL),
            &["fork keeps pages that lie in pipes"],
        ),
        (
            // PTRACE_SETOPTIONS
            where_argument(libc::SYS_ptrace, 0, 0x4200, libc::EINVAL),
            &["ptrace(PTRACE_O_SUSPEND_SECCOMP)"],
        ),
        (
            // PTRACE_GET_RSEQ_CONFIGURATION
            where_argument(libc::SYS_ptrace, 0, 0x420f, libc::EIO),
            &["ptrace(PTRACE_GET_RSEQ_CONFIGURATION)"],
        ),
        (
            all(libc::SYS_setxattr, libc::EOPNOTSUPP),
            &["tmpfs: attributes user.*"],
        ),
    ] {
        let kernel = check(&[refusal], names);
        assert_eq!(kernel.refusal(), None);
    }
}

#[test]
fn a_process_that_may_not_ask_is_not_told_that_something_is_missing() {
    let kernel = check(&[all(libc::SYS_unshare, libc::EPERM)], &[]);
    assert_eq!(kernel.refusal(), None);
    let overlay = kernel
        .found
        .iter()
        .find(|found| found.feature.name == "overlay");
    assert!(
        matches!(&overlay.unwrap().answer, Answer::Unknown(text) if text.contains("not permitted")),
        "{overlay:?}"
    );
}

#[test]
fn names_differ() {
    let mut names: Vec<&str> = FEATURES.iter().map(|feature| feature.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), FEATURES.len());
}
