//! The operations on containers of the real runc. Needs root and runc; fails without.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_runtime::{Error, ExecArgs, ExecOutput, Kind, OciRuntime, State, Status};
use serde_json::json;
use sys::process::{Command, Deadline, ExitStatus, OutputLimits};

const LIMITS: OutputLimits = OutputLimits {
    max_stdout_bytes: 16 * 1024 * 1024,
    max_stderr_bytes: 16 * 1024 * 1024,
};

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// A created container. Dropping it deletes it.
struct Fixture {
    temp: tempfile::TempDir,
    runtime: OciRuntime,
    id: String,
}

impl Fixture {
    /// Creates a container that will run `sh -c SCRIPT`.
    fn create(script: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let runtime = OciRuntime::probe(Path::new("runc"), &temp.path().join("root"), deadline())
            .expect("these tests need runc");
        let id = format!("oci-runtime-test-{}", sys::sysinfo::random_hex(8).unwrap());
        let fixture = Self { temp, runtime, id };
        std::fs::create_dir_all(fixture.path("bundle/rootfs")).unwrap();
        let config = serde_json::to_vec(&config(&fixture.id, script)).unwrap();
        fixture.write("bundle/config.json", &config);
        let args = fixture.runtime.create_args(
            &fixture.id,
            &fixture.path("bundle"),
            &fixture.path("pid"),
            None,
            &fixture.path("log"),
        );
        // Not `output`: the container inherits the pipes.
        let mut child = Command::new(&args[0])
            .args(args[1..].iter().cloned())
            .spawn()
            .unwrap();
        let status = child.wait(Some(Duration::from_secs(60))).unwrap();
        let log =
            String::from_utf8(oci_runtime::log::read(&fixture.path("log")).unwrap_or_default());
        assert_eq!(status, Some(ExitStatus::Code(0)), "{log:?}");
        fixture
    }

    fn running(script: &str) -> Self {
        let fixture = Self::create(script);
        fixture.runtime.start(&fixture.id, deadline()).unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        sys::fs::replace_path(&self.path(name), 0o600, bytes).unwrap();
    }

    fn state(&self) -> Option<State> {
        self.runtime.state(&self.id, deadline()).unwrap()
    }

    /// Runs a program in it.
    fn exec(
        &self,
        args: &[&str],
        limits: OutputLimits,
        deadline: Deadline,
    ) -> Result<ExecOutput, Error> {
        let process = json!({
            "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "terminal": false,
            "env": ["PATH=/usr/bin:/bin"]
        });
        self.write("exec.json", &serde_json::to_vec(&process).unwrap());
        for old in ["exec.pid", "exec.log"] {
            std::fs::remove_file(self.path(old)).ok();
        }
        let exec = ExecArgs {
            id: &self.id,
            process: &self.path("exec.json"),
            pid_file: &self.path("exec.pid"),
            log: &self.path("exec.log"),
            cancel: None,
        };
        self.runtime.exec_output(&exec, limits, deadline)
    }

    fn shell(&self, script: &str) -> ExecOutput {
        self.exec(&["sh", "-c", script], LIMITS, deadline())
            .unwrap()
    }

    /// Command lines of everything that runs in it.
    fn processes(&self) -> String {
        let script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done";
        String::from_utf8(self.shell(script).stdout).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Err(error) = self.runtime.delete(&self.id, true, deadline()) {
            eprintln!("{error}");
        }
    }
}

fn config(id: &str, script: &str) -> serde_json::Value {
    let bind = |path: &str| json!({"destination": path, "source": path, "type": "bind", "options": ["rbind", "ro"]});
    let mut mounts = vec![json!({"destination": "/proc", "type": "proc", "source": "proc"})];
    mounts.extend(["/bin", "/usr", "/lib", "/lib64"].into_iter().map(bind));
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script], "cwd": "/",
            "env": ["PATH=/usr/bin:/bin"]
        },
        "mounts": mounts,
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}]
        }
    })
}

fn await_stopped(fixture: &Fixture, pid: u32) {
    if let Ok(pidfd) = sys::pidfd::open(pid) {
        assert!(sys::pidfd::wait_exit(&pidfd, Some(Duration::from_secs(60))).unwrap());
    }
    let state = fixture.state().unwrap();
    assert_eq!((state.status, state.pid), (Status::Stopped, None));
}

#[test]
fn a_container_goes_through_its_states() {
    let fixture = Fixture::create("exec sleep 600");
    let created = fixture.state().unwrap();
    assert_eq!(created.status, Status::Created);
    assert_eq!(created.bundle, fixture.path("bundle"));
    let pid = created.pid.unwrap();
    let written = std::fs::read_to_string(fixture.path("pid")).unwrap();
    assert_eq!(written, pid.to_string());

    fixture.runtime.start(&fixture.id, deadline()).unwrap();
    assert_eq!(fixture.state().unwrap().status, Status::Running);
    let again = fixture.runtime.start(&fixture.id, deadline()).unwrap_err();
    assert!(matches!(again, Error::Failed(_)), "{again}");
    let running = fixture
        .runtime
        .delete(&fixture.id, false, deadline())
        .unwrap_err();
    assert!(
        matches!(&running, Error::Failed(failure) if !failure.errors.is_empty()),
        "{running}"
    );

    fixture
        .runtime
        .kill(&fixture.id, 9, false, deadline())
        .unwrap();
    await_stopped(&fixture, pid);
    let late = fixture
        .runtime
        .kill(&fixture.id, 15, false, deadline())
        .unwrap_err();
    assert!(
        matches!(
            late,
            Error::NotRunning {
                status: Status::Stopped,
                ..
            }
        ),
        "{late}"
    );
    fixture
        .runtime
        .delete(&fixture.id, false, deadline())
        .unwrap();
    assert_eq!(fixture.state(), None);
    fixture
        .runtime
        .delete(&fixture.id, false, deadline())
        .unwrap();
    fixture
        .runtime
        .delete(&fixture.id, true, deadline())
        .unwrap();
}

