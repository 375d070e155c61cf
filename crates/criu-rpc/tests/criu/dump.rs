//! Dumps and restores with real CRIU, and what happens when they are stopped.

use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use criu_rpc::{Criu, DumpOptions, Error, Notify, NotifyReply, Operation, Stop, Version};
use crate::support::{Counter, Images, criu, runs, soon, token};

fn go_on(_: Notify) -> Result<NotifyReply, criu_rpc::BoxError> {
    Ok(NotifyReply::Continue)
}

#[test]
fn version_features_and_a_real_dump_are_probed() {
    let temp = tempfile::tempdir().unwrap();
    let probe = criu().probe(temp.path(), soon()).unwrap();
    assert!(probe.version >= Version::OLDEST, "{probe:?}");
    assert!(probe.elapsed < Duration::from_secs(20), "{probe:?}");
    assert_eq!(criu().version(soon()).unwrap(), probe.version);
    assert_eq!(criu().features(soon()).unwrap(), probe.features);
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "the probe cleans up");
}

#[test]
fn a_running_process_is_dumped_and_runs_on() {
    let images = Images::new();
    let mut counter = Counter::start();
    assert_eq!((counter.count(), counter.count()), (1, 2));
    let mut stages = Vec::new();
    let options = DumpOptions { leave_running: true, ..images.dump_options(counter.pid()) };
    let report = criu()
        .dump(&options, soon(), &token(), &mut |notify| {
            stages.push(notify.to_string());
            Ok(NotifyReply::Continue)
        })
        .unwrap();
    assert_eq!(stages, ["pre-dump", "query-ext-files", "post-dump"]);
    assert!(Duration::ZERO < report.frozen && report.frozen < report.elapsed, "{report:?}");
    assert_eq!(counter.count(), 3);
    for name in ["inventory.img", "pages-1.img", "pstree.img", "dump.log"] {
        assert!(images.path().join(name).exists(), "{name}");
    }
}

#[test]
fn memory_goes_on_after_a_restore_and_after_the_next_one() {
    let mut counter = Counter::start();
    assert_eq!((counter.count(), counter.count()), (1, 2));
    for expected in 3..=5 {
        let images = Images::new();
        counter.dump(&images);
        let mut stages = Vec::new();
        let options = criu_rpc::RestoreOptions {
            inherit_fds: counter.pipes(),
            rst_sibling: true,
            ..images.restore_options()
        };
        let restored = criu()
            .restore(&options, soon(), &token(), &mut |notify| {
                stages.push(notify.to_string());
                Ok(NotifyReply::Continue)
            })
            .unwrap();
        assert_eq!(stages, ["pre-restore", "post-restore", "pre-resume", "post-resume"]);
        counter.restored(restored.pid);
        assert_eq!(counter.count(), expected);
    }
}

#[test]
fn a_refused_stage_leaves_the_process_running_and_the_next_try_succeeds() {
    let mut counter = Counter::start();
    let mut expected = 0;
    for refused in ["pre-dump", "query-ext-files", "post-dump"] {
        let images = Images::new();
        let mut after = Vec::new();
        let error = criu()
            .dump(&images.dump_options(counter.pid()), soon(), &token(), &mut |notify| {
                if notify.name() == refused {
                    return Err("not today".into());
                }
                after.push(notify.to_string());
                Ok(NotifyReply::Continue)
            })
            .unwrap_err();
        let Error::Refused { stage, source } = error else { panic!("{error}") };
        assert_eq!((stage.as_str(), source.to_string().as_str()), (refused, "not today"));
        assert!(!after.iter().any(|stage| stage == refused));
        expected += 1;
        assert_eq!(counter.count(), expected, "after refusing {refused}");
    }
    counter.dump(&Images::new());
}

