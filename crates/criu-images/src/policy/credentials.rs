//! Users, groups and capabilities of one thread.
//!
//! No thread may have a capability that the request's bounding set lacks. A container that starts
//! as another user than root stays that user with at most the capabilities it starts with (what a
//! set-user-id program or a file capability gained is refused: an image cannot show how a thread
//! came by it). A container that starts as root may have become anybody it had the capability to
//! become.

use crate::policy::request::{Credentials, Label, Request};
use crate::proto::CredsEntry;
use crate::violation::{Place, Report};

const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SETPCAP: u32 = 8;

/// `SECBIT_KEEP_CAPS`, the only bit that takes no capability to set.
const KEEP_CAPS: u32 = 1 << 4;
/// All bits that the kernel knows.
const SECBITS: u32 = 0xff;

pub(super) fn check(request: &Request, place: Place<'_>, creds: &CredsEntry, report: &mut Report) {
    let grant = &request.credentials;
    identities(grant, place, creds, request.limits.max_groups, report);
    capabilities(grant, place, creds, report);
    if grant.no_new_privs && creds.no_new_privs != Some(1) {
        report.privilege(place, "thread_core.creds.no_new_privs", "is not set");
    }
    if creds.no_new_privs.is_some_and(|value| value > 1) {
        report.malformed(place, "thread_core.creds.no_new_privs", "is no truth value");
    }
    if creds.secbits & !SECBITS != 0 {
        report.malformed(place, "thread_core.creds.secbits", "has unknown bits");
    } else if creds.secbits & !KEEP_CAPS != 0 && !grant.bounds(CAP_SETPCAP) {
        let detail = format!("{:#x} without CAP_SETPCAP", creds.secbits);
        report.privilege(place, "thread_core.creds.secbits", detail);
    }
    labels(&request.label, place, creds, report);
}

fn identities(
    grant: &Credentials,
    place: Place<'_>,
    creds: &CredsEntry,
    max_groups: usize,
    report: &mut Report,
) {
    let root = grant.uid == 0;
    if !(root && grant.bounds(CAP_SETUID)) {
        for (field, uid) in [
            ("uid", creds.uid),
            ("euid", creds.euid),
            ("suid", creds.suid),
            ("fsuid", creds.fsuid),
        ] {
            if uid != grant.uid {
                let detail = format!("{uid}, the request grants {}", grant.uid);
                report.privilege(place, &format!("thread_core.creds.{field}"), detail);
            }
        }
    }
    if creds.groups.len() > max_groups {
        let detail = format!("{} groups, limit is {max_groups}", creds.groups.len());
        return report.malformed(place, "thread_core.creds.groups", detail);
    }
    if root && grant.bounds(CAP_SETGID) {
        return;
    }
    let single = [
        ("gid", creds.gid),
        ("egid", creds.egid),
        ("sgid", creds.sgid),
        ("fsgid", creds.fsgid),
    ];
    for (field, gid) in single {
        if gid != grant.gid {
            let detail = format!("{gid}, the request grants {}", grant.gid);
            report.privilege(place, &format!("thread_core.creds.{field}"), detail);
        }
    }
    let more: Vec<u32> = creds
        .groups
        .iter()
        .copied()
        .filter(|gid| *gid != grant.gid && !grant.groups.contains(gid))
        .collect();
    if let Some(first) = more.first() {
        let detail = format!("{} groups beyond the request, {first} first", more.len());
        report.privilege(place, "thread_core.creds.groups", detail);
    }
}

fn capabilities(grant: &Credentials, place: Place<'_>, creds: &CredsEntry, report: &mut Report) {
    let started = |set: u64| {
        if grant.uid == 0 {
            grant.bounding
        } else {
            set & grant.bounding
        }
    };
    let sets = [
        ("cap_inh", &creds.cap_inh, started(grant.inheritable)),
        ("cap_prm", &creds.cap_prm, started(grant.permitted)),
        (
            "cap_eff",
            &creds.cap_eff,
            started(grant.permitted | grant.effective),
        ),
        ("cap_bnd", &creds.cap_bnd, grant.bounding),
        ("cap_amb", &creds.cap_amb, started(grant.ambient)),
    ];
    for (name, words, allowed) in sets {
        let field = format!("thread_core.creds.{name}");
        let Some(set) = mask(words) else {
            // An absent ambient set is how versions before it wrote an empty one.
            if name == "cap_amb" && words.is_empty() {
                continue;
            }
            report.malformed(place, &field, format!("{} words, expected 2", words.len()));
            continue;
        };
        let beyond = set & !allowed;
        if beyond != 0 {
            let detail = format!("{set:#018x} has {beyond:#018x} beyond the request");
            report.privilege(place, &field, detail);
        }
    }
}

/// Two 32-bit words, low first.
fn mask(words: &[u32]) -> Option<u64> {
    match words {
        [low, high] => Some(u64::from(*low) | u64::from(*high) << 32),
        _ => None,
    }
}

/// Whether a label is the request's own.
pub(super) fn is_granted(label: &Label, found: &[u8]) -> bool {
    matches!(label, Label::Exactly(Some(granted)) if granted.as_bytes() == found)
}

fn labels(label: &Label, place: Place<'_>, creds: &CredsEntry, report: &mut Report) {
    if creds.apparmor_data.is_some() {
        report.privilege(place, "thread_core.creds.apparmor_data", "is set");
    }
    let socket = creds.lsm_sockcreate.as_deref();
    if socket.is_some_and(|found| !is_granted(label, found)) {
        report.privilege(place, "thread_core.creds.lsm_sockcreate", "is set");
    }
    let Label::Exactly(expected) = label else {
        return;
    };
    let found = creds.lsm_profile.as_deref();
    if found != expected.as_deref().map(str::as_bytes) {
        let name = |label: Option<&[u8]>| {
            label.map_or_else(
                || "none".into(),
                |l| String::from_utf8_lossy(l).into_owned(),
            )
        };
        let detail = format!(
            "{}, the request has {}",
            name(found),
            name(expected.as_deref().map(str::as_bytes))
        );
        report.privilege(place, "thread_core.creds.lsm_profile", detail);
    }
}
