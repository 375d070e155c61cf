//! Layers that mean harm: each is refused by the name of its entry or kept inside.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::test_support::{Tar, gzip, tree, zstd};

/// Unpacks beside a file that must not change and directories that must stay empty.
fn attempt(bytes: &[u8], limits: Limits) -> Result<Unpacked, Error> {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    sys::fs::replace_path(&outside.join("victim"), 0o600, b"untouched").unwrap();
    let into = dir.path().join("layer");
    fs::create_dir(&into).unwrap();
    let result = unpack(bytes, &into, &[], limits);
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched");
    let found: Vec<_> = tree(dir.path())
        .into_iter()
        .filter(|name| !name.starts_with("layer/"))
        .collect();
    assert_eq!(found, ["outside/", "outside/victim"]);
    result
}

fn check_refused(tar: Tar, entry: &str, part: &str) {
    let error = attempt(&tar.bytes(), Limits::default()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("{entry:?}")) && text.contains(part),
        "{text}"
    );
}

#[test]
fn names_and_links_that_lead_out_are_refused() {
    check_refused(
        Tar::new().file("../outside/victim", "x"),
        "../outside/victim",
        "out of the layer",
    );
    check_refused(
        Tar::new().file("a/../../x", "x"),
        "a/../../x",
        "out of the layer",
    );
    check_refused(Tar::new().dir("..", 0o755), "..", "out of the layer");
    check_refused(
        Tar::new()
            .symlink("evil", "../outside")
            .file("evil/victim", "x"),
        "evil/victim",
        "out of the layer",
    );
    check_refused(
        Tar::new()
            .symlink("a/evil", "../../..")
            .file("a/evil/outside/victim", "x"),
        "a/evil/outside/victim",
        "out of the layer",
    );
    check_refused(
        Tar::new().hardlink("h", "../outside/victim"),
        "h",
        "out of the layer",
    );
    check_refused(
        Tar::new()
            .symlink("evil", "../outside")
            .hardlink("h", "evil/victim"),
        "h",
        "out of the layer",
    );
    check_refused(
        Tar::new()
            .symlink("evil", "../outside")
            .file("evil/.wh.victim", ""),
        "evil/.wh.victim",
        "out of the layer",
    );
    check_refused(Tar::new().hardlink("h", "missing"), "h", "not there");
    check_refused(Tar::new().file("h", "").hardlink("h", "h"), "h", "itself");
    check_refused(
        Tar::new().dir("d/", 0o755).hardlink("h", "d"),
        "h",
        "not there",
    );
    check_refused(
        Tar::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", ""),
        "a/x",
        "too many links",
    );
    check_refused(
        Tar::new().file("f", "").file("f/x", ""),
        "f/x",
        "no directory",
    );
}

#[test]
fn an_absolute_link_stays_inside_and_the_host_file_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().to_str().unwrap();
    let tar = Tar::new().symlink("evil", target).file("evil/file", "x");
    attempt(&tar.bytes(), Limits::default()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn marks_devices_and_names_that_would_confuse_overlayfs_are_refused() {
    check_refused(
        Tar::new().device(b'3', "whiteout", (0, 0)),
        "whiteout",
        "0:0",
    );
    check_refused(Tar::new().file("d/.wh.", ""), "d/.wh.", "nothing");
    check_refused(Tar::new().file("d/.wh...", ""), "d/.wh...", "nothing");
    check_refused(Tar::new().file(".wh.d/x", ""), ".wh.d/x", "deletion mark");
    check_refused(Tar::new().file(".", "x"), ".", "root");
    check_refused(Tar::new().symlink("l", ""), "l", "nothing");
    let long = "n".repeat(256);
    check_refused(Tar::new().file(&long, ""), &long, "too long");
    let deep = "d/".repeat(600);
    check_refused(Tar::new().dir(&deep, 0o755), &deep, "deep");
}

#[test]
fn truncated_and_damaged_layers_are_refused() {
    let tar = Tar::new()
        .file("a", &"data".repeat(3000))
        .file("b", "b")
        .bytes();
    for blob in [tar.clone(), gzip(&tar), zstd(&tar)] {
        for cut in [1, blob.len() / 3, blob.len() / 2] {
            let result = attempt(&blob[..cut], Limits::default());
            assert!(
                matches!(result, Err(Error::Malformed { .. })),
                "{cut}: {result:?}"
            );
        }
    }
    let mut damaged = gzip(&tar);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    assert!(attempt(&damaged, Limits::default()).is_err());
    let error = attempt(b"\xfd7zXZ\0 and so on", Limits::default()).unwrap_err();
    assert!(error.to_string().contains("xz"), "{error}");
}

#[test]
fn bombs_are_stopped_at_the_limit() {
    let many = (0..300).fold(Tar::new(), |tar, number| {
        tar.dir(&format!("d{number}"), 0o755)
    });
    let limits = Limits {
        entries: 100,
        ..Limits::default()
    };
    let error = attempt(&many.bytes(), limits).unwrap_err();
    assert!(
        matches!(error, Error::Limit { limit: 100, .. }),
        "{error:?}"
    );
    let limits = Limits {
        directory_name_bytes: 1000,
        ..Limits::default()
    };
    let error = attempt(&many.bytes(), limits).unwrap_err();
    assert!(
        matches!(error, Error::Limit { limit: 1000, .. }),
        "{error:?}"
    );
    let bomb = gzip(&Tar::new().file("bomb", &"0".repeat(4 << 20)).bytes());
    assert!(bomb.len() < 64 << 10);
    let limits = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    let error = attempt(&bomb, limits).unwrap_err();
    assert!(
        matches!(&error, Error::Limit { entry, .. } if entry == "bomb"),
        "{error:?}"
    );
    let limits = Limits {
        reserve_bytes: u64::MAX,
        ..Limits::default()
    };
    let error = attempt(&bomb, limits).unwrap_err();
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    );
}

#[test]
fn a_full_disk_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    sys::mount::in_private_namespace(|| {
        sys::mount::attach(sys::mount::tmpfs(Some(1 << 20), 0o755)?, dir.path())?;
        let tar = Tar::new().file("big", &"x".repeat(2 << 20)).bytes();
        let limits = Limits {
            reserve_bytes: 0,
            ..Limits::default()
        };
        let error = unpack(tar.as_slice(), dir.path(), &[], limits).unwrap_err();
        let Error::Io { source, path, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(
            (source.kind(), &*path),
            (io::ErrorKind::StorageFull, Path::new("big"))
        );
        Ok(())
    })
    .unwrap();
}

/// A few names that collide on purpose.
fn name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "..",
        ".",
        "",
        "outside",
        "victim",
        ".wh.a",
        ".wh..wh..opq",
        ".wh.",
        "layer",
    ]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_sequence_of_entries_reaches_outside(
        entries in prop::collection::vec((0_u8..9, name(), name(), 0_u8..), 1..20)
    ) {
        let mut tar = Tar::new();
        for (kind, name, link, data) in entries {
            let kind = b"001225366"[usize::from(kind)];
            let data = if kind == b'0' { vec![data; usize::from(data)] } else { Vec::new() };
            tar = tar.entry(kind, &name, &link, &data, |_| {});
        }
        // What is refused late must not have done harm before.
        drop(attempt(&tar.bytes(), Limits::default()));
    }
}
