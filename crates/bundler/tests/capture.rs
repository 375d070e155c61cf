//! Memory through named pipes into archives, with a thread that plays CRIU.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "GNU tar and Python are asked for their opinion"
)]

mod common;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bundler::{
    Archive, ArchiveWriter, CaptureOptions, Error, Manifest, Sink, findings, remove_unfinished,
};
use common::{Images, names, noise, open_page_image, play_criu, soon};
use sha2::{Digest as _, Sha256};
use sys::process::Deadline;

/// Writes an archive of these page images, the sixth and later without a pipe, and some other
/// entries.
fn archive(
    location: &Path,
    contents: &[Vec<u8>],
    expected: &[u64],
    sink: Sink,
) -> (Vec<bundler::Entry>, Manifest) {
    archive_of(5, location, contents, expected, sink)
}

/// [`archive`] with so many pipes.
fn archive_of(
    max_files: u32,
    location: &Path,
    contents: &[Vec<u8>],
    expected: &[u64],
    sink: Sink,
) -> (Vec<bundler::Entry>, Manifest) {
    let images = Images::new();
    let options = CaptureOptions {
        max_files,
        expected,
        sink,
        protection_expected: false,
    };
    let writer = ArchiveWriter::create(location).unwrap();
    let mut capture = writer.capture_pages(&images.fd, &options).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| play_criu(&images.path, contents).unwrap());
    });
    let drained = capture.drained(soon()).unwrap();
    let pipes = usize::try_from(max_files).unwrap();
    let with_pipe = contents.iter().take(pipes);
    assert_eq!(drained.files, contents.len().min(pipes));
    assert_eq!(
        drained.bytes,
        with_pipe.map(|content| content.len() as u64).sum::<u64>()
    );
    let (mut writer, entries) = capture.finish().unwrap();
    // What had no pipe is a plain file, and nothing else is left.
    for name in names(&images.path) {
        let file = File::open(images.path.join(&name)).unwrap();
        writer
            .append_reader(&bundler::names::image(&name), file)
            .unwrap();
    }
    writer
        .append_bytes("checkpoint/inventory.img", b"inventory")
        .unwrap();
    writer.append_bytes("config.dump", b"{}").unwrap();
    let base = Manifest {
        criu_version: "4.2".to_owned(),
        ..Manifest::default()
    };
    let complete = writer.finish(base).unwrap();
    let size = complete.size_bytes();
    let manifest = complete.sync().unwrap().publish().unwrap();
    assert_eq!(location.metadata().unwrap().len(), size);
    assert_eq!(
        location.metadata().unwrap().permissions().mode() & 0o7777,
        0o600
    );
    (entries, manifest)
}

fn check_content(location: &Path, contents: &[Vec<u8>], manifest: &Manifest) {
    let archive = Archive::open(File::open(location).unwrap()).unwrap();
    assert_eq!(archive.verify().unwrap().manifest(), manifest);
    for (index, content) in contents.iter().enumerate() {
        let name = format!("checkpoint/pages-{}.img", index + 1);
        let read = archive.read_small(&name, u64::MAX).unwrap();
        assert!(
            &read == content,
            "{name} has {} of {} bytes",
            read.len(),
            content.len()
        );
        assert_eq!(archive.location(&name).unwrap().offset % 4096, 0);
        let entry = manifest
            .entries
            .iter()
            .find(|entry| entry.name == name)
            .unwrap();
        // What was too late for a pipe is an entry like others.
        if entry.blake3.is_empty() {
            assert_eq!(entry.sha256, hex::encode(Sha256::digest(content)));
        } else {
            assert_eq!(entry.blake3, blake3::hash(content).to_string());
        }
    }
    let file = File::open(location).unwrap();
    assert_eq!(
        findings(file, &bundler::ReadLimits::default(), &mut |_| {}).unwrap(),
        []
    );
}

