//! The life of a monitor beside its container.

use std::path::Path;
use std::time::{Duration, Instant};

use monitor::{Client, Error, MonitorSpec, probe_alive, read_exit};
use serde_json::json;

use crate::support::{
    Fixture, PATIENCE, await_end, deadline, monitor, most_kib, until, wait, write,
};

#[test]
fn death_by_signal_is_told_apart_from_a_code() {
    let fixture = Fixture::new("echo up; exec sleep 600");
    let started = fixture.spawn();
    let mut client = fixture.client();
    fixture.start();
    fixture.await_line("stdout F up");
    let status = client.status().unwrap();
    assert_eq!(status.container_pid, started.container_pid);
    assert_eq!(status.monitor_pid, started.monitor_pid);
    assert_eq!((status.exited, status.log_dropped_bytes), (None, 0));
    assert_eq!(
        status.log_bytes,
        std::fs::metadata(fixture.log_path()).unwrap().len()
    );
    assert_eq!(
        client.wait_exit(Some(Duration::from_millis(20))).unwrap(),
        None
    );
    fixture.kill(9);
    let record = wait(&mut client);
    assert_eq!(
        (record.code, record.signal, record.oom_killed),
        (137, Some(9), false)
    );
    await_end(started.monitor_pid);
}

#[test]
fn a_created_container_that_is_killed_before_its_start_is_recorded() {
    let fixture = Fixture::new("echo never");
    fixture.spawn();
    let mut client = fixture.client();
    fixture.kill(9);
    assert_eq!(wait(&mut client).code, 137);
    assert_eq!(fixture.log(), [""; 0]);
}

#[test]
fn requests_that_are_none_are_answered_and_many_clients_are_bounded() {
    use std::os::fd::AsFd;
    let fixture = Fixture::new("exec sleep 600");
    fixture.spawn();
    let directory = std::fs::File::open(&fixture.spec.run_dir).unwrap();
    let connect = || sys::socket::seqpacket_connect(directory.as_fd(), "monitor.sock").unwrap();
    let ask = |message: &[u8]| {
        let socket = connect();
        sys::socket::send(&socket, message, &[]).unwrap();
        assert!(sys::socket::poll_readable(&socket, Some(PATIENCE)).unwrap());
        sys::socket::recv(&socket, 65_536).unwrap()
    };
    for message in [
        &b"nonsense"[..],
        br#"{"version":1,"body":"attach"}"#,
        &[b'['; 60_000],
    ] {
        let reply = ask(message);
        assert!(
            reply.bytes.starts_with(br#"{"version":1,"body":{"error":"#),
            "{reply:?}"
        );
    }
    let crowd: Vec<_> = (0..100).map(|_| connect()).collect();
    let last = crowd.last().unwrap();
    assert!(sys::socket::poll_readable(last, Some(PATIENCE)).unwrap());
    assert!(sys::socket::recv(last, 10).map_or(true, |received| received.is_end()));
    drop(crowd);
    // Gone clients make room again.
    until(|| {
        Client::connect(&fixture.spec.run_dir)
            .unwrap()
            .status()
            .is_ok()
    });
}

#[test]
fn signals_do_not_end_a_monitor_and_a_second_one_is_refused() {
    let fixture = Fixture::new("echo up; exec sleep 600");
    let started = fixture.spawn();
    fixture.start();
    fixture.await_line("stdout F up");
    let pidfd = sys::pidfd::open(started.monitor_pid).unwrap();
    for signal in [1, 2, 13, 15] {
        sys::pidfd::send_signal(&pidfd, signal).unwrap();
    }
    let error = monitor::spawn(monitor(), &fixture.spec, deadline()).unwrap_err();
    assert!(
        error.to_string().contains("another monitor answers here"),
        "{error}"
    );
    assert!(probe_alive(&fixture.spec.run_dir).unwrap());
    let mut client = fixture.client();
    fixture.kill(9);
    assert_eq!(wait(&mut client).code, 137);
}

#[test]
fn a_container_whose_monitor_was_killed_can_be_killed_and_deleted() {
    let fixture = Fixture::new("echo up; exec sleep 600");
    let started = fixture.spawn();
    let mut client = fixture.client();
    fixture.start();
    fixture.await_line("stdout F up");
    let monitor = sys::pidfd::open(started.monitor_pid).unwrap();
    sys::pidfd::send_signal(&monitor, 9).unwrap();
    assert!(sys::pidfd::wait_exit(&monitor, Some(PATIENCE)).unwrap());
    assert!(matches!(
        client.wait_exit(Some(PATIENCE)),
        Err(Error::Ended)
    ));
    assert!(!probe_alive(&fixture.spec.run_dir).unwrap());
    assert_eq!(read_exit(&fixture.spec.run_dir).unwrap(), None);

    let state = fixture
        .runtime
        .state(&fixture.id, deadline())
        .unwrap()
        .unwrap();
    assert_eq!(state.status, oci_runtime::Status::Running);
    fixture.kill(9);
    await_end(started.container_pid);
    fixture
        .runtime
        .delete(&fixture.id, false, deadline())
        .unwrap();
    assert_eq!(
        fixture.runtime.state(&fixture.id, deadline()).unwrap(),
        None
    );
    // A new container in the same run directory finds nothing in its way, and an old record is not
    // taken for its own.
    let old = br#"{"version":1,"code":1,"signal":null,"finished_at_ns":1,"oom_killed":false}"#;
    write(&fixture.spec.run_dir.join("exit.json"), old);
    fixture.spawn();
    assert_eq!(read_exit(&fixture.spec.run_dir).unwrap(), None);
}

#[test]
fn what_the_container_leaves_behind_does_not_hold_up_its_end() {
    // Without a pid namespace of its own, processes outlive the container's first one.
    let script = "setsid sh -c 'exec sleep 30' & echo $! ; exit 3";
    let fixture = Fixture::with(script, |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        // /proc of the host's pid namespace has to be bound.
        config["mounts"][0] = json!({"destination": "/proc", "source": "/proc", "type": "bind",
            "options": ["rbind", "ro"]});
    });
    let begun = Instant::now();
    assert_eq!(fixture.run().code, 3);
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(1900), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(fixture.log().len(), 1);
    fixture.runtime.kill(&fixture.id, 9, true, deadline()).ok();
}

