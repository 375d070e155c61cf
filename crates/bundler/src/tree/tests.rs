#![expect(clippy::disallowed_methods, reason = "tests lay plain files out")]

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::error::Problem;
use crate::format::encode::Header;
use crate::format::{BLOCK_LEN, Kind, Time};

/// A directory to unpack into, beside a file that nobody may touch.
struct Target {
    whole: tempfile::TempDir,
    root: PathBuf,
}

impl Target {
    fn new() -> Self {
        let whole = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = whole.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(whole.path().join("outside"), "outside").unwrap();
        std::fs::create_dir(whole.path().join("outdir")).unwrap();
        std::fs::write(whole.path().join("outdir/kept"), "kept").unwrap();
        Self { whole, root }
    }

    fn apply(&self, tar: &[u8], dialect: Dialect) -> Result<ApplyReport, Error> {
        let limits = Limits {
            entries: 50,
            bytes: 1 << 20,
            file_bytes: 1 << 30,
            devices: Devices::Refuse,
        };
        let fd = sys::fs::open_dir(&self.root).unwrap();
        let outcome = apply(tar, fd.as_fd(), &limits, dialect);
        // Whatever the tar says, nothing outside has changed.
        assert_eq!(
            std::fs::read(self.whole.path().join("outside")).unwrap(),
            b"outside"
        );
        assert_eq!(
            std::fs::read(self.whole.path().join("outdir/kept")).unwrap(),
            b"kept"
        );
        assert_eq!(
            std::fs::read_dir(self.whole.path().join("outdir"))
                .unwrap()
                .count(),
            1
        );
        assert_eq!(std::fs::read_dir(self.whole.path()).unwrap().count(), 3);
        outcome
    }

    fn refused(&self, tar: &[u8], entry: &str) -> Problem {
        match self.apply(tar, Dialect::Overlay).unwrap_err() {
            Error::Invalid(finding) => {
                assert_eq!(finding.entry, entry);
                finding.problem
            }
            other => panic!("{other:?}"),
        }
    }
}

type Item<'a> = (&'a [u8], Kind, &'a [u8], &'a [u8]);

fn put(bytes: &mut Vec<u8>, header: &Header<'_>, content: &[u8]) {
    bytes.extend(header.encode());
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
}

fn tar_of(items: &[Item<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, link, content) in items {
        let mut header = Header::file(name, content.len() as u64, Time::default());
        (header.kind, header.link) = (*kind, link);
        put(&mut bytes, &header, content);
    }
    bytes.resize(bytes.len() + 2 * BLOCK_LEN, 0);
    bytes
}

#[test]
fn paths_that_leave_the_target_are_refused() {
    let target = Target::new();
    let long = vec![b'a'; 256];
    for name in [
        &b"../outside"[..],
        b"/outside",
        b"a/../../outside",
        b"..",
        b"a//b",
        b"a/./b",
        b"./../outside",
        &long,
    ] {
        for kind in [Kind::Regular, Kind::Directory, Kind::Symlink, Kind::Fifo] {
            let tar = tar_of(&[(name, kind, b"x", b"")]);
            assert_eq!(
                target.refused(&tar, &crate::error::quoted(name)),
                Problem::UncleanName
            );
        }
    }
    assert_eq!(std::fs::read_dir(&target.root).unwrap().count(), 0);
}

#[test]
fn links_on_the_way_are_refused() {
    let target = Target::new();
    symlink("../outdir", target.root.join("there")).unwrap();
    symlink(
        target.whole.path().join("outdir"),
        target.root.join("absolute"),
    )
    .unwrap();
    let through_link = Problem::Parent {
        reason: "a part of it is a symbolic link".to_owned(),
    };
    for name in [
        "there/new",
        "absolute/new",
        "there/.wh.kept",
        "there/.wh..wh..opq",
    ] {
        let tar = tar_of(&[(name.as_bytes(), Kind::Regular, b"", b"")]);
        assert_eq!(target.refused(&tar, name), through_link);
    }
    // Also when the tar brings the link itself.
    let tar = tar_of(&[
        (b"l", Kind::Symlink, b"../outdir", b""),
        (b"l/new", Kind::Regular, b"", b"x"),
    ]);
    assert_eq!(target.refused(&tar, "l/new"), through_link);
    let missing = Problem::Parent {
        reason: "it does not exist".to_owned(),
    };
    assert_eq!(
        target.refused(&tar_of(&[(b"no/f", Kind::Regular, b"", b"")]), "no/f"),
        missing
    );
    let tar = tar_of(&[
        (b"f", Kind::Regular, b"", b""),
        (b"f/g", Kind::Regular, b"", b""),
    ]);
    let file = Problem::Parent {
        reason: "a part of it is not a directory".to_owned(),
    };
    assert_eq!(target.refused(&tar, "f/g"), file);
    // A file takes the place of a link, what the link led to stays.
    let tar = tar_of(&[(b"there", Kind::Regular, b"", b"file")]);
    target.apply(&tar, Dialect::Overlay).unwrap();
    assert!(
        target
            .root
            .join("there")
            .symlink_metadata()
            .unwrap()
            .is_file()
    );
}

