use super::*;
use crate::test_support::Tar;

const LIMITS: TarLimits = TarLimits {
    entries: 50,
    bytes: 1 << 20,
    name_bytes: 4095,
    extension_bytes: 65536,
};

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
    let mut tar = TarReader::new(bytes, LIMITS);
    let mut all = Vec::new();
    while let Some(entry) = tar.next()? {
        let mut data = Vec::new();
        let mut buffer = [0; 100];
        loop {
            let count = tar.read_data(&mut buffer)?;
            if count == 0 {
                break;
            }
            data.extend(&buffer[..count]);
        }
        all.push((entry, data));
    }
    Ok(all)
}

fn check_refused(tar: Tar, entry: &str, part: &str) {
    let error = read(&tar.bytes()).unwrap_err().to_string();
    assert!(error.contains(entry) && error.contains(part), "{error}");
}

#[test]
fn entries_have_their_fields_and_data() {
    let long = "d/".repeat(120) + "file";
    let tar = Tar::new()
        .dir("dir/", 0o1777)
        .file("dir/file", &"x".repeat(700))
        .file("empty", "")
        .file(&long, "long")
        .symlink("link", &long)
        .hardlink("hard", "dir/file")
        .device(b'3', "null", (1, 3))
        .device(b'4', "disk", (8, 1))
        .entry(b'6', "fifo", "", b"", |header| header.set_uid(1000));
    let all = read(&tar.bytes()).unwrap();
    let names: Vec<_> = all.iter().map(|(entry, _)| entry.display()).collect();
    let expected = [
        "dir/", "dir/file", "empty", &long, "link", "hard", "null", "disk", "fifo",
    ];
    assert_eq!(names, expected);
    assert_eq!((all[0].0.kind, all[0].0.mode), (Kind::Directory, 0o1777));
    assert_eq!(all[1].1, vec![b'x'; 700]);
    assert_eq!(all[1].0.mtime.tv_sec, 1_000_000_000);
    assert_eq!(all[3].1, b"long");
    assert_eq!(
        (all[4].0.kind, all[4].0.link.as_slice()),
        (Kind::Symlink, long.as_bytes())
    );
    assert_eq!(all[5].0.kind, Kind::Hardlink);
    assert_eq!(all[6].0.kind, Kind::Char { major: 1, minor: 3 });
    assert_eq!(all[7].0.kind, Kind::Block { major: 8, minor: 1 });
    assert_eq!((all[8].0.kind, all[8].0.uid), (Kind::Fifo, 1000));
}

#[test]
fn pax_headers_override_the_next_entry_only() {
    let tar = Tar::new()
        .pax(&[
            ("path", "nämé".as_bytes()),
            ("uid", b"3000000000"),
            ("gid", b"7"),
            ("mtime", b"-1.25"),
            ("SCHILY.xattr.user.a", b"v\0\n=alue"),
            ("comment", b"ignored"),
        ])
        .file("x", "one")
        .entry(b'g', "global", "", b"16 comment=git\n\n", |_| {})
        .pax(&[("size", b"3")])
        .entry(b'0', "sized", "", b"abc", |header| header.set_size(0))
        .file("y", "two");
    let all = read(&tar.bytes()).unwrap();
    let first = &all[0].0;
    assert_eq!(first.display(), "nämé");
    assert_eq!((first.uid, first.gid), (3_000_000_000, 7));
    assert_eq!((first.mtime.tv_sec, first.mtime.tv_nsec), (-2, 750_000_000));
    assert_eq!(first.xattrs, [(b"user.a".to_vec(), b"v\0\n=alue".to_vec())]);
    assert_eq!(all[1].1, b"abc");
    assert_eq!((all[2].0.display(), all[2].0.uid), ("y".to_owned(), 0));
    assert!(all[2].0.xattrs.is_empty());
}

