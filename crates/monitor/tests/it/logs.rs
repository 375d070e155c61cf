//! What the container writes, and where it goes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use monitor::{Error, probe_alive, read_exit};
use serde_json::json;

use crate::support::{Fixture, await_end, log_lines, until, wait, write};

#[test]
fn output_and_exit_code_are_recorded_exactly() {
    let fixture = Fixture::new("echo one; echo two >&2; printf 'no newline'; exit 42");
    let before = SystemTime::now();
    let record = fixture.run();
    assert_eq!(
        (record.code, record.signal, record.oom_killed),
        (42, None, false)
    );
    let finished = SystemTime::UNIX_EPOCH + Duration::from_nanos(record.finished_at_ns);
    assert!(finished > before && finished < SystemTime::now());
    let mut log = fixture.log();
    log.sort();
    assert_eq!(log, ["stderr F two", "stdout F one", "stdout P no newline"]);
    assert_eq!(read_exit(&fixture.spec.run_dir).unwrap(), Some(record));
    until(|| !fixture.spec.run_dir.join("monitor.sock").exists());
    assert!(!probe_alive(&fixture.spec.run_dir).unwrap());
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&fixture.spec.run_dir.join("exit.json")), 0o600);
    assert_eq!(mode(fixture.log_path()), 0o640);
}

#[test]
fn long_lines_are_cut_into_parts_that_give_them_back() {
    let fixture = Fixture::new("head -c 40000 /dev/zero | tr '\\0' x; echo; echo end");
    assert_eq!(fixture.run().code, 0);
    let log = fixture.log();
    let full = "x".repeat(16 * 1024);
    let rest = "x".repeat(40_000 - 2 * 16 * 1024);
    assert_eq!(log.len(), 4);
    assert_eq!(log[0], format!("stdout P {full}"));
    assert_eq!(log[1], format!("stdout P {full}"));
    assert_eq!(log[2], format!("stdout F {rest}"));
    assert_eq!(log[3], "stdout F end");
}

#[test]
fn much_output_arrives_whole() {
    let fixture = Fixture::new("seq 1 200000");
    assert_eq!(fixture.run().code, 0);
    let log = fixture.log();
    assert_eq!(log.len(), 200_000);
    for (index, line) in log.iter().enumerate() {
        assert_eq!(*line, format!("stdout F {}", index + 1));
    }
}

#[test]
fn standard_input_is_at_its_end_unless_it_is_kept_open() {
    let fixture = Fixture::new("cat; echo \"end $?\"");
    assert_eq!(fixture.run().code, 0);
    assert_eq!(fixture.log(), ["stdout F end 0"]);

    let mut fixture = Fixture::new("echo up; read -r line; echo \"end $?\"");
    fixture.spec.stdin = true;
    fixture.spawn();
    let mut client = fixture.client();
    fixture.start();
    fixture.await_line("stdout F up");
    assert_eq!(
        client.wait_exit(Some(Duration::from_millis(200))).unwrap(),
        None
    );
    fixture.kill(9);
    assert_eq!(wait(&mut client).code, 137);
    assert_eq!(fixture.log(), ["stdout F up"]);
}

#[test]
fn a_terminal_is_logged_as_standard_output() {
    let mut fixture = Fixture::with(
        "test -t 0 && test -t 2 && echo tty; echo err >&2; exit 5",
        |c| {
            c["process"]["terminal"] = json!(true);
        },
    );
    // A run directory beyond what a socket address holds.
    let deep = fixture.temp.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let old = fixture.spec.run_dir.join("console.sock");
    fixture.spec.run_dir = deep.clone();
    for word in &mut fixture.spec.runtime_argv {
        if Path::new(word) == old {
            *word = deep
                .join("console.sock")
                .into_os_string()
                .into_string()
                .unwrap();
        }
    }
    assert_eq!(fixture.run().code, 5);
    assert_eq!(fixture.log(), ["stdout F tty\r", "stdout F err\r"]);
    assert!(!deep.join("console.sock").exists());
}

