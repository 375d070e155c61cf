//! Containers that cannot be started, and what their runtime is given.

use std::path::Path;
use std::time::{Duration, Instant};

use monitor::{Client, Error, read_exit};
use serde_json::json;
use sys::process::Deadline;

use crate::support::{Fixture, await_end, deadline, monitor, until, write};

#[test]
fn a_failed_create_is_told_in_the_runtime_s_words_and_leaves_no_monitor() {
    let fixture = Fixture::with("", |config| config["process"]["cwd"] = json!("relative"));
    let Err(Error::Runtime(failure)) = monitor::spawn(monitor(), &fixture.spec, deadline()) else {
        panic!("a relative working directory is refused")
    };
    assert!(!failure.status.success());
    assert!(
        failure
            .errors
            .iter()
            .any(|e| e.contains("Cwd must be an absolute path")),
        "{failure}"
    );
    assert!(!fixture.spec.run_dir.join("monitor.sock").exists());
    assert!(!fixture.spec.run_dir.join("monitor.pid").exists());
    assert_eq!(read_exit(&fixture.spec.run_dir).unwrap(), None);
}

#[test]
fn a_missing_program_fails_in_the_runtime_s_words() {
    let fixture = Fixture::with("", |config| config["process"]["args"] = json!(["/no/such"]));
    let error = monitor::spawn(monitor(), &fixture.spec, deadline()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/no/such: no such file or directory"),
        "{error}"
    );
}

#[test]
fn a_runtime_that_cannot_be_run_or_hangs_is_told() {
    let mut fixture = Fixture::new("");
    fixture.spec.runtime_argv = vec!["/no/such/runtime".into()];
    let error = monitor::spawn(monitor(), &fixture.spec, deadline()).unwrap_err();
    let Error::Setup {
        action, message, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(action, "run /no/such/runtime");
    assert!(message.contains("No such file"), "{message}");

    fixture.spec.runtime_argv = vec!["sleep".into(), "600".into()];
    let limit = Deadline::after(Duration::from_millis(300));
    let begun = Instant::now();
    let error = monitor::spawn(monitor(), &fixture.spec, limit).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4));

    // What a runtime writes without a log is quoted, and a wrong log path names itself.
    let script = "echo first >&2; echo last words >&2; exit 7";
    fixture.spec.runtime_argv = ["sh", "-c", script].map(Into::into).into();
    let error = monitor::spawn(monitor(), &fixture.spec, deadline()).unwrap_err();
    let Error::Runtime(failure) = error else {
        panic!("{error}")
    };
    assert_eq!(failure.stderr_tail, "first\nlast words");
    assert_eq!(failure.status, sys::process::ExitStatus::Code(7));

    let file = fixture.temp.path().join("file");
    write(&file, b"");
    fixture.spec.log_path = Some(file.join("0.log"));
    let error = monitor::spawn(monitor(), &fixture.spec, deadline()).unwrap_err();
    assert!(error.to_string().contains("file/0.log"), "{error}");

    let missing = Path::new("/no/such/monitor");
    let error = monitor::spawn(missing, &fixture.spec, deadline()).unwrap_err();
    assert!(matches!(error, Error::Spawn { .. }), "{error}");
    let error = monitor::spawn(Path::new("/bin/true"), &fixture.spec, deadline()).unwrap_err();
    assert!(
        matches!(error, Error::Died { .. } | Error::Io(_)),
        "{error}"
    );
}

#[test]
fn the_runtime_gets_arguments_environment_and_working_directory() {
    let mut fixture = Fixture::new("");
    let report = fixture.temp.path().join("report");
    let script = format!(
        "printf '%s|' \"$@\" \"$THAWD_RELAY_CONFIG\" \"$(pwd)\" > {report}; readlink /proc/self/fd/0 >> {report}; \
         grep -E 'Sig(Blk|Ign)' /proc/self/status >> {report}; ls /proc/self/fd >> {report}; exit 3",
        report = report.display()
    );
    fixture.spec.runtime_argv = [
        "sh",
        "-c",
        &script,
        "restore",
        "--bundle",
        "with space",
        "id",
    ]
    .map(Into::into)
    .into();
    fixture.spec.runtime_env = vec![("THAWD_RELAY_CONFIG".into(), "/x y.json".into())];
    let error = monitor::spawn(monitor(), &fixture.spec, deadline()).unwrap_err();
    assert!(matches!(error, Error::Runtime(_)), "{error}");
    let text = std::fs::read_to_string(report).unwrap();
    let bundle = fixture.spec.bundle.display();
    let expected = format!(
        "--bundle|with space|id|/x y.json|{bundle}|/dev/null\n\
         SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n0\n1\n2\n3\n"
    );
    assert_eq!(text, expected);
}

/// A runtime that restores: its child becomes the container. The script is given the pid file as `$1`
/// and another path as `$2`.
fn with_fake_runtime(script: &str) -> Fixture {
    let mut fixture = Fixture::new("");
    let other = fixture.temp.path().join("other");
    let words = [
        "sh".as_ref(),
        "-c".as_ref(),
        script.as_ref(),
        "restore".as_ref(),
        fixture.spec.pid_file.as_os_str(),
        other.as_os_str(),
    ];
    fixture.spec.runtime_argv = words.map(|word| word.to_str().unwrap().to_owned()).into();
    fixture
}

#[test]
fn what_a_restored_container_does_before_its_runtime_ends_is_not_lost() {
    // The runtime goes on for a while as a program that reaps nothing.
    let script =
        "(sleep 0.2; echo early; echo oops >&2; exit 9) & printf %s $! > \"$1\"; exec sleep 0.7";
    let fixture = with_fake_runtime(script);
    let run_dir = fixture.spec.run_dir.clone();
    let asked = std::thread::spawn(move || {
        until(|| run_dir.join("monitor.sock").exists());
        // Asked while the runtime runs; answered when the container is there.
        let status = Client::connect(&run_dir).and_then(|mut client| client.status());
        (status, Instant::now())
    });
    let begun = Instant::now();
    let started = fixture.spawn();
    assert!(begun.elapsed() >= Duration::from_millis(700));
    let (status, answered) = asked.join().unwrap();
    assert!(answered.duration_since(begun) >= Duration::from_millis(650));
    assert_eq!(status.unwrap().container_pid, started.container_pid);
    await_end(started.monitor_pid);
    let record = read_exit(&fixture.spec.run_dir).unwrap().unwrap();
    assert_eq!((record.code, record.signal), (9, None));
    let mut log = fixture.log();
    log.sort();
    assert_eq!(log, ["stderr F oops", "stdout F early"]);
}

#[test]
fn a_failed_runtime_s_processes_are_killed() {
    let scripts = [
        // Fails.
        "setsid sleep 4321 & printf %s $! > \"$2\"; exit 1",
        // Succeeds, but says nothing of its container.
        "setsid sleep 4321 & printf %s $! > \"$2\"; exit 0",
        // Does not end in time.
        "setsid sleep 4321 & printf %s $! > \"$2\"; sleep 4321",
    ];
    for script in scripts {
        let fixture = with_fake_runtime(script);
        let limit = Deadline::after(Duration::from_secs(1));
        let error = monitor::spawn(monitor(), &fixture.spec, limit).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Runtime(_) | Error::Setup { .. } | Error::Timeout { .. }
            ),
            "{error}"
        );
        let left = std::fs::read_to_string(fixture.temp.path().join("other")).unwrap();
        let state = sys::proc::status(left.parse().unwrap()).map(|status| status.state);
        assert!(matches!(state, Err(_) | Ok('Z')), "{script}: {state:?}");
    }
}
