//! What a container changed, through a real overlay: captured from one, applied to another.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![expect(clippy::disallowed_methods, reason = "tests lay plain files out")]

mod common;

use std::ffi::OsStr;
use std::fs::{create_dir, create_dir_all, hard_link, remove_dir_all, remove_file, rename, write};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use bundler::{Error, Limits, apply_overlay_diff, capture_tree, restore_tree, write_overlay_diff};
use common::names;

/// An overlay over `lower`.
struct Overlay {
    upper: PathBuf,
    merged: PathBuf,
}

impl Overlay {
    fn new(base: &Path, name: &str, lower: &Path) -> Self {
        let [upper, work, merged] =
            ["upper", "work", "merged"].map(|part| base.join(format!("{name}-{part}")));
        for directory in [&upper, &work, &merged] {
            create_dir(directory).unwrap();
        }
        sys::mount::overlay(&[lower], &upper, &work, &merged).unwrap();
        Self { upper, merged }
    }

    fn tree(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        capture_tree(sys::fs::open_dir(&self.merged).unwrap(), &mut tar).unwrap();
        tar
    }
}

fn image(lower: &Path) {
    create_dir_all(lower.join("etc/conf.d")).unwrap();
    create_dir_all(lower.join("usr/share/doc/a")).unwrap();
    create_dir_all(lower.join("var/cache")).unwrap();
    for name in [
        "etc/passwd",
        "etc/conf.d/one",
        "etc/conf.d/two",
        "usr/share/doc/a/b",
    ] {
        write(lower.join(name), name).unwrap();
    }
    for number in 0..20 {
        write(lower.join(format!("var/cache/{number}")), [number; 100]).unwrap();
    }
    hard_link(lower.join("etc/passwd"), lower.join("etc/passwd-")).unwrap();
    symlink("conf.d", lower.join("etc/link")).unwrap();
    write(lower.join("etc/becomes-dir"), "").unwrap();
    create_dir(lower.join("etc/becomes-file")).unwrap();
    write(lower.join("etc/becomes-file/x"), "").unwrap();
}

fn container_runs(root: &Path) {
    let at = |name: &str| root.join(name);
    remove_file(at("etc/conf.d/one")).unwrap();
    remove_dir_all(at("usr/share/doc")).unwrap();
    // Removed and made again: the directory hides what the image has in it.
    remove_dir_all(at("var/cache")).unwrap();
    create_dir(at("var/cache")).unwrap();
    write(at("var/cache/3"), "mine").unwrap();
    remove_file(at("etc/becomes-dir")).unwrap();
    create_dir(at("etc/becomes-dir")).unwrap();
    write(at("etc/becomes-dir/y"), "y").unwrap();
    remove_dir_all(at("etc/becomes-file")).unwrap();
    symlink("/proc/self", at("etc/becomes-file")).unwrap();
    write(at("etc/passwd"), "changed").unwrap();
    std::fs::set_permissions(at("etc/conf.d"), PermissionsExt::from_mode(0o2711)).unwrap();
    create_dir(at("data")).unwrap();
    write(at("data/a"), vec![7; 123_457]).unwrap();
    hard_link(at("data/a"), at("data/b")).unwrap();
    hard_link(at("data/a"), at("c")).unwrap();
    // Directories of the image cannot be renamed here, mv(1) copies them; new ones can.
    create_dir_all(at("usr/new/doc")).unwrap();
    remove_dir_all(at("usr/share")).unwrap();
    rename(at("usr/new"), at("usr/moved")).unwrap();
    let sparse = std::fs::File::create_new(at("data/sparse")).unwrap();
    sparse.write_all_at(b"end", 20 << 20).unwrap();
    let fd = sys::fs::open_dir(&at("data")).unwrap();
    sys::pipe::fifo(&fd, "fifo", 0o600).unwrap();
    sys::fs::set_xattr(&fd, OsStr::new("a"), OsStr::new("user.k"), b"v").unwrap();
    let cap = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    sys::fs::set_xattr(
        &fd,
        OsStr::new("a"),
        OsStr::new("security.capability"),
        &cap,
    )
    .unwrap();
    std::os::unix::fs::lchown(at("data"), Some(70_000), Some(3_000_000)).unwrap();
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o711)).unwrap();
}

