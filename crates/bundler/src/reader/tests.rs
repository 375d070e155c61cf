use std::io::Write as _;

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::format::encode::Header;
use crate::format::{BLOCK_LEN, Kind, Time};
use crate::manifest::Entry;

/// Builds archives that no honest writer makes.
#[derive(Default, Clone)]
struct Forge {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Forge {
    fn with(mut self, name: &str, content: &[u8]) -> Self {
        let header = Header::file(name.as_bytes(), content.len() as u64, Time::default());
        self.bytes.extend(header.encode());
        self.entries.push(Entry {
            name: name.to_owned(),
            size: content.len() as u64,
            offset: self.bytes.len() as u64,
            sha256: hex::encode(Sha256::digest(content)),
            ..Entry::default()
        });
        self.raw(content)
    }

    fn typed(mut self, name: &[u8], kind: Kind, link: &[u8]) -> Self {
        let mut header = Header::file(name, 0, Time::default());
        (header.kind, header.link) = (kind, link);
        self.bytes.extend(header.encode());
        self
    }

    fn raw(mut self, content: &[u8]) -> Self {
        self.bytes.extend_from_slice(content);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK_LEN), 0);
        self
    }

    fn manifest(self) -> Self {
        let entries = self.entries.clone();
        let manifest = Manifest {
            format_version: 1,
            entries,
            ..Manifest::default()
        };
        let bytes = manifest.to_bytes().unwrap();
        self.with(names::MANIFEST, &bytes)
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK_LEN, 0);
        self.bytes
    }
}

