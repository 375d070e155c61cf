//! Single values: paths, numbers, signals, times, labels.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::metadata::MetadataMap;

use crate::convert::check::{
    annotations, container_path, enumeration, host_path, id, labels, name, relative_path, user_id,
};
use crate::convert::resources::{resources, show};
use crate::convert::{signal, time};
use crate::v1;

#[test]
fn names_are_no_paths() {
    for good in ["a", "web-0", "a.b_c", "with space"] {
        assert_eq!(name("name", good.into()).as_deref(), Ok(good));
    }
    for bad in ["", ".", "..", "a/b", "a\nb", "a\0b", &"x".repeat(254)] {
        assert!(name("name", bad.into()).is_err(), "{bad:?}");
    }
}

#[test]
fn any_text_may_be_an_id_so_that_unknown_ones_are_not_found() {
    assert_eq!(id("container_id", "nope".into()).as_deref(), Ok("nope"));
    let error = id("container_id", String::new()).unwrap_err();
    assert_eq!(error.to_string(), "container_id: must not be empty");
    assert!(id("container_id", "a\u{1b}[0m".into()).is_err());
}

#[test]
fn host_paths_are_absolute_and_plain() {
    for (given, clean) in [("/", "/"), ("/a/b", "/a/b"), ("/a//b/./c/", "/a/b/c")] {
        assert_eq!(host_path("p", given), Ok(PathBuf::from(clean)));
    }
    for bad in [
        "",
        "a",
        "./a",
        "/a/../b",
        "/a\0b",
        &format!("/{}", "x".repeat(4095)),
    ] {
        assert!(host_path("p", bad).is_err(), "{bad:?}");
    }
}

#[test]
fn container_paths_are_cleaned_as_text() {
    for (given, clean) in [
        ("/a/../b", "/b"),
        ("/../../etc", "/etc"),
        ("/a/./b//c/", "/a/b/c"),
        ("/..", "/"),
    ] {
        assert_eq!(
            container_path("p", given),
            Ok(PathBuf::from(clean)),
            "{given:?}"
        );
    }
    assert!(container_path("p", "a").is_err());
}

#[test]
fn relative_paths_stay_below_their_directory() {
    for (given, clean) in [("", ""), ("c/0.log", "c/0.log"), ("./c//0.log", "c/0.log")] {
        assert_eq!(
            relative_path("log_path", given),
            Ok(PathBuf::from(clean)),
            "{given:?}"
        );
    }
    for bad in ["/etc/passwd", "../x", "a/../../x", "a\0"] {
        assert!(relative_path("log_path", bad).is_err(), "{bad:?}");
    }
}

#[test]
fn user_ids_are_those_of_the_kernel() {
    assert_eq!(user_id("u", 0), Ok(0));
    assert_eq!(user_id("u", 4_294_967_294), Ok(u32::MAX - 1));
    for bad in [-1, 4_294_967_295, i64::MAX, i64::MIN] {
        assert!(user_id("u", bad).is_err(), "{bad}");
    }
}

#[test]
fn unknown_enumeration_values_are_refused() {
    assert_eq!(
        enumeration::<v1::Protocol>("protocol", 1),
        Ok(v1::Protocol::Udp)
    );
    let error = enumeration::<v1::Protocol>("protocol", 3).unwrap_err();
    assert_eq!(error.to_string(), "protocol: 3 is none of its values");
}

#[test]
fn labels_and_annotations_are_bounded() {
    let one = |key: &str, bytes: usize| HashMap::from([(key.to_owned(), "v".repeat(bytes))]);
    assert_eq!(labels("labels", one("a", 63)).unwrap()["a"].len(), 63);
    assert!(labels("labels", one("a", 4096)).is_err());
    assert!(annotations("annotations", one("a", 4096)).is_ok());
    assert!(annotations("annotations", one("a", 1 << 20)).is_err());
    for key in ["", "a\nb"] {
        assert!(annotations("annotations", one(key, 1)).is_err(), "{key:?}");
    }
}

#[test]
fn limits_survive_the_way_in_and_out() {
    let limits = v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: -1,
        cpu_shares: 1024,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: -998,
        cpuset_cpus: "0-3,8".into(),
        cpuset_mems: "0".into(),
        hugepage_limits: vec![v1::HugepageLimit {
            page_size: "2MB".into(),
            limit: 1 << 21,
        }],
        unified: HashMap::from([("memory.high".into(), "1000".into())]),
        memory_swap_limit_in_bytes: -1,
    };
    assert_eq!(show(&resources(limits.clone()).unwrap()), limits);
}

