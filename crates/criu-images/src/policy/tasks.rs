//! The process tree and what each process has as a whole.

use std::collections::{BTreeMap, BTreeSet};

use super::{Context, shape};
use crate::proto::{PstreeEntry, TaskCoreEntry};
use crate::violation::{Place, Report};

/// States of `task_core_entry.task_state`.
pub(super) const ALIVE: u32 = 1;
const DEAD: u32 = 2;
const STOPPED: u32 = 3;
const ZOMBIE: u32 = 6;

/// Process ids end below this (`PID_MAX_LIMIT`).
const PID_MAX: u32 = 1 << 22;

/// A login id that was never set.
const NO_LOGIN: u32 = u32::MAX;

const PSTREE: &str = "pstree.img";

/// Whether the process has memory, descriptors and threads to be restored.
pub(super) fn is_alive(context: &Context<'_>, pid: u32) -> bool {
    let state = context
        .images
        .cores
        .get(&pid)
        .and_then(|core| core.tc.as_ref());
    state.is_none_or(|task| matches!(task.task_state, ALIVE | STOPPED))
}

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    inventory(context, report);
    tree(context, report);
    orphans(context, report);
    for process in &context.images.processes {
        task(context, process, report);
    }
}

fn inventory(context: &Context<'_>, report: &mut Report) {
    let place = Place::image("inventory.img");
    let Some(inventory) = &context.images.inventory else {
        return report.malformed(place, "", "is missing");
    };
    if inventory.img_version != 2 {
        let detail = format!("{}, expected 2", inventory.img_version);
        report.malformed(place, "img_version", detail);
    }
    if inventory.fdinfo_per_id != Some(true) {
        report.malformed(place, "fdinfo_per_id", "is not set");
    }
    if inventory.ns_per_id != Some(true) {
        report.malformed(place, "ns_per_id", "is not set");
    }
    if inventory.root_ids.is_none() {
        report.malformed(place, "root_ids", "is missing");
    }
    if inventory
        .plugins_entry
        .as_ref()
        .is_some_and(|entry| !entry.plugins.is_empty())
    {
        report.privilege(place, "plugins_entry", "asks for CRIU plugins");
    }
    if inventory
        .network_lock_method
        .is_some_and(|method| method > 3)
    {
        report.malformed(place, "network_lock_method", "unknown method");
    }
    // CRIU pastes it into the name of an nftables table.
    let harmless = |id: &[u8]| {
        id.len() <= 64
            && id
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    if inventory
        .dump_criu_run_id
        .as_deref()
        .is_some_and(|id| !harmless(id))
    {
        report.privilege(place, "dump_criu_run_id", "is not an identifier");
    }
}

fn tree(context: &Context<'_>, report: &mut Report) {
    let place = Place::image(PSTREE);
    let processes = &context.images.processes;
    let mut pids = BTreeSet::new();
    let mut threads = BTreeSet::new();
    for (index, process) in processes.iter().enumerate() {
        let place = Place::task(process.pid, PSTREE);
        let in_range = |id: u32| id > 0 && id < PID_MAX;
        // Threads of the dead are not restored, and written as 0.
        let alive = is_alive(context, process.pid);
        if !in_range(process.pid) || alive && process.threads.iter().any(|tid| !in_range(*tid)) {
            report.malformed(place, "pid", "is out of range");
        }
        if !pids.insert(process.pid) {
            report.malformed(place, "pid", "appears twice");
        }
        // A parent comes before its children, so the tree has no cycle and one root.
        match (index, process.ppid) {
            (0, 0) => {}
            (0, parent) => {
                report.malformed(place, "ppid", format!("root task has the parent {parent}"));
            }
            (_, parent) if parent == process.pid || !pids.contains(&parent) => {
                report.malformed(
                    place,
                    "ppid",
                    format!("no process {parent} before this one"),
                );
            }
            _ => {}
        }
        if alive && process.threads.first() != Some(&process.pid) {
            report.malformed(place, "threads", "first thread is not the process");
        }
        for tid in process.threads.iter().filter(|_| alive) {
            if !threads.insert(*tid) {
                report.malformed(place, "threads", format!("thread {tid} appears twice"));
            }
        }
    }
    if processes.is_empty() {
        report.malformed(place, "", "has no process");
    }
    if threads.len() > context.request.limits.max_threads {
        report.malformed(place, "threads", format!("{} threads", threads.len()));
    }
    for process in processes {
        let place = Place::task(process.pid, PSTREE);
        if process.pgid >= PID_MAX || process.sid >= PID_MAX {
            report.malformed(place, "pgid", "is out of range");
        }
    }
}

/// Images of tasks that are not in the tree: nobody would look at them, so nobody may have them.
fn orphans(context: &Context<'_>, report: &mut Report) {
    let images = context.images;
    let pids: BTreeSet<u32> = images.processes.iter().map(|process| process.pid).collect();
    let tids: BTreeSet<u32> = images
        .processes
        .iter()
        .flat_map(|process| &process.threads)
        .copied()
        .collect();
    let lists: [(&str, Vec<u32>, &BTreeSet<u32>); 5] = [
        ("mm", images.memory.keys().copied().collect(), &pids),
        ("pagemap", images.pagemaps.keys().copied().collect(), &pids),
        ("ids", images.ids.keys().copied().collect(), &pids),
        ("fs", images.roots.keys().copied().collect(), &pids),
        (
            "core",
            images
                .cores
                .keys()
                .copied()
                .filter(|id| !pids.contains(id))
                .collect(),
            &tids,
        ),
    ];
    for (prefix, ids, known) in lists {
        for id in ids.iter().filter(|id| !known.contains(id)) {
            let image = format!("{prefix}-{id}.img");
            report.malformed(Place::image(&image), "", "belongs to no task of the tree");
        }
    }
}

fn task(context: &Context<'_>, process: &PstreeEntry, report: &mut Report) {
    let pid = process.pid;
    let image = format!("core-{pid}.img");
    let place = Place::task(pid, &image);
    let Some(core) = context.images.cores.get(&pid) else {
        return report.malformed(place, "", "is missing");
    };
    let Some(task) = &core.tc else {
        return report.malformed(place, "tc", "is missing");
    };
    if !matches!(task.task_state, ALIVE | DEAD | STOPPED | ZOMBIE) {
        report.malformed(
            place,
            "tc.task_state",
            format!("unknown state {}", task.task_state),
        );
    }
    // CRIU reads both; they must not be two stories.
    if let (Some(file), Some(own)) = (context.images.ids.get(&pid), &core.ids)
        && file != own
    {
        report.malformed(place, "ids", format!("differs from ids-{pid}.img"));
    }
    if !is_alive(context, pid) {
        return;
    }
    for (present, name) in [
        (context.images.ids_of(pid).is_some(), "ids"),
        (context.images.memory.contains_key(&pid), "mm"),
        (context.images.pagemaps.contains_key(&pid), "pagemap"),
        (context.images.roots.contains_key(&pid), "fs"),
    ] {
        if !present {
            let image = format!("{name}-{pid}.img");
            report.malformed(Place::task(pid, &image), "", "is missing");
        }
    }
    whole_process(context, place, task, report);
}

fn whole_process(
    context: &Context<'_>,
    place: Place<'_>,
    task: &TaskCoreEntry,
    report: &mut Report,
) {
    let request = context.request;
    shape::task(place, task, report);
    if task.old_seccomp_mode.is_some() || task.old_seccomp_filter.is_some() {
        report.malformed(
            place,
            "tc.old_seccomp_mode",
            "is set; only old versions write it",
        );
    }
    if task.loginuid.is_some_and(|id| id != NO_LOGIN) {
        report.privilege(place, "tc.loginuid", "is set");
    }
    let adjustment = task.oom_score_adj.unwrap_or(0);
    if adjustment < request.oom_score_adj {
        let detail = format!(
            "{adjustment} is below the request's {}",
            request.oom_score_adj
        );
        report.privilege(place, "tc.oom_score_adj", detail);
    } else if adjustment > 1000 {
        report.malformed(
            place,
            "tc.oom_score_adj",
            format!("{adjustment} is above 1000"),
        );
    }
    rlimits(&request.rlimits, place, task, report);
}

fn rlimits(
    ceiling: &BTreeMap<u32, u64>,
    place: Place<'_>,
    task: &TaskCoreEntry,
    report: &mut Report,
) {
    const RESOURCES: usize = 16;
    const FIELD: &str = "tc.rlimits";
    let Some(limits) = &task.rlimits else {
        return report.malformed(place, FIELD, "is missing");
    };
    if limits.rlimits.len() != RESOURCES {
        let detail = format!("{} limits, expected {RESOURCES}", limits.rlimits.len());
        return report.malformed(place, FIELD, detail);
    }
    for (resource, limit) in (0u32..).zip(&limits.rlimits) {
        if limit.cur > limit.max {
            report.malformed(
                place,
                FIELD,
                format!("resource {resource}: soft above hard limit"),
            );
        }
        if let Some(most) = ceiling.get(&resource).filter(|most| limit.max > **most) {
            let detail = format!("resource {resource}: {} is above {most}", limit.max);
            report.privilege(place, FIELD, detail);
        }
    }
}
