//! One honest and at least one forged case for each rule.

mod honest;

use crate::testing;
use crate::{Violation, ViolationKind};

/// The violations of a forged set, as (kind, task, image, field).
fn refused(
    set: &crate::MemoryImages,
    request: &super::Request,
) -> Vec<(ViolationKind, Option<u32>, String, String)> {
    let violations = super::check(set, request).expect_err("forged images must be refused");
    violations
        .into_iter()
        .map(|Violation { kind, task, image, field, .. }| (kind, task, image, field))
        .collect()
}
