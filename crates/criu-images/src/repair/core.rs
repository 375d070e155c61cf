//! Values in `core-ID.img` that belong to the node of the dump and not to the container.

use std::collections::BTreeMap;

use super::splice::Fields;
use super::{RepairError, entries, join};

const CORE_MAGIC: u32 = 0x5505_3847;
/// `core_entry.tc`.
const TASK: u32 = 3;
/// Fields of `task_core_entry`.
const RLIMITS: u32 = 8;
const LOGIN: u32 = 13;
const OOM: u32 = 14;
/// `task_rlimits_entry.rlimits`, and fields of `rlimit_entry`.
const LIMIT: u32 = 1;
const SOFT: u32 = 1;
const HARD: u32 = 2;
/// A login id that was never set.
const NO_LOGIN: u64 = 0xffff_ffff;

/// What is changed. [`CoreEdits::default`] changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoreEdits {
    /// Raises a lower out-of-memory score adjustment to this: it follows from the pod's resources
    /// and the node's size.
    pub oom_score_adj_at_least: Option<i32>,
    /// Forgets the login id: it is that of whoever started the runtime of the dump.
    pub forget_login: bool,
    /// Lowers limits above these, by resource number.
    pub rlimits_at_most: BTreeMap<u32, u64>,
}

/// Edits one `core-ID.img`.
///
/// # Errors
///
/// [`RepairError::Malformed`] when it is not a `core-ID.img`.
pub fn edit_core(core: &[u8], edits: &CoreEdits) -> Result<Vec<u8>, RepairError> {
    let (header, old) = entries(core, CORE_MAGIC)?;
    let new = old
        .into_iter()
        .map(|entry| edit_entry(entry, edits))
        .collect::<Result<Vec<_>, _>>()?;
    join(header, &new)
}

fn edit_entry(entry: &[u8], edits: &CoreEdits) -> Result<Vec<u8>, RepairError> {
    let mut core = Fields::read(entry)?;
    let Some(task) = core.bytes(TASK) else {
        return Ok(entry.to_vec());
    };
    let mut task = Fields::read(task)?;
    if let Some(least) = edits.oom_score_adj_at_least {
        let found = task.number(OOM).map_or(0, u64::cast_signed);
        if found < i64::from(least) {
            task.set_number(OOM, i64::from(least).cast_unsigned());
        }
    }
    if edits.forget_login && task.number(LOGIN).is_some_and(|id| id != NO_LOGIN) {
        task.remove(LOGIN);
    }
    if let Some(limits) = task
        .bytes(RLIMITS)
        .filter(|_| !edits.rlimits_at_most.is_empty())
    {
        let limits = lower_limits(limits, &edits.rlimits_at_most)?;
        task.set_bytes(RLIMITS, &limits);
    }
    core.set_bytes(TASK, &task.write());
    Ok(core.write())
}

fn lower_limits(limits: &[u8], most: &BTreeMap<u32, u64>) -> Result<Vec<u8>, RepairError> {
    let mut list = Fields::read(limits)?;
    let mut lowered = Vec::new();
    for (resource, limit) in (0u32..).zip(list.all_bytes(LIMIT)) {
        let mut limit = Fields::read(limit)?;
        if let Some(most) = most.get(&resource) {
            for field in [SOFT, HARD] {
                if limit.number(field).is_some_and(|value| value > *most) {
                    limit.set_number(field, *most);
                }
            }
        }
        lowered.push(limit.write());
    }
    list.replace_all(LIMIT, &lowered);
    Ok(list.write())
}
