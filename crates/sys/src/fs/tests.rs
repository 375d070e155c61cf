#![expect(clippy::disallowed_methods, reason = "tests lay plain files out")]

use super::*;
use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

#[test]
fn replace_swaps_the_content_and_leaves_no_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record.json");
    replace_path(&path, 0o640, b"one").unwrap();
    replace_path(&path, 0o600, b"two").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    assert_eq!(
        path.metadata().unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let fd = open_dir(dir.path()).unwrap();
    for bad in ["", ".", "..", "a/b"] {
        assert_eq!(
            errno(&replace(&fd, bad, 0o600, b"x").unwrap_err()),
            Some(Errno::INVAL)
        );
    }
    std::fs::create_dir(dir.path().join("taken")).unwrap();
    replace(&fd, "taken", 0o600, b"x").unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn create_new_neither_follows_links_nor_reuses_files() {
    let dir = tempfile::tempdir().unwrap();
    let fd = open_dir(dir.path()).unwrap();
    let file = create_new(&fd, "a", 0o666).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o666);
    assert_eq!(
        errno(&create_new(&fd, "a", 0o600).unwrap_err()),
        Some(Errno::EXIST)
    );
    symlink(dir.path().join("elsewhere"), dir.path().join("link")).unwrap();
    assert_eq!(
        errno(&create_new(&fd, "link", 0o600).unwrap_err()),
        Some(Errno::EXIST)
    );
    assert!(!dir.path().join("elsewhere").exists());
}

#[test]
fn a_file_without_a_name_is_opened_again_with_a_position_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = create_unnamed(open_dir(dir.path()).unwrap(), 0o600).unwrap();
    file.write_all(b"content").unwrap();
    let mut again = reopen(&file, OFlags::RDONLY).unwrap();
    let mut text = String::new();
    again.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    again.write_all(b"x").unwrap_err();
    file.write_all(b"!").unwrap();
    again.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content!");
}

#[test]
fn open_beneath_refuses_every_way_out() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("in/side")).unwrap();
    std::fs::write(dir.path().join("in/side/f"), "f").unwrap();
    std::fs::write(dir.path().join("outside"), "o").unwrap();
    symlink("side", dir.path().join("in/link")).unwrap();
    symlink("../outside", dir.path().join("in/escape")).unwrap();
    let fd = open_dir(&dir.path().join("in")).unwrap();
    open_beneath(&fd, Path::new("side/f"), OFlags::RDONLY).unwrap();
    let refused = |path: &str| {
        errno(&open_beneath(&fd, Path::new(path), OFlags::RDONLY).unwrap_err()).unwrap()
    };
    assert_eq!(refused("../outside"), Errno::XDEV);
    assert_eq!(refused("/etc/passwd"), Errno::XDEV);
    assert_eq!(refused("link/f"), Errno::LOOP);
    assert_eq!(refused("escape"), Errno::LOOP);
    let made = open_beneath(&fd, Path::new("new"), OFlags::WRONLY | OFlags::CREATE).unwrap();
    assert_eq!(File::from(made).metadata().unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn absolute_paths_with_links_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap();
    std::fs::create_dir(real.join("d")).unwrap();
    symlink("d", real.join("l")).unwrap();
    open_no_symlinks(&real.join("d"), OFlags::RDONLY).unwrap();
    let through = open_no_symlinks(&real.join("l"), OFlags::RDONLY).unwrap_err();
    assert_eq!(errno(&through), Some(Errno::LOOP));
    let relative = open_no_symlinks(Path::new("d"), OFlags::RDONLY).unwrap_err();
    assert_eq!(errno(&relative), Some(Errno::INVAL));
}

#[test]
fn reading_stops_at_the_limit() {
    assert_eq!(read_bounded(&b"12345"[..], 5).unwrap(), b"12345");
    let error = read_bounded(&b"123456"[..], 5).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    let endless = read_bounded(io::repeat(0), 1 << 16).unwrap_err();
    assert_eq!(endless.kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn open_files_get_names_but_never_another_ones() {
    let dir = tempfile::tempdir().unwrap();
    let fd = open_dir(dir.path()).unwrap();
    let mut file = create_unnamed(&fd, 0o600).unwrap();
    file.write_all(b"x").unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    link_into(&file, &fd, "a").unwrap();
    link_into(&file, &fd, "b").unwrap();
    assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"x");
    assert_eq!(
        errno(&link_into(&file, &fd, "a").unwrap_err()),
        Some(Errno::EXIST)
    );
    let taken = rename_noreplace(&fd, "a", &fd, "b").unwrap_err();
    assert_eq!(errno(&taken), Some(Errno::EXIST));
    rename_noreplace(&fd, "a", &fd, "c").unwrap();
    assert!(free_bytes(&fd).unwrap() > 0);
}

#[test]
fn directories_get_exact_modes_and_existing_ones_keep_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    let deep = dir.path().join("a/b/c");
    make_dir_all(&deep, 0o1777).unwrap();
    assert_eq!(mode(&deep), 0o1777);
    assert_eq!(mode(&dir.path().join("a/b")), 0o755);
    make_dir_all(&deep, 0o700).unwrap();
    assert_eq!(mode(&deep), 0o1777);
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = make_dir_all(&dir.path().join("file/x"), 0o700).unwrap_err();
    assert_eq!(errno(&error), Some(Errno::NOTDIR));
}

