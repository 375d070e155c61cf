//! The relay between a client (this crate, in the runtime's place) and real CRIU.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use criu_rpc::relay::{HeldRestore, HoldError, RelayConfig};
use criu_rpc::{Criu, DumpOptions, Error, Notify, NotifyReply, RestoreOptions, Version};
use sys::process::{Command, Deadline, OutputLimits};

use crate::support::{Counter, Images, criu, criu_path, runs, script, soon, token};

/// A directory with a relay, its configuration, and a socket to hold at.
struct Relayed {
    temp: tempfile::TempDir,
    path: PathBuf,
}

impl Relayed {
    fn new(config: RelayConfig) -> Self {
        // Tasks come to this process when the relay has ended.
        sys::pidfd::set_subreaper().unwrap();
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().canonicalize().unwrap();
        config.write(&path.join("relay.json")).unwrap();
        Self { temp, path }
    }

    /// The relay under the name by which a runtime would find it.
    fn criu(&self) -> Criu {
        let relay = env!("CARGO_BIN_EXE_thawd-criu-relay");
        let config = self.path.join("relay.json");
        let lines = format!(
            "THAWD_RELAY_CONFIG={} exec {relay} \"$@\"",
            config.display()
        );
        Criu::new(script(self.temp.path(), "criu", &lines))
    }

    fn hold_socket(dir: &Path) -> (PathBuf, OwnedFd) {
        let open = sys::fs::open_dir(dir).unwrap();
        let listener = sys::socket::seqpacket_listen(open.as_fd(), "hold.sock", 0o600).unwrap();
        (dir.join("hold.sock"), listener)
    }
}

fn go_on(_: Notify) -> Result<NotifyReply, criu_rpc::BoxError> {
    Ok(NotifyReply::Continue)
}

fn sibling<'a>(counter: &'a Counter, images: &'a Images) -> RestoreOptions<'a> {
    RestoreOptions {
        inherit_fds: counter.pipes(),
        rst_sibling: true,
        ..images.restore_options()
    }
}

/// The parent that `/proc` tells.
fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn a_version_passes_through() {
    let relayed = Relayed::new(RelayConfig::new(criu_path()));
    assert_eq!(
        relayed.criu().version(soon()).unwrap(),
        criu().version(soon()).unwrap()
    );
}

#[test]
fn a_dump_passes_through_with_directories_of_the_client() {
    let relayed = Relayed::new(RelayConfig::new(criu_path()));
    let images = Images::new();
    let work = Images::new();
    let mut counter = Counter::start();
    let options = DumpOptions {
        leave_running: true,
        work_dir: work.dir.as_fd(),
        ..images.dump_options(counter.pid())
    };
    let mut stages = Vec::new();
    relayed
        .criu()
        .dump(&options, soon(), &token(), &mut |notify| {
            stages.push(notify.to_string());
            Ok(NotifyReply::Continue)
        })
        .unwrap();
    assert_eq!(stages, ["pre-dump", "query-ext-files", "post-dump"]);
    assert!(images.path().join("pages-1.img").exists());
    assert!(work.path().join("dump.log").exists());
    assert_eq!(counter.count(), 1);
}

#[test]
fn a_restored_task_goes_to_the_subreaper_when_the_relay_ends() {
    let relayed = Relayed::new(RelayConfig::new(criu_path()));
    let images = Images::new();
    let mut counter = Counter::start();
    assert_eq!(counter.count(), 1);
    counter.dump(&images);
    let restored = relayed
        .criu()
        .restore(&sibling(&counter, &images), soon(), &token(), &mut go_on)
        .unwrap();
    counter.restored(restored.pid);
    assert_eq!(parent(restored.pid), std::process::id());
    assert_eq!(counter.count(), 2);
}