#[test]
fn hard_links_stay_inside() {
    let target = Target::new();
    symlink("../outside", target.root.join("link")).unwrap();
    symlink("../outdir", target.root.join("dirlink")).unwrap();
    std::fs::create_dir(target.root.join("d")).unwrap();
    for (link, reason) in [
        ("../outside", "its target is no clean path"),
        ("/etc/passwd", "its target is no clean path"),
        ("", "its target is a directory"),
        ("d", "its target is a directory"),
        ("nothing", "its target does not exist"),
        ("hard", "its target is itself"),
        (".wh.x", "its target is a whiteout"),
        (
            "dirlink/kept",
            "Too many levels of symbolic links (os error 40)",
        ),
    ] {
        let tar = tar_of(&[(b"hard", Kind::HardLink, link.as_bytes(), b"")]);
        let reason = reason.to_owned();
        assert_eq!(
            target.refused(&tar, "hard"),
            Problem::HardLink { reason },
            "{link}"
        );
    }
    // A link to a link is the link, not what it leads to.
    target
        .apply(
            &tar_of(&[(b"hard", Kind::HardLink, b"link", b"")]),
            Dialect::Overlay,
        )
        .unwrap();
    assert!(
        target
            .root
            .join("hard")
            .symlink_metadata()
            .unwrap()
            .is_symlink()
    );
}

#[test]
fn devices_are_refused_or_listed() {
    let target = Target::new();
    let mut header = Header::file(b"sda", 0, Time::default());
    (header.kind, header.device) = (Kind::BlockDevice, (8, 0));
    let mut tar = header.encode();
    tar.extend([0; 1024]);
    assert_eq!(
        target.refused(&tar, "sda"),
        Problem::WrongType {
            found: "block device"
        }
    );
    let fd = sys::fs::open_dir(&target.root).unwrap();
    let limits = Limits {
        devices: Devices::Skip,
        ..Limits::rootfs()
    };
    let report = apply(tar.as_slice(), fd.as_fd(), &limits, Dialect::Plain).unwrap();
    assert_eq!(report.skipped.len(), 1);
    assert_eq!(
        (report.skipped[0].path.to_str(), report.files),
        (Some("sda"), 0)
    );
    assert_eq!(std::fs::read_dir(&target.root).unwrap().count(), 0);
    let old_sparse = tar_of(&[(b"s", Kind::Other(b'S'), b"", b"")]);
    let found = "sparse file in the old GNU format";
    assert_eq!(
        target.refused(&old_sparse, "s"),
        Problem::WrongType { found }
    );
}

