//! `thawd-monitor pause` as the first process of a pid namespace.

use std::time::Duration;

use sys::process::{Command, ExitStatus, Stdio};

use crate::support::monitor;

const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

#[test]
fn it_ends_on_sigterm_and_on_sigint() {
    for signal in [15, 2] {
        let mut child = Command::new(monitor()).arg("pause").spawn().unwrap();
        assert_eq!(child.wait(Some(Duration::from_millis(100))).unwrap(), None);
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
    let mut child = Command::new(monitor()).arg("pause").spawn().unwrap();
    assert_eq!(child.wait(Some(Duration::from_millis(100))).unwrap(), None);
    let kib = sys::proc::status(child.pid()).unwrap().rss_bytes / 1024;
    eprintln!("an idle pause's VmRSS is {kib} KiB");
    assert!(kib <= 2048);
}

#[test]
fn as_init_it_reaps_orphans_and_ends_on_a_signal_from_within() {
    // The orphan's zombie must go; then a process of the namespace ends its init.
    let script = format!(
        "sh -c 'sleep 0.2 & echo $! > $0' \"$1\"; \
         exec 3>&1; (until ! test -e /proc/$(cat \"$1\"); do sleep 0.05; done; echo reaped >&3; \
         kill -TERM 1) & exec {} pause",
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
    assert_eq!(text.get(..count), Some(&b"reaped\n"[..]));
}

#[test]
fn other_arguments_are_refused() {
    for args in [&[][..], &["nonsense"], &["--help"]] {
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
