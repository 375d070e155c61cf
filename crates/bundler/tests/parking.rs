//! Memory that does not change any more: parked, and written after the thaw.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bundler::{Archive, ArchiveWriter, CaptureOptions, Error, Manifest, Part, Sink};
use common::{Images, names, noise, open_page_image, play_criu, soon};
use rustix::pipe::SpliceFlags;

fn options(max_files: u32, expected: &[u64]) -> CaptureOptions<'_> {
    CaptureOptions {
        max_files,
        expected,
        sink: Sink::default(),
        protection_expected: true,
    }
}

/// Publishes the archive and verifies it.
fn published(writer: ArchiveWriter, location: &Path) -> Archive {
    let complete = writer.finish(Manifest::default()).unwrap();
    complete.sync().unwrap().publish().unwrap();
    let archive = Archive::open(File::open(location).unwrap()).unwrap();
    archive.verify().unwrap();
    archive
}

#[test]
fn parked_page_images_of_any_size_arrive() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let sizes = [
        0,
        1,
        4096,
        300_000,
        4 << 20,
        (4 << 20) + 4096,
        20_000_000,
        12_288,
        9 << 20,
    ];
    let contents: Vec<Vec<u8>> = (1..)
        .zip(sizes)
        .map(|(seed, size)| noise(size, seed))
        .collect();
    for (round, expected) in [&[][..], &[0, 0, 0, 0, 0, 0, 20_000_000]]
        .into_iter()
        .enumerate()
    {
        let location = directory.path().join(format!("{round}.tar"));
        let images = Images::new();
        let writer = ArchiveWriter::create(&location).unwrap();
        let mut capture = writer
            .capture_pages(&images.fd, &options(12, expected))
            .unwrap();
        capture.protect();
        play_criu(&images.path, &contents).unwrap();
        let drained = capture.drained(soon()).unwrap();
        assert_eq!(drained.files, contents.len());
        let part = |image, begin, end| Part { image, begin, end };
        let parts = [
            part(7, 5_000_000, 5_000_001),
            part(9, 0, u64::MAX),
            part(99, 0, 1),
        ];
        capture.land(&parts, soon()).unwrap();
        let (writer, entries) = capture.finish().unwrap();
        assert_eq!(entries.len(), contents.len());
        let largest = entries
            .iter()
            .find(|entry| entry.name.ends_with("pages-7.img"));
        if round == 1 {
            assert_eq!(largest.unwrap().offset, 4096);
        }
        let archive = published(writer, &location);
        for (number, content) in (1..).zip(&contents) {
            let name = format!("checkpoint/pages-{number}.img");
            assert!(
                &archive.read_small(&name, u64::MAX).unwrap() == content,
                "{name}"
            );
            let entry = entries.iter().find(|entry| entry.name == name).unwrap();
            assert_eq!(entry.digest(), blake3::hash(content).to_string());
        }
    }
}

#[test]
fn memory_that_is_not_protected_after_all_is_copied() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let location = directory.path().join("a.tar");
    let images = Images::new();
    let content = noise(20_000_000, 1);
    let writer = ArchiveWriter::create(&location).unwrap();
    let mut capture = writer.capture_pages(&images.fd, &options(1, &[])).unwrap();
    play_criu(&images.path, std::slice::from_ref(&content)).unwrap();
    capture.drained(soon()).unwrap();
    let part = Part {
        image: 1,
        begin: 0,
        end: u64::MAX,
    };
    capture.land(&[part], soon()).unwrap();
    let (writer, entries) = capture.finish().unwrap();
    assert_eq!(entries[0].digest(), blake3::hash(&content).to_string());
    published(writer, &location);
}

/// A file in memory lies in pipes as references, as a process's memory does, and is not copy-on-write.
#[test]
fn what_has_landed_is_not_changed_by_later_writes_and_digests_are_of_what_is_written() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let location = directory.path().join("a.tar");
    let (before, after) = (noise(40 << 20, 1), noise(40 << 20, 2));
    let memory = sys::pipe::memfd("memory").unwrap();
    memory.write_all_at(&before, 0).unwrap();
    let images = Images::new();
    let writer = ArchiveWriter::create(&location).unwrap();
    let mut capture = writer.capture_pages(&images.fd, &options(1, &[])).unwrap();
    capture.protect();
    let image = open_page_image(&images.path, 1).unwrap();
    let mut at = 0;
    while at < 40 << 20 {
        let flags = SpliceFlags::empty();
        rustix::pipe::splice(&memory, Some(&mut at), &image, None, 1 << 20, flags).unwrap();
    }
    drop(image);
    capture.drained(soon()).unwrap();
    let landed = [
        (0, 4096),
        (30 << 20, (30 << 20) + 1),
        ((39 << 20) + 5, u64::MAX),
    ];
    let parts = landed.map(|(begin, end)| Part {
        image: 1,
        begin,
        end,
    });
    capture.land(&parts, soon()).unwrap();
    memory.write_all_at(&after, 0).unwrap();
    let (writer, _) = capture.finish().unwrap();
    let archive = published(writer, &location);
    let found = archive
        .read_small("checkpoint/pages-1.img", u64::MAX)
        .unwrap();
    for (begin, end) in landed {
        let begin = usize::try_from(begin).unwrap();
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(found.len());
        assert!(found[begin..end] == before[begin..end], "{begin}");
    }
}

#[test]
fn a_parked_capture_that_is_given_up_leaves_nothing() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let images = Images::new();
    for finish in [false, true] {
        let writer = ArchiveWriter::create(&directory.path().join("a.tar")).unwrap();
        let mut capture = writer.capture_pages(&images.fd, &options(1, &[])).unwrap();
        capture.protect();
        play_criu(&images.path, &[noise(20_000_000, 1)]).unwrap();
        capture.drained(soon()).unwrap();
        capture.abort_handle().abort();
        if finish {
            assert!(matches!(capture.finish().unwrap_err(), Error::Cancelled));
        } else {
            let error = capture.land(&[], soon()).unwrap_err();
            assert!(matches!(error, Error::Cancelled));
            capture.abort();
        }
        assert_eq!(names(directory.path()), [""; 0]);
        for name in names(&images.path) {
            std::fs::remove_file(images.path.join(name)).unwrap();
        }
    }
}
