use std::io::Read as _;

use proptest::prelude::*;

use super::decode::{Reader, Stop};
use super::encode::Header;
use super::source::Stream;
use super::*;
use crate::error::Problem;

fn archive(headers: &[(Header<'_>, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (header, data) in headers {
        bytes.extend(header.encode());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
    }
    bytes.resize(bytes.len() + 2 * BLOCK_LEN, 0);
    bytes
}

fn problem(bytes: &[u8]) -> Problem {
    let mut reader = Reader::new(Stream(bytes));
    loop {
        match reader.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("read to the end"),
            Err((_, Stop::Bad(problem))) => return problem,
            Err((_, Stop::Io(error))) => panic!("{error}"),
        }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_again(
        name in proptest::collection::vec(1_u8..=255, 1..300),
        link in proptest::collection::vec(1_u8..=255, 0..300),
        mode in 0_u32..0o10000,
        uid: u32,
        gid: u32,
        seconds in -10_000_000_000_i64..100_000_000_000,
        nanoseconds in 0_u32..1_000_000_000,
        value in proptest::collection::vec(any::<u8>(), 0..100),
        data in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut header = Header::file(&name, data.len() as u64, Time { seconds, nanoseconds });
        header.link = &link;
        (header.mode, header.uid, header.gid) = (mode, uid, gid);
        header.records = vec![(b"SCHILY.xattr.user.k".to_vec(), value.clone())];
        let bytes = archive(&[(header, &data), (Header::file(b"next", 0, Time::default()), b"")]);
        let mut reader = Reader::new(Stream(bytes.as_slice()));
        let member = reader.next().unwrap().unwrap();
        prop_assert_eq!(&member.name, &name);
        prop_assert_eq!(&member.link, &link);
        prop_assert_eq!((member.mode, member.uid, member.gid), (mode, uid, gid));
        prop_assert_eq!(member.mtime, Time { seconds, nanoseconds });
        prop_assert_eq!(member.kind(), Kind::Regular);
        prop_assert_eq!(&member.xattrs, &[(b"user.k".to_vec(), value)]);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        prop_assert_eq!(read, data);
        prop_assert_eq!(reader.next().unwrap().unwrap().name, b"next");
        prop_assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn sizes_beyond_octal_survive(size in 0_u64..(1 << 62)) {
        let bytes = Header::file(b"big", size, Time::default()).encode();
        let mut reader = Reader::new(Stream(bytes.as_slice()));
        prop_assert_eq!(reader.next().unwrap().unwrap().size, size);
    }

    #[test]
    fn padded_headers_have_the_length_asked_for(blocks in 3_u64..20, size in 0_u64..(1 << 40)) {
        let header = Header::file(b"checkpoint/pages-1.img", size, Time::default());
        let bytes = header.encode_padded(blocks * BLOCK).unwrap();
        prop_assert_eq!(bytes.len() as u64, blocks * BLOCK);
        let mut reader = Reader::new(Stream(bytes.as_slice()));
        let member = reader.next().unwrap().unwrap();
        prop_assert_eq!(member.size, size);
        prop_assert_eq!(member.data_offset, blocks * BLOCK);
    }

    #[test]
    fn any_bytes_end_in_an_error_or_the_end(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..4096),
        edits in proptest::collection::vec((0_usize..2048, any::<u8>()), 0..8),
        real: bool,
    ) {
        if real {
            let header = Header::file(&[b'n'; 150], 700, Time { seconds: -3, nanoseconds: 5 });
            let mut genuine = archive(&[(header, &[1; 700])]);
            for (at, byte) in edits {
                genuine[at] = byte;
            }
            bytes = genuine;
        }
        let mut reader = Reader::new(Stream(bytes.as_slice()));
        for _ in 0..100 {
            match reader.next() {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }
}

#[test]
fn archives_cut_anywhere_are_truncated() {
    let whole = archive(&[(Header::file(b"a", 600, Time::default()), &[9; 600])]);
    for length in 512..whole.len() {
        assert_eq!(
            problem(&whole[..length]),
            Problem::Truncated,
            "cut at {length}"
        );
    }
}

#[test]
fn other_formats_are_told_apart() {
    let gzip = [&[0x1f, 0x8b][..], &[7; 600]].concat();
    assert_eq!(
        problem(&gzip),
        Problem::NotTar {
            looks_like: Some("gzip")
        }
    );
    assert_eq!(problem(&[7; 600]), Problem::NotTar { looks_like: None });
    let short = Problem::NotTar {
        looks_like: Some("shorter than a header"),
    };
    assert_eq!(problem(b"short"), short);
    assert_eq!(problem(b""), short);
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let twice = b"12 path=abc\n12 path=xyz\n";
    let bad = |reason| Problem::ExtendedHeader { reason };
    assert_eq!(
        records::parse_records(twice),
        Err(bad("a record is given twice"))
    );
    for (body, reason) in [
        (&b"x"[..], "a record has no length"),
        (b"9999999999 a=b\n", "a record has no length"),
        (b"99 a=b\n", "a record is too long"),
        (b"6 a=bc\n", "a record does not end"),
        (b"6 =bc\n", "a record has no key"),
        (b"0 a=b\n", "a record does not end"),
    ] {
        assert_eq!(
            records::parse_records(body),
            Err(bad(reason)),
            "{}",
            body.escape_ascii()
        );
    }
    let mut directory = Header::file(b"d/", 4, Time::default());
    directory.kind = Kind::Directory;
    let bytes = archive(&[(directory, b"data")]);
    assert_eq!(
        problem(&bytes),
        Problem::Number {
            field: "size of an entry without data"
        }
    );
}

#[test]
fn extended_headers_are_bounded() {
    let mut header = Header::file(b"n", 0, Time::default());
    header.records = vec![(b"SCHILY.xattr.user.big".to_vec(), vec![b'x'; 2 << 20])];
    let bytes = archive(&[(header, b"")]);
    assert_eq!(
        problem(&bytes),
        Problem::ExtendedHeader {
            reason: "longer than 1 MiB"
        }
    );
    let name = vec![b'a'; 5000];
    let bytes = archive(&[(Header::file(&name, 0, Time::default()), b"")]);
    assert_eq!(problem(&bytes), Problem::UncleanName);
    let mut long = Header::file(b"././@LongLink", 1 << 40, Time::default());
    long.kind = Kind::Other(b'L');
    assert_eq!(
        problem(&archive(&[(long, b"")])),
        Problem::ExtendedHeader {
            reason: "longer than 1 MiB"
        }
    );
}

#[test]
fn sparse_headers_of_other_versions_are_refused() {
    let mut header = Header::file(b"s", 0, Time::default());
    header.records = vec![(b"GNU.sparse.map".to_vec(), b"0,1".to_vec())];
    assert_eq!(
        problem(&archive(&[(header.clone(), b"")])),
        Problem::SparseMap
    );
    header.records = vec![(b"GNU.sparse.realsize".to_vec(), b"10".to_vec())];
    assert_eq!(problem(&archive(&[(header, b"")])), Problem::SparseMap);
}