#[test]
fn a_tar_may_end_without_zero_blocks_but_not_inside_an_entry() {
    let tar = Tar::new().file("a", "data").bytes();
    assert_eq!(read(&tar[..1024]).unwrap().len(), 1);
    for cut in [1, 511, 513, 700, 1023] {
        let error = read(&tar[..cut]).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{cut}: {error:?}");
    }
    assert_eq!(read(&[]).unwrap().len(), 0);
    assert_eq!(read(&[0; 512]).unwrap().len(), 0);
}

#[test]
fn what_breaks_the_format_is_refused_by_name() {
    check_refused(
        Tar::new().entry(b'0', "bad-size", "", b"", |header| {
            header.as_mut_bytes()[124..136].copy_from_slice(b"zzzzzzzzzzz\0");
        }),
        "bad-size",
        "size",
    );
    check_refused(
        Tar::new().entry(b'M', "volume", "", b"", |_| {}),
        "volume",
        "type",
    );
    check_refused(
        Tar::new().entry(b'S', "sparse", "", b"", |_| {}),
        "sparse",
        "sparse",
    );
    check_refused(
        Tar::new().pax(&[("GNU.sparse.major", b"1")]).file("s", ""),
        "PaxHeaders",
        "sparse",
    );
    check_refused(
        Tar::new().pax(&[("path", b"a\0b")]).file("s", ""),
        "PaxHeaders",
        "path",
    );
    check_refused(
        Tar::new().pax(&[("uid", b"-1")]).file("s", ""),
        "PaxHeaders",
        "uid",
    );
    check_refused(
        Tar::new().pax(&[("uid", b"4294967295")]).file("s", ""),
        "s",
        "user id",
    );
    check_refused(
        Tar::new().entry(b'x', "px", "", b"5 a=b", |_| {}),
        "px",
        "malformed",
    );
    check_refused(
        Tar::new().entry(b'x', "px", "", b"99999999999999999999 a=b\n", |_| {}),
        "px",
        "",
    );
    check_refused(Tar::new().entry(b'x', "px", "", b"3 a\n", |_| {}), "px", "");
    let mut spoiled = Tar::new().file("a", "").bytes();
    spoiled[0] = b'b';
    assert!(read(&spoiled).unwrap_err().to_string().contains("checksum"));
    assert!(
        read(&[7; 2048])
            .unwrap_err()
            .to_string()
            .contains("checksum")
    );
}

#[test]
fn limits_are_named_and_sizes_are_believed_only_within_them() {
    let many = (0..60).fold(Tar::new(), |tar, number| tar.file(&number.to_string(), ""));
    let error = read(&many.bytes()).unwrap_err();
    assert!(matches!(
        error,
        Error::Limit {
            what: "the number of entries",
            limit: 50,
            ..
        }
    ));
    let giant = Tar::new().entry(b'0', "giant", "", b"", |header| {
        header.set_size(u64::MAX >> 1)
    });
    let error = read(&giant.bytes()).unwrap_err();
    assert!(matches!(&error, Error::Limit { entry, limit: 1048576, .. } if entry == "giant"));
    let name = Tar::new().entry(b'L', "l", "", b"", |header| header.set_size(1 << 40));
    assert!(matches!(
        read(&name.bytes()).unwrap_err(),
        Error::Limit { limit: 4096, .. }
    ));
    let pax = Tar::new().entry(b'x', "p", "", b"", |header| header.set_size(1 << 40));
    assert!(matches!(
        read(&pax.bytes()).unwrap_err(),
        Error::Limit { limit: 65536, .. }
    ));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic_or_run_on(bytes in proptest::collection::vec(0_u8.., 0..4096)) {
        drop(read(&bytes));
    }

    #[test]
    fn a_spoiled_tar_is_read_or_refused(at in 0_usize..4096, value in 0_u8..) {
        let mut bytes = Tar::new()
            .pax(&[("path", b"p"), ("SCHILY.xattr.user.a", b"b")])
            .file("x", "one")
            .symlink("l", &"t".repeat(150))
            .bytes();
        let at = at % bytes.len();
        bytes[at] = value;
        if let Ok(entries) = read(&bytes) {
            proptest::prop_assert!(entries.len() <= 3);
        }
    }
}
