//! Dumps and restores with real CRIU, and how its errors are told.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::support::{Counter, Images, criu, soon, token};
use criu_rpc::{Criu, DumpOptions, Error, Notify, NotifyReply, Operation, Version};

fn go_on(_: Notify) -> Result<NotifyReply, criu_rpc::BoxError> {
    Ok(NotifyReply::Continue)
}

#[test]
fn version_features_and_a_real_dump_are_probed() {
    let temp = tempfile::tempdir().unwrap();
    let probe = criu().probe(temp.path(), soon()).unwrap();
    assert!(
        probe.version >= Version::needed_by(&sys::sysinfo::kernel().release),
        "{probe:?}"
    );
    assert!(probe.elapsed < Duration::from_secs(20), "{probe:?}");
    assert_eq!(criu().version(soon()).unwrap(), probe.version);
    assert_eq!(criu().features(soon()).unwrap(), probe.features);
    assert_eq!(
        std::fs::read_dir(temp.path()).unwrap().count(),
        0,
        "the probe cleans up"
    );
}

#[test]
fn a_running_process_is_dumped_and_runs_on() {
    let images = Images::new();
    let mut counter = Counter::start();
    assert_eq!((counter.count(), counter.count()), (1, 2));
    let mut stages = Vec::new();
    let options = DumpOptions {
        leave_running: true,
        ..images.dump_options(counter.pid())
    };
    let report = criu()
        .dump(&options, soon(), &token(), &mut |notify| {
            stages.push(notify.to_string());
            Ok(NotifyReply::Continue)
        })
        .unwrap();
    assert_eq!(stages, ["pre-dump", "query-ext-files", "post-dump"]);
    assert!(
        Duration::ZERO < report.frozen && report.frozen < report.elapsed,
        "{report:?}"
    );
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
        // From the second time on it is in a time namespace of its own.
        stages.retain(|stage| !stage.ends_with("setup-namespaces"));
        assert_eq!(
            stages,
            ["pre-restore", "post-restore", "pre-resume", "post-resume"]
        );
        assert!(restored.late_stop.is_none());
        counter.restored(restored.pid);
        assert_eq!(counter.count(), expected);
    }
}

#[test]
fn errors_carry_the_lines_of_the_log_that_tell_the_cause() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut counter = Counter::start_with(&format!("exec 9<>/dev/tcp/127.0.0.1/{port}"));
    let _accepted = listener.accept().unwrap();
    assert_eq!(counter.count(), 1);
    let images = Images::new();
    let options = DumpOptions {
        tcp_close: false,
        ..images.dump_options(counter.pid())
    };
    let error = criu()
        .dump(&options, soon(), &token(), &mut go_on)
        .unwrap_err();
    let Error::Criu {
        operation: Operation::Dump,
        first_errors,
        log_tail,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert!(
        first_errors[0].contains("Connected TCP socket"),
        "{first_errors:?}"
    );
    assert!(
        error.to_string().contains("Connected TCP socket"),
        "{error}"
    );
    assert!(log_tail.contains("Dumping FAILED"), "{log_tail}");
    assert_eq!(counter.count(), 2);

    // With the remedy the same process is dumped.
    let options = DumpOptions {
        leave_running: true,
        ..images.dump_options(counter.pid())
    };
    criu().dump(&options, soon(), &token(), &mut go_on).unwrap();
    assert_eq!(counter.count(), 3);
}

#[test]
fn a_process_that_is_not_there_is_an_error_with_its_number() {
    let images = Images::new();
    let mut counter = Counter::start();
    let pid = counter.pid();
    counter.dump(&Images::new());
    let error = criu()
        .dump(&images.dump_options(pid), soon(), &token(), &mut go_on)
        .unwrap_err();
    assert!(
        matches!(error, Error::Criu { errno: Some(3), .. }),
        "{error:?}"
    );
}

#[test]
fn images_that_are_not_there_are_an_error_of_the_restore() {
    let images = Images::new();
    let error = criu()
        .restore(&images.restore_options(), soon(), &token(), &mut go_on)
        .unwrap_err();
    let Error::Criu {
        operation: Operation::Restore,
        first_errors,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert!(!first_errors.is_empty());
}

#[test]
fn options_that_cannot_be_sent_are_refused_before_criu_starts() {
    let images = Images::new();
    let nowhere = Criu::new("/nonexistent");
    for (options, name) in [
        (
            DumpOptions {
                log_file: "../x",
                ..images.dump_options(1)
            },
            "log_file",
        ),
        (
            DumpOptions {
                log_file: "",
                ..images.dump_options(1)
            },
            "log_file",
        ),
        (
            DumpOptions {
                log_level: 5,
                ..images.dump_options(1)
            },
            "log_level",
        ),
        (
            DumpOptions {
                external: vec!["a\0b".into()],
                ..images.dump_options(1)
            },
            "external",
        ),
        (images.dump_options(0), "pid"),
        (images.dump_options(u32::MAX), "pid"),
    ] {
        let error = nowhere
            .dump(&options, soon(), &token(), &mut go_on)
            .unwrap_err();
        assert!(
            matches!(error, Error::Option { option, .. } if option == name),
            "{error}"
        );
    }
}

#[test]
fn the_cpu_of_this_machine_fits_itself() {
    let images = Images::new();
    criu().cpuinfo_dump(images.dir.as_fd(), soon()).unwrap();
    assert!(images.path().join("cpuinfo.img").exists());
    criu().cpuinfo_check(images.dir.as_fd(), soon()).unwrap();
}
