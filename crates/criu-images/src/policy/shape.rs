//! Lengths of lists and byte strings that CRIU copies into fields of fixed size.

use crate::proto::{CoreEntry, TaskCoreEntry, ThreadCoreEntry, core_entry::March};
use crate::violation::{Place, Report};

/// `sizeof(siginfo_t)`.
const SIGINFO_BYTES: usize = 128;
/// Signals of which an action can be set: 64 without SIGKILL and SIGSTOP.
const SIGNAL_ACTIONS: usize = 62;
/// Longest queue of pending signals; `RLIMIT_SIGPENDING` is below it nearly everywhere.
const MAX_PENDING: usize = 131_072;
/// CRIU makes timers one by one until it reaches the number.
const MAX_TIMER_ID: u32 = 1 << 24;
/// Longest process name.
const COMM_BYTES: usize = 15;

pub(super) fn task(place: Place<'_>, task: &TaskCoreEntry, report: &mut Report) {
    comm(place, "tc.comm", &task.comm, report);
    if let Some(queue) = &task.signals_s {
        signals(place, "tc.signals_s", queue, report);
    }
    if !task.sigactions.is_empty() && task.sigactions.len() != SIGNAL_ACTIONS {
        let detail = format!(
            "{} actions, expected {SIGNAL_ACTIONS}",
            task.sigactions.len()
        );
        report.malformed(place, "tc.sigactions", detail);
    } else if task.sigactions.is_empty() {
        report.malformed(place, "tc.sigactions", "is missing");
    }
    match &task.timers {
        None => report.malformed(place, "tc.timers", "is missing"),
        Some(timers) => {
            if let Some(timer) = timers.posix.iter().find(|timer| timer.it_id > MAX_TIMER_ID) {
                report.malformed(place, "tc.timers.posix.it_id", timer.it_id.to_string());
            }
        }
    }
    if task.stop_signo.is_some_and(|signal| signal > 64) {
        report.malformed(place, "tc.stop_signo", "is no signal");
    }
}

pub(super) fn thread(place: Place<'_>, thread: &ThreadCoreEntry, report: &mut Report) {
    if let Some(name) = &thread.comm {
        comm(place, "thread_core.comm", name, report);
    }
    match &thread.signals_p {
        Some(queue) => signals(place, "thread_core.signals_p", queue, report),
        None => report.malformed(place, "thread_core.signals_p", "is missing"),
    }
    if thread.pdeath_sig.is_some_and(|signal| signal > 64) {
        report.malformed(place, "thread_core.pdeath_sig", "is no signal");
    }
}

fn comm(place: Place<'_>, field: &str, name: &[u8], report: &mut Report) {
    if name.len() > COMM_BYTES {
        report.malformed(place, field, format!("{} bytes", name.len()));
    }
}

fn signals(
    place: Place<'_>,
    field: &str,
    queue: &crate::proto::SignalQueueEntry,
    report: &mut Report,
) {
    if queue.signals.len() > MAX_PENDING {
        report.malformed(
            place,
            field,
            format!("{} pending signals", queue.signals.len()),
        );
    } else if queue
        .signals
        .iter()
        .any(|signal| signal.siginfo.len() != SIGINFO_BYTES)
    {
        report.malformed(place, field, "a siginfo is not 128 bytes");
    }
}

/// Registers: those of the machine that the image names, in full.
pub(super) fn registers(place: Place<'_>, core: &CoreEntry, report: &mut Report) {
    match (core.mtype(), &core.thread_info, &core.ti_aarch64) {
        (March::X8664, Some(info), None) => {
            exactly(
                place,
                "thread_info.fpregs.st_space",
                info.fpregs.st_space.len(),
                32,
                report,
            );
            exactly(
                place,
                "thread_info.fpregs.xmm_space",
                info.fpregs.xmm_space.len(),
                64,
                report,
            );
            at_most(place, "thread_info.tls", info.tls.len(), 3, report);
            let Some(xsave) = &info.fpregs.xsave else {
                return;
            };
            for (field, found, size) in [
                ("ymmh_space", xsave.ymmh_space.len(), 64),
                ("bndreg_state", xsave.bndreg_state.len(), 8),
                ("bndcsr_state", xsave.bndcsr_state.len(), 8),
                ("opmask_reg", xsave.opmask_reg.len(), 8),
                ("zmm_upper", xsave.zmm_upper.len(), 64),
                ("hi16_zmm", xsave.hi16_zmm.len(), 128),
                ("pkru", xsave.pkru.len(), 2),
            ] {
                // Components that the processor lacks are absent.
                if found != 0 {
                    exactly(
                        place,
                        &format!("thread_info.fpregs.xsave.{field}"),
                        found,
                        size,
                        report,
                    );
                }
            }
        }
        (March::Aarch64, None, Some(info)) => {
            exactly(
                place,
                "ti_aarch64.gpregs.regs",
                info.gpregs.regs.len(),
                31,
                report,
            );
            exactly(
                place,
                "ti_aarch64.fpsimd.vregs",
                info.fpsimd.vregs.len(),
                64,
                report,
            );
        }
        _ => report.malformed(place, "mtype", "registers are not those of the machine"),
    }
}

/// A list of exactly `expected` elements.
pub(super) fn exactly(
    place: Place<'_>,
    field: &str,
    found: usize,
    expected: usize,
    report: &mut Report,
) {
    if found != expected {
        report.malformed(
            place,
            field,
            format!("{found} elements, expected {expected}"),
        );
    }
}

/// A list of no more than `most` elements.
pub(super) fn at_most(
    place: Place<'_>,
    field: &str,
    found: usize,
    most: usize,
    report: &mut Report,
) {
    if found > most {
        report.malformed(place, field, format!("{found} elements, at most {most}"));
    }
}