/// GNU tar and Python list the same names and sizes.
fn check_listing(location: &Path, manifest: &Manifest) {
    let mut expected: Vec<(String, u64)> = vec![("checkpoint/".to_owned(), 0)];
    expected.extend(
        manifest
            .entries
            .iter()
            .map(|entry| (entry.name.clone(), entry.size)),
    );
    let own_size = std::fs::read(location).unwrap().len();

    let listed = Command::new("tar")
        .arg("-tvf")
        .arg(location)
        .output()
        .unwrap();
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    assert_eq!(String::from_utf8(listed.stderr).unwrap(), "");
    let text = String::from_utf8(listed.stdout).unwrap();
    let mut lines: Vec<(String, u64)> = text
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (
                fields.get(5).unwrap().to_string(),
                fields.get(2).unwrap().parse().unwrap(),
            )
        })
        .collect();
    assert!(
        text.lines()
            .all(|line| line.starts_with("-rw------- root/root")
                || line.starts_with("drwx------ root/root"))
    );
    let (last, size) = lines.pop().unwrap();
    assert_eq!(last, "manifest.json");
    assert!(size > 0 && size < own_size as u64);
    assert_eq!(lines, expected);

    let script = "import sys, tarfile\n\
                  for m in tarfile.open(sys.argv[1]): print(m.name, m.size, m.offset_data)";
    let listed = Command::new("python3")
        .args(["-c", script])
        .arg(location)
        .output()
        .unwrap();
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let text = String::from_utf8(listed.stdout).unwrap();
    for entry in &manifest.entries {
        let line = format!("{} {} {}", entry.name, entry.size, entry.offset);
        assert!(
            text.lines().any(|listed| listed == line),
            "{line} is not in\n{text}"
        );
    }
}

/// GNU tar unpacks what was put in.
fn check_unpacked(location: &Path, contents: &[Vec<u8>]) {
    let target = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(location).arg("-C").arg(target.path());
    assert!(unpack.status().unwrap().success());
    for (index, content) in contents.iter().enumerate() {
        let path = target
            .path()
            .join(format!("checkpoint/pages-{}.img", index + 1));
        assert!(&std::fs::read(path).unwrap() == content);
    }
}

#[test]
fn page_images_of_any_size_arrive_and_other_tars_read_them() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let location = directory.path().join("a.tar");
    let sizes = [3_000_000, 1, 0, 4096 * 700, 511, 12_345];
    let contents: Vec<Vec<u8>> = sizes
        .iter()
        .zip(1..)
        .map(|(size, seed)| noise(*size, seed))
        .collect();
    let (entries, manifest) = archive(&location, &contents, &[], Sink::Buffered);
    assert_eq!(entries.len(), 5, "the sixth image had no pipe");
    assert_eq!(entries[0].offset, 4096);
    assert_eq!(manifest.page_bytes, sizes.iter().sum::<usize>() as u64);
    assert_eq!(names(directory.path()), ["a.tar"]);
    check_content(&location, &contents, &manifest);
    check_listing(&location, &manifest);
    check_unpacked(&location, &contents);
}

#[test]
fn a_capture_can_be_given_up_after_the_thaw() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let images = Images::new();
    let options = CaptureOptions {
        max_files: 1,
        expected: &[],
        sink: Sink::Direct,
        protection_expected: false,
    };
    let writer = ArchiveWriter::create(&directory.path().join("a.tar")).unwrap();
    let mut capture = writer.capture_pages(&images.fd, &options).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| play_criu(&images.path, &[noise(20_000_000, 1)]).unwrap());
    });
    capture.drained(soon()).unwrap();
    capture.abort_handle().abort();
    assert!(matches!(capture.finish().unwrap_err(), Error::Cancelled));
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn what_was_expected_wrongly_leaves_no_zeros_behind() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    // Enough for room to be made in the page cache beforehand.
    let large = 520 << 20;
    for (round, (sizes, expected)) in [
        ([large, 5000], [large as u64, 5000]),
        ([5000, large], [5000, large as u64]),
        ([5000, 70_000], [5000, large as u64]),
        ([70_000, 5000], [large as u64, 5000]),
        ([40 << 20, 5000], [5000, large as u64]),
    ]
    .into_iter()
    .enumerate()
    {
        let location = directory.path().join(format!("{round}.tar"));
        let contents = sizes.map(|size| noise(size, 9));
        let (_, manifest) = archive(&location, &contents, &expected, Sink::Adaptive);
        check_content(&location, &contents, &manifest);
        check_listing(&location, &manifest);
        let taken = location.metadata().unwrap().blocks() * 512;
        let size = location.metadata().unwrap().len();
        assert!(
            taken <= size + (64 << 10),
            "{taken} bytes on disk for {size}"
        );
    }
}

#[test]
fn many_page_images_share_the_parcels() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    for sink in [Sink::Buffered, Sink::Direct] {
        let location = directory.path().join(format!("{sink:?}.tar"));
        let contents: Vec<Vec<u8>> = (1..=60)
            .map(|seed| noise(seed * 5000 % 70_000, seed as u64))
            .collect();
        let (entries, manifest) = archive_of(60, &location, &contents, &[], sink);
        assert_eq!(entries.len(), 60);
        check_content(&location, &contents, &manifest);
    }
}

