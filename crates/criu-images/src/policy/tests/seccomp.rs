//! Filters of threads.

use super::{Malformed, Privilege, core, passes, refused_by};
use crate::ViolationKind;
use crate::proto::{SeccompEntry, SeccompMode, ThreadCoreEntry};
use crate::{MemoryImages, testing};

const CORE: &str = "core-1.img";
const FILTER: &str = "thread_core.seccomp_filter";

fn thread(set: &mut MemoryImages, tid: u32, change: impl FnOnce(&mut ThreadCoreEntry)) {
    core(set, tid, |core| change(core.thread_core.as_mut().unwrap()));
}

fn filters(set: &mut MemoryImages, mut change: impl FnMut(&mut SeccompEntry)) {
    testing::edit(set, "seccomp.img", |entries: &mut Vec<SeccompEntry>| {
        change(&mut entries[0])
    });
}

fn refused(
    forge: impl FnOnce(&mut MemoryImages),
    expected: (ViolationKind, Option<u32>, &str, &str),
) {
    refused_by(&testing::confined("python"), forge, expected);
}

/// A filter that lets everything through.
fn allow_all() -> Vec<u8> {
    [
        6u16.to_le_bytes().as_slice(),
        &[0, 0],
        &0x7fff_0000u32.to_le_bytes(),
    ]
    .concat()
}

#[test]
fn a_thread_without_a_filter_is_refused() {
    for mode in [None, Some(SeccompMode::Disabled), Some(SeccompMode::Strict)] {
        refused(
            |images| thread(images, 1, |t| t.seccomp_mode = mode.map(|mode| mode as i32)),
            (Privilege, Some(1), CORE, "thread_core.seccomp_mode"),
        );
    }
}

#[test]
fn a_filter_that_lets_more_through_is_refused() {
    refused(
        |images| {
            filters(images, |entry| {
                entry.seccomp_filters[0].filter = allow_all()
            })
        },
        (Privilege, Some(1), CORE, FILTER),
    );
}

#[test]
fn one_flipped_byte_that_opens_a_call_is_refused() {
    // The return of some denied path becomes an allowed one.
    refused(
        |images| {
            filters(images, |entry| {
                for filter in &mut entry.seccomp_filters {
                    let deny = [6, 0, 0, 0, 1, 0, 5, 0];
                    let at = filter.filter.chunks(8).position(|i| i == deny).unwrap() * 8;
                    filter.filter[at + 4..at + 8].copy_from_slice(&0x7fff_0000u32.to_le_bytes());
                }
            });
        },
        (Privilege, Some(1), CORE, FILTER),
    );
}

#[test]
fn a_profile_that_allows_less_refuses_the_honest_filter() {
    let mut request = testing::confined("python");
    let profile = request.seccomp.as_mut().unwrap();
    profile.syscalls[0].names.retain(|name| name != "sendfile");
    refused_by(&request, |_| {}, (Privilege, Some(1), CORE, FILTER));
    let mut request = testing::confined("python");
    request.seccomp = None;
    passes(&request, |images| {
        filters(images, |entry| {
            entry.seccomp_filters[0].filter = allow_all()
        });
    });
}

#[test]
fn a_second_filter_of_the_program_does_not_matter() {
    passes(&testing::confined("python"), |images| {
        filters(images, |entry| {
            let mut second = entry.seccomp_filters[0].clone();
            second.filter = allow_all();
            second.prev = Some(0);
            entry.seccomp_filters.push(second);
        });
        thread(images, 1, |t| t.seccomp_filter = Some(2));
    });
}

#[test]
fn chains_that_loop_or_lead_nowhere_are_refused() {
    refused(
        |images| filters(images, |entry| entry.seccomp_filters[0].prev = Some(0)),
        (Malformed, Some(1), CORE, FILTER),
    );
    refused(
        |images| {
            filters(images, |entry| {
                entry.seccomp_filters[0].prev = Some(1);
                entry.seccomp_filters[1].prev = Some(0);
            });
        },
        (Malformed, Some(1), CORE, FILTER),
    );
    refused(
        |images| filters(images, |entry| entry.seccomp_filters[0].prev = Some(9)),
        (Malformed, Some(1), CORE, FILTER),
    );
    refused(
        |images| thread(images, 1, |t| t.seccomp_filter = Some(7)),
        (Malformed, Some(1), CORE, FILTER),
    );
    refused(
        |images| thread(images, 1, |t| t.seccomp_filter = None),
        (Malformed, Some(1), CORE, FILTER),
    );
}

#[test]
fn programs_the_kernel_would_refuse_are_refused() {
    for bytes in [Vec::new(), vec![0; 7], vec![0; 8], allow_all().repeat(4097)] {
        refused(
            |images| {
                filters(images, |entry| {
                    entry.seccomp_filters[0].filter = bytes.clone()
                })
            },
            (Malformed, None, "seccomp.img", "seccomp_filters 0"),
        );
    }
    refused(
        |images| filters(images, |entry| entry.seccomp_filters[0].flags = Some(8)),
        (Malformed, None, "seccomp.img", "seccomp_filters 0"),
    );
}

#[test]
fn filters_that_would_not_reach_all_threads_are_refused() {
    // The kernel passes them on only to threads without filters, and installs nothing otherwise.
    refused(
        |images| {
            thread(images, 6, |t| {
                t.seccomp_mode = Some(SeccompMode::Filter as i32);
                t.seccomp_filter = Some(1);
            });
        },
        (Privilege, Some(1), "core-6.img", "thread_core.seccomp_mode"),
    );
    refused(
        |images| filters(images, |entry| entry.seccomp_filters[0].flags = Some(0)),
        (Privilege, Some(1), "core-6.img", "thread_core.seccomp_mode"),
    );
    refused(
        |images| {
            filters(images, |entry| {
                let mut second = entry.seccomp_filters[0].clone();
                (second.prev, second.flags) = (Some(0), Some(0));
                entry.seccomp_filters.push(second);
            });
            thread(images, 1, |t| t.seccomp_filter = Some(2));
        },
        (Privilege, Some(1), CORE, FILTER),
    );
    passes(&testing::confined("python"), |images| {
        filters(images, |entry| entry.seccomp_filters[0].flags = Some(0));
        thread(images, 6, |t| {
            t.seccomp_mode = Some(SeccompMode::Filter as i32);
            t.seccomp_filter = Some(0);
        });
    });
}
