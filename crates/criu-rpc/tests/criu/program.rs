//! Programs that are not a CRIU that works.

use std::io;
use std::time::{Duration, Instant};

use crate::support::{script, soon};
use criu_rpc::{Criu, Error, Version};
use sys::process::{Deadline, ExitStatus};

/// Reads a request of two bytes or more from descriptor 3 into `t`, its type in decimal.
const READ_TYPE: &str = "t=$(head -c 2 <&3 | od -An -tu1 | tr -s ' ' ' '); t=${t##* }";
/// `criu_resp { type: VERSION, success: true, version { 3, 17, sublevel 1 } }`
const VERSION_3_17_1: &str = r"printf '\010\012\020\001\122\006\010\003\020\021\040\001' >&3";
/// The same of 4.9.
const VERSION_4_9: &str = r"printf '\010\012\020\001\122\004\010\004\020\011' >&3";

#[test]
fn a_missing_program_is_told_from_one_that_does_not_work() {
    let temp = tempfile::tempdir().unwrap();
    let missing = Criu::new(temp.path().join("criu"));
    let error = missing.version(soon()).unwrap_err();
    let Error::Start { source, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
    let error = missing.probe(temp.path(), soon()).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("checkpoint/restore requires at least CRIU 4."),
        "{text}"
    );
    assert!(text.contains(temp.path().to_str().unwrap()), "{text}");
}

#[test]
fn a_version_that_is_too_old_is_refused_with_what_was_found() {
    let temp = tempfile::tempdir().unwrap();
    let old = Criu::new(script(temp.path(), "criu", VERSION_3_17_1));
    let found = Version {
        major: 3,
        minor: 17,
        sublevel: 1,
    };
    assert_eq!(old.version(soon()).unwrap(), found);
    let error = old.probe(temp.path(), soon()).unwrap_err();
    assert!(
        matches!(&error, Error::TooOld { found: version, .. } if *version == found),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.starts_with("checkpoint/restore requires at least CRIU 4."),
        "{text}"
    );
    assert!(text.contains("found 3.17.1 at "), "{text}");
}

#[test]
fn a_program_that_claims_more_than_it_can_is_found_out_by_the_dump() {
    let temp = tempfile::tempdir().unwrap();
    // DUMP is 1: success false, an error number and a message.
    let lines = format!(
        "{READ_TYPE}\ncase $t in\n10) {VERSION_4_9} ;;\n\
         9) printf '\\010\\011\\020\\001' >&3 ;;\n\
         1) printf '\\010\\001\\020\\000\\070\\137\\112\\004oops' >&3 ;;\nesac"
    );
    let liar = Criu::new(script(temp.path(), "criu", &lines));
    let error = liar.probe(temp.path(), soon()).unwrap_err();
    let Error::Probe { cause, found, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(found.to_string(), "4.9");
    let Error::Criu {
        errno: Some(95),
        message: Some(message),
        ..
    } = &**cause
    else {
        panic!("{cause:?}")
    };
    assert_eq!(message, "oops");
    assert!(
        error
            .to_string()
            .starts_with("checkpoint/restore requires at least CRIU"),
        "{error}"
    );
}

#[test]
fn a_program_that_ends_without_an_answer_is_quoted() {
    let temp = tempfile::tempdir().unwrap();
    let other = Criu::new(script(
        temp.path(),
        "criu",
        "echo no such option: swrk >&2; exit 4",
    ));
    let error = other.version(soon()).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Ended {
                status: ExitStatus::Code(4),
                ..
            }
        ),
        "{error:?}"
    );
    let text = error.to_string();
    assert_eq!(
        text,
        "criu version: exit status 4 without an answer: no such option: swrk"
    );
}

#[test]
fn a_killed_program_is_seen_although_a_child_keeps_its_socket() {
    let temp = tempfile::tempdir().unwrap();
    let lines = "sleep 30 </dev/null >/dev/null 2>&1 & kill -9 $$";
    let orphaning = Criu::new(script(temp.path(), "criu", lines));
    let begin = Instant::now();
    let error = orphaning.version(soon()).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Ended {
                status: ExitStatus::Signal(9),
                ..
            }
        ),
        "{error:?}"
    );
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn garbage_and_answers_to_something_else_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let garbage = Criu::new(script(temp.path(), "garbage", "printf 'hello' >&3"));
    let error = garbage.version(soon()).unwrap_err();
    let Error::Talk(source) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(source.kind(), io::ErrorKind::InvalidData);
    let other = Criu::new(script(
        temp.path(),
        "other",
        r"printf '\010\002\020\001' >&3",
    ));
    let error = other.version(soon()).unwrap_err();
    assert!(
        matches!(&error, Error::Protocol { got } if got == "type 2 for VERSION"),
        "{error:?}"
    );
}

#[test]
fn a_program_that_never_answers_ends_at_the_deadline() {
    let temp = tempfile::tempdir().unwrap();
    let silent = Criu {
        grace: Duration::from_millis(200),
        ..Criu::new(script(temp.path(), "criu", "exec sleep 1000"))
    };
    let begin = Instant::now();
    let error = silent
        .version(Deadline::after(Duration::from_millis(200)))
        .unwrap_err();
    // It had notified nothing, so it was ended without asking, and no task needs a look.
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(10));
}