#[test]
fn what_does_not_exist_is_told_as_such() {
    let fixture = Fixture::create("true");
    fixture
        .runtime
        .delete(&fixture.id, true, deadline())
        .unwrap();
    assert_eq!(fixture.state(), None);
    let errors = [
        fixture.runtime.start(&fixture.id, deadline()).unwrap_err(),
        fixture
            .runtime
            .kill(&fixture.id, 9, true, deadline())
            .unwrap_err(),
        fixture.exec(&["true"], LIMITS, deadline()).unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(&error, Error::NotFound { id, .. } if *id == fixture.id),
            "{error}"
        );
    }
}

#[test]
fn a_running_container_is_deleted_by_force() {
    let fixture = Fixture::running("exec sleep 600");
    let pid = fixture.state().unwrap().pid.unwrap();
    fixture
        .runtime
        .delete(&fixture.id, true, deadline())
        .unwrap();
    assert_eq!(fixture.state(), None);
    assert!(sys::proc::status(pid).map_or(true, |status| status.state == 'Z'));
}

#[test]
fn the_version_names_the_program() {
    let runc = OciRuntime::probe(Path::new("runc"), Path::new("/x"), deadline()).unwrap();
    assert_eq!(
        (runc.kind, runc.root.as_path()),
        (Kind::Runc, Path::new("/x"))
    );
    assert!(runc.version(deadline()).unwrap().starts_with('1'));
    let missing = OciRuntime::probe(Path::new("/no/such"), Path::new("/x"), deadline());
    assert!(matches!(missing.unwrap_err(), Error::Run(_)));
    let other = OciRuntime::probe(Path::new("/bin/true"), Path::new("/x"), deadline());
    // GNU true names a version.
    assert_eq!(other.unwrap().kind, Kind::Other);
    let none = OciRuntime::probe(Path::new("/bin/false"), Path::new("/x"), deadline());
    assert!(matches!(none.unwrap_err(), Error::Failed(_)));
}

#[test]
fn an_exec_gives_output_and_exit_code() {
    let fixture = Fixture::running("exec sleep 600");
    let output = fixture.shell("echo out; echo err >&2; exit 42");
    assert_eq!(output.status, ExitStatus::Code(42));
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert!(!output.truncated);
    let output = fixture.shell("kill -9 $$");
    assert_eq!(output.status.code_or_128_plus_signal(), 137);
    let output = fixture.shell("cat; echo end");
    assert_eq!(output.stdout, b"end\n");
    // A code that runc also uses for its own failures.
    assert_eq!(fixture.shell("exit 255").status, ExitStatus::Code(255));
}

#[test]
fn an_exec_of_a_missing_program_fails_in_the_runtime_s_words() {
    let fixture = Fixture::running("exec sleep 600");
    let error = fixture.exec(&["/no/such"], LIMITS, deadline()).unwrap_err();
    let Error::Failed(failure) = &error else {
        panic!("{error}")
    };
    assert!(
        failure.errors[0].contains("/no/such: no such file or directory"),
        "{error}"
    );
}

#[test]
fn output_beyond_the_limit_is_dropped_and_holds_nothing_up() {
    let fixture = Fixture::running("exec sleep 600");
    let limits = OutputLimits {
        max_stdout_bytes: 1000,
        max_stderr_bytes: 10,
    };
    let script = "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 3";
    let output = fixture
        .exec(&["sh", "-c", script], limits, deadline())
        .unwrap();
    assert_eq!(output.status, ExitStatus::Code(3));
    assert_eq!(
        (output.stdout.len(), output.stderr.len(), output.truncated),
        (1000, 10, true)
    );
}

#[test]
fn an_exec_that_takes_too_long_is_killed_in_the_container() {
    let fixture = Fixture::running("exec sleep 600");
    let begun = Instant::now();
    let limit = Deadline::after(Duration::from_millis(700));
    let error = fixture
        .exec(&["sh", "-c", "sleep 4321; true"], LIMITS, limit)
        .unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let left = fixture.processes();
    assert!(left.contains("sleep 600"), "{left}");
    assert!(!left.contains("4321"), "{left}");
    assert_eq!(fixture.state().unwrap().status, Status::Running);
}

#[test]
fn a_deadline_before_the_process_runs_leaves_nothing() {
    let fixture = Fixture::running("exec sleep 600");
    for milliseconds in [0, 1, 5, 10, 20] {
        let limit = Deadline::after(Duration::from_millis(milliseconds));
        let error = fixture.exec(&["sleep", "4321"], LIMITS, limit).unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
    }
    let left = fixture.processes();
    assert!(!left.contains("4321"), "{left}");
}

#[test]
fn without_a_helper_an_exec_lasts_as_long_as_what_holds_its_output() {
    let fixture = Fixture::running("exec sleep 600");
    let begun = Instant::now();
    let limit = Deadline::after(Duration::from_secs(2));
    let result = fixture.exec(&["sh", "-c", "echo up; sleep 30 & exit 4"], LIMITS, limit);
    assert!(matches!(result, Err(Error::Deadline { .. })), "{result:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}