#[test]
fn the_largest_image_begins_at_4096_though_it_comes_later() {
    let contents = vec![
        noise(40_960, 1),
        noise(1_000_001, 2),
        noise(4_000_000, 3),
        noise(7, 4),
    ];
    let expected = [40_000, 1_000_000, 5_000_000, 10];
    for (place, collapses) in [("/var/tmp", true), ("/dev/shm", false)] {
        for sink in [Sink::Buffered, Sink::Direct, Sink::Adaptive] {
            let directory = tempfile::tempdir_in(place).unwrap();
            let location = directory.path().join("a.tar");
            let (entries, manifest) = archive(&location, &contents, &expected, sink);
            let order: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
            let numbers = if collapses {
                [3, 1, 2, 4]
            } else {
                [1, 2, 3, 4]
            };
            assert_eq!(
                order,
                numbers.map(|number| format!("checkpoint/pages-{number}.img"))
            );
            let archive = Archive::open(File::open(&location).unwrap()).unwrap();
            for number in 1..=4 {
                let in_place = archive.in_place(&format!("checkpoint/pages-{number}.img"));
                assert_eq!(in_place, number == numbers[0], "{place} {number}");
            }
            check_content(&location, &contents, &manifest);
            check_listing(&location, &manifest);
            check_unpacked(&location, &contents);
            // The gap is gone: what is left besides content is headers.
            let content: usize = contents.iter().map(Vec::len).sum();
            let size = location.metadata().unwrap().len();
            assert!(
                size < content as u64 + 64 * 1024,
                "{size} bytes for {content}"
            );
        }
    }
}

#[test]
fn wrong_expectations_cost_nothing_but_the_place() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    for (round, (contents, expected)) in [
        (vec![noise(90_000, 1), noise(10, 2)], vec![1, 2, 3]),
        (vec![noise(90_000, 1), noise(10, 2)], vec![1, 2]),
        (vec![noise(90_000, 1), vec![]], vec![1, 2]),
        (vec![vec![], noise(90_000, 1)], vec![1, 2]),
        (vec![vec![], vec![]], vec![1, 2]),
        (vec![noise(5000, 1)], vec![0, 0, 0, 0, 0, 0, 0, u64::MAX]),
        (vec![noise(5000, 1)], vec![]),
        (vec![], vec![1, 2]),
        (vec![], vec![]),
    ]
    .into_iter()
    .enumerate()
    {
        let location = directory.path().join(format!("{round}.tar"));
        let (entries, manifest) = archive(&location, &contents, &expected, Sink::Buffered);
        if let Some(first) = entries.first() {
            assert_eq!(first.offset, 4096, "round {round}");
        }
        check_content(&location, &contents, &manifest);
        check_listing(&location, &manifest);
    }
}

#[test]
fn an_entry_is_unpacked_or_linked_for_a_restore() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let location = directory.path().join("a.tar");
    let contents = vec![noise(100_000, 1), noise(50_001, 2)];
    archive(&location, &contents, &[], Sink::Buffered);
    let opened = Archive::open(File::open(&location).unwrap()).unwrap();
    let fd = sys::fs::open_dir(directory.path()).unwrap();
    opened
        .extract("checkpoint/pages-2.img", &fd, "pages-2.img")
        .unwrap();
    let path = directory.path().join("pages-2.img");
    assert!(std::fs::read(&path).unwrap() == contents[1]);
    assert_eq!(
        path.metadata().unwrap().permissions().mode() & 0o7777,
        0o600
    );
    opened
        .extract("checkpoint/pages-2.img", &fd, "pages-2.img")
        .unwrap_err();
    let missing = opened
        .extract("checkpoint/pages-9.img", &fd, "x")
        .unwrap_err();
    assert!(matches!(missing, Error::Missing { name } if name == "checkpoint/pages-9.img"));
    opened.link(&fd, "pages-1.img").unwrap();
    let linked = std::fs::read(directory.path().join("pages-1.img")).unwrap();
    assert!(linked[4096..104_096] == contents[0]);
    let mut reader = opened.reader("checkpoint/pages-1.img").unwrap();
    let mut first = [0; 16];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(
        (first.as_slice(), reader.remaining()),
        (&contents[0][..16], 99_984)
    );
}

