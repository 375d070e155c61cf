//! `thawd-monitor pause` as the first process of a pid namespace.

use std::path::PathBuf;
use std::time::Duration;

use sys::process::{Child, Command, ExitStatus, Stdio};

use crate::support::{monitor, most_kib};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

/// A pause that has said that it is ready.
fn ready() -> Child {
    let command = Command::new(monitor()).args(["pause", "id"]);
    let mut child = command.stdout(Stdio::Pipe).spawn().unwrap();
    let output = child.stdout.as_ref().unwrap();
    assert!(sys::socket::poll_readable(output, PATIENCE).unwrap());
    let mut text = [0_u8; 64];
    let count = rustix::io::read(output, &mut text).unwrap();
    assert_eq!(text.get(..count), Some(&b"ready\n"[..]));
    assert_eq!(child.wait(Some(Duration::ZERO)).unwrap(), None);
    child
}

#[test]
fn it_ends_on_sigterm_and_on_sigint() {
    for signal in [15, 2] {
        let mut child = ready();
        child.kill_group(signal).unwrap();
        assert_eq!(
            child.wait(PATIENCE).unwrap(),
            Some(ExitStatus::Code(0)),
            "{signal}"
        );
    }
}

#[test]
fn an_idle_pause_takes_at_most_2_mib() {
    let child = ready();
    let kib = sys::proc::status(child.pid()).unwrap().rss_bytes / 1024;
    eprintln!("an idle pause's VmRSS is {kib} KiB");
    assert!(kib <= most_kib());
}

#[test]
fn whoever_traces_it_finds_nothing() {
    let child = ready();
    let of = |name: &str| PathBuf::from(format!("/proc/{}/{name}", child.pid()));
    // The host's files are gone, not only out of sight.
    assert_eq!(std::fs::read_dir(of("root")).unwrap().count(), 0);
    let mounts = std::fs::read_to_string(of("mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" ro,nosuid,nodev,noexec"), "{mounts}");
    let status = std::fs::read_to_string(of("status")).unwrap();
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t65534\t65534\t65534\t65534",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert!(!status.contains("Groups:\t0"), "{status}");
}

#[test]
fn as_init_it_reaps_orphans_and_ends_on_a_signal_from_within() {
    // The orphan's zombie must go; then a process of the namespace ends its init.
    let script = format!(
        "sh -c 'sleep 0.2 & echo $! > $0' \"$1\"; \
         exec 3>&1; (until ! test -e /proc/$(cat \"$1\"); do sleep 0.05; done; echo reaped >&3; \
         kill -TERM 1) & exec {} pause id",
        monitor().display()
    );
    let temp = tempfile::tempdir().unwrap();
    let mut child = Command::new("unshare")
        .args([
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "sh",
            "-c",
            &script,
            "sh",
        ])
        .arg(temp.path().join("orphan"))
        .stdout(Stdio::Pipe)
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    assert_eq!(child.wait(PATIENCE).unwrap(), Some(ExitStatus::Code(0)));
    let mut text = [0_u8; 64];
    let count = rustix::io::read(&output, &mut text).unwrap();
    assert_eq!(text.get(..count), Some(&b"ready\nreaped\n"[..]));
}

#[test]
fn other_arguments_are_refused() {
    for args in [&[][..], &["nonsense"], &["--help"], &["pause"]] {
        let mut child = Command::new(monitor())
            .args(args.iter().copied())
            .spawn()
            .unwrap();
        assert_eq!(
            child.wait(PATIENCE).unwrap(),
            Some(ExitStatus::Code(2)),
            "{args:?}"
        );
    }
}