#[test]
fn an_idle_monitor_takes_at_most_2_mib() {
    let fixture = Fixture::new("seq 1 1000; exec sleep 600");
    let started = fixture.spawn();
    let mut client = fixture.client();
    fixture.start();
    fixture.await_line("stdout F 1000");
    client.reopen_log().unwrap();
    let kib = sys::proc::status(started.monitor_pid).unwrap().rss_bytes / 1024;
    eprintln!("an idle monitor's VmRSS is {kib} KiB");
    assert!(kib <= most_kib());
    let threads = sys::proc::threads(started.monitor_pid).unwrap();
    assert_eq!(threads.len(), 1);
}

/// Variable that turns the next test into the process that is to be killed.
const SPAWNER: &str = "MONITOR_TEST_SPEC";

#[test]
fn spawner_process() {
    let Some(path) = std::env::var_os(SPAWNER) else {
        return;
    };
    let spec: MonitorSpec = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    monitor::spawn(monitor(), &spec, deadline()).unwrap();
    // Says so by a file, then waits to be killed.
    write(&spec.run_dir.join("spawned"), b"");
    let (never, _writer) = std::io::pipe().unwrap();
    sys::socket::poll_readable(&never, Some(PATIENCE)).unwrap();
}

#[test]
fn a_monitor_outlives_its_spawner() {
    let fixture = Fixture::new("echo up; exit 7");
    let path = fixture.temp.path().join("spec.json");
    write(&path, &serde_json::to_vec(&fixture.spec).unwrap());
    let spawner = sys::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "containers::spawner_process"])
        .env(SPAWNER, path)
        .spawn()
        .unwrap();
    until(|| fixture.spec.run_dir.join("spawned").exists());
    // Dropping it kills its whole group.
    drop(spawner);
    assert!(probe_alive(&fixture.spec.run_dir).unwrap());
    let mut client = fixture.client();
    fixture.start();
    let record = wait(&mut client);
    assert_eq!((record.code, record.signal), (7, None));
    assert_eq!(fixture.log(), ["stdout F up"]);
}

#[test]
fn a_monitor_keeps_nothing_of_who_started_it() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new("exec sleep 600");
    // A starter that leaks a descriptor.
    let leaky = fixture.temp.path().join("leaky");
    write(
        &leaky,
        format!(
            "#!/bin/sh\nexec 7</etc/passwd\nexec {} \"$@\"\n",
            monitor().display()
        )
        .as_bytes(),
    );
    std::fs::set_permissions(&leaky, std::fs::Permissions::from_mode(0o700)).unwrap();
    let started = monitor::spawn(&leaky, &fixture.spec, deadline()).unwrap();
    let pid = started.monitor_pid;
    let files = sys::proc::open_files(pid).unwrap();
    let own = |target: &str| {
        target.starts_with("anon_inode:")
            || target.starts_with("socket:")
            || target.starts_with("pipe:")
            || target == "/dev/null"
            || Path::new(target).starts_with(fixture.temp.path())
    };
    assert!(files.iter().all(|file| own(&file.target)), "{files:?}");
    assert_eq!(
        std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        Path::new("/")
    );
    let session = sys::proc::session(pid).unwrap();
    assert_eq!((session.id, session.terminal), (pid, 0));
    assert_ne!(sys::proc::parent(pid).unwrap(), std::process::id());
    assert_eq!(sys::proc::parent(started.container_pid).unwrap(), pid);
    let written = std::fs::read_to_string(fixture.spec.run_dir.join("monitor.pid")).unwrap();
    assert_eq!(written, format!("{pid}\n"));
}
