//! Ranges with guard pages behind the mappings.

use super::{Malformed, passes, refused};
use crate::policy::PAGE;
use crate::proto::{MmEntry, VmaEntry};
use crate::{MemoryImages, testing};

/// `MAP_HUGETLB` of mmap(2).
const MAP_HUGETLB: u32 = 0x40000;

fn memory(set: &mut MemoryImages, change: impl Fn(&mut MmEntry)) {
    testing::edit(set, "mm-1.img", |all: &mut Vec<MmEntry>| {
        change(&mut all[0])
    });
}

/// Guard pages from `start` to `end`, as CRIU writes them.
fn guard(start: u64, end: u64) -> VmaEntry {
    VmaEntry {
        start,
        end,
        status: 1 << 16,
        fd: -1,
        ..VmaEntry::default()
    }
}

/// Guard pages in the place of the mapping `vma`.
fn over(vma: &VmaEntry) -> VmaEntry {
    guard(vma.start, vma.end)
}

/// The mappings of the first task.
fn mappings() -> Vec<VmaEntry> {
    let mut images = testing::decode(&testing::images("python"));
    images.memory.remove(&1).unwrap().vmas
}

/// Number of the first mapping that has all bits of `status`.
fn of_class(status: u32) -> usize {
    let found = mappings()
        .iter()
        .position(|vma| vma.status & status == status);
    found.unwrap()
}

/// Number of a mapping of private memory that the next follows without a gap, and of which neither
/// is the kernel's own.
fn followed() -> usize {
    let private = |vma: &VmaEntry| vma.status & 0b1_0000_0000_1100 == 0 && vma.status & 0x240 != 0;
    let found = mappings()
        .windows(2)
        .position(|two| two[0].end == two[1].start && two.iter().all(private));
    found.unwrap()
}

/// Adding `entries` behind the mappings is refused, and the entry at `start` is named.
#[track_caller]
fn adding_is_refused(entries: &[VmaEntry], start: u64) {
    refused(
        |images| memory(images, |m| m.vmas.extend_from_slice(entries)),
        (Malformed, Some(1), "mm-1.img", &format!("vma {start:#x}")),
    );
}

#[test]
fn guard_pages_lie_in_private_and_shared_mappings() {
    for class in [1 << 6, 1 << 7, 1 << 8, 1 << 9] {
        let vma = &mappings()[of_class(1 | class)];
        passes(&testing::request("python"), |images| {
            memory(images, |m| m.vmas.push(over(vma)));
        });
    }
}

#[test]
fn guard_pages_follow_each_other_and_reach_over_mappings() {
    let (all, at) = (mappings(), followed());
    let (start, middle, end) = (all[at].start, all[at].end, all[at + 1].end);
    let ranges: [&[VmaEntry]; 3] = [
        &[guard(start, end)],
        &[guard(middle - PAGE, middle + PAGE)],
        &[
            guard(start, start + PAGE),
            guard(start + PAGE, end - PAGE),
            guard(end - PAGE, end),
        ],
    ];
    for ranges in ranges {
        passes(&testing::request("python"), |images| {
            memory(images, |m| m.vmas.extend_from_slice(ranges));
        });
    }
}

#[test]
fn guard_pages_are_ranges_of_pages_in_order() {
    let vma = &mappings()[of_class(1 << 9 | 1 << 5)];
    let (start, end) = (vma.start, vma.end);
    adding_is_refused(&[guard(start, start)], start);
    adding_is_refused(&[guard(end, start)], end);
    adding_is_refused(&[guard(start + 1, end)], start + 1);
    adding_is_refused(&[guard(start, end - 1)], start);
    let (first, second) = (guard(start + PAGE, end), guard(start, start + 2 * PAGE));
    adding_is_refused(&[first, second], start);
    adding_is_refused(&[first, first], start + PAGE);
}

#[test]
fn guard_pages_outside_of_mappings_are_malformed() {
    let all = mappings();
    let gap = all.windows(2).find(|two| two[0].end < two[1].start);
    let [before, after] = gap.unwrap() else {
        unreachable!("windows of two")
    };
    adding_is_refused(&[guard(0, PAGE)], 0);
    let (start, end) = (before.start, before.end);
    adding_is_refused(&[guard(end, end + PAGE)], end);
    adding_is_refused(&[guard(start, end + PAGE)], start);
    adding_is_refused(&[guard(start, after.end)], start);
    adding_is_refused(&[guard(after.start - PAGE, after.end)], after.start - PAGE);
    for far in [1 << 55, 1 << 56, 1 << 63, u64::MAX - 2 * PAGE + 1] {
        adding_is_refused(&[guard(far, far + PAGE)], far);
    }
    adding_is_refused(&[guard(start, u64::MAX - PAGE + 1)], start);
}

#[test]
fn guard_pages_in_mappings_that_the_kernel_keeps_them_out_of_are_malformed() {
    for class in [1 << 2, 1 << 3, 1 << 12] {
        let vma = &mappings()[of_class(class)];
        adding_is_refused(&[over(vma)], vma.start);
    }
    let at = of_class(1 << 9 | 1 << 5);
    let vma = &mappings()[at];
    type Forge = fn(&mut VmaEntry);
    let forges: [Forge; 3] = [
        |vma| vma.flags |= MAP_HUGETLB,
        |vma| vma.status |= 1 << 13,
        |vma| vma.status = 1,
    ];
    for forge in forges {
        refused(
            |images| {
                memory(images, |m| {
                    forge(&mut m.vmas[at]);
                    m.vmas.push(over(vma));
                });
            },
            (
                Malformed,
                Some(1),
                "mm-1.img",
                &format!("vma {:#x}", vma.start),
            ),
        );
    }
}

#[test]
fn guard_pages_say_nothing_else() {
    let vma = &mappings()[of_class(1 << 9 | 1 << 5)];
    type Forge = fn(&mut VmaEntry);
    let forges: [Forge; 13] = [
        |guard| guard.status |= 1,
        |guard| guard.status |= 1 << 3,
        |guard| guard.status |= 1 << 9,
        |guard| guard.status |= 1 << 17,
        |guard| guard.status |= 1 << 30,
        |guard| guard.pgoff = PAGE,
        |guard| guard.shmid = 1,
        |guard| guard.prot = 7,
        |guard| guard.flags = 0x22,
        |guard| guard.fd = 3,
        |guard| guard.madv = Some(1 << 4),
        |guard| guard.madv = Some(0),
        |guard| guard.fdflags = Some(0),
    ];
    for forge in forges {
        let mut forged = over(vma);
        forge(&mut forged);
        adding_is_refused(&[forged], vma.start);
    }
}

/// CRIU would look for the place of its own code without regard to mappings from there on.
#[test]
fn no_mapping_follows_guard_pages_or_claims_to_be_some() {
    let all = mappings();
    for (at, vma) in all.iter().enumerate() {
        let field = format!("vma {:#x}", vma.start);
        let expected = (Malformed, Some(1), "mm-1.img", field.as_str());
        refused(
            |images| memory(images, |m| m.vmas[at].status |= 1 << 16),
            expected,
        );
        if at > 0 {
            refused(
                |images| memory(images, |m| m.vmas.insert(at, over(&all[0]))),
                expected,
            );
        }
    }
    refused(
        |images| memory(images, |m| m.vmas.insert(0, over(&all[0]))),
        (
            Malformed,
            Some(1),
            "mm-1.img",
            &format!("vma {:#x}", all[0].start),
        ),
    );
}