#[test]
fn impossible_limits_are_refused_by_field() {
    type Change = fn(&mut v1::LinuxContainerResources);
    let cases: [(&str, Change); 14] = [
        ("cpu_period", |r| r.cpu_period = -1),
        ("cpu_period", |r| r.cpu_period = 999),
        ("cpu_quota", |r| r.cpu_quota = 999),
        ("cpu_shares", |r| r.cpu_shares = -1),
        ("memory_limit_in_bytes", |r| r.memory_limit_in_bytes = -1),
        ("memory_swap_limit_in_bytes", |r| {
            r.memory_swap_limit_in_bytes = -2
        }),
        ("oom_score_adj", |r| r.oom_score_adj = 1001),
        ("cpuset_cpus", |r| r.cpuset_cpus = "3-1".into()),
        ("cpuset_cpus", |r| r.cpuset_cpus = "0,,1".into()),
        ("cpuset_mems", |r| r.cpuset_mems = "+1".into()),
        ("hugepage_limits[0].page_size", |r| {
            r.hugepage_limits = vec![v1::HugepageLimit {
                page_size: "2".into(),
                limit: 0,
            }];
        }),
        ("unified", |r| {
            drop(r.unified.insert("../x.y".into(), "1".into()))
        }),
        ("unified", |r| {
            drop(r.unified.insert("memory".into(), "1".into()))
        }),
        ("unified", |r| {
            drop(r.unified.insert("memory.high".into(), "1\0".into()))
        }),
    ];
    for (field, change) in cases {
        let mut limits = v1::LinuxContainerResources::default();
        change(&mut limits);
        let error = resources(limits.clone()).expect_err(field).to_string();
        assert!(
            error.starts_with(&format!("{field}: ")),
            "{error} for {limits:?}"
        );
    }
}

#[test]
fn signals_have_the_kernels_numbers() {
    use v1::Signal;
    for (signal, number) in [
        (Signal::Sighup, 1),
        (Signal::Sigabrt, 6),
        (Signal::Sigiot, 6),
        (Signal::Sigkill, 9),
        (Signal::Sigterm, 15),
        (Signal::Sigcld, 17),
        (Signal::Sigwinch, 28),
        (Signal::Sigpoll, 29),
        (Signal::Sigsys, 31),
        (Signal::Sigrtmin, 34),
        (Signal::Sigrtminplus15, 49),
        (Signal::Sigrtmaxminus14, 50),
        (Signal::Sigrtmax, 64),
    ] {
        assert_eq!(
            signal::signal("s", signal.into()),
            Ok(Some(number)),
            "{signal:?}"
        );
    }
    assert_eq!(signal::signal("s", 0), Ok(None));
    assert!(signal::signal("s", 66).is_err());
}

#[test]
fn every_signal_of_the_interface_comes_back_under_its_usual_name() {
    for value in 1..=65 {
        let number = signal::signal("s", value).unwrap().unwrap();
        let shown = signal::show(number);
        assert_eq!(signal::signal("s", shown.into()), Ok(Some(number)));
    }
    assert_eq!(signal::show(6), v1::Signal::Sigabrt);
    assert_eq!(signal::show(17), v1::Signal::Sigchld);
    assert_eq!(signal::show(29), v1::Signal::Sigio);
    assert_eq!(signal::show(0), v1::Signal::RuntimeDefault);
}

#[test]
fn times_are_nanoseconds_since_1970() {
    assert_eq!(
        time::nanoseconds(UNIX_EPOCH + Duration::new(3, 7)),
        3_000_000_007
    );
    assert_eq!(time::nanoseconds(UNIX_EPOCH - Duration::from_secs(1)), 0);
    assert!(time::nanoseconds(SystemTime::now()) > 1_700_000_000_000_000_000);
}

#[test]
fn time_limits_are_neither_negative_nor_endless() {
    assert_eq!(time::seconds("timeout", 0), Ok(Duration::ZERO));
    assert_eq!(time::seconds("timeout", 30), Ok(Duration::from_secs(30)));
    assert_eq!(
        time::seconds("timeout", i64::MAX),
        Ok(Duration::from_secs(31_536_000))
    );
    assert!(time::seconds("timeout", -1).is_err());
    assert_eq!(time::limit("timeout", 0), Ok(None));
    assert_eq!(time::checkpoint_limit("timeout", 0), Ok(None));
    assert_eq!(
        time::checkpoint_limit("timeout", 86_400),
        Ok(Some(Duration::from_secs(86_400)))
    );
    for bad in [-1, 86_401, i64::MAX, i64::MIN] {
        assert!(time::checkpoint_limit("timeout", bad).is_err(), "{bad}");
    }
}

#[test]
fn the_callers_deadline_is_read_and_shortened() {
    let read = |header: Option<&str>| {
        let mut metadata = MetadataMap::new();
        if let Some(header) = header {
            metadata.insert("grpc-timeout", header.parse().unwrap());
        }
        time::rpc_deadline(&metadata)
    };
    assert_eq!(read(None), Ok(None));
    for (header, milliseconds) in [
        ("2S", 1_800),
        ("100S", 99_000),
        ("1M", 59_000),
        ("1H", 3_599_000),
        ("500m", 450),
        ("2000000u", 1_800),
        ("99999999n", 90),
    ] {
        let deadline = read(Some(header)).unwrap().unwrap();
        assert_eq!(deadline.as_millis(), milliseconds, "{header}");
    }
    for bad in ["", "S", "5", "5s", "-5S", "123456789S", "1.5S"] {
        assert!(read(Some(bad)).is_err(), "{bad:?}");
    }
}