#[test]
fn what_the_runtime_does_not_ask_for_is_injected() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut counter = Counter::start_with(&format!("exec 9<>/dev/tcp/127.0.0.1/{port}"));
    let _accepted = listener.accept().unwrap();
    assert_eq!(counter.count(), 1);
    let images = Images::new();
    counter.dump(&images);
    // The images lie elsewhere, and the client does not ask for `tcp_close`.
    let wrong = Images::new();
    let asked = || RestoreOptions {
        tcp_close: false,
        ..sibling(&counter, &wrong)
    };
    let plain = Relayed::new(RelayConfig {
        images_dir: Some(images.path().to_owned()),
        ..RelayConfig::new(criu_path())
    });
    let error = plain
        .criu()
        .restore(&asked(), soon(), &token(), &mut go_on)
        .unwrap_err();
    assert!(error.to_string().contains("tcp-close"), "{error}");
    let injecting = Relayed::new(RelayConfig {
        tcp_close: true,
        images_dir: Some(images.path().to_owned()),
        log_file: Some("relayed.log".into()),
        ..RelayConfig::new(criu_path())
    });
    let restored = injecting
        .criu()
        .restore(&asked(), soon(), &token(), &mut go_on)
        .unwrap();
    assert!(wrong.path().join("relayed.log").exists());
    counter.restored(restored.pid);
    assert_eq!(counter.count(), 2);
}

/// Restores on another thread while `during` holds the tasks.
fn held(
    during: impl FnOnce(HeldRestore, &OwnedFd, &Path, &mut Counter),
) -> (Result<criu_rpc::Restored, Error>, Counter, u32) {
    let images = Images::new();
    let mut counter = Counter::start();
    assert_eq!(counter.count(), 1);
    let pid = counter.pid();
    counter.dump(&images);
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().canonicalize().unwrap();
    let (path, listener) = Relayed::hold_socket(&dir);
    let relayed = Relayed::new(RelayConfig {
        hold_socket: Some(path.clone()),
        ..RelayConfig::new(criu_path())
    });
    // Copies, so that the counter can be asked meanwhile.
    let keys = counter.pipes();
    let (keys, fds): (Vec<_>, Vec<_>) = keys
        .into_iter()
        .map(|inherit| (inherit.key, inherit.fd.try_clone_to_owned().unwrap()))
        .unzip();
    let result = std::thread::scope(|scope| {
        let restoring = scope.spawn(|| {
            let pairs = keys.iter().zip(&fds);
            let inherit_fds = pairs
                .map(|(key, fd)| criu_rpc::InheritFd {
                    key: key.clone(),
                    fd: fd.as_fd(),
                })
                .collect();
            let options = RestoreOptions {
                inherit_fds,
                rst_sibling: true,
                ..images.restore_options()
            };
            relayed
                .criu()
                .restore(&options, soon(), &token(), &mut go_on)
        });
        let hold = HeldRestore::accept(&listener, &path, soon()).unwrap();
        during(hold, &listener, &path, &mut counter);
        restoring.join().unwrap()
    });
    (result, counter, pid)
}

#[test]
fn held_tasks_exist_and_do_not_run_until_they_are_released() {
    let (result, mut counter, pid) = held(|hold, _, _, counter| {
        let pid = hold.pid().unwrap();
        assert!(runs(pid));
        counter.ask();
        assert!(!counter.answers_within(Duration::from_millis(500)));
        hold.release().unwrap();
        assert_eq!(counter.answer(), 2);
    });
    assert_eq!(result.unwrap().pid, pid);
    counter.restored(pid);
    assert_eq!(counter.count(), 3);
}

#[test]
fn a_holder_may_go_away_and_another_one_releases() {
    let (result, mut counter, pid) = held(|hold, listener, path, _| {
        drop(hold);
        let again = HeldRestore::accept(listener, path, soon()).unwrap();
        // Now the listener goes away, too, as it does when the daemon is killed.
        std::fs::remove_file(path).unwrap();
        let (_, listener) = Relayed::hold_socket(path.parent().unwrap());
        drop(again);
        HeldRestore::accept(&listener, path, soon())
            .unwrap()
            .release()
            .unwrap();
    });
    result.unwrap();
    counter.restored(pid);
    assert_eq!(counter.count(), 2);
}

