use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use super::super::tests::{check, find, make, put};
use super::super::{is_mount_point, unmount};
use super::*;
use crate::testing::{Refusal, refusing};

/// Longest line of the mount table that CRIU reads (`BUF_SIZE` in criu/proc_parse.c, NUL byte included).
const CRIU_LINE_BYTES: usize = 4095;

/// What kernels refuse: nothing, or all that came after mount(2).
fn kernels() -> Vec<(&'static str, Vec<Refusal>)> {
    let newer = [
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
    ];
    let refused = |call| Refusal {
        call,
        argument: None,
        errno: libc::ENOSYS,
    };
    vec![
        ("this one", Vec::new()),
        ("mount(2) only", newer.map(refused).into()),
    ]
}

/// The longest line of the mount table, in bytes.
fn longest_line() -> usize {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    table.lines().map(str::len).max().unwrap()
}

fn stack(dir: &Path, name: &str) -> [PathBuf; 3] {
    let base = make(dir, name);
    [
        make(&base, "upper"),
        make(&base, "work"),
        make(&base, "merged"),
    ]
}

fn check_two_layers(dir: &Path) {
    let [top, bottom] = [make(dir, "top:,\\ layer"), make(dir, &"b".repeat(255))];
    put(&top.join("both"), "top");
    put(&bottom.join("both"), "bottom");
    put(&bottom.join("below"), "bottom");
    let [upper, work, merged] = stack(dir, "s:,\\ ");
    overlay(&[&top, &bottom], &upper, &work, &merged).unwrap();
    assert_eq!(fs::read_to_string(merged.join("both")).unwrap(), "top");
    assert_eq!(fs::read_to_string(merged.join("below")).unwrap(), "bottom");
    put(&merged.join("new"), "written");
    fs::remove_file(merged.join("below")).unwrap();
    assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "written");
    let whiteout = fs::symlink_metadata(upper.join("below")).unwrap();
    assert!(whiteout.file_type().is_char_device());
    assert_eq!(whiteout.rdev(), 0);
    let info = find(&merged);
    assert_eq!((&*info.fs_type, &*info.source), ("overlay", "overlay"));
    assert_eq!(info.options, ["rw", "relatime"]);
    let option = "redirect_dir=nofollow".to_owned();
    assert!(info.super_options.contains(&option), "{info:?}");
    unmount(&merged, false).unwrap();
    assert!(!is_mount_point(&merged).unwrap());
}

#[test]
fn an_overlay_is_the_same_whatever_a_kernel_refuses() {
    for (_, refusals) in kernels() {
        check(|dir| refusing(&refusals, || check_two_layers(dir)).unwrap());
    }
}

#[test]
fn an_overlay_takes_as_many_layers_as_the_kernel_stacks_whatever_it_refuses() {
    check(|dir| {
        let lowers: Vec<PathBuf> = (0..MAX_LOWER_LAYERS)
            .map(|i| make(dir, &format!("layer-{i}")))
            .collect();
        for (index, lower) in lowers.iter().enumerate() {
            put(&lower.join("who"), &index.to_string());
            put(&lower.join(index.to_string()), "");
        }
        let lowers: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
        for (index, (kernel, refusals)) in kernels().into_iter().enumerate() {
            let [upper, work, merged] = stack(dir, &format!("s{index}"));
            refusing(&refusals, || overlay(&lowers, &upper, &work, &merged))
                .unwrap()
                .unwrap();
            assert_eq!(fs::read_to_string(merged.join("who")).unwrap(), "0");
            assert_eq!(fs::read_dir(&merged).unwrap().count(), MAX_LOWER_LAYERS + 1);
            let longest = longest_line();
            assert!(longest <= CRIU_LINE_BYTES, "{kernel}: {longest}");
        }
    });
}

#[test]
fn an_overlay_goes_to_the_place_itself_never_through_a_link_whatever_a_kernel_refuses() {
    for (kernel, refusals) in kernels() {
        check(|dir| {
            let lower = make(dir, "lower");
            put(&lower.join("file"), "lower");
            let [upper, work, merged] = stack(dir, "s");
            let link = dir.join("link");
            std::os::unix::fs::symlink(&merged, &link).unwrap();
            refusing(&refusals, || {
                let error = overlay(&[&lower], &upper, &work, &link).unwrap_err();
                let refused = [Some(libc::EINVAL), Some(libc::ENOTDIR)];
                assert!(refused.contains(&error.raw_os_error()), "{kernel}: {error}");
                assert!(!is_mount_point(&merged).unwrap());
                // The working directory is the caller's, and stays what it was.
                rustix::process::chdir(dir).unwrap();
                overlay(&[&lower], &upper, &work, Path::new("s/merged")).unwrap();
                assert_eq!(std::env::current_dir().unwrap(), dir, "{kernel}");
            })
            .unwrap();
            assert_eq!(fs::read_to_string(merged.join("file")).unwrap(), "lower");
        });
    }
}

#[test]
fn a_fault_of_the_layers_is_told_and_mounts_nothing_whatever_a_kernel_refuses() {
    for (kernel, refusals) in kernels() {
        check(|dir| {
            let lower = make(dir, "lower");
            let [upper, work, merged] = stack(dir, "s");
            super::super::attach(super::super::tmpfs(None, 0o755).unwrap(), &work).unwrap();
            refusing(&refusals, || {
                let error = overlay(&[], &upper, &work, &merged).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
                let error = overlay(&[&dir.join("none")], &upper, &work, &merged).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
                // The work directory on another filesystem than the upper one.
                let error = overlay(&[&lower], &upper, &work, &merged).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{kernel}");
            })
            .unwrap();
            assert!(!is_mount_point(&merged).unwrap());
        });
    }
}

#[test]
fn layers_that_do_not_fit_into_the_options_of_mount_are_an_error_with_both_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let own = open_path(dir.path()).unwrap();
    // As in a process with a million open files.
    let high = || rustix::io::fcntl_dupfd_cloexec(own.as_fd(), 10_000).unwrap();
    let layers = Layers {
        lowers: (0..MAX_LOWER_LAYERS).map(|_| high()).collect(),
        upper: high(),
        work: high(),
    };
    let fitting = options(&layers, MAX_OPTIONS_BYTES).unwrap();
    assert!(fitting.len() < 3100, "{}", fitting.len());
    let error = options(&layers, 3000).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(text.starts_with("500 layers take 30"), "{text}");
    assert!(text.ends_with("may be 3000"), "{text}");
}