#[test]
fn a_cancel_at_a_stage_stops_the_dump_and_the_process_runs_on() {
    let images = Images::new();
    let mut counter = Counter::start();
    let cancel = token();
    let mut stages = Vec::new();
    let error = criu()
        .dump(&images.dump_options(counter.pid()), soon(), &cancel, &mut |notify| {
            stages.push(notify.to_string());
            cancel.cancel();
            Ok(NotifyReply::Continue)
        })
        .unwrap_err();
    assert!(matches!(error, Error::Cancelled { operation: Operation::Dump }), "{error}");
    assert_eq!(stages, ["pre-dump"], "nobody is asked after a cancel");
    assert_eq!(counter.count(), 1);
}

/// A page image that CRIU cannot finish: a pipe that is read only when told.
fn blocked_dump(
    criu: &Criu,
    deadline: Duration,
    cancel_after: Option<Duration>,
    close_after: Option<Duration>,
) -> (Error, Duration, Counter) {
    let images = Images::new();
    // Some megabytes of memory, beyond what a pipe holds.
    let counter = Counter::start_with("big=$(head -c 4000000 /dev/zero | tr '\\0' x)");
    sys::pipe::fifo(&images.dir, "pages-1.img", 0o600).unwrap();
    let reader = sys::pipe::open_reader(&images.dir, "pages-1.img").unwrap();
    let cancel = token();
    let (done, waiting) = mpsc::channel::<()>();
    let begin = Instant::now();
    let result = std::thread::scope(|scope| {
        let (cancelling, waiting) = (cancel.clone(), waiting);
        scope.spawn(move || {
            if let Some(after) = cancel_after {
                waiting.recv_timeout(after).unwrap_err();
                cancelling.cancel();
            }
            if let Some(after) = close_after {
                waiting.recv_timeout(after).unwrap_err();
                drop(reader);
            } else {
                waiting.recv().unwrap_err();
            }
        });
        let options =
            DumpOptions { leave_running: true, ..images.dump_options(counter.pid()) };
        let deadline = sys::process::Deadline::after(deadline);
        let result = criu.dump(&options, deadline, &cancel, &mut go_on);
        drop(done);
        result
    });
    (result.unwrap_err(), begin.elapsed(), counter)
}

#[test]
fn a_cancel_in_the_middle_of_the_memory_leaves_the_process_running() {
    let wait = Duration::from_millis(300);
    let (error, elapsed, mut counter) =
        blocked_dump(&criu(), Duration::from_secs(60), Some(wait), Some(wait));
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    assert!(elapsed >= wait * 2 && elapsed < Duration::from_secs(20), "{elapsed:?}");
    assert_eq!((counter.count(), counter.count()), (1, 2));
}

#[test]
fn the_deadline_stops_a_dump_and_the_process_runs_on() {
    let (error, _, mut counter) = blocked_dump(
        &criu(),
        Duration::from_millis(400),
        None,
        Some(Duration::from_millis(800)),
    );
    let Error::Deadline { operation: Operation::Dump, log_tail } = error else { panic!("{error}") };
    assert!(log_tail.contains("Dumping FAILED"), "{log_tail}");
    assert_eq!(counter.count(), 1);
}

#[test]
fn a_criu_that_does_not_stop_is_killed_and_the_error_says_so() {
    let criu = Criu { grace: Duration::from_millis(300), ..criu() };
    let (error, elapsed, _counter) =
        blocked_dump(&criu, Duration::from_millis(300), None, None);
    assert!(matches!(error, Error::Killed { reason: Stop::Deadline, .. }), "{error}");
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
}

