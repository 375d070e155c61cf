//! Mappings, page maps and page images.

use super::{Malformed, Privilege, passes, refused};
use crate::proto::{MmEntry, PagemapEntry};
use crate::{MemoryImages, testing};

fn map(set: &mut MemoryImages, change: impl FnMut(&mut Vec<PagemapEntry>)) {
    testing::edit(set, "pagemap-1.img", change);
}

fn memory(set: &mut MemoryImages, change: impl Fn(&mut MmEntry)) {
    testing::edit(set, "mm-1.img", |all: &mut Vec<MmEntry>| {
        change(&mut all[0])
    });
}

/// Field name of the first entry of the first task's page map.
fn first() -> String {
    let images = testing::decode(&testing::images("python"));
    format!("vaddr {:#x}", images.pagemaps[&1].entries[0].vaddr)
}

/// The task's page image.
fn pages() -> String {
    let images = testing::decode(&testing::images("python"));
    format!("pages-{}.img", images.pagemaps[&1].pages_id)
}

#[test]
fn a_page_image_that_is_not_as_long_as_its_map_says_is_malformed() {
    let name = pages();
    for length in [0, 4096, 5_365_759, 5_365_761, 5_369_856] {
        refused(
            |images| images.0.get_mut(&name).unwrap().resize(length, 0),
            (Malformed, None, &name, ""),
        );
    }
    refused(
        |images| drop(images.0.remove(&name)),
        (Malformed, None, &name, ""),
    );
    refused(
        |images| {
            map(images, |entries| {
                entries[0].nr_pages = entries[0].nr_pages.map(|n| n + 1)
            })
        },
        (Malformed, None, &name, ""),
    );
    refused(
        |images| map(images, |entries| entries.truncate(entries.len() - 1)),
        (Malformed, None, &name, ""),
    );
}

#[test]
fn old_page_counts_are_understood() {
    passes(&testing::request("python"), |images| {
        map(images, |entries| {
            for entry in entries {
                entry.compat_nr_pages = u32::try_from(entry.nr_pages.take().unwrap()).unwrap();
            }
        });
    });
    refused(
        |images| map(images, |entries| entries[0].compat_nr_pages = 9999),
        (Malformed, Some(1), "pagemap-1.img", &first()),
    );
}

#[test]
fn runs_of_pages_are_in_order_and_in_private_mappings() {
    type Forge = fn(&mut Vec<PagemapEntry>);
    let first_entry: [Forge; 7] = [
        |e| e[0].vaddr += 1,
        |e| e[0].vaddr = 4096,
        |e| e[0].nr_pages = Some(0),
        |e| e[0].nr_pages = Some(u64::MAX),
        |e| e[0].flags = Some(5),
        |e| e[0].in_parent = Some(true),
        |e| e[0].flags = Some(12),
    ];
    for forge in first_entry {
        let mut set = testing::images("python");
        map(&mut set, forge);
        let violations = crate::policy::check(&set, &testing::request("python")).unwrap_err();
        assert!(
            violations.iter().any(|v| {
                v.kind == Malformed && v.image == "pagemap-1.img" && v.field.starts_with("vaddr 0x")
            }),
            "{violations:#?}"
        );
    }
    refused(
        |images| map(images, |entries| entries.swap(0, 1)),
        (Malformed, Some(1), "pagemap-1.img", &first()),
    );
}

#[test]
fn two_maps_do_not_share_a_page_image() {
    refused(
        |images| {
            let other = testing::decode(images).pagemaps[&1].pages_id;
            let bytes = images.0.get_mut("pagemap-7.img").unwrap();
            // Header, length of the head, tag, number.
            bytes[13] = u8::try_from(other).unwrap();
        },
        (Malformed, None, &pages(), ""),
    );
}

#[test]
fn mappings_are_ranges_of_pages_in_order() {
    let images = testing::decode(&testing::images("python"));
    let start = |at: usize| format!("vma {:#x}", images.memory[&1].vmas[at].start);
    type Forge = fn(&mut MmEntry);
    let cases: [(Forge, String); 6] = [
        (|m| m.vmas[0].end = m.vmas[0].start, start(0)),
        (|m| m.vmas[0].end += 1, start(0)),
        (
            |m| m.vmas[1].start -= 4096,
            format!("vma {:#x}", images.memory[&1].vmas[1].start - 4096),
        ),
        (|m| m.vmas[0].status |= 1 << 30, start(0)),
        (|m| m.vmas[0].status |= 1 << 7, start(0)),
        (|m| m.vmas[0].shmid = 9999, start(0)),
    ];
    for (forge, field) in cases {
        refused(
            |images| memory(images, forge),
            (Malformed, Some(1), "mm-1.img", &field),
        );
    }
    refused(
        |images| memory(images, |m| m.vmas[0].fdflags = Some(0o1002)),
        (Privilege, Some(1), "mm-1.img", &start(0)),
    );
    refused(
        |images| memory(images, |m| m.exe_file_id = 9999),
        (Malformed, Some(1), "mm-1.img", "exe_file_id"),
    );
    refused(
        |images| memory(images, |m| m.mm_saved_auxv = vec![0; 65]),
        (Malformed, Some(1), "mm-1.img", "mm_saved_auxv"),
    );
}

#[test]
fn shared_pages_lie_in_their_segment() {
    let set = testing::images("python");
    let name = set
        .0
        .iter()
        .find(|(name, bytes)| name.starts_with("pagemap-shmem-") && bytes.len() > 20)
        .map(|(name, _)| name.clone())
        .unwrap();
    refused(
        |images| {
            testing::edit(images, &name, |entries: &mut Vec<PagemapEntry>| {
                entries[0].vaddr = 1 << 30;
            });
        },
        (Malformed, None, &name, "vaddr 0x40000000"),
    );
}
