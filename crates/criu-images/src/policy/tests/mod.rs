//! One honest and at least one forged case for each rule.
//!
//! Forged sets are the honest fixtures with one edit, as a forger would make it.

mod credentials;
mod files;
mod guards;
mod honest;
mod memory;
mod mounts;
mod namespaces;
mod random;
mod seccomp;
mod sockets;
mod structure;

use crate::ViolationKind::{self, Malformed, Privilege};
use crate::policy::{Request, check};
use crate::proto::CoreEntry;
use crate::{MemoryImages, testing};

/// An edit of an honest set must be refused with this violation among others.
fn refused_by(
    request: &Request,
    forge: impl FnOnce(&mut MemoryImages),
    (kind, task, image, field): (ViolationKind, Option<u32>, &str, &str),
) {
    let mut set = testing::images("python");
    forge(&mut set);
    let violations = check(&set, request).expect_err("a forged set was accepted");
    let found = violations.iter().any(|violation| {
        (
            violation.kind,
            violation.task,
            violation.image.as_str(),
            violation.field.as_str(),
        ) == (kind, task, image, field)
    });
    assert!(
        found,
        "no {kind:?} {task:?} {image} {field} in {violations:#?}"
    );
}

/// The same against the request of the fixture.
fn refused(
    forge: impl FnOnce(&mut MemoryImages),
    expected: (ViolationKind, Option<u32>, &str, &str),
) {
    refused_by(&testing::request("python"), forge, expected);
}

/// An edit of an honest set that must pass.
fn passes(request: &Request, forge: impl FnOnce(&mut MemoryImages)) {
    let mut set = testing::images("python");
    forge(&mut set);
    if let Err(violations) = check(&set, request) {
        panic!("an honest set was refused: {violations:#?}");
    }
}

/// Changes the core of one thread.
fn core(set: &mut MemoryImages, tid: u32, change: impl FnOnce(&mut CoreEntry)) {
    let mut change = Some(change);
    testing::edit(
        set,
        &format!("core-{tid}.img"),
        |cores: &mut Vec<CoreEntry>| {
            change.take().expect("one entry")(&mut cores[0]);
        },
    );
}
