//! Dumps and restores with real CRIU that are stopped, whoever does it and whenever.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::{Counter, Images, criu, runs, soon, token};
use criu_rpc::{Criu, DumpOptions, Error, Notify, NotifyReply, Operation, Stop};

fn go_on(_: Notify) -> Result<NotifyReply, criu_rpc::BoxError> {
    Ok(NotifyReply::Continue)
}

#[test]
fn a_refused_stage_leaves_the_process_running_and_the_next_try_succeeds() {
    let mut counter = Counter::start();
    let mut expected = 0;
    for refused in ["pre-dump", "query-ext-files", "post-dump"] {
        let images = Images::new();
        let mut after = Vec::new();
        let error = criu()
            .dump(
                &images.dump_options(counter.pid()),
                soon(),
                &token(),
                &mut |notify| {
                    if notify.name() == refused {
                        return Err("not today".into());
                    }
                    after.push(notify.to_string());
                    Ok(NotifyReply::Continue)
                },
            )
            .unwrap_err();
        let Error::Refused { stage, source } = error else {
            panic!("{error}")
        };
        assert_eq!(
            (stage.as_str(), source.to_string().as_str()),
            (refused, "not today")
        );
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
        .dump(
            &images.dump_options(counter.pid()),
            soon(),
            &cancel,
            &mut |notify| {
                stages.push(notify.to_string());
                cancel.cancel();
                Ok(NotifyReply::Continue)
            },
        )
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Cancelled {
                operation: Operation::Dump
            }
        ),
        "{error}"
    );
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
        let options = DumpOptions {
            leave_running: true,
            ..images.dump_options(counter.pid())
        };
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
    assert!(
        elapsed >= wait * 2 && elapsed < Duration::from_secs(20),
        "{elapsed:?}"
    );
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
    let Error::Deadline {
        operation: Operation::Dump,
        log_tail,
    } = error
    else {
        panic!("{error}")
    };
    assert!(log_tail.contains("Dumping FAILED"), "{log_tail}");
    assert_eq!(counter.count(), 1);
}

#[test]
fn a_criu_that_does_not_stop_is_killed_and_the_error_says_so() {
    let criu = Criu {
        grace: Duration::from_millis(300),
        ..criu()
    };
    let (error, elapsed, _counter) = blocked_dump(&criu, Duration::from_millis(300), None, None);
    assert!(
        matches!(
            error,
            Error::Killed {
                reason: Stop::Deadline,
                ..
            }
        ),
        "{error}"
    );
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
}

#[test]
fn a_restore_stopped_before_its_tasks_run_leaves_nothing_and_can_be_repeated() {
    let images = Images::new();
    let mut counter = Counter::start();
    assert_eq!(counter.count(), 1);
    let pid = counter.pid();
    counter.dump(&images);
    let error = {
        let options = criu_rpc::RestoreOptions {
            inherit_fds: counter.pipes(),
            rst_sibling: true,
            ..images.restore_options()
        };
        criu().restore(&options, soon(), &token(), &mut |notify| match notify {
            Notify::PostRestore { .. } => Err("wait".into()),
            _ => Ok(NotifyReply::Continue),
        })
    }
    .unwrap_err();
    assert!(
        matches!(&error, Error::Refused { stage, .. } if stage == "post-restore"),
        "{error}"
    );
    // As a sibling it was a child of this process, whatever became of the restore.
    counter.restored(pid);
    counter.reap();
    assert!(!runs(pid));
    let restored = {
        let options = criu_rpc::RestoreOptions {
            inherit_fds: counter.pipes(),
            rst_sibling: true,
            ..images.restore_options()
        };
        criu()
            .restore(&options, soon(), &token(), &mut go_on)
            .unwrap()
    };
    assert_eq!(restored.pid, pid);
    counter.restored(restored.pid);
    assert_eq!(counter.count(), 2);
}

#[test]
fn a_restore_refused_too_late_tells_that_its_tasks_run() {
    let images = Images::new();
    let mut counter = Counter::start();
    counter.dump(&images);
    let restored = {
        let options = criu_rpc::RestoreOptions {
            inherit_fds: counter.pipes(),
            rst_sibling: true,
            ..images.restore_options()
        };
        criu().restore(&options, soon(), &token(), &mut |notify| match notify {
            Notify::PreResume => Err("too late".into()),
            _ => Ok(NotifyReply::Continue),
        })
    }
    .unwrap();
    let Some(Stop::Refused { stage, .. }) = &restored.late_stop else {
        panic!("{restored:?}")
    };
    assert_eq!(stage, "pre-resume");
    counter.restored(restored.pid);
    assert_eq!(counter.count(), 1);
}