#[test]
fn whiteouts_delete_what_they_name_and_nothing_else() {
    let target = Target::new();
    std::fs::create_dir_all(target.root.join("d/e")).unwrap();
    std::fs::write(target.root.join("d/e/f"), "").unwrap();
    std::fs::write(target.root.join("gone"), "").unwrap();
    symlink("../outdir", target.root.join("link")).unwrap();
    for name in [
        ".wh.",
        ".wh..",
        ".wh...",
        ".wh..wh.x",
        "d/.wh...",
        ".wh..wh..wh..opq",
    ] {
        let tar = tar_of(&[(name.as_bytes(), Kind::Regular, b"", b"")]);
        assert_eq!(target.refused(&tar, name), Problem::Whiteout, "{name}");
    }
    let full = tar_of(&[(b".wh.gone", Kind::Regular, b"", b"content")]);
    assert_eq!(target.refused(&full, ".wh.gone"), Problem::Whiteout);
    let linked = tar_of(&[(b".wh.gone", Kind::Symlink, b"x", b"")]);
    assert_eq!(target.refused(&linked, ".wh.gone"), Problem::Whiteout);
    let own = tar_of(&[
        (b"n", Kind::Regular, b"", b"1"),
        (b".wh.n", Kind::Regular, b"", b""),
    ]);
    assert_eq!(target.refused(&own, ".wh.n"), Problem::Duplicate);
    let tar = tar_of(&[
        (b".wh.gone", Kind::Regular, b"", b""),
        (b".wh.link", Kind::Regular, b"", b""),
        (b".wh.never-there", Kind::Regular, b"", b""),
        (b"d/new", Kind::Regular, b"", b"x"),
        (b"d/.wh..wh..opq", Kind::Regular, b"", b""),
    ]);
    let report = target.apply(&tar, Dialect::Overlay).unwrap();
    assert_eq!((report.deleted, report.files), (4, 1));
    let left: Vec<_> = std::fs::read_dir(target.root.join("d")).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(std::fs::read_dir(&target.root).unwrap().count(), 2);
    // In a plain tree such names are names.
    let tar = tar_of(&[(b".wh.d", Kind::Regular, b"", b"x")]);
    target.apply(&tar, Dialect::Plain).unwrap();
    assert!(target.root.join(".wh.d").exists() && target.root.join("d").exists());
}

#[test]
fn numbers_and_sizes_are_bounded() {
    let target = Target::new();
    let names: Vec<String> = (0..60).map(|number| format!("f{number}")).collect();
    let items: Vec<Item<'_>> = names
        .iter()
        .map(|name| (name.as_bytes(), Kind::Regular, &b""[..], &b""[..]))
        .collect();
    assert_eq!(
        target.refused(&tar_of(&items), "f50"),
        Problem::TooManyEntries { limit: 50 }
    );
    let huge = Header::file(b"huge", 1 << 50, Time::default()).encode();
    let problem = Problem::TooLarge {
        size_bytes: 1 << 50,
        limit_bytes: 1 << 30,
    };
    assert_eq!(target.refused(&huge, "huge"), problem);
    let tar = tar_of(&[(b"big", Kind::Regular, b"", &vec![1; (1 << 20) + 1])]);
    let problem = Problem::TooLarge {
        size_bytes: (1 << 20) + 1,
        limit_bytes: 1 << 20,
    };
    assert_eq!(target.refused(&tar, "big"), problem);
    let cut = Header::file(b"cut", 4096, Time::default()).encode();
    assert_eq!(
        target.refused(&[cut, vec![7; 100]].concat(), "cut"),
        Problem::Truncated
    );
    let twice = tar_of(&[
        (b"t", Kind::Regular, b"", b"1"),
        (b"t", Kind::Regular, b"", b"2"),
    ]);
    assert_eq!(target.refused(&twice, "t"), Problem::Duplicate);
    let swapped = tar_of(&[
        (b"t", Kind::Symlink, b"x", b""),
        (b"t", Kind::Directory, b"", b""),
    ]);
    assert_eq!(target.refused(&swapped, "t"), Problem::Duplicate);
}

#[test]
fn sparse_maps_are_checked() {
    let target = Target::new();
    let sparse = |map: &[u8], data: &[u8], size: u64| {
        let mut body = map.to_vec();
        body.resize(body.len().next_multiple_of(BLOCK_LEN), 0);
        body.extend_from_slice(data);
        let mut header = Header::file(b"GNUSparseFile.0/s", body.len() as u64, Time::default());
        for (key, value) in [
            ("major", "1"),
            ("minor", "0"),
            ("name", "s"),
            ("realsize", &size.to_string()),
        ] {
            let key = format!("GNU.sparse.{key}").into_bytes();
            header.records.push((key, value.as_bytes().to_vec()));
        }
        let mut bytes = Vec::new();
        put(&mut bytes, &header, &body);
        bytes.resize(bytes.len() + 2 * BLOCK_LEN, 0);
        bytes
    };
    target
        .apply(
            &sparse(b"2\n1000000\n3\n2000000\n0\n", b"abc", 2_000_000),
            Dialect::Plain,
        )
        .unwrap();
    let read = std::fs::read(target.root.join("s")).unwrap();
    assert_eq!(
        (read.len(), &read[1_000_000..1_000_003]),
        (2_000_000, &b"abc"[..])
    );
    assert!(target.root.join("s").metadata().unwrap().blocks() * 512 < 100_000);
    for map in [
        &b"1\n0\n4\n"[..],
        b"1\n2000000\n3\n",
        b"2\n10\n2\n5\n1\n",
        b"2\n0\n2\n1\n1\n",
        b"1\n18446744073709551615\n3\n",
        b"99999999999999999999\n",
        b"300000\n",
        b"1\n-1\n3\n",
        b"1\n\n3\n",
        b"x",
        b"",
    ] {
        let tar = sparse(map, b"abc", 2_000_000);
        assert_eq!(
            target.refused(&tar, "s"),
            Problem::SparseMap,
            "{}",
            map.escape_ascii()
        );
    }
    let giant = sparse(b"1\n0\n3\n", b"abc", 1 << 60);
    let problem = Problem::TooLarge {
        size_bytes: 1 << 60,
        limit_bytes: 1 << 30,
    };
    assert_eq!(target.refused(&giant, "s"), problem);
}