fn honest() -> Forge {
    Forge::default()
        .typed(b"checkpoint/", Kind::Directory, b"")
        .with("checkpoint/pages-1.img", &[3; 5000])
        .with("checkpoint/core-1.img", b"core")
        .with("config.dump", b"{}")
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// What opening and verifying say.
fn check(bytes: &[u8]) -> Result<(), Finding> {
    let outcome = Archive::open(file_of(bytes)).and_then(|archive| archive.verify().map(|_| ()));
    match outcome {
        Ok(()) => Ok(()),
        Err(Error::Invalid(finding)) => Err(finding),
        Err(other) => panic!("{other:?}"),
    }
}

fn all(bytes: &[u8]) -> Vec<String> {
    let found = findings(file_of(bytes), &ReadLimits::default(), &mut |_| {}).unwrap();
    found.iter().map(ToString::to_string).collect()
}

fn refused(bytes: &[u8], entry: &str, problem: Problem) {
    assert_eq!(
        check(bytes),
        Err(Finding {
            entry: entry.to_owned(),
            problem
        })
    );
}

#[test]
fn an_honest_archive_passes() {
    let bytes = honest().manifest().end();
    assert_eq!(check(&bytes), Ok(()));
    assert_eq!(all(&bytes), [""; 0]);
    let mut padded = bytes;
    padded.resize(10_240 * 2, 0);
    assert_eq!(check(&padded), Ok(()));
}

#[test]
fn names_types_and_repetitions_are_refused() {
    let wrong = |found| Problem::WrongType { found };
    let cases: [(&[u8], Kind, Problem); 19] = [
        (b"../config.dump", Kind::Regular, Problem::UncleanName),
        (b"/etc/passwd", Kind::Regular, Problem::UncleanName),
        (b"./spec.dump", Kind::Regular, Problem::UncleanName),
        (
            b"checkpoint/../../x.img",
            Kind::Regular,
            Problem::UncleanName,
        ),
        (b"checkpoint//x.img", Kind::Regular, Problem::UncleanName),
        (b"checkpoint/a/b.img", Kind::Regular, Problem::UncleanName),
        (b"checkpoint/\xff.img", Kind::Regular, Problem::UncleanName),
        (b"", Kind::Regular, Problem::UncleanName),
        (b"evil", Kind::Regular, Problem::UnknownName),
        (b"Config.dump", Kind::Regular, Problem::UnknownName),
        (b"config.dump", Kind::Regular, Problem::Duplicate),
        (b"checkpoint/", Kind::Directory, Problem::Duplicate),
        (b"checkpoint", Kind::Regular, wrong("regular file")),
        (b"spec.dump", Kind::Directory, wrong("directory")),
        (b"spec.dump", Kind::Symlink, wrong("symbolic link")),
        (b"spec.dump", Kind::HardLink, wrong("hard link")),
        (b"spec.dump", Kind::Fifo, wrong("named pipe")),
        (b"spec.dump", Kind::CharDevice, wrong("character device")),
        (
            b"spec.dump",
            Kind::Other(b'g'),
            wrong("global extended header"),
        ),
    ];
    for (name, kind, problem) in cases {
        let bytes = honest().typed(name, kind, b"/etc/shadow").manifest().end();
        let nameless = "header at byte 8192".to_owned();
        let shown = if name.is_empty() {
            nameless
        } else {
            crate::error::quoted(name)
        };
        refused(&bytes, &shown, problem.clone());
        assert!(
            all(&bytes)
                .iter()
                .any(|line| line.contains(&problem.to_string()))
        );
    }
}

#[test]
fn a_link_in_place_of_the_directory_is_refused() {
    let bytes = Forge::default()
        .typed(b"checkpoint", Kind::Symlink, b"/")
        .manifest()
        .end();
    refused(
        &bytes,
        "checkpoint",
        Problem::WrongType {
            found: "symbolic link",
        },
    );
}

#[test]
fn content_that_differs_from_the_manifest_is_refused() {
    let mut changed = honest().manifest().end();
    let at = changed
        .windows(4)
        .position(|window| window == b"core")
        .unwrap();
    // The first hit is the name in the header.
    let at = at
        + changed[at + 4..]
            .windows(5)
            .position(|w| w == b"core\0")
            .unwrap()
        + 4;
    changed[at] = b'C';
    refused(&changed, "checkpoint/core-1.img", Problem::Digest);

    let mut forge = honest();
    forge.entries[1].size = 5;
    let differs = Problem::Differs {
        what: "size",
        expected: 5,
        found: 4,
    };
    refused(&forge.manifest().end(), "checkpoint/core-1.img", differs);

    let mut forge = honest();
    let offset = std::mem::replace(&mut forge.entries[1].offset, 7);
    let differs = Problem::Differs {
        what: "offset",
        expected: 7,
        found: offset,
    };
    refused(&forge.manifest().end(), "checkpoint/core-1.img", differs);

    let mut forge = honest();
    forge.entries.pop();
    refused(
        &forge.clone().manifest().end(),
        "config.dump",
        Problem::NotInManifest,
    );

    let mut forge = honest();
    forge.entries.push(Entry {
        name: "spec.dump".to_owned(),
        ..Entry::default()
    });
    refused(&forge.manifest().end(), "spec.dump", Problem::Missing);

    let mut forge = honest();
    forge.entries.push(forge.entries[0].clone());
    refused(
        &forge.manifest().end(),
        "checkpoint/pages-1.img",
        Problem::Duplicate,
    );

    refused(&honest().end(), "manifest.json", Problem::Missing);
    let bad = honest()
        .with("manifest.json", b"{\"format_version\":1,\"x\":2}")
        .end();
    let reason = "unknown key x".to_owned();
    refused(&bad, "manifest.json", Problem::Manifest { reason });
}

#[test]
fn page_images_can_be_left_unread() {
    let mut bytes = honest().manifest().end();
    let at = bytes
        .windows(64)
        .position(|window| window == [3; 64])
        .unwrap();
    bytes[at] = 4;
    let archive = Archive::open(file_of(&bytes)).unwrap();
    let error = archive.verify().unwrap_err();
    assert_eq!(
        error.to_string(),
        "checkpoint/pages-1.img: the content does not match its digest"
    );
    let mut read = 0;
    archive
        .verify_with(Pages::SizeOnly, &mut |bytes| read = bytes)
        .unwrap();
    assert!(read > 0 && read < 5000);
}

#[test]
fn sizes_and_numbers_are_bounded() {
    let limits = ReadLimits {
        entries: 3,
        large_bytes: 5000,
        small_bytes: 3,
    };
    let error = Archive::open_within(file_of(&honest().end()), &limits).unwrap_err();
    assert_eq!(
        error.to_string(),
        "checkpoint/core-1.img: 4 bytes where 3 are allowed"
    );
    let limits = ReadLimits {
        small_bytes: 4,
        ..limits
    };
    let error = Archive::open_within(file_of(&honest().end()), &limits).unwrap_err();
    assert_eq!(error.to_string(), "config.dump: more than 3 entries");

    let mut huge = Header::file(b"spec.dump", u64::MAX / 2, Time::default()).encode();
    huge.extend([0; 2048]);
    refused(
        &[honest().bytes, huge].concat(),
        "spec.dump",
        Problem::Truncated,
    );
    let big = vec![b' '; 17 << 20];
    let problem = Problem::TooLarge {
        size_bytes: 17 << 20,
        limit_bytes: 16 << 20,
    };
    refused(
        &honest().with("manifest.json", &big).end(),
        "manifest.json",
        problem,
    );
}

#[test]
fn what_is_no_archive_is_refused() {
    refused(
        b"",
        "header at byte 0",
        Problem::NotTar {
            looks_like: Some("shorter than a header"),
        },
    );
    refused(
        &[b'x'; 4096],
        "header at byte 512",
        Problem::NotTar { looks_like: None },
    );
    let mut trailing = honest().manifest().end();
    trailing.extend_from_slice(b"hidden");
    refused(&trailing, "end of the archive", Problem::TrailingData);
    let mut long = honest().manifest().end();
    long.resize(4 << 20, 0);
    refused(&long, "end of the archive", Problem::TrailingData);
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    let error = Archive::open(File::from(reader)).unwrap_err();
    assert!(
        error.to_string().starts_with("archive: a something"),
        "{error}"
    );
    let directory = File::open("/").unwrap();
    Archive::open(directory).unwrap_err();
}

#[test]
fn archives_cut_anywhere_are_refused() {
    let whole = honest().manifest().end();
    for length in (0..whole.len()).step_by(97) {
        let finding = check(&whole[..length]).unwrap_err();
        assert!(!finding.entry.is_empty());
        assert!(!all(&whole[..length]).is_empty(), "cut at {length}");
    }
}

#[test]
fn every_problem_is_found_in_one_pass() {
    let mut forge = honest()
        .typed(b"../../etc/cron.d/x", Kind::Regular, b"")
        .typed(b"spec.dump", Kind::Symlink, b"/etc/shadow")
        .with("config.dump", b"other");
    forge
        .entries
        .retain(|entry| entry.name != "checkpoint/core-1.img");
    forge.entries.pop();
    forge.entries[0].sha256 = "0".repeat(64);
    forge.entries.push(Entry {
        name: "dump.log".to_owned(),
        ..Entry::default()
    });
    assert_eq!(
        all(&forge.manifest().end()),
        [
            "../../etc/cron.d/x: the name is not a clean relative path",
            "spec.dump: a symbolic link is not allowed here",
            "config.dump: the name occurs twice",
            "checkpoint/pages-1.img: the content does not match its digest",
            "checkpoint/core-1.img: the manifest does not list it",
            "dump.log: the entry is missing",
        ]
    );
}

#[test]
fn other_engines_archives_can_be_read() {
    let archive = Archive::open(file_of(&honest().end())).unwrap();
    assert!(archive.manifest().is_none());
    assert_eq!(archive.read_small("config.dump", 10).unwrap(), b"{}");
    assert_eq!(all(&honest().end()), [""; 0]);
    archive.verify().unwrap_err();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn changed_archives_are_read_or_refused_by_name(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        repeat in proptest::option::of((any::<prop::sample::Index>(), 1_usize..4)),
        reseal: bool,
    ) {
        let mut bytes = honest().manifest().end();
        let original = bytes.clone();
        for (index, value) in edits {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Some((index, blocks)) = repeat {
            let begin = index.index(bytes.len() / BLOCK_LEN) * BLOCK_LEN;
            let end = (begin + blocks * BLOCK_LEN).min(bytes.len());
            let part = bytes[begin..end].to_vec();
            bytes.splice(begin..begin, part);
        }
        if let Some(index) = cut {
            bytes.truncate(index.index(bytes.len()));
        }
        if reseal {
            reseal_headers(&mut bytes);
        }
        let outcome = check(&bytes);
        if let Err(finding) = &outcome {
            prop_assert!(!finding.entry.is_empty());
        }
        prop_assert_eq!(outcome.is_err(), !all(&bytes).is_empty());
        if outcome.is_ok() {
            // Whatever was changed, the content is what the manifest says.
            let archive = Archive::open(file_of(&bytes)).unwrap();
            let first = Archive::open(file_of(&original)).unwrap();
            for name in ["checkpoint/pages-1.img", "checkpoint/core-1.img", "config.dump"] {
                let is_listed = archive.manifest().unwrap().entries.iter().any(|e| e.name == name);
                if is_listed && archive.manifest() == first.manifest() {
                    prop_assert_eq!(
                        archive.read_small(name, 1 << 20).unwrap(),
                        first.read_small(name, 1 << 20).unwrap()
                    );
                }
            }
        }
    }
}

/// Makes the checksum of everything that looks like a header right again.
fn reseal_headers(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK_LEN) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}