#[test]
fn a_rotated_log_loses_nothing() {
    let fixture = Fixture::new(
        "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; \
         [ $((i % 100)) -ne 0 ] || sleep 0.02; done; echo end",
    );
    let started = fixture.spawn();
    let mut client = fixture.client();
    fixture.start();
    let mut files: Vec<PathBuf> = Vec::new();
    while client
        .wait_exit(Some(Duration::from_millis(5)))
        .unwrap()
        .is_none()
    {
        let rotated = fixture.temp.path().join(format!("0.log.{}", files.len()));
        std::fs::rename(fixture.log_path(), &rotated).unwrap();
        files.push(rotated);
        match client.reopen_log() {
            Ok(()) | Err(Error::Ended) => {}
            Err(error) => panic!("{error}"),
        }
        if !fixture.log_path().exists() {
            break;
        }
    }
    await_end(started.monitor_pid);
    assert!(
        files.len() > 2,
        "the container ended too soon: {} files",
        files.len()
    );
    files.push(fixture.log_path().to_owned());
    let all: Vec<String> = files
        .iter()
        .filter(|path| path.exists())
        .flat_map(|path| log_lines(path))
        .collect();
    let mut expected: Vec<String> = (1..=3000).map(|n| format!("stdout F {n}")).collect();
    expected.push("stdout F end".into());
    assert_eq!(all, expected);
}

/// As when a container is frozen right after it has written something.
#[test]
fn a_flushed_log_has_what_lay_in_the_pipes_and_the_beginning_of_a_line() {
    let fixture = Fixture::new(
        "echo up; until [ -e /one ]; do sleep 0.01; done; seq 10001 20000; echo err >&2; \
         printf begun; touch /two; until [ -e /three ]; do sleep 0.01; done; echo ended",
    );
    let rootfs = fixture.spec.bundle.join("rootfs");
    let started = fixture.spawn();
    let mut client = fixture.client();
    fixture.start();
    fixture.await_line("stdout F up");
    let monitor = sys::pidfd::open(started.monitor_pid).unwrap();
    client.flush(Duration::from_secs(60)).unwrap();
    sys::pidfd::send_signal(&monitor, 19).unwrap();
    write(&rootfs.join("one"), b"");
    until(|| rootfs.join("two").exists());
    assert_eq!(fixture.log(), ["stdout F up"]);
    // The request waits behind what is there to be read, which is more than is read at a time.
    let none = client.flush(Duration::from_millis(10)).unwrap_err();
    assert!(matches!(none, Error::NoAnswer { .. }), "{none}");
    sys::pidfd::send_signal(&monitor, 18).unwrap();
    // This takes the answer to that request.
    client.flush(Duration::from_secs(60)).unwrap();
    let log = fixture.log();
    let mut expected = vec!["stdout F up".to_owned()];
    expected.extend((10001..=20000).map(|number| format!("stdout F {number}")));
    expected.push("stdout P begun".to_owned());
    let stdout: Vec<_> = log
        .iter()
        .filter(|line| line.starts_with("stdout "))
        .collect();
    assert!(stdout.iter().copied().eq(&expected), "{} lines", log.len());
    assert!(log.contains(&"stderr F err".to_owned()));
    write(&rootfs.join("three"), b"");
    assert_eq!(wait(&mut fixture.client()).code, 0);
    assert_eq!(fixture.log().last().unwrap(), "stdout F ended");
}

#[test]
fn a_log_that_cannot_be_reopened_is_refused_and_the_old_one_stays() {
    let mut fixture = Fixture::new("echo up; read -r line; exit 0");
    fixture.spec.stdin = true;
    fixture.spawn();
    let mut client = fixture.client();
    fixture.start();
    fixture.await_line("stdout F up");
    std::fs::remove_file(fixture.log_path()).unwrap();
    std::os::unix::fs::symlink("/dev/null", fixture.log_path()).unwrap();
    let error = client.reopen_log().unwrap_err();
    assert!(
        matches!(&error, Error::Refused { message } if message.contains("reopen")),
        "{error}"
    );
    assert!(client.status().is_ok());
}
