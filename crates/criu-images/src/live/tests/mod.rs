//! Live parts of images that are made up, and of real ones.

mod broken;
mod random;

use prost::Message as _;

use super::{LivePart, Written, live_parts};
use crate::policy::{PAGE, pages_of};
use crate::proto::{MmEntry, PagemapEntry, PagemapHead, VmaEntry};
use crate::{MemoryImages, testing};

/// Address of the first page of made-up memory.
const BASE: u64 = 0x7f00_0000_0000;
const PRESENT: Option<u32> = Some(4);
const LAZY: Option<u32> = Some(6);
const PARENT: Option<u32> = Some(1);
const ABSENT: Option<u32> = Some(0);

fn address(page: u64) -> u64 {
    BASE + page * PAGE
}

/// Pages `first..last` of private memory, which fork protects.
fn private(first: u64, last: u64) -> VmaEntry {
    VmaEntry {
        start: address(first),
        end: address(last),
        prot: 3,
        flags: 0x22,
        status: 1 | 1 << 9,
        ..VmaEntry::default()
    }
}

/// An entry of `count` pages from page `first` on.
fn run(first: u64, count: u64, flags: Option<u32>) -> PagemapEntry {
    PagemapEntry {
        vaddr: address(first),
        nr_pages: Some(count),
        flags,
        ..PagemapEntry::default()
    }
}

fn add_pagemap(set: &mut MemoryImages, name: &str, pages_id: u32, runs: &[PagemapEntry]) {
    let head = PagemapHead { pages_id }.encode_to_vec();
    let runs = runs.iter().map(PagemapEntry::encode_to_vec);
    let entries: Vec<Vec<u8>> = [head].into_iter().chain(runs).collect();
    testing::add(set, name, &entries);
}

fn add_memory(set: &mut MemoryImages, pid: u32, vmas: &[VmaEntry]) {
    let memory = MmEntry {
        vmas: vmas.to_vec(),
        ..MmEntry::default()
    };
    testing::add(set, &format!("mm-{pid}.img"), &[memory.encode_to_vec()]);
}

/// Process 7, whose pages are in `pages-3.img`.
fn process(vmas: &[VmaEntry], runs: &[PagemapEntry]) -> MemoryImages {
    let mut set = MemoryImages::default();
    add_memory(&mut set, 7, vmas);
    add_pagemap(&mut set, "pagemap-7.img", 3, runs);
    set
}

fn written(first: u64, length: u64) -> Written {
    Written {
        pid: 7,
        address: first,
        length,
    }
}

/// Pages `first..last` of the image `image`.
fn part(image: u32, first: u64, last: u64) -> LivePart {
    LivePart {
        image,
        begin: first * PAGE,
        end: last * PAGE,
    }
}

fn whole(image: u32) -> LivePart {
    LivePart {
        image,
        begin: 0,
        end: u64::MAX,
    }
}

#[track_caller]
fn check(set: &MemoryImages, written: &[Written], expected: &[LivePart]) {
    assert_eq!(live_parts(set, written).unwrap(), expected);
}

#[test]
fn nothing_of_private_memory_is_live() {
    check(&MemoryImages::default(), &[], &[]);
    let mut file = private(4, 8);
    (file.flags, file.status) = (0x02, 1 | 1 << 6);
    let set = process(&[private(0, 4), file], &[run(0, 8, PRESENT)]);
    check(&set, &[], &[]);
}

#[test]
fn mappings_that_fork_does_not_share_are_live() {
    type Change = fn(&mut VmaEntry);
    let kinds: [(&str, Change); 13] = [
        ("left out by fork", |vma| vma.madv = Some(1 << 10)),
        ("wiped by fork", |vma| vma.madv = Some(1 << 18 | 1 << 14)),
        ("shared", |vma| vma.status = 1 | 1 << 8),
        ("shared file", |vma| vma.status = 1 | 1 << 7),
        ("segment", |vma| vma.status |= 1 << 10),
        ("shadow stack", |vma| vma.status |= 1 << 15),
        ("MAP_SHARED", |vma| vma.flags = 0x21),
        ("MAP_SHARED_VALIDATE", |vma| vma.flags = 0x23),
        ("MAP_HUGETLB", |vma| vma.flags |= 0x40000),
        ("MAP_DROPPABLE", |vma| vma.flags = 0x28),
        ("MAP_DROPPABLE and private", |vma| vma.flags = 0x2a),
        ("no class", |vma| vma.status = 1),
        ("empty flags", |vma| vma.flags = 0),
    ];
    for (kind, change) in kinds {
        let mut vma = private(2, 4);
        change(&mut vma);
        let set = process(&[private(0, 2), vma, private(4, 6)], &[run(0, 6, PRESENT)]);
        assert_eq!(live_parts(&set, &[]).unwrap(), [part(3, 2, 4)], "{kind}");
    }
}