#[test]
fn giving_up_breaks_the_pipes_and_leaves_no_file() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let images = Images::new();
    let writer = ArchiveWriter::create(&directory.path().join("a.tar")).unwrap();
    let options = CaptureOptions {
        max_files: 3,
        expected: &[],
        sink: Sink::Buffered,
        protection_expected: false,
    };
    let mut capture = writer.capture_pages(&images.fd, &options).unwrap();
    assert_eq!(
        names(&images.path),
        ["pages-1.img", "pages-2.img", "pages-3.img"]
    );
    let mut image = open_page_image(&images.path, 1).unwrap();
    image.write_all(&[7; 100_000]).unwrap();
    let waited = capture
        .drained(Deadline::after(Duration::from_millis(50)))
        .unwrap_err();
    assert!(
        matches!(waited, Error::Deadline { bytes: 100_000 }),
        "{waited:?}"
    );
    let handle = capture.abort_handle();
    handle.abort();
    let cancelled = capture.drained(soon()).unwrap_err();
    assert!(matches!(cancelled, Error::Cancelled), "{cancelled:?}");
    let broken = image.write_all(&[7; 100]).unwrap_err();
    assert_eq!(broken.kind(), std::io::ErrorKind::BrokenPipe);
    // CRIU must not wait for a reader of the next one.
    let refused = open_page_image(&images.path, 2).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::IsADirectory);
    assert!(matches!(capture.finish().unwrap_err(), Error::Cancelled));
    handle.abort();
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn an_abort_while_memory_streams_ends_the_writer_at_once() {
    for after_ms in [0, 1, 5, 20] {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let images = Images::new();
        let writer = ArchiveWriter::create(&directory.path().join("a.tar")).unwrap();
        let options = CaptureOptions {
            max_files: 2,
            expected: &[1, 2],
            sink: Sink::Buffered,
            protection_expected: false,
        };
        let capture = writer.capture_pages(&images.fd, &options).unwrap();
        let path = images.path.clone();
        let endless = move || -> Result<(), std::io::Error> {
            let block = vec![1_u8; 1 << 20];
            open_page_image(&path, 1)?.write_all(&block)?;
            let mut image = open_page_image(&path, 2)?;
            loop {
                image.write_all(&block)?;
            }
        };
        let criu = std::thread::spawn(move || endless().unwrap_err());
        let handle = capture.abort_handle();
        let (_keep, pause) = std::sync::mpsc::channel::<()>();
        pause
            .recv_timeout(Duration::from_millis(after_ms))
            .unwrap_err();
        handle.abort();
        capture.abort();
        let error: std::io::Error = criu.join().unwrap();
        let kinds = [
            std::io::ErrorKind::BrokenPipe,
            std::io::ErrorKind::IsADirectory,
        ];
        assert!(kinds.contains(&error.kind()), "{error:?}");
        assert_eq!(names(directory.path()), [""; 0]);
    }
}