#[test]
fn trees_go_away_without_following_links() {
    let dir = tempfile::tempdir().unwrap();
    let keep = dir.path().join("keep");
    std::fs::create_dir(&keep).unwrap();
    std::fs::write(keep.join("f"), "f").unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("x/y")).unwrap();
    std::fs::write(tree.join("x/f"), "").unwrap();
    symlink(&keep, tree.join("x/link")).unwrap();
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
    assert_eq!(std::fs::read(keep.join("f")).unwrap(), b"f");
    remove_tree(&tree).unwrap();
    remove_tree(&tree.join("below")).unwrap();
    symlink(&keep, &tree).unwrap();
    remove_tree(&tree).unwrap();
    assert!(keep.exists() && tree.symlink_metadata().is_err());
}

#[test]
fn a_tree_of_any_depth_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let mut at = open_dir(&tree).unwrap();
    for _ in 0..3_000 {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = open_beneath(&at, Path::new("d"), OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
    }
    create_new(&at, "leaf", 0o600).unwrap();
    drop(at);
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
}

#[test]
fn attributes_are_those_of_the_name_itself() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let fd = open_dir(dir.path()).unwrap();
    create_new(&fd, "f", 0o600).unwrap();
    symlink("f", dir.path().join("l")).unwrap();
    let (name, link, key) = (OsStr::new("f"), OsStr::new("l"), OsStr::new("trusted.x"));
    set_xattr(&fd, name, key, b"value\0").unwrap();
    assert_eq!(get_xattr(&fd, name, key).unwrap().unwrap(), b"value\0");
    assert_eq!(list_xattrs(&fd, name).unwrap(), [key]);
    assert_eq!(get_xattr(&fd, link, key).unwrap(), None);
    let opened = open_beneath(&fd, Path::new("f"), OFlags::PATH).unwrap();
    assert_eq!(
        get_xattr(&opened, OsStr::new(""), key).unwrap().unwrap(),
        b"value\0"
    );
    let big = vec![7_u8; 3_000];
    set_xattr(
        CWD,
        dir.path().join("f").as_os_str(),
        OsStr::new("user.big"),
        &big,
    )
    .unwrap();
    assert_eq!(
        get_xattr(&fd, name, OsStr::new("user.big"))
            .unwrap()
            .unwrap(),
        big
    );
    let handed_over = open_dir(dir.path()).unwrap();
    assert_eq!(
        get_xattr(handed_over, name, key).unwrap().unwrap(),
        b"value\0"
    );
    remove_xattr(&fd, name, key).unwrap();
    remove_xattr(&fd, name, key).unwrap();
    assert_eq!(get_xattr(&fd, name, key).unwrap(), None);
    let slash = get_xattr(&fd, OsStr::new("../f"), key).unwrap_err();
    assert_eq!(errno(&slash), Some(Errno::INVAL));
}

#[test]
fn temporaries_of_a_killed_process_are_removed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path();
    for name in ["a", "a-long.name", "é"] {
        let path = base.join(temporary_name(name).unwrap());
        std::fs::File::create_new(path).unwrap();
    }
    let others = [
        ".a.tmp-0",
        ".tmp-0123456789abcdeg",
        "a.tmp-0123456789abcdef",
    ];
    for name in others {
        std::fs::File::create_new(base.join(name)).unwrap();
    }
    std::fs::create_dir(base.join(".d.tmp-0123456789abcdef")).unwrap();
    assert_eq!(remove_temporaries(base).unwrap(), 3);
    assert_eq!(remove_temporaries(base).unwrap(), 0);
    assert_eq!(std::fs::read_dir(base).unwrap().count(), others.len() + 1);
    assert_eq!(remove_temporaries(&base.join("none")).unwrap(), 0);
}

/// A call that fails so where one of its arguments has this value.
fn refusal(call: libc::c_long, index: u32, value: u32, errno: i32) -> crate::testing::Refusal {
    let argument = crate::testing::Argument {
        index,
        mask: u32::MAX,
        value,
    };
    crate::testing::Refusal {
        call,
        argument: Some(argument),
        errno,
    }
}

#[test]
fn a_file_without_a_name_gets_one_where_the_kernel_wants_the_way_by_proc() {
    let dir = tempfile::tempdir().unwrap();
    let fd = open_dir(dir.path()).unwrap();
    let by_descriptor = refusal(
        libc::SYS_linkat,
        4,
        AtFlags::EMPTY_PATH.bits(),
        libc::ENOENT,
    );
    crate::testing::refusing(&[by_descriptor], || {
        let mut file = create_unnamed(&fd, 0o600).unwrap();
        file.write_all(b"text").unwrap();
        link_into(&file, &fd, "named").unwrap();
        let taken = link_into(&file, &fd, "named").unwrap_err();
        assert_eq!(errno(&taken), Some(Errno::EXIST));
    })
    .unwrap();
    assert_eq!(std::fs::read(dir.path().join("named")).unwrap(), b"text");
}

#[test]
fn renaming_replaces_nothing_where_the_flag_for_that_is_not_known_either() {
    let dir = tempfile::tempdir().unwrap();
    let fd = open_dir(dir.path()).unwrap();
    let flag = refusal(
        libc::SYS_renameat2,
        4,
        RenameFlags::NOREPLACE.bits(),
        libc::EINVAL,
    );
    for name in ["a", "taken"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    crate::testing::refusing(&[flag], || {
        let taken = rename_noreplace(&fd, "a", &fd, "taken").unwrap_err();
        assert_eq!(errno(&taken), Some(Errno::EXIST));
        rename_noreplace(&fd, "a", &fd, "b").unwrap();
    })
    .unwrap();
    assert!(!dir.path().join("a").exists());
    assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"a");
    assert_eq!(std::fs::read(dir.path().join("taken")).unwrap(), b"taken");
}
