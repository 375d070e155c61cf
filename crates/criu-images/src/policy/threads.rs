//! What each thread has of its own: credentials, scheduling, registers.

use super::{Context, credentials, shape, tasks};
use crate::proto::{CoreEntry, ThreadCoreEntry};
use crate::violation::{Place, Report};

/// Capability numbers.
const CAP_SYS_NICE: u32 = 23;

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    let marches = context.images.cores.values().map(|core| core.mtype);
    let first = marches.clone().next();
    if marches.clone().any(|march| Some(march) != first) {
        report.malformed(
            Place::image("core-*.img"),
            "mtype",
            "threads of different machines",
        );
    }
    for process in &context.images.processes {
        if !tasks::is_alive(context, process.pid) {
            continue;
        }
        for tid in &process.threads {
            let image = format!("core-{tid}.img");
            let place = Place::task(process.pid, &image);
            match context.images.cores.get(tid) {
                Some(core) => {
                    if *tid != process.pid && core.tc.is_some() {
                        report.malformed(place, "tc", "is present in a thread");
                    }
                    thread(context, place, core, report);
                }
                None => report.malformed(place, "", "is missing"),
            }
        }
    }
}

fn thread(context: &Context<'_>, place: Place<'_>, core: &CoreEntry, report: &mut Report) {
    shape::registers(place, core, report);
    let Some(thread) = &core.thread_core else {
        return report.malformed(place, "thread_core", "is missing");
    };
    shape::thread(place, thread, report);
    match &thread.creds {
        Some(creds) => credentials::check(context.request, place, creds, report),
        // CRIU would look for a creds-ID.img of old.
        None => report.malformed(place, "thread_core.creds", "is missing"),
    }
    scheduling(context, place, thread, report);
}

fn scheduling(
    context: &Context<'_>,
    place: Place<'_>,
    thread: &ThreadCoreEntry,
    report: &mut Report,
) {
    const OTHER: u32 = 0;
    const FIFO: u32 = 1;
    const ROUND_ROBIN: u32 = 2;
    const BATCH: u32 = 3;
    const IDLE: u32 = 5;
    let may = context.request.credentials.bounds(CAP_SYS_NICE);
    match thread.sched_policy.unwrap_or(OTHER) {
        OTHER | BATCH | IDLE => {
            if thread.sched_prio.is_some_and(|priority| priority != 0) {
                report.malformed(place, "thread_core.sched_prio", "is set for its policy");
            }
        }
        FIFO | ROUND_ROBIN => {
            if !may {
                let detail = "real-time scheduling without CAP_SYS_NICE";
                report.privilege(place, "thread_core.sched_policy", detail);
            }
        }
        other => {
            report.malformed(
                place,
                "thread_core.sched_policy",
                format!("unknown policy {other}"),
            );
        }
    }
    let nice = thread.sched_nice.unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        report.malformed(
            place,
            "thread_core.sched_nice",
            format!("{nice} is out of range"),
        );
    } else if nice < context.request.nice && !may {
        let detail = format!(
            "{nice} is below {} without CAP_SYS_NICE",
            context.request.nice
        );
        report.privilege(place, "thread_core.sched_nice", detail);
    }
}