#[test]
fn all_memory_is_live_where_a_request_may_read_into_any_page() {
    let mut ring = private(2, 4);
    for status in [ring.status | 1 << 13, 1 << 13] {
        ring.status = status;
        let vmas = [private(0, 2), ring, private(4, 6)];
        let set = process(&vmas, &[run(0, 6, PRESENT)]);
        check(&set, &[], &[part(3, 0, 6)]);
    }
}

#[test]
fn other_advice_and_flags_protect_no_less() {
    let mut vma = private(0, 4);
    // MADV_DONTDUMP, MADV_MERGEABLE, MADV_HUGEPAGE; MAP_GROWSDOWN, MAP_LOCKED, MAP_NORESERVE.
    vma.madv = Some(1 << 16 | 1 << 12 | 1 << 14);
    vma.flags |= 0x100 | 0x2000 | 0x4000;
    vma.status |= 1 << 1;
    check(&process(&[vma], &[run(0, 4, PRESENT)]), &[], &[]);
}

#[test]
fn only_stored_pages_count_in_offsets() {
    let mut shared = private(10, 30);
    shared.flags = 0x21;
    let compatible = PagemapEntry {
        compat_nr_pages: 2,
        nr_pages: None,
        ..run(16, 0, None)
    };
    let in_parent = PagemapEntry {
        in_parent: Some(true),
        ..run(18, 2, None)
    };
    let runs = [
        run(0, 3, PRESENT),
        run(3, 2, PARENT),
        run(8, 4, PRESENT),  // 10 and 11 are in the mapping: stored as 5 and 6
        run(12, 1, ABSENT),  // nothing
        run(13, 1, Some(2)), // lazy and not stored
        run(14, 1, PRESENT), // stored as 7
        run(15, 1, PARENT),  // nothing
        compatible,          // stored as 8 and 9
        in_parent,           // nothing
        run(20, 2, LAZY),    // stored as 10 and 11
        run(29, 3, PRESENT), // 29 is in the mapping: stored as 12
        run(40, 1, PRESENT), // stored as 15
    ];
    let vmas = [private(0, 10), shared, private(30, 39), private(39, 50)];
    let set = process(&vmas, &runs);
    check(&set, &[], &[part(3, 5, 13)]);
    let places = [written(address(40), 32), written(address(15), 32)];
    check(&set, &places, &[part(3, 5, 13), part(3, 15, 16)]);
}

#[test]
fn a_mapping_of_several_runs_and_a_run_of_several_mappings() {
    let shared = |first, last| VmaEntry {
        flags: 0x21,
        ..private(first, last)
    };
    let vmas = [
        shared(0, 2),
        private(2, 4),
        shared(4, 5),
        shared(6, 7),
        private(7, 9),
        shared(9, 20),
    ];
    let runs = [
        run(1, 7, PRESENT), // stored as 0 to 6; page 5 lies in no mapping
        run(10, 1, PRESENT),
        run(12, 1, PRESENT),
        run(14, 9, PRESENT), // its last three pages lie in no mapping
    ];
    let set = process(&vmas, &runs);
    check(&set, &[], &[part(3, 0, 1), part(3, 3, 6), part(3, 7, 18)]);
}

#[test]
fn pages_in_no_mapping_are_live() {
    let set = process(&[private(2, 4)], &[run(1, 4, PRESENT)]);
    check(&set, &[], &[part(3, 0, 1), part(3, 3, 4)]);
    let set = process(&[], &[run(1, 4, PRESENT)]);
    check(&set, &[], &[part(3, 0, 4)]);
}

#[test]
fn guard_pages_after_the_mappings_are_no_mappings() {
    let guard = VmaEntry {
        status: 1 << 16,
        flags: 0,
        ..private(1, 2)
    };
    let set = process(
        &[private(0, 4), private(4, 8), guard],
        &[run(2, 3, PRESENT)],
    );
    check(&set, &[], &[]);
}