#[test]
fn a_full_disk_fails_the_capture_and_the_writer() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    sys::mount::in_private_namespace(|| {
        let small = sys::mount::tmpfs(Some(4 << 20), 0o700).unwrap();
        sys::mount::attach(&small, directory.path()).unwrap();
        let images = Images::new();
        let writer = ArchiveWriter::create(&directory.path().join("a.tar")).unwrap();
        let options = CaptureOptions {
            max_files: 2,
            expected: &[1, 2],
            sink: Sink::Adaptive,
            protection_expected: false,
        };
        let mut capture = writer.capture_pages(&images.fd, &options).unwrap();
        let contents = [noise(64 << 20, 1)];
        let error = std::thread::scope(|scope| {
            let criu = scope.spawn(|| play_criu(&images.path, &contents).unwrap_err());
            criu.join().map(|error| error.kind()).unwrap()
        });
        assert_eq!(error, std::io::ErrorKind::BrokenPipe);
        let full = capture.drained(soon()).unwrap_err();
        assert!(matches!(full, Error::NoSpace { .. }), "{full:?}");
        // As a process that is just being started has it, until its execve(2).
        let [unfinished] = &names(directory.path())[..] else {
            panic!("one file");
        };
        let held = std::fs::File::open(directory.path().join(unfinished)).unwrap();
        capture.abort();
        assert_eq!(names(directory.path()), [""; 0]);
        assert_eq!(held.metadata().unwrap().len(), 0);

        let mut writer = ArchiveWriter::create(&directory.path().join("b.tar")).unwrap();
        writer.append_bytes("config.dump", b"{}").unwrap();
        let full = writer
            .append_bytes("rootfs-diff.tar", &noise(8 << 20, 1))
            .unwrap_err();
        assert!(matches!(full, Error::NoSpace { .. }), "{full:?}");
        drop(writer);
        assert_eq!(names(directory.path()), [""; 0]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn locations_are_checked_before_anything_is_made() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let real = directory.path().canonicalize().unwrap();
    std::fs::create_dir(real.join("d")).unwrap();
    std::os::unix::fs::symlink("d", real.join("link")).unwrap();
    std::fs::write(real.join("taken"), "x").unwrap();
    std::os::unix::fs::symlink("nowhere", real.join("dangling")).unwrap();
    let reason = |path: &Path| match ArchiveWriter::create(path).unwrap_err() {
        Error::Location { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(Path::new("a.tar")), "the path is not absolute");
    assert_eq!(
        reason(Path::new("/")),
        "the path has no file name, or none in UTF-8"
    );
    assert_eq!(
        reason(&real.join("d/..")),
        "the path has no file name, or none in UTF-8"
    );
    assert_eq!(
        reason(&real.join("no/a.tar")),
        "its directory does not exist"
    );
    assert_eq!(
        reason(&real.join("link/a.tar")),
        "a link leads to its directory"
    );
    assert_eq!(
        reason(&real.join("taken/a.tar")),
        "its parent is not a directory"
    );
    for name in ["taken", "d", "dangling"] {
        let error = ArchiveWriter::create(&real.join(name)).unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    }
    assert_eq!(names(&real), ["d", "dangling", "link", "taken"]);
}

#[test]
fn nobody_loses_a_file_to_an_archive() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let location = directory.path().join("a.tar");
    let writer = ArchiveWriter::create(&location).unwrap();
    let complete = writer.finish(Manifest::default()).unwrap();
    std::fs::write(&location, "somebody else's").unwrap();
    assert!(matches!(
        complete.sync().unwrap().publish().unwrap_err(),
        Error::Exists { .. }
    ));
    assert_eq!(std::fs::read(&location).unwrap(), b"somebody else's");
    assert_eq!(names(directory.path()), ["a.tar"]);
}

#[test]
fn an_archive_whose_name_may_not_survive_a_power_cut_does_not_appear() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let location = directory.path().join("a.tar");
    let writer = ArchiveWriter::create(&location).unwrap();
    let complete = writer.finish(Manifest::default()).unwrap();
    let synced = complete.sync().unwrap();
    let refusal = sys::testing::Refusal {
        call: sys::testing::libc::SYS_fsync,
        argument: None,
        errno: sys::testing::libc::EIO,
    };
    let published = sys::testing::refusing(&[refusal], || synced.publish()).unwrap();
    let error = published.unwrap_err();
    assert!(error.to_string().contains("sync the directory"), "{error}");
    assert_eq!(names(directory.path()), Vec::<String>::new());
}

#[test]
fn a_failed_append_leaves_the_archive_usable() {
    struct Broken(usize);
    impl std::io::Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            if self.0 > 3 {
                return Err(std::io::Error::other("broken"));
            }
            buffer.fill(0xff);
            Ok(buffer.len())
        }
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let location = directory.path().join("a.tar");
    let mut writer = ArchiveWriter::create(&location).unwrap();
    writer.append_bytes("config.dump", b"{}").unwrap();
    writer
        .append_reader("rootfs-diff.tar", Broken(0))
        .unwrap_err();
    for name in [
        "config.dump",
        "manifest.json",
        "../x",
        "checkpoint/",
        "unheard-of",
    ] {
        let error = writer.append_bytes(name, b"x").unwrap_err();
        assert!(matches!(error, Error::Name { .. }), "{error:?}");
    }
    writer.append_bytes("spec.dump", b"spec").unwrap();
    let manifest = writer
        .finish(Manifest::default())
        .unwrap()
        .sync()
        .unwrap()
        .publish()
        .unwrap();
    check_content(&location, &[], &manifest);
    check_listing(&location, &manifest);
    let archive = Archive::open(File::open(&location).unwrap()).unwrap();
    assert_eq!(archive.read_small("spec.dump", 4).unwrap(), b"spec");
    assert_eq!(archive.entries().count(), 3);
    archive.read_small("spec.dump", 3).unwrap_err();
}

#[test]
fn what_a_crash_left_is_found_and_removed() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let location = directory.path().join("a.tar");
    let writer = ArchiveWriter::create(&location).unwrap();
    let temporary = names(directory.path());
    std::mem::forget(writer);
    for name in [
        "a.tar.tmp-0123456789abcdef",
        ".a.tar.tmp-0123",
        ".b.tar.tmp-0123456789abcdef",
    ] {
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    std::fs::create_dir(directory.path().join(".a.tar.tmp-0123456789abcdef")).unwrap();
    assert!(temporary[0].starts_with(".a.tar.tmp-"));
    assert_eq!(remove_unfinished(&location).unwrap(), 1);
    assert_eq!(remove_unfinished(&location).unwrap(), 0);
    assert_eq!(names(directory.path()).len(), 4);
    assert_eq!(
        remove_unfinished(&directory.path().join("no/a.tar")).unwrap(),
        0
    );
}
