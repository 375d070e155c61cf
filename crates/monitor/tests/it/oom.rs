//! Containers with less memory than they take.

use serde_json::json;

use crate::support::{Fixture, PATIENCE, wait};

/// Ends by the OOM killer, as a child of the shell.
const CHILD: &str = "head -c 200m /dev/zero | tail -c 190m | wc -c";

/// `sh -c SCRIPT` with 32 MiB.
fn small(script: &str) -> Fixture {
    Fixture::with(script, |config| {
        config["linux"]["resources"] = json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}});
    })
}

#[test]
fn a_first_process_that_the_oom_killer_ended_is_told() {
    let fixture = small("exec tail /dev/zero");
    let record = fixture.run();
    assert_eq!(
        (record.code, record.signal, record.oom_killed),
        (137, Some(9), true)
    );
    let counters = fixture.spec.oom_files.iter().filter(|path| path.exists());
    assert_eq!(counters.count(), 1);
}

#[test]
fn a_container_that_needs_no_more_than_it_has_is_not_the_oom_killer_s() {
    assert!(!small("true").run().oom_killed);
}

#[test]
fn a_container_whose_child_was_killed_ends_with_its_own_code() {
    for code in [3, 137] {
        let record = small(&format!("{CHILD}; exit {code}")).run();
        assert_eq!(
            (record.code, record.signal, record.oom_killed),
            (code, None, false)
        );
    }
}

#[test]
fn a_container_that_is_killed_by_request_after_its_child_was_is_not_the_oom_killer_s() {
    let fixture = small(&format!("{CHILD}; echo up; exec sleep 600"));
    fixture.spawn();
    let mut client = fixture.client();
    fixture.start();
    fixture.await_line("stdout F up");
    client.killing(PATIENCE).unwrap();
    fixture.kill(9);
    let record = wait(&mut client);
    assert_eq!(
        (record.code, record.signal, record.oom_killed),
        (137, Some(9), false)
    );
}

#[test]
fn a_first_process_that_the_oom_killer_ends_later_than_a_request_is_told() {
    let fixture = small(&format!(
        "{CHILD}; trap 'exec tail /dev/zero' USR1; echo up; while :; do sleep 0.1; done"
    ));
    fixture.spawn();
    let mut client = fixture.client();
    fixture.start();
    fixture.await_line("stdout F up");
    client.killing(PATIENCE).unwrap();
    fixture.kill(10);
    let record = wait(&mut client);
    assert_eq!(
        (record.code, record.signal, record.oom_killed),
        (137, Some(9), true)
    );
}
