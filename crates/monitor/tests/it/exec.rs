//! Processes that are run beside a container's first one, with the monitor's program as their parent.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use oci_runtime::{Error, ExecArgs, ExecOutput};
use serde_json::json;
use sys::process::{Deadline, ExitStatus, OutputLimits};

use crate::support::{self, Fixture, deadline, monitor};

const LIMITS: OutputLimits = OutputLimits {
    max_stdout_bytes: 1 << 20,
    max_stderr_bytes: 1 << 20,
};

fn running() -> Fixture {
    let mut fixture = Fixture::new("exec sleep 600");
    fixture.runtime.exec_helper = Some(monitor().into());
    fixture.spawn();
    fixture.start();
    fixture
}

fn exec(fixture: &Fixture, args: &[&str], deadline: Deadline) -> Result<ExecOutput, Error> {
    exec_unless(fixture, args, deadline, None)
}

fn exec_unless(
    fixture: &Fixture,
    args: &[&str],
    deadline: Deadline,
    cancel: Option<BorrowedFd<'_>>,
) -> Result<ExecOutput, Error> {
    let process = json!({
        "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "terminal": false,
        "env": ["PATH=/usr/bin:/bin"]
    });
    let path = |name: &str| fixture.temp.path().join(name);
    support::write(&path("exec.json"), &serde_json::to_vec(&process).unwrap());
    for old in ["exec.pid", "exec.log"] {
        std::fs::remove_file(path(old)).ok();
    }
    let exec = ExecArgs {
        id: &fixture.id,
        process: &path("exec.json"),
        pid_file: &path("exec.pid"),
        log: &path("exec.log"),
        cancel,
    };
    fixture.runtime.exec_output(&exec, LIMITS, deadline)
}

fn shell(fixture: &Fixture, script: &str) -> ExecOutput {
    exec(fixture, &["sh", "-c", script], deadline()).unwrap()
}

fn processes(fixture: &Fixture) -> String {
    let script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done";
    String::from_utf8(shell(fixture, script).stdout).unwrap()
}

#[test]
fn output_and_exit_code_are_the_process_s_own() {
    let fixture = running();
    let output = shell(&fixture, "cat; echo out; echo err >&2; exit 42");
    assert_eq!(output.status, ExitStatus::Code(42));
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(shell(&fixture, "exit 255").status, ExitStatus::Code(255));
    assert_eq!(shell(&fixture, "kill -9 $$").status, ExitStatus::Code(137));
    let output = shell(&fixture, "head -c 500000 /dev/zero");
    assert_eq!((output.stdout.len(), output.truncated), (500_000, false));
}

#[test]
fn a_process_that_cannot_be_run_is_told_in_the_runtime_s_words() {
    let fixture = running();
    let error = exec(&fixture, &["/no/such"], deadline()).unwrap_err();
    let Error::Failed(failure) = &error else {
        panic!("{error}")
    };
    assert!(
        failure.errors[0].contains("/no/such: no such file or directory"),
        "{error}"
    );
}

#[test]
fn what_it_leaves_in_the_background_does_not_hold_it_up() {
    let fixture = running();
    let begun = Instant::now();
    let output = shell(&fixture, "echo up; sleep 4321 & exit 4");
    assert_eq!(
        (output.status, &output.stdout[..]),
        (ExitStatus::Code(4), &b"up\n"[..])
    );
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    // It is the container's now and lives on.
    assert!(processes(&fixture).contains("sleep 4321"));
}

#[test]
fn one_that_takes_too_long_is_killed_with_its_children() {
    let fixture = running();
    let begun = Instant::now();
    let limit = Deadline::after(Duration::from_millis(700));
    let script = "setsid sleep 4321 & sleep 4321; true";
    let error = exec(&fixture, &["sh", "-c", script], limit).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let left = processes(&fixture);
    assert!(
        left.contains("sleep 600") && !left.contains("4321"),
        "{left}"
    );
}

#[test]
fn one_that_nobody_waits_for_any_more_is_killed() {
    let fixture = running();
    let (cancel, held) = rustix::pipe::pipe().unwrap();
    let waits = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(500));
        drop(held);
    });
    let begun = Instant::now();
    let command = ["sh", "-c", "sleep 4321; true"];
    let error = exec_unless(&fixture, &command, deadline(), Some(cancel.as_fd())).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    waits.join().unwrap();
    let left = processes(&fixture);
    assert!(
        left.contains("sleep 600") && !left.contains("4321"),
        "{left}"
    );
}

#[test]
fn a_deadline_before_the_process_runs_leaves_nothing() {
    let fixture = running();
    for milliseconds in (0..40).step_by(2) {
        let limit = Deadline::after(Duration::from_millis(milliseconds));
        let error = exec(&fixture, &["sleep", "4321"], limit).unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
    }
    let left = processes(&fixture);
    assert!(!left.contains("4321"), "{left}");
    assert!(!fixture.temp.path().join(".exec.pid").exists());
}
