//! Images that are broken, or cannot be read.

use std::io::{self, Read};

use super::{PRESENT, add_pagemap, address, private, process, run};
use crate::live::{LiveError, live_parts};
use crate::policy::PAGE;
use crate::proto::{PagemapEntry, VmaEntry};
use crate::{ImageSource, MemoryImages};

/// The set is malformed, and the error names the image and says so.
#[track_caller]
fn malformed(set: &MemoryImages, name: &str, text: &str) {
    match live_parts(set, &[]) {
        Err(LiveError::Malformed { image, detail }) => {
            assert_eq!(image, name, "{detail}");
            assert!(detail.contains(text), "{detail}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn broken_page_maps_are_malformed() {
    type Forge = fn(&mut [PagemapEntry]);
    let cases: [(Forge, &str); 7] = [
        (|e| e[1].vaddr += 1, "no run of pages"),
        (|e| e[1].vaddr = address(1), "no run of pages"),
        (|e| e[1].nr_pages = Some(0), "no run of pages"),
        (|e| e[1].nr_pages = Some(u64::MAX), "no run of pages"),
        (|e| e[1].nr_pages = Some(u64::MAX / PAGE), "no run of pages"),
        (|e| e[1].compat_nr_pages = 7, "two page counts"),
        (|e| e.swap(0, 1), "no run of pages"),
    ];
    for (forge, text) in cases {
        let mut runs = [run(0, 2, PRESENT), run(4, 2, PRESENT)];
        forge(&mut runs);
        malformed(&process(&[private(0, 9)], &runs), "pagemap-7.img", text);
    }
    let mut set = process(&[private(0, 9)], &[run(0, 2, PRESENT)]);
    add_pagemap(&mut set, "pagemap-8.img", 3, &[]);
    malformed(&set, "pagemap-8.img", "pages-3.img");
}

#[test]
fn broken_mappings_are_malformed() {
    type Forge = fn(&mut [VmaEntry]);
    let cases: [Forge; 5] = [
        |v| v[1].start += 1,
        |v| v[1].end += 1,
        |v| v[1].end = v[1].start,
        |v| v[1].start = address(1),
        |v| v.swap(0, 1),
    ];
    for forge in cases {
        let mut vmas = [private(0, 2), private(4, 6)];
        forge(&mut vmas);
        malformed(&process(&vmas, &[]), "mm-7.img", "no range of pages");
    }
}

#[test]
fn images_that_end_early_or_are_of_another_kind_are_malformed() {
    let set = process(&[private(0, 9)], &[run(0, 2, PRESENT)]);
    for name in ["mm-7.img", "pagemap-7.img"] {
        for (length, text) in [(0, "ends"), (7, "ends"), (8, "holds no"), (13, "ends")] {
            let mut set = set.clone();
            set.0.get_mut(name).unwrap().truncate(length);
            malformed(&set, name, text);
        }
        let mut other = set.clone();
        other.0.get_mut(name).unwrap()[4] ^= 1;
        malformed(&other, name, "magic");
        let mut garbled = set.clone();
        garbled.0.get_mut(name).unwrap()[12] = 0xff;
        malformed(&garbled, name, "decode");
    }
    let mut short = set.clone();
    short.0.get_mut("pagemap-7.img").unwrap().pop();
    malformed(&short, "pagemap-7.img", "ends in the middle");
}

/// Images of which every list, file or size is another than it should be.
enum Broken {
    List,
    Open,
    Read,
    Absent,
    Large,
    LargeTogether,
    Many,
}

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl ImageSource for Broken {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let file = |id| format!("mm-{id}.img");
        match self {
            Self::List => Err(io::ErrorKind::PermissionDenied.into()),
            Self::Large => Ok(vec![(file(1), (64 << 20) + 1)]),
            Self::LargeTogether => Ok((1..=3).map(|id| (file(id), 60 << 20)).collect()),
            Self::Many => Ok((0..=300_000).map(|id| (file(id), 1)).collect()),
            _ => Ok(vec![
                ("pages-1.img".into(), u64::MAX),
                ("pagemap-1.img".into(), 99),
            ]),
        }
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read + '_>>> {
        assert_eq!(name, "pagemap-1.img", "page images may be pipes");
        match self {
            Self::Open => Err(io::ErrorKind::PermissionDenied.into()),
            Self::Absent => Ok(None),
            _ => Ok(Some(Box::new(Self::Read))),
        }
    }
}

#[test]
fn what_cannot_be_read_is_told_from_what_is_broken() {
    for (source, name) in [
        (Broken::List, "images"),
        (Broken::Open, "pagemap-1.img"),
        (Broken::Read, "pagemap-1.img"),
    ] {
        let error = live_parts(&source, &[]).unwrap_err();
        assert!(
            matches!(&error, LiveError::Unreadable { image, .. } if image == name),
            "{error:?}"
        );
    }
    for (source, name) in [
        (Broken::Absent, "pagemap-1.img"),
        (Broken::Large, "mm-1.img"),
        (Broken::LargeTogether, "images"),
        (Broken::Many, "images"),
    ] {
        let error = live_parts(&source, &[]).unwrap_err();
        assert!(
            matches!(&error, LiveError::Malformed { image, .. } if image == name),
            "{error:?}"
        );
    }
}