#[test]
fn held_tasks_that_are_given_up_are_removed() {
    let (result, mut counter, pid) = held(|hold, _, _, _| hold.abort().unwrap());
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Criu { .. }), "{error}");
    counter.restored(pid);
    counter.reap();
    assert!(!runs(pid));
}

#[test]
fn nobody_holds_is_told_at_the_deadline() {
    let temp = tempfile::tempdir().unwrap();
    let (path, listener) = Relayed::hold_socket(temp.path());
    let deadline = Deadline::after(Duration::from_millis(50));
    let error = HeldRestore::accept(&listener, &path, deadline).unwrap_err();
    assert!(matches!(error, HoldError::Deadline { .. }), "{error}");
}

#[test]
fn a_relay_that_cannot_do_its_part_tells_the_client_why() {
    let missing = Relayed::new(RelayConfig::new("/nonexistent/criu"));
    let error = missing.criu().version(soon()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("thawd-criu-relay: cannot start /nonexistent/criu: No such file"),
        "{text}"
    );

    let nowhere = Relayed::new(RelayConfig {
        images_dir: Some("/nonexistent/images".into()),
        ..RelayConfig::new(criu_path())
    });
    let images = Images::new();
    let error = nowhere
        .criu()
        .restore(&images.restore_options(), soon(), &token(), &mut go_on)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot open /nonexistent/images"),
        "{error}"
    );

    let relay = env!("CARGO_BIN_EXE_thawd-criu-relay");
    let temp = tempfile::tempdir().unwrap();
    let unset = script(temp.path(), "criu", &format!("exec {relay} \"$@\""));
    let error = Criu::new(unset).version(soon()).unwrap_err();
    assert!(
        error.to_string().contains("THAWD_RELAY_CONFIG is not set"),
        "{error}"
    );
}

#[test]
fn anything_but_swrk_becomes_criu_itself() {
    let relayed = Relayed::new(RelayConfig::new(criu_path()));
    let limits = OutputLimits {
        max_stdout_bytes: 4096,
        max_stderr_bytes: 4096,
    };
    let output = Command::new(relayed.criu().binary)
        .arg("--version")
        .output(b"", limits, soon())
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let version: Version = criu().version(soon()).unwrap();
    assert!(text.contains(&format!("Version: {version}")), "{text}");
}

#[test]
fn a_client_that_dies_takes_the_held_tasks_with_it() {
    let images = Images::new();
    let mut counter = Counter::start();
    let pid = counter.pid();
    counter.dump(&images);
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().canonicalize().unwrap();
    let (path, listener) = Relayed::hold_socket(&dir);
    let relayed = Relayed::new(RelayConfig {
        hold_socket: Some(path.clone()),
        ..RelayConfig::new(criu_path())
    });
    // The deadline passes while the tasks are held, and the relay is killed: what a runtime killed
    // by its own deadline does to it.
    let impatient = Criu {
        grace: Duration::from_millis(300),
        ..relayed.criu()
    };
    let deadline = Deadline::after(Duration::from_secs(4));
    let error = impatient
        .restore(&sibling(&counter, &images), deadline, &token(), &mut go_on)
        .unwrap_err();
    assert!(matches!(error, Error::Killed { .. }), "{error}");
    let hold = HeldRestore::accept(&listener, &path, soon()).unwrap();
    assert_eq!(hold.pid(), Some(pid));
    let gone = (0..200).any(|_| {
        // A pause between two looks.
        sys::socket::poll_readable(&temp_pipe().0, Some(Duration::from_millis(50))).unwrap();
        !runs(pid)
    });
    assert!(gone, "the held task is still there");
}

/// A pipe into which nobody writes.
fn temp_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    std::io::pipe().unwrap()
}