#[test]
fn attributes_that_would_steer_the_overlay_are_refused() {
    let target = Target::new();
    let with = |key: &[u8], value: &[u8]| {
        let mut header = Header::file(b"f", 0, Time::default());
        header.records = vec![(key.to_vec(), value.to_vec())];
        let mut bytes = header.encode();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    };
    for name in [
        "trusted.overlay.redirect",
        "user.overlay.opaque",
        "system.other",
        "x",
    ] {
        let tar = with(format!("SCHILY.xattr.{name}").as_bytes(), b"/");
        let problem = Problem::Attribute {
            name: name.to_owned(),
        };
        assert_eq!(target.refused(&tar, "f"), problem);
    }
    let tar = with(
        b"SCHILY.xattr.security.selinux",
        b"system_u:object_r:shadow_t",
    );
    target.apply(&tar, Dialect::Plain).unwrap();
    let label = sys::fs::get_xattr(
        sys::fs::open_dir(&target.root).unwrap(),
        "f".as_ref(),
        "security.selinux".as_ref(),
    );
    assert_ne!(
        label.unwrap_or(None).as_deref(),
        Some(&b"system_u:object_r:shadow_t"[..])
    );
    target.refused(&with(b"uid", b"4294967295"), "f");
}

#[test]
fn trees_survive_a_round_trip() {
    let source = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| source.path().join(name);
    std::fs::create_dir_all(at("dir/sub")).unwrap();
    std::fs::write(at("dir/file"), [5; 5000]).unwrap();
    std::fs::write(at(&"n".repeat(200)), "long").unwrap();
    std::fs::write(source.path().join(OsStr::from_bytes(b"bytes-\xff")), "").unwrap();
    std::fs::hard_link(at("dir/file"), at("second")).unwrap();
    symlink("/nowhere/at all", at("link")).unwrap();
    let fd = sys::fs::open_dir(source.path()).unwrap();
    sys::pipe::fifo(&fd, "fifo", 0o640).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let sparse = std::fs::File::create_new(at("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 50 << 20).unwrap();
    sparse.set_len(100 << 20).unwrap();
    sys::fs::set_xattr(&fd, "dir".as_ref(), "user.colour".as_ref(), b"re\0d").unwrap();
    sys::fs::set_xattr(&fd, "link".as_ref(), "trusted.t".as_ref(), b"1").unwrap();
    std::os::unix::fs::chown(at("second"), Some(1000), Some(3_000_000)).unwrap();
    std::fs::set_permissions(
        at("dir/file"),
        std::os::unix::fs::PermissionsExt::from_mode(0o4751),
    )
    .unwrap();

    let mut tar = Vec::new();
    let captured = capture_tree(&fd, &mut tar).unwrap();
    assert_eq!((captured.files, captured.directories), (7, 3));
    assert_eq!(captured.skipped[0].path, Path::new("socket"));
    assert!(tar.len() < 200_000, "{}", tar.len());
    let again = {
        let mut tar = Vec::new();
        capture_tree(&fd, &mut tar).unwrap();
        tar
    };
    assert!(again == tar, "the same tree gives the same tar");

    let target = tempfile::tempdir_in("/var/tmp").unwrap();
    let root = sys::fs::open_dir(target.path()).unwrap();
    let report = restore_tree(tar.as_slice(), &root, &Limits::tmpfs()).unwrap();
    assert_eq!(
        (report.files, report.directories, report.skipped),
        (7, 3, Vec::new())
    );
    let mut second = Vec::new();
    let recaptured = capture_tree(&root, &mut second).unwrap();
    assert_eq!(recaptured.files, 7);
    // Everything but the socket is the same, to the nanosecond.
    assert!(second == tar);
    let status = target.path().join("second").symlink_metadata().unwrap();
    assert_eq!(
        (status.nlink(), status.gid(), status.mode() & 0o7777),
        (2, 3_000_000, 0o4751)
    );
    assert!(
        target
            .path()
            .join("fifo")
            .metadata()
            .unwrap()
            .file_type()
            .is_fifo()
    );
    check_with_python(&tar);
}

/// Python reads sparse files, links, modes and owners the same way.
fn check_with_python(tar: &[u8]) {
    let listed = std::process::Command::new("python3")
        .args([
            "-c",
            "import sys, tarfile, io\n\
            t = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()))\n\
            m = {x.name: x for x in t}\n\
            assert m['sparse'].size == 100 << 20, m['sparse'].size\n\
            f = t.extractfile('sparse'); f.seek(50 << 20); assert f.read(2) == b'x\\0'\n\
            assert m['second'].linkname == 'dir/file'\n\
            assert m['dir/file'].mode == 0o4751 and m['dir/file'].gid == 3000000",
        ])
        .stdin(std::process::Stdio::from({
            use std::io::{Seek as _, Write as _};
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(tar).unwrap();
            file.rewind().unwrap();
            file
        }))
        .output()
        .unwrap();
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
}

#[test]
fn gnu_tar_unpacks_the_same_tree() {
    let source = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::write(source.path().join("plain"), [1; 1000]).unwrap();
    let sparse = std::fs::File::create_new(source.path().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[2; 4096], 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
    let fd = sys::fs::open_dir(source.path()).unwrap();
    sys::fs::set_xattr(&fd, "plain".as_ref(), "user.k".as_ref(), b"v").unwrap();
    let target = tempfile::tempdir_in("/var/tmp").unwrap();
    let tar = target.path().join("t.tar");
    capture_tree(&fd, std::fs::File::create_new(&tar).unwrap()).unwrap();
    let out = target.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let unpack = std::process::Command::new("tar")
        .args(["--xattrs", "-xf"])
        .arg(&tar)
        .arg("-C")
        .arg(&out)
        .output()
        .unwrap();
    assert!(
        unpack.status.success(),
        "{}",
        String::from_utf8_lossy(&unpack.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&unpack.stderr), "");
    for name in ["plain", "sparse"] {
        let (ours, theirs) = (source.path().join(name), out.join(name));
        assert!(std::fs::read(ours).unwrap() == std::fs::read(theirs).unwrap());
    }
    let value = sys::fs::get_xattr(
        sys::fs::open_dir(&out).unwrap(),
        "plain".as_ref(),
        "user.k".as_ref(),
    );
    assert_eq!(value.unwrap().as_deref(), Some(&b"v"[..]));
}

#[test]
fn a_tar_by_gnu_tar_with_long_names_is_unpacked() {
    let source = tempfile::tempdir_in("/var/tmp").unwrap();
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    std::fs::create_dir(source.path().join("d".repeat(150))).unwrap();
    std::fs::write(source.path().join(&long), "long").unwrap();
    for format in ["gnu", "pax"] {
        let tar = std::process::Command::new("tar")
            .args([&format!("--format={format}"), "-cf", "-", "-C"])
            .arg(source.path())
            .arg(".")
            .output()
            .unwrap();
        assert!(tar.status.success());
        let target = Target::new();
        target.apply(&tar.stdout, Dialect::Overlay).unwrap();
        assert_eq!(std::fs::read(target.root.join(&long)).unwrap(), b"long");
    }
}

#[test]
fn later_names_become_links_to_what_is_in_the_tar() {
    let source = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| source.path().join(name);
    std::fs::create_dir(at("d")).unwrap();
    std::fs::write(at("d/kept"), "content").unwrap();
    std::fs::write(at("link_remap.1"), "was there").unwrap();
    let fd = sys::fs::open_dir(source.path()).unwrap();
    let mut writer = TreeWriter::overlay(&fd, Vec::new()).unwrap();
    writer.write_all().unwrap();
    std::fs::hard_link(at("d/kept"), at("d/link_remap.6")).unwrap();
    std::fs::write(at("link_remap.7"), "new").unwrap();
    std::fs::hard_link(at("link_remap.7"), at("d/link_remap.8")).unwrap();
    std::fs::write(at("not-asked-for"), "new").unwrap();
    writer.append_matching(crate::LINK_REMAP_PREFIX).unwrap();
    writer.append_matching(crate::LINK_REMAP_PREFIX).unwrap();
    let (tar, report) = writer.finish().unwrap();
    assert_eq!(report.files, 5);
    let target = Target::new();
    let applied = target.apply(&tar, Dialect::Overlay).unwrap();
    assert_eq!(applied.files, 5);
    let inode = |name: &str| target.root.join(name).metadata().unwrap().ino();
    assert_eq!(inode("d/kept"), inode("d/link_remap.6"));
    assert_eq!(inode("link_remap.7"), inode("d/link_remap.8"));
    assert!(!target.root.join("not-asked-for").exists());
}

#[test]
fn trees_that_are_too_deep_are_refused() {
    let source = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut dir = sys::fs::open_dir(source.path()).unwrap();
    for _ in 0..600 {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::RWXU).unwrap();
        dir = sys::fs::open_beneath(&dir, Path::new("d"), rustix::fs::OFlags::DIRECTORY).unwrap();
    }
    let error = capture_tree(sys::fs::open_dir(source.path()).unwrap(), std::io::sink());
    assert!(matches!(error.unwrap_err(), Error::Unsupported { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn changed_tars_do_no_harm(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        names in proptest::collection::vec("[a-c./]{0,6}|\\.wh\\.[a-c.]{0,3}|d/[a-b]", 1..6),
        kinds in proptest::collection::vec(0_u8..8, 6),
        links in proptest::collection::vec("[a-c./]{0,8}|\\.\\./outside|/etc/passwd", 6),
        forge: bool,
    ) {
        let target = Target::new();
        std::fs::create_dir(target.root.join("d")).unwrap();
        symlink("../outdir", target.root.join("c")).unwrap();
        let mut bytes = if forge {
            let items: Vec<Item<'_>> = names.iter().zip(&kinds).zip(&links).map(|((name, kind), link)| {
                let kind = Kind::from_flag(b'0' + kind);
                (name.as_bytes(), kind, link.as_bytes(), &b""[..])
            }).collect();
            tar_of(&items)
        } else {
            tar_of(&[
                (b"d/", Kind::Directory, b"", b""),
                (b"d/f", Kind::Regular, b"", &[1; 700]),
                (b"d/h", Kind::HardLink, b"d/f", b""),
                (b"d/.wh.x", Kind::Regular, b"", b""),
            ])
        };
        if !forge {
            for (index, value) in edits {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
        }
        match target.apply(&bytes, Dialect::Overlay) {
            Ok(_) => {}
            Err(Error::Invalid(finding)) => {
                prop_assert!(!finding.problem.to_string().is_empty());
            }
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }
}

#[test]
fn attributes_that_the_filesystem_does_not_take_are_left_out_and_told() {
    use sys::testing::{Refusal, libc, refusing};
    let source = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::write(source.path().join("file"), "text").unwrap();
    let fd = sys::fs::open_dir(source.path()).unwrap();
    sys::fs::set_xattr(&fd, "file".as_ref(), "user.k".as_ref(), b"v").unwrap();
    let mut tar = Vec::new();
    capture_tree(&fd, &mut tar).unwrap();
    // As a tmpfs before Linux 6.6.
    let unsupported = Refusal {
        call: libc::SYS_setxattr,
        argument: None,
        errno: libc::EOPNOTSUPP,
    };
    let target = Target::new();
    let report = refusing(&[unsupported], || target.apply(&tar, Dialect::Plain));
    let report = report.unwrap().unwrap();
    assert_eq!(
        std::fs::read(target.root.join("file")).unwrap(),
        b"text",
        "{report:?}"
    );
    assert_eq!(report.skipped.len(), 1, "{report:?}");
    assert_eq!(report.skipped[0].path, Path::new("file"));
    let reason = &report.skipped[0].reason;
    assert!(reason.contains("does not take"), "{reason}");
}
