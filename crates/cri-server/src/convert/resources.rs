//! Cgroup limits.

use std::collections::BTreeMap;

use lifecycle::model::Resources;

use super::check::{Checked, invalid, no_nul, within};
use crate::v1;

/// What `/proc/PID/oom_score_adj` takes (proc(5)).
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i64> = -1000..=1000;
/// CFS bandwidth periods that the kernel takes, in microseconds (`kernel/sched/core.c`,
/// `min_cfs_quota_period` and `max_cfs_quota_period`); the smallest quota is the same.
const CFS_PERIOD_US: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;

/// Limits as requested; 0 stays "not set".
pub(crate) fn resources(from: v1::LinuxContainerResources) -> Checked<Resources> {
    if from.cpu_period != 0 {
        within("cpu_period", from.cpu_period, CFS_PERIOD_US)?;
    }
    if from.cpu_quota > 0 {
        within(
            "cpu_quota",
            from.cpu_quota,
            *CFS_PERIOD_US.start()..=i64::MAX,
        )?;
    }
    within("cpu_shares", from.cpu_shares, 0..=i64::MAX)?;
    within(
        "memory_limit_in_bytes",
        from.memory_limit_in_bytes,
        0..=i64::MAX,
    )?;
    // -1 is the spelling of "no limit" in cgroup v1.
    within(
        "memory_swap_limit_in_bytes",
        from.memory_swap_limit_in_bytes,
        -1..=i64::MAX,
    )?;
    within("oom_score_adj", from.oom_score_adj, OOM_SCORE_ADJ)?;
    cpu_list("cpuset_cpus", &from.cpuset_cpus)?;
    cpu_list("cpuset_mems", &from.cpuset_mems)?;
    let mut hugepage_limits = BTreeMap::new();
    for (index, limit) in from.hugepage_limits.into_iter().enumerate() {
        page_size(
            &format!("hugepage_limits[{index}].page_size"),
            &limit.page_size,
        )?;
        hugepage_limits.insert(limit.page_size, limit.limit);
    }
    for (file, value) in &from.unified {
        unified_file("unified", file)?;
        no_nul("unified", value)?;
    }
    Ok(Resources {
        cpu_period_us: from.cpu_period,
        cpu_quota_us: from.cpu_quota,
        cpu_shares: from.cpu_shares,
        memory_limit_bytes: from.memory_limit_in_bytes,
        memory_swap_limit_bytes: from.memory_swap_limit_in_bytes,
        oom_score_adj: from.oom_score_adj,
        cpuset_cpus: from.cpuset_cpus,
        cpuset_mems: from.cpuset_mems,
        hugepage_limits,
        unified: from.unified.into_iter().collect(),
    })
}

/// Limits as a status shows them.
pub(crate) fn show(from: &Resources) -> v1::LinuxContainerResources {
    let hugepage_limits = from
        .hugepage_limits
        .iter()
        .map(|(page_size, limit)| v1::HugepageLimit {
            page_size: page_size.clone(),
            limit: *limit,
        });
    v1::LinuxContainerResources {
        cpu_period: from.cpu_period_us,
        cpu_quota: from.cpu_quota_us,
        cpu_shares: from.cpu_shares,
        memory_limit_in_bytes: from.memory_limit_bytes,
        oom_score_adj: from.oom_score_adj,
        cpuset_cpus: from.cpuset_cpus.clone(),
        cpuset_mems: from.cpuset_mems.clone(),
        hugepage_limits: hugepage_limits.collect(),
        unified: from.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: from.memory_swap_limit_bytes,
    }
}

/// "0-3,8" as in cpuset(7), "List format"; empty is "not set".
fn cpu_list(field: &str, list: &str) -> Checked<()> {
    let good = list.is_empty()
        || list.split(',').all(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            match (number(first), number(last)) {
                (Some(first), Some(last)) => first <= last,
                _ => false,
            }
        });
    if good {
        Ok(())
    } else {
        Err(invalid(
            field,
            format!("{list:?} is not a list like \"0-3,8\""),
        ))
    }
}

fn number(digits: &str) -> Option<u16> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    }
}

/// "2MB": what the hugetlb controller has in its file names.
fn page_size(field: &str, size: &str) -> Checked<()> {
    let digits = ["KB", "MB", "GB"]
        .iter()
        .find_map(|unit| size.strip_suffix(unit));
    match digits.and_then(number) {
        Some(count) if count > 0 => Ok(()),
        _ => Err(invalid(
            field,
            format!("{size:?} is not a size like \"2MB\""),
        )),
    }
}

/// "memory.high": a file of a cgroup v2 controller.
fn unified_file(field: &str, file: &str) -> Checked<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match file.split_once('.') {
        Some((controller, knob))
            if !controller.is_empty() && !knob.starts_with('.') && file.bytes().all(plain) =>
        {
            Ok(())
        }
        _ => Err(invalid(
            field,
            format!("{file:?} is not a file like \"memory.high\""),
        )),
    }
}