#[test]
fn the_page_that_criu_injects_system_calls_into_is_live() {
    let code = |first, last, prot| VmaEntry {
        prot,
        ..private(first, last)
    };
    let vsyscall = VmaEntry {
        status: 1 | 1 << 2 | 1 << 9,
        ..code(90, 91, 5)
    };
    let vmas = [private(0, 2), code(2, 6, 4), code(6, 8, 5)];
    let set = process(&vmas, &[run(1, 7, PRESENT)]);
    check(&set, &[], &[part(3, 1, 2)]);
    let set = process(&[vsyscall], &[run(90, 1, PRESENT)]);
    check(&set, &[], &[]);
}

#[test]
fn written_places_are_live_page_by_page() {
    let vmas = [private(0, 8), private(10, 20)];
    let runs = [run(0, 2, PRESENT), run(4, 4, PRESENT), run(12, 2, PARENT)];
    let set = process(&vmas, &runs);
    check(&set, &[written(address(5) + 96, 32)], &[part(3, 3, 4)]);
    let straddling = written(address(6) - 1, 2);
    check(&set, &[straddling], &[part(3, 3, 5)]);
    let partly_absent = [written(address(2) - 1, 2), written(address(4) - 32, 64)];
    check(&set, &partly_absent, &[part(3, 1, 3)]);
    let absent = [
        written(address(2), 32),
        written(address(12), 32),
        written(address(99), 32),
        written(0, 32),
        written(u64::MAX - 1, 32),
        written(address(5), 0),
        Written {
            pid: 8,
            ..written(address(5), 32)
        },
    ];
    check(&set, &absent, &[]);
    check(&set, &[written(0, u64::MAX)], &[part(3, 0, 6)]);
}

#[test]
fn parts_are_sorted_and_joined() {
    let mut set = process(&[private(0, 9)], &[run(0, 9, PRESENT)]);
    add_memory(&mut set, 1, &[private(0, 9)]);
    add_pagemap(&mut set, "pagemap-1.img", 5, &[run(0, 9, PRESENT)]);
    let places = [7, 3, 4, 3, 0].map(|page| written(address(page), 8));
    let other = Written {
        pid: 1,
        ..written(address(2), 8)
    };
    let all: Vec<Written> = [other].into_iter().chain(places).collect();
    let expected = [part(3, 0, 1), part(3, 3, 5), part(3, 7, 8), part(5, 2, 3)];
    check(&set, &all, &expected);
}

#[test]
fn shared_memory_is_live_as_a_whole() {
    let mut set = process(&[private(0, 4)], &[run(0, 4, PRESENT)]);
    add_pagemap(&mut set, "pagemap-shmem-12.img", 1, &[run(0, 4, PRESENT)]);
    add_pagemap(&mut set, "pagemap-shmem-99999999999.img", 9, &[]);
    check(
        &set,
        &[written(address(1), 1)],
        &[whole(1), part(3, 1, 2), whole(9)],
    );
}

#[test]
fn everything_is_live_when_the_mappings_are_not_known() {
    let mut set = process(&[private(0, 4)], &[run(0, 1, PARENT), run(2, 4, PRESENT)]);
    set.0.remove("mm-7.img");
    add_pagemap(&mut set, "pagemap-8.img", 4, &[run(0, 4, PARENT)]);
    check(&set, &[written(address(2), 8)], &[whole(3)]);
}

#[test]
fn of_real_containers_shared_memory_and_one_page_of_each_process_are_live() {
    let set = testing::images("python");
    let images = testing::decode(&set);
    let parts = live_parts(&set, &[]).unwrap();
    for map in images.shmem_pagemaps.values() {
        assert!(parts.contains(&whole(map.pages_id)));
    }
    for (pid, map) in &images.pagemaps {
        let of_image: Vec<_> = parts.iter().filter(|p| p.image == map.pages_id).collect();
        let [page] = of_image.as_slice() else {
            panic!("{of_image:?}");
        };
        assert_eq!(page.end - page.begin, PAGE);
        let stored: u64 = map.entries.iter().map(pages_of).sum();
        assert!(page.end <= stored * PAGE, "{pid}");
    }
    assert_eq!(
        parts.len(),
        images.shmem_pagemaps.len() + images.pagemaps.len()
    );
}
