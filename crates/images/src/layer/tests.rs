use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::test_support::{Tar, gzip, plain, tree, zstd};

/// Layers unpacked one upon the other, as the store does it.
struct Stack {
    dir: tempfile::TempDir,
    /// Topmost first.
    layers: Vec<PathBuf>,
}

fn stack(layers: &[Tar]) -> Stack {
    let mut stack = Stack {
        dir: tempfile::tempdir().unwrap(),
        layers: Vec::new(),
    };
    for (number, tar) in layers.iter().enumerate() {
        let into = stack.dir.path().join(format!("layer-{number}"));
        fs::create_dir(&into).unwrap();
        unpack(
            tar.bytes().as_slice(),
            &into,
            &stack.layers,
            Limits::default(),
        )
        .unwrap();
        stack.layers.insert(0, into);
    }
    stack
}

impl Stack {
    fn top(&self, name: &str) -> PathBuf {
        self.layers[0].join(name)
    }

    /// Shows the merged tree to `work`.
    fn mounted(&self, work: impl FnOnce(&Path) + Send) {
        sys::mount::in_private_namespace(|| {
            let base = self.dir.path();
            let [upper, work_dir, merged] = ["upper", "work", "merged"].map(|name| base.join(name));
            for dir in [&upper, &work_dir, &merged] {
                fs::create_dir_all(dir)?;
            }
            let lowers: Vec<&Path> = self.layers.iter().map(PathBuf::as_path).collect();
            sys::mount::overlay(&lowers, &upper, &work_dir, &merged)?;
            work(&merged);
            Ok(())
        })
        .unwrap();
    }
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn files_directories_links_devices_and_their_metadata_are_made() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let stack = stack(&[Tar::new()
        .dir("./", 0o755)
        .dir("tmp/", 0o1777)
        .entry(b'0', "bin/su", "", b"setuid", |header| {
            header.set_mode(0o4755);
            header.set_uid(5);
            header.set_gid(6);
        })
        .hardlink("bin/su2", "./bin/su")
        .symlink("sh", "bin/su")
        .hardlink("sh2", "sh")
        .pax(&[
            ("mtime", b"1234.5"),
            ("SCHILY.xattr.user.note", b"n"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.security.selinux", b"label"),
        ])
        .file("ping", "cap")
        .device(b'3', "dev/null", (1, 3))
        .device(b'4', "dev/disk", (8, 17))
        .entry(b'6', "dev/fifo", "", b"", |header| header.set_mode(0o620))
        .file("/absolute", "inside")]);
    let su = fs::metadata(stack.top("bin/su")).unwrap();
    assert_eq!(
        (su.mode() & 0o7777, su.uid(), su.gid(), su.nlink()),
        (0o4755, 5, 6, 2)
    );
    assert_eq!(su.mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(stack.top("bin/su2")).unwrap().ino(), su.ino());
    assert_eq!(
        fs::metadata(stack.top("bin")).unwrap().mode() & 0o7777,
        0o755
    );
    assert_eq!(
        fs::metadata(stack.top("tmp")).unwrap().mode() & 0o7777,
        0o1777
    );
    assert_eq!(
        fs::metadata(stack.top("tmp")).unwrap().mtime(),
        1_000_000_000
    );
    assert_eq!(fs::read_link(stack.top("sh")).unwrap(), Path::new("bin/su"));
    assert_eq!(
        fs::read_link(stack.top("sh2")).unwrap(),
        Path::new("bin/su")
    );
    let ping = fs::metadata(stack.top("ping")).unwrap();
    assert_eq!((ping.mtime(), ping.mtime_nsec()), (1234, 500_000_000));
    let xattr = |name: &str| {
        let mut buffer = vec![0; 64];
        let path = stack.top("ping");
        rustix::fs::lgetxattr(&path, name, &mut buffer).map(|count| buffer[..count].to_vec())
    };
    assert_eq!(xattr("user.note").unwrap(), b"n");
    assert_eq!(xattr("security.capability").unwrap(), capability);
    assert!(xattr("trusted.overlay.redirect").is_err() && xattr("security.selinux").is_err());
    let null = fs::symlink_metadata(stack.top("dev/null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(
        (null.rdev(), null.mode() & 0o777),
        (rustix::fs::makedev(1, 3), 0o644)
    );
    assert!(
        fs::symlink_metadata(stack.top("dev/disk"))
            .unwrap()
            .file_type()
            .is_block_device()
    );
    let fifo = fs::symlink_metadata(stack.top("dev/fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());
    assert_eq!(fifo.mode() & 0o777, 0o620);
    assert_eq!(text(stack.top("absolute")), "inside");
}

#[test]
fn the_merged_tree_follows_deletions_opaque_directories_and_replacements() {
    let bottom = Tar::new()
        .dir("keep/", 0o700)
        .file("keep/a", "a")
        .file("keep/b", "b")
        .dir("opaque/", 0o755)
        .file("opaque/old", "old")
        .dir("gone/", 0o755)
        .file("gone/x", "x")
        .file("was-file", "file")
        .dir("was-dir/", 0o755)
        .file("was-dir/inner", "inner")
        .dir("reborn/", 0o755)
        .file("reborn/old", "old");
    let top = Tar::new()
        .file("keep/.wh.a", "")
        .file("opaque/new", "new")
        .file("opaque/.wh..wh..opq", "")
        .file(".wh.gone", "")
        .file(".wh.never-there", "")
        .dir("was-file/", 0o755)
        .file("was-file/now-dir", "x")
        .file("was-dir", "now file")
        .file(".wh.reborn", "")
        .dir("reborn/", 0o755)
        .file("reborn/new", "new")
        .file(".wh..wh.plnk/17.3", "aufs");
    let stack = stack(&[bottom, top]);
    assert_eq!(
        fs::metadata(stack.top("keep")).unwrap().mode() & 0o7777,
        0o700,
        "copied up"
    );
    assert!(!stack.top(".wh..wh.plnk").exists());
    stack.mounted(|merged| {
        let expected = [
            "keep/",
            "keep/b",
            "opaque/",
            "opaque/new",
            "reborn/",
            "reborn/new",
            "was-dir",
            "was-file/",
            "was-file/now-dir",
        ];
        assert_eq!(tree(merged), expected);
        assert_eq!(text(merged.join("was-dir")), "now file");
    });
}

#[test]
fn a_deletion_hides_lower_layers_only_in_whatever_order_it_comes() {
    let bottom = Tar::new()
        .file("f", "lower")
        .dir("d/", 0o755)
        .file("d/lower", "");
    let top = Tar::new()
        .file("f", "upper")
        .file(".wh.f", "")
        .dir("d/", 0o755)
        .file("d/upper", "")
        .file(".wh.d", "");
    stack(&[bottom, top]).mounted(|merged| {
        assert_eq!(tree(merged), ["d/", "d/upper", "f"]);
        assert_eq!(text(merged.join("f")), "upper");
    });
}

#[test]
fn implied_parents_keep_the_owner_and_mode_of_the_layer_below() {
    let bottom = Tar::new()
        .entry(b'5', "home/user/", "", b"", |header| {
            header.set_mode(0o2750);
            header.set_uid(1000);
            header.set_gid(1001);
        })
        .dir("./", 0o711);
    let stack = stack(&[bottom, Tar::new().file("home/user/deep/file", "x")]);
    stack.mounted(|merged| {
        let home = fs::metadata(merged.join("home/user")).unwrap();
        assert_eq!(
            (home.mode() & 0o7777, home.uid(), home.gid()),
            (0o2750, 1000, 1001)
        );
        assert_eq!(home.mtime(), 1_000_000_000);
        assert_eq!(
            fs::metadata(merged.join("home/user/deep")).unwrap().mode() & 0o777,
            0o755
        );
    });
    let root = fs::metadata(&stack.layers[0]).unwrap();
    assert_eq!(root.permissions().mode() & 0o7777, 0o711);
}

#[test]
fn links_of_the_same_layer_are_followed_inside_it() {
    let stack = stack(&[Tar::new()
        .dir("run/", 0o755)
        .symlink("var/run", "/run")
        .file("var/run/pid", "1")
        .symlink("lib", "usr/lib")
        .file("lib/libc.so", "elf")
        .symlink("a/b/up", "../../usr")
        .file("a/b/up/share", "x")
        .hardlink("copy", "var/run/pid")]);
    assert_eq!(text(stack.top("run/pid")), "1");
    assert_eq!(text(stack.top("usr/lib/libc.so")), "elf");
    assert_eq!(text(stack.top("usr/share")), "x");
    assert_eq!(text(stack.top("copy")), "1");
}

#[test]
fn a_later_entry_replaces_an_earlier_one_without_writing_through_it() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    sys::fs::replace_path(&victim, 0o600, b"untouched").unwrap();
    let stack = stack(&[Tar::new()
        .symlink("f", victim.to_str().unwrap())
        .file("f", "mine")
        .file("h", "first")
        .hardlink("i", "h")
        .file("h", "second")
        .dir("d/", 0o755)
        .file("d/x", "x")
        .symlink("d", "elsewhere")
        .file("elsewhere/y", "y")]);
    assert_eq!(text(victim), "untouched");
    assert_eq!(
        (text(stack.top("f")), text(stack.top("h"))),
        ("mine".into(), "second".into())
    );
    assert_eq!(
        text(stack.top("i")),
        "first",
        "the other name keeps the old content"
    );
    assert_eq!(text(stack.top("d/y")), "y");
}

#[test]
fn digests_cover_the_blob_and_the_tar_whatever_the_compression() {
    let tar = Tar::new().file("a", &"text ".repeat(5000)).bytes();
    for compress in [plain as fn(&[u8]) -> Vec<u8>, gzip, zstd] {
        let blob = compress(&tar);
        let dir = tempfile::tempdir().unwrap();
        let found = unpack(blob.as_slice(), dir.path(), &[], Limits::default()).unwrap();
        assert_eq!(
            (found.digest, found.diff_id),
            (Digest::of(&blob), Digest::of(&tar))
        );
        assert_eq!((found.used_bytes, found.inodes), (28672, 1));
        assert_eq!(text(dir.path().join("a")).len(), 25000);
    }
    let doubled = [gzip(&tar[..512]), gzip(&tar[512..])].concat();
    let dir = tempfile::tempdir().unwrap();
    unpack(doubled.as_slice(), dir.path(), &[], Limits::default()).unwrap();
}
