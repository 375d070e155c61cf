//! Whatever the bytes are, nothing panics, and only what passed before passes.

use proptest::prelude::{ProptestConfig, any, prop, proptest};

use crate::describe::describe;
use crate::live::live_parts;
use crate::policy::check;
use crate::repair::{CoreEdits, edit_core, rearm_timers, skip_header_page};
use crate::testing;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn mutated_images_never_panic(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut set = testing::images("terminal");
        let names: Vec<String> =
            set.0.keys().filter(|name| !name.starts_with("pages-")).cloned().collect();
        let bytes = set.0.get_mut(which.get(&names)).expect("listed");
        for (at, value) in &edits {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let bytes = bytes.clone();
        let request = testing::request("terminal");
        drop(check(&set, &request));
        let description = describe(&set);
        assert!(!description.to_string().contains('\u{1b}'));
        drop(rearm_timers(&bytes));
        drop(edit_core(&bytes, &CoreEdits { forget_login: true, ..CoreEdits::default() }));
        drop(skip_header_page(&bytes, true));
        drop(live_parts(&set, &[]));
    }

    #[test]
    fn random_filters_never_panic(code in prop::collection::vec(
        (
            prop::sample::select(vec![
                0x20u16, 0x00, 0x01, 0x02, 0x03, 0x60, 0x61, 0x05, 0x15, 0x1d, 0x25, 0x35, 0x45,
                0x54, 0x04, 0x5c, 0x74, 0x84, 0x07, 0x87, 0x06, 0x16,
            ]),
            0u8..4,
            0u8..4,
            prop::sample::select(vec![0u32, 1, 4, 16, 20, 24, 0xc000_003e, 0x7fff_0000, 59, u32::MAX]),
        ),
        1..24,
    )) {
        let mut set = testing::images("terminal");
        testing::edit(&mut set, "seccomp.img", |all: &mut Vec<crate::proto::SeccompEntry>| {
            let mut bytes: Vec<u8> = Vec::new();
            for (code, yes, no, k) in &code {
                bytes.extend(code.to_le_bytes());
                bytes.extend([*yes, *no]);
                bytes.extend(k.to_le_bytes());
            }
            bytes.extend([6, 0, 0, 0, 0, 0, 0, 0]);
            all[0].seccomp_filters[0].filter = bytes;
        });
        let mut request = testing::confined("terminal");
        request.limits.max_filter_steps = 200_000;
        drop(check(&set, &request));
    }
}