#[test]
fn a_restore_stopped_before_its_tasks_run_leaves_nothing_and_can_be_repeated() {
    let images = Images::new();
    let mut counter = Counter::start();
    assert_eq!(counter.count(), 1);
    let pid = counter.pid();
    counter.dump(&images);
    let options = || criu_rpc::RestoreOptions {
        log_level: 2,
        ..images.restore_options()
    };
    let error = {
        let options = criu_rpc::RestoreOptions { inherit_fds: counter.pipes(), ..options() };
        criu().restore(&options, soon(), &token(), &mut |notify| match notify {
            Notify::PreResume => Err("wait".into()),
            _ => Ok(NotifyReply::Continue),
        })
    }
    .unwrap_err();
    assert!(matches!(&error, Error::Refused { stage, .. } if stage == "pre-resume"), "{error}");
    assert!(!runs(pid));
    let restored = {
        let options = criu_rpc::RestoreOptions {
            inherit_fds: counter.pipes(),
            rst_sibling: true,
            ..options()
        };
        criu().restore(&options, soon(), &token(), &mut go_on).unwrap()
    };
    assert_eq!(restored.pid, pid);
    counter.restored(restored.pid);
    assert_eq!(counter.count(), 2);
}

#[test]
fn errors_carry_the_lines_of_the_log_that_tell_the_cause() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut counter = Counter::start_with(&format!("exec 9<>/dev/tcp/127.0.0.1/{port}"));
    let _accepted = listener.accept().unwrap();
    assert_eq!(counter.count(), 1);
    let images = Images::new();
    let options = DumpOptions { tcp_close: false, ..images.dump_options(counter.pid()) };
    let error = criu().dump(&options, soon(), &token(), &mut go_on).unwrap_err();
    let Error::Criu { operation: Operation::Dump, first_errors, log_tail, .. } = &error else {
        panic!("{error}")
    };
    assert!(first_errors[0].contains("Connected TCP socket"), "{first_errors:?}");
    assert!(error.to_string().contains("Connected TCP socket"), "{error}");
    assert!(log_tail.contains("Dumping FAILED"), "{log_tail}");
    assert_eq!(counter.count(), 2);

    // With the remedy the same process is dumped.
    let options = DumpOptions { leave_running: true, ..images.dump_options(counter.pid()) };
    criu().dump(&options, soon(), &token(), &mut go_on).unwrap();
    assert_eq!(counter.count(), 3);
}

#[test]
fn a_process_that_is_not_there_is_an_error_with_its_number() {
    let images = Images::new();
    let mut counter = Counter::start();
    let pid = counter.pid();
    counter.dump(&Images::new());
    let error =
        criu().dump(&images.dump_options(pid), soon(), &token(), &mut go_on).unwrap_err();
    assert!(matches!(error, Error::Criu { errno: Some(3), .. }), "{error:?}");
}

#[test]
fn images_that_are_not_there_are_an_error_of_the_restore() {
    let images = Images::new();
    let error =
        criu().restore(&images.restore_options(), soon(), &token(), &mut go_on).unwrap_err();
    let Error::Criu { operation: Operation::Restore, first_errors, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(!first_errors.is_empty());
}

#[test]
fn options_that_cannot_be_sent_are_refused_before_criu_starts() {
    let images = Images::new();
    let nowhere = Criu::new("/nonexistent");
    for (options, name) in [
        (DumpOptions { log_file: "../x", ..images.dump_options(1) }, "log_file"),
        (DumpOptions { log_file: "", ..images.dump_options(1) }, "log_file"),
        (DumpOptions { log_level: 5, ..images.dump_options(1) }, "log_level"),
        (DumpOptions { external: vec!["a\0b".into()], ..images.dump_options(1) }, "external"),
        (images.dump_options(0), "pid"),
        (images.dump_options(u32::MAX), "pid"),
    ] {
        let error = nowhere.dump(&options, soon(), &token(), &mut go_on).unwrap_err();
        assert!(matches!(error, Error::Option { option, .. } if option == name), "{error}");
    }
}

#[test]
fn the_cpu_of_this_machine_fits_itself() {
    let images = Images::new();
    criu().cpuinfo_dump(images.dir.as_fd(), soon()).unwrap();
    assert!(images.path().join("cpuinfo.img").exists());
    criu().cpuinfo_check(images.dir.as_fd(), soon()).unwrap();
}
