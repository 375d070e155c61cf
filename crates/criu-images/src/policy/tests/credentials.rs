//! Credentials, limits and scheduling.

use super::{Malformed, Privilege, core, passes, refused, refused_by};
use crate::policy::{Label, Request};
use crate::proto::{CredsEntry, ThreadCoreEntry};
use crate::{MemoryImages, testing};

const CORE: &str = "core-1.img";

fn thread(set: &mut MemoryImages, change: impl FnOnce(&mut ThreadCoreEntry)) {
    core(set, 1, |core| change(core.thread_core.as_mut().unwrap()));
}

fn creds(set: &mut MemoryImages, change: impl FnOnce(&mut CredsEntry)) {
    thread(set, |thread| change(thread.creds.as_mut().unwrap()));
}

/// A request for user 1000, and images that fit it.
fn user(set: &mut MemoryImages) -> Request {
    let mut request = testing::request("python");
    request.credentials.uid = 1000;
    request.credentials.gid = 2000;
    request.credentials.groups = vec![3000];
    request.credentials.permitted = 0;
    request.credentials.effective = 0;
    for tid in [1, 6, 7] {
        core(set, tid, |core| {
            let creds = core.thread_core.as_mut().unwrap().creds.as_mut().unwrap();
            (creds.uid, creds.euid, creds.suid, creds.fsuid) = (1000, 1000, 1000, 1000);
            (creds.gid, creds.egid, creds.sgid, creds.fsgid) = (2000, 2000, 2000, 2000);
            creds.groups = vec![2000, 3000];
            (creds.cap_prm, creds.cap_eff) = (vec![0, 0], vec![0, 0]);
        });
    }
    request
}

#[test]
fn a_capability_beyond_the_bounding_set_is_refused_in_each_set() {
    const SYS_ADMIN: u32 = 1 << 21;
    type Set = fn(&mut CredsEntry) -> &mut Vec<u32>;
    let sets: [(&str, Set); 4] = [
        ("thread_core.creds.cap_eff", |c| &mut c.cap_eff),
        ("thread_core.creds.cap_prm", |c| &mut c.cap_prm),
        ("thread_core.creds.cap_inh", |c| &mut c.cap_inh),
        ("thread_core.creds.cap_bnd", |c| &mut c.cap_bnd),
    ];
    for (field, set) in sets {
        refused(
            |images| creds(images, |c| set(c)[0] |= SYS_ADMIN),
            (Privilege, Some(1), CORE, field),
        );
        refused(
            |images| creds(images, |c| set(c)[1] |= 1 << 6),
            (Privilege, Some(1), CORE, field),
        );
    }
    let ambient = |c: &mut CredsEntry| c.cap_amb = vec![SYS_ADMIN, 0];
    let field = "thread_core.creds.cap_amb";
    refused(
        |images| creds(images, ambient),
        (Privilege, Some(1), CORE, field),
    );
    refused(
        |images| creds(images, |c| c.cap_eff.push(0)),
        (Malformed, Some(1), CORE, "thread_core.creds.cap_eff"),
    );
}

#[test]
fn a_thread_that_is_not_the_first_is_checked_too() {
    refused(
        |images| {
            core(images, 6, |core| {
                let thread = core.thread_core.as_mut().unwrap();
                thread.creds.as_mut().unwrap().cap_eff[0] |= 1 << 21;
            });
        },
        (
            Privilege,
            Some(1),
            "core-6.img",
            "thread_core.creds.cap_eff",
        ),
    );
}

#[test]
fn a_request_for_a_user_holds_every_id_and_group() {
    let mut set = testing::images("python");
    let request = user(&mut set);
    passes(&request, |images| drop(user(images)));
    type Id = fn(&mut CredsEntry) -> &mut u32;
    let ids: [(&str, Id); 8] = [
        ("uid", |c| &mut c.uid),
        ("euid", |c| &mut c.euid),
        ("suid", |c| &mut c.suid),
        ("fsuid", |c| &mut c.fsuid),
        ("gid", |c| &mut c.gid),
        ("egid", |c| &mut c.egid),
        ("sgid", |c| &mut c.sgid),
        ("fsgid", |c| &mut c.fsgid),
    ];
    for (name, id) in ids {
        let forge = |images: &mut MemoryImages| {
            user(images);
            creds(images, |c| *id(c) = 0);
        };
        let field = format!("thread_core.creds.{name}");
        refused_by(&request, forge, (Privilege, Some(1), CORE, &field));
    }
    let forge = |images: &mut MemoryImages| {
        user(images);
        creds(images, |c| c.groups.push(0));
    };
    refused_by(
        &request,
        forge,
        (Privilege, Some(1), CORE, "thread_core.creds.groups"),
    );
    let forge = |images: &mut MemoryImages| {
        user(images);
        creds(images, |c| c.cap_prm[0] = 1);
    };
    refused_by(
        &request,
        forge,
        (Privilege, Some(1), CORE, "thread_core.creds.cap_prm"),
    );
}

