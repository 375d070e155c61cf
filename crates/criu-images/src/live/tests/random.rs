//! The walk over both lists, against looking at every page.

use proptest::prelude::{any, prop, proptest};

use super::{ABSENT, BASE, PRESENT, Written, address, private, process, run, written};
use crate::live::live_parts;
use crate::policy::PAGE;
use crate::proto::VmaEntry;

proptest! {
    /// The merge of both lists finds what looking at every page finds.
    #[test]
    fn every_page_is_judged_alone(
        gaps in prop::collection::vec((0u64..3, 1u64..5, any::<bool>()), 0..12),
        runs in prop::collection::vec((0u64..3, 1u64..5, any::<bool>()), 0..12),
        places in prop::collection::vec((0u64..60 * PAGE, 0u64..2 * PAGE), 0..4),
    ) {
        let (mut vmas, mut entries, mut stored) = (Vec::new(), Vec::new(), Vec::new());
        let mut page = 0;
        for (gap, length, shared) in gaps {
            page += gap;
            let flags = if shared { 0x21 } else { 0x22 };
            vmas.push(VmaEntry { flags, ..private(page, page + length) });
            page += length;
        }
        let mut page = 0;
        for (gap, length, present) in runs {
            page += gap;
            entries.push(run(page, length, if present { PRESENT } else { ABSENT }));
            stored.extend((page..page + length).filter(|_| present).map(address));
            page += length;
        }
        let places: Vec<Written> =
            places.iter().map(|(at, length)| written(BASE + at, *length)).collect();
        let live = |page: u64| {
            let inside = |vma: &VmaEntry| (vma.start..vma.end).contains(&page);
            let is_written = |place: &Written| {
                place.length > 0
                    && place.address < page + PAGE
                    && page < place.address + place.length
            };
            !vmas.iter().any(|vma| inside(vma) && vma.flags == 0x22)
                || places.iter().any(is_written)
        };
        let expected: Vec<u64> = (0u64..)
            .zip(&stored)
            .filter(|(_, page)| live(**page))
            .map(|(at, _)| at * PAGE)
            .collect();
        let parts = live_parts(&process(&vmas, &entries), &places).unwrap();
        let found: Vec<u64> = parts
            .iter()
            .flat_map(|part| (part.begin..part.end).step_by(usize::try_from(PAGE).unwrap()))
            .collect();
        assert_eq!(found, expected);
        assert!(parts.is_sorted_by(|one, next| one.end < next.begin));
    }
}