#[test]
fn changes_of_a_container_come_back_in_another_overlay() {
    let base = tempfile::tempdir_in("/var/tmp").unwrap();
    sys::mount::in_private_namespace(|| {
        let lower = base.path().join("lower");
        create_dir(&lower).unwrap();
        image(&lower);
        let first = Overlay::new(base.path(), "first", &lower);
        container_runs(&first.merged);
        let mut diff = Vec::new();
        let upper = sys::fs::open_dir(&first.upper).unwrap();
        let report = write_overlay_diff(&upper, &mut diff).unwrap();
        let deleted: Vec<&str> = report
            .deleted
            .iter()
            .map(|path| path.to_str().unwrap())
            .collect();
        assert_eq!(deleted, ["/etc/conf.d/one", "/usr/share"]);
        let opaque: Vec<&str> = report
            .opaque
            .iter()
            .map(|path| path.to_str().unwrap())
            .collect();
        assert!(opaque.contains(&"/var/cache"), "{opaque:?}");
        let list = String::from_utf8(report.deleted_files().unwrap()).unwrap();
        assert!(
            list.starts_with(
                "[\"/etc/conf.d/one\",\"/usr/share\",\"/etc/conf.d/.wh.one\",\"/usr/.wh.share\""
            ),
            "{list}"
        );
        assert_eq!(report.skipped, []);

        let second = Overlay::new(base.path(), "second", &lower);
        let root = sys::fs::open_dir(&second.merged).unwrap();
        let applied = apply_overlay_diff(diff.as_slice(), &root, &Limits::rootfs()).unwrap();
        assert_eq!(applied.skipped, []);
        assert!(
            second.tree() == first.tree(),
            "the two root filesystems differ"
        );
        assert_eq!(names(&second.merged.join("var/cache")), ["3"]);
        assert!(!second.merged.join("etc/conf.d/one").exists());
        let status = second.merged.join("c").metadata().unwrap();
        assert_eq!((status.nlink(), status.len()), (3, 123_457));
        assert!(
            second
                .merged
                .join("data/sparse")
                .metadata()
                .unwrap()
                .blocks()
                < 1000
        );

        // Once more from the second one: it has all there is to know.
        let mut again = Vec::new();
        let upper = sys::fs::open_dir(&second.upper).unwrap();
        write_overlay_diff(&upper, &mut again).unwrap();
        let third = Overlay::new(base.path(), "third", &lower);
        let root = sys::fs::open_dir(&third.merged).unwrap();
        apply_overlay_diff(again.as_slice(), &root, &Limits::rootfs()).unwrap();
        assert!(
            third.tree() == first.tree(),
            "the third root filesystem differs"
        );
        Ok(())
    })
    .unwrap();
}

#[test]
fn other_mounts_are_not_entered() {
    let base = tempfile::tempdir_in("/var/tmp").unwrap();
    sys::mount::in_private_namespace(|| {
        let root = base.path().join("root");
        create_dir_all(root.join("mnt")).unwrap();
        let mount = sys::mount::tmpfs(None, 0o700).unwrap();
        sys::mount::attach(&mount, &root.join("mnt")).unwrap();
        write(root.join("mnt/kept"), "kept").unwrap();

        let source = base.path().join("source");
        create_dir_all(source.join("mnt")).unwrap();
        write(source.join("mnt/new"), "new").unwrap();
        let mut tar = Vec::new();
        capture_tree(sys::fs::open_dir(&source).unwrap(), &mut tar).unwrap();
        let fd = sys::fs::open_dir(&root).unwrap();
        let error = restore_tree(tar.as_slice(), &fd, &Limits::tmpfs()).unwrap_err();
        assert!(
            matches!(&error, Error::Invalid(finding) if finding.entry == "mnt"),
            "{error}"
        );
        assert_eq!(names(&root.join("mnt")), ["kept"]);
        assert_eq!(root.join("mnt").metadata().unwrap().mode() & 0o7777, 0o700);

        // Captured, there is a place for every mount, and nothing of what is mounted.
        let kept = root.join("mnt/kept");
        for (name, source) in [
            ("console", Path::new("/dev/null")),
            ("hosts", kept.as_path()),
        ] {
            write(root.join(name), "under the mount").unwrap();
            sys::mount::bind(source, &root.join(name), false).unwrap();
        }
        let mut tar = Vec::new();
        let report = capture_tree(&fd, &mut tar).unwrap();
        assert_eq!((report.directories, report.bytes), (2, 0));
        let again = sys::mount::tmpfs(None, 0o700).unwrap();
        let made = restore_tree(tar.as_slice(), &again, &Limits::tmpfs()).unwrap();
        assert_eq!((made.files, made.directories, made.bytes), (2, 2, 0));
        for (path, directory) in [("console", false), ("hosts", false), ("mnt", true)] {
            let status = rustix::fs::statat(&again, path, rustix::fs::AtFlags::empty()).unwrap();
            let kind = rustix::fs::FileType::from_raw_mode(status.st_mode);
            assert_eq!(
                (kind.is_dir(), kind.is_file()),
                (directory, !directory),
                "{path}"
            );
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_full_filesystem_is_no_fault_of_the_archive() {
    sys::mount::in_private_namespace(|| {
        let source = tempfile::tempdir_in("/var/tmp").unwrap();
        write(source.path().join("big"), vec![1; 8 << 20]).unwrap();
        let mut tar = Vec::new();
        capture_tree(sys::fs::open_dir(source.path()).unwrap(), &mut tar).unwrap();
        let small = sys::mount::tmpfs(Some(1 << 20), 0o700).unwrap();
        let error = restore_tree(tar.as_slice(), &small, &Limits::tmpfs()).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
        Ok(())
    })
    .unwrap();
}