#[test]
fn root_may_have_become_anybody_only_with_the_capability() {
    let mut request = testing::request("python");
    let become_user = |images: &mut MemoryImages| creds(images, |c| c.euid = 33);
    let join_group = |images: &mut MemoryImages| creds(images, |c| c.groups = vec![33]);
    passes(&request, become_user);
    passes(&request, join_group);
    request.credentials.bounding &= !(1 << 7);
    refused_by(
        &request,
        become_user,
        (Privilege, Some(1), CORE, "thread_core.creds.euid"),
    );
    let mut request = testing::request("python");
    request.credentials.bounding &= !(1 << 6);
    refused_by(
        &request,
        join_group,
        (Privilege, Some(1), CORE, "thread_core.creds.groups"),
    );
}

#[test]
fn no_new_privs_is_missed_when_cleared_or_left_out() {
    let field = "thread_core.creds.no_new_privs";
    for value in [None, Some(0)] {
        refused(
            |images| creds(images, |c| c.no_new_privs = value),
            (Privilege, Some(1), CORE, field),
        );
    }
    let mut request = testing::request("python");
    request.credentials.no_new_privs = false;
    passes(&request, |images| creds(images, |c| c.no_new_privs = None));
}

#[test]
fn credentials_elsewhere_or_nowhere_are_refused() {
    refused(
        |images| thread(images, |t| t.creds = None),
        (Malformed, Some(1), CORE, "thread_core.creds"),
    );
    refused(
        |images| drop(images.0.insert("creds-1.img".into(), vec![0; 8])),
        (Malformed, None, "creds-1.img", ""),
    );
}

#[test]
fn secure_bits_and_labels_are_the_requests() {
    refused(
        |images| creds(images, |c| c.secbits = 0x100),
        (Malformed, Some(1), CORE, "thread_core.creds.secbits"),
    );
    let mut request = testing::request("python");
    request.credentials.bounding &= !(1 << 8);
    let forge = |images: &mut MemoryImages| creds(images, |c| c.secbits = 4);
    refused_by(
        &request,
        forge,
        (Privilege, Some(1), CORE, "thread_core.creds.secbits"),
    );
    let labelled = |images: &mut MemoryImages| {
        for tid in [1, 6, 7] {
            core(images, tid, |core| {
                let thread = core.thread_core.as_mut().unwrap();
                thread.creds.as_mut().unwrap().lsm_profile = Some(b"confined".to_vec());
            });
        }
    };
    refused(
        labelled,
        (Privilege, Some(1), CORE, "thread_core.creds.lsm_profile"),
    );
    let mut request = testing::request("python");
    request.label = Label::Exactly(Some("confined".into()));
    passes(&request, labelled);
    refused_by(
        &request,
        |_| {},
        (Privilege, Some(1), CORE, "thread_core.creds.lsm_profile"),
    );
    request.label = Label::Overridden;
    passes(&request, |_| {});
    refused(
        |images| creds(images, |c| c.apparmor_data = Some(vec![1])),
        (Privilege, Some(1), CORE, "thread_core.creds.apparmor_data"),
    );
}

#[test]
fn limits_and_out_of_memory_scores_are_held() {
    let limit = |images: &mut MemoryImages, resource: usize, max: u64| {
        core(images, 1, |core| {
            let limits = &mut core.tc.as_mut().unwrap().rlimits.as_mut().unwrap().rlimits;
            limits[resource].max = max;
        });
    };
    refused(
        |images| limit(images, 7, 20_001),
        (Privilege, Some(1), CORE, "tc.rlimits"),
    );
    refused(
        |images| limit(images, 7, 10),
        (Malformed, Some(1), CORE, "tc.rlimits"),
    );
    passes(&testing::request("python"), |images| {
        limit(images, 0, u64::MAX)
    });
    let task = |images: &mut MemoryImages, change: fn(&mut crate::proto::TaskCoreEntry)| {
        core(images, 1, |core| change(core.tc.as_mut().unwrap()));
    };
    refused(
        |images| task(images, |t| t.rlimits.as_mut().unwrap().rlimits.truncate(15)),
        (Malformed, Some(1), CORE, "tc.rlimits"),
    );
    refused(
        |images| task(images, |t| t.rlimits = None),
        (Malformed, Some(1), CORE, "tc.rlimits"),
    );
    refused(
        |images| task(images, |t| t.oom_score_adj = Some(-1)),
        (Privilege, Some(1), CORE, "tc.oom_score_adj"),
    );
    refused(
        |images| task(images, |t| t.loginuid = Some(0)),
        (Privilege, Some(1), CORE, "tc.loginuid"),
    );
    refused(
        |images| task(images, |t| t.old_seccomp_mode = Some(0)),
        (Malformed, Some(1), CORE, "tc.old_seccomp_mode"),
    );
}

#[test]
fn scheduling_takes_its_capability() {
    refused(
        |images| thread(images, |t| t.sched_nice = Some(-20)),
        (Privilege, Some(1), CORE, "thread_core.sched_nice"),
    );
    refused(
        |images| {
            thread(images, |t| {
                (t.sched_policy, t.sched_prio) = (Some(1), Some(50))
            });
        },
        (Privilege, Some(1), CORE, "thread_core.sched_policy"),
    );
    refused(
        |images| thread(images, |t| t.sched_policy = Some(6)),
        (Malformed, Some(1), CORE, "thread_core.sched_policy"),
    );
    let mut request = testing::request("python");
    request.credentials.bounding |= 1 << 23;
    passes(&request, |images| {
        thread(images, |t| t.sched_nice = Some(-20))
    });
    passes(&testing::request("python"), |images| {
        thread(images, |t| t.sched_nice = Some(5))
    });
}
