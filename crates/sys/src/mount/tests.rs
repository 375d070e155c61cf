use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

/// Runs `work` with a scratch directory in a mount namespace that ends with it.
pub(super) fn check(work: impl FnOnce(&Path) + Send) {
    let dir = tempfile::tempdir().unwrap();
    in_private_namespace(|| {
        work(dir.path());
        Ok(())
    })
    .unwrap();
    assert!(
        !mountinfo()
            .unwrap()
            .iter()
            .any(|mount| mount.mount_point.starts_with(dir.path()))
    );
}

pub(super) fn make(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir(&path).unwrap();
    path
}

pub(super) fn put(path: &Path, text: &str) {
    write(path, text.as_bytes());
}

fn write(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(path)
        .unwrap();
    file.write_all(bytes).unwrap();
}

pub(super) fn find(path: &Path) -> MountInfo {
    let mut found = mountinfo()
        .unwrap()
        .into_iter()
        .filter(|mount| mount.mount_point == path);
    found.next_back().expect("a mount at the path")
}

#[test]
fn a_tmpfs_has_its_size_and_mode_and_works_before_it_is_attached() {
    check(|dir| {
        let mount = tmpfs(Some(65536), 0o1777).unwrap();
        put(
            Path::new(&format!("/proc/self/fd/{}/early", mount.as_raw_fd())),
            "early",
        );
        let target = make(dir, "shm");
        attach(&mount, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("early")).unwrap(), "early");
        assert_eq!(
            fs::metadata(&target).unwrap().permissions().mode() & 0o7777,
            0o1777
        );
        let info = find(&target);
        assert_eq!(info.fs_type, "tmpfs");
        for option in ["nosuid", "nodev", "noexec"] {
            assert!(info.options.iter().any(|have| have == option), "{info:?}");
        }
        let full = rustix::fs::statvfs(&target).unwrap();
        assert_eq!(full.f_blocks * full.f_bsize, 65536);
    });
}

#[test]
fn binds_show_files_directories_and_with_recursion_what_is_mounted_below() {
    check(|dir| {
        let source = make(dir, "source");
        attach(tmpfs(None, 0o755).unwrap(), &make(&source, "below")).unwrap();
        put(&source.join("below/inner"), "inner");
        put(&source.join("file"), "file");
        let [flat, deep] = [make(dir, "flat"), make(dir, "deep")];
        bind(&source, &flat, false).unwrap();
        bind(&source, &deep, true).unwrap();
        assert!(!flat.join("below/inner").exists());
        assert_eq!(
            fs::read_to_string(deep.join("below/inner")).unwrap(),
            "inner"
        );
        let target = dir.join("target");
        put(&target, "covered");
        let file = fs::File::open(source.join("file")).unwrap();
        bind_fd(&file, &target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "file");
        assert!(is_mount_point(&target).unwrap());
        unmount(&target, false).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "covered");
    });
}

#[test]
fn attributes_are_switched_on_and_recursion_reaches_the_mounts_below() {
    check(|dir| {
        let source = make(dir, "source");
        let below = make(&source, "below");
        attach(tmpfs(None, 0o755).unwrap(), &below).unwrap();
        let target = make(dir, "target");
        bind(&source, &target, true).unwrap();
        let read_only = Attributes {
            read_only: true,
            nosuid: true,
            ..Attributes::default()
        };
        set_flags(&target, read_only).unwrap();
        let refused = fs::create_dir(target.join("x")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        fs::create_dir(target.join("below/x")).unwrap();
        set_flags(
            &target,
            Attributes {
                recursive: true,
                ..read_only
            },
        )
        .unwrap();
        let refused = fs::create_dir(target.join("below/y")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert!(find(&target).options.contains(&"nosuid".to_owned()));
        fs::create_dir(source.join("still-writable")).unwrap();
        let error = set_flags(&make(dir, "plain"), read_only).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    });
}

#[test]
fn unmounting_is_idempotent_and_detaching_takes_a_busy_mount_away() {
    check(|dir| {
        let target = make(dir, "target");
        unmount(&target, false).unwrap();
        unmount(&dir.join("absent"), false).unwrap();
        attach(tmpfs(None, 0o755).unwrap(), &target).unwrap();
        put(&target.join("held"), "held");
        let held = fs::File::open(target.join("held")).unwrap();
        let error = unmount(&target, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        unmount(&target, true).unwrap();
        assert!(!is_mount_point(&target).unwrap());
        assert_eq!(held.metadata().unwrap().len(), 4);
    });
}

#[test]
fn a_private_mount_does_not_propagate() {
    check(|dir| {
        let shared = make(dir, "shared");
        attach(tmpfs(None, 0o755).unwrap(), &shared).unwrap();
        rustix::mount::mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
        assert!(
            find(&shared)
                .optional_fields
                .iter()
                .any(|field| field.starts_with("shared:"))
        );
        make_private(&shared, false).unwrap();
        assert_eq!(find(&shared).optional_fields, Vec::<String>::new());
    });
}

#[test]
fn mountinfo_is_read_as_the_manual_page_has_it() {
    let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/ro\\134ot rw,e=c\n\
                40 36 0:5 / /x ro - overlay overlay rw,lowerdir=a\\072b,upperdir=c\\054d\n\
                41 36 0:6 / /y ro - tmpfs  rw\n";
    let mounts = parse_mountinfo(text).unwrap();
    assert_eq!(mounts.len(), 3);
    assert_eq!(mounts[0].mount_point, Path::new("/mnt 2"));
    assert_eq!((mounts[0].mount_id, mounts[0].parent_id), (36, 35));
    assert_eq!((mounts[0].major, mounts[0].minor), (98, 0));
    assert_eq!(mounts[0].root, Path::new("/mnt1"));
    assert_eq!(mounts[0].optional_fields, ["master:1", "shared:2"]);
    assert_eq!(mounts[0].source, "/dev/ro\\ot");
    assert_eq!(mounts[0].super_options, ["rw", "e=c"]);
    assert_eq!(
        mounts[1].super_options,
        ["rw", "lowerdir=a:b", "upperdir=c,d"]
    );
    assert_eq!(mounts[2].source, "");
    assert!(!mountinfo_of(std::process::id()).unwrap().is_empty());
}

#[test]
fn malformed_mountinfo_names_the_line() {
    for line in [
        "",
        "36 35",
        "x 35 98:0 / / rw - ext3 a rw",
        "36 35 98 / / rw - a b c",
        "1 2 3:4 / / rw shared:1",
    ] {
        let result = parse_mountinfo(format!("{line}\n"));
        if line.is_empty() {
            assert_eq!(result.unwrap(), []);
            continue;
        }
        let error = result.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(line), "{error}");
    }
}
