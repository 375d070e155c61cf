//! Seccomp filters of the images against the request's profile.
//!
//! A filter is code; whether it is at least as strict as a profile is decided by running it
//! symbolically on every system call (`symbolic.rs`) and asking the profile whether each path that
//! lets a call through is one it lets through too (`profile.rs`). The kernel takes the strictest
//! outcome of all filters of a thread, so one such filter in its chain is enough; others were
//! added by the program itself.

mod arch;
mod bpf;
mod facts;
mod profile;
mod symbolic;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

pub use arch::Arch;
pub use profile::{Action, Comparison, Condition, Rule, SeccompProfile};

use crate::model::Images;
use crate::policy::Request;
use crate::proto::{SeccompFilter, SeccompMode, ThreadCoreEntry, core_entry::March};
use crate::violation::{Place, Report};
use bpf::{Compare, Instruction, Operand, Program};
use symbolic::{Call, TooComplex};

const IMAGE: Place<'static> = Place {
    task: None,
    image: "seccomp.img",
};
/// `SECCOMP_FILTER_FLAG_TSYNC`: CRIU's mark for filters that all threads of a process share. It
/// then writes them for the first thread only and lets the kernel pass them on.
const SYNC: u32 = 1;
/// `SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG`.
const FLAGS: u32 = SYNC | 2;
/// Filters that one thread may have; the kernel limits their instructions to 32768 in all.
const MAX_CHAIN: usize = 512;

/// Checks the filters, then every thread.
pub(crate) fn check(images: &Images, request: &Request, report: &mut Report) {
    if images.filters.len() > request.limits.max_filters {
        let detail = format!("{} filters", images.filters.len());
        return report.malformed(IMAGE, "seccomp_filters", detail);
    }
    let mut programs = Vec::with_capacity(images.filters.len());
    for (index, filter) in images.filters.iter().enumerate() {
        match well_formed(filter) {
            Ok(program) => programs.push(program),
            Err(fault) => {
                report.malformed(IMAGE, &format!("seccomp_filters {index}"), fault);
                return;
            }
        }
    }
    let mut judge = Judge {
        images,
        request,
        programs,
        verdicts: HashMap::new(),
        budget: request.limits.max_filter_steps,
    };
    for process in &images.processes {
        let mut threads = process.threads.iter().filter_map(|tid| {
            let core = images.cores.get(tid)?;
            Some((*tid, core.mtype(), core.thread_core.as_ref()?))
        });
        let Some((tid, march, first)) = threads.next() else {
            continue;
        };
        let image = format!("core-{tid}.img");
        let shared = judge.first(Place::task(process.pid, &image), march, first, report);
        for (tid, march, thread) in threads {
            let image = format!("core-{tid}.img");
            judge.other(
                Place::task(process.pid, &image),
                march,
                thread,
                shared,
                report,
            );
        }
    }
}

fn well_formed(filter: &SeccompFilter) -> Result<Program, String> {
    match filter.flags {
        Some(flags) if flags & !FLAGS != 0 => Err(format!("unknown flags {flags:#x}")),
        _ => bpf::decode(&filter.filter),
    }
}

struct Judge<'a> {
    images: &'a Images,
    request: &'a Request,
    programs: Vec<Program>,
    /// Verdicts by program: forked tasks have copies of one filter.
    verdicts: HashMap<&'a [u8], Result<(), String>>,
    /// Steps left for all proofs together.
    budget: u64,
}

impl<'a> Judge<'a> {
    /// Judges the first thread of a process. Whether its filters are passed on to the others.
    fn first(
        &mut self,
        place: Place<'_>,
        march: March,
        thread: &ThreadCoreEntry,
        report: &mut Report,
    ) -> bool {
        let Some(chain) = self.thread(place, march, thread, report) else {
            return false;
        };
        let shared = chain.iter().filter(|index| self.is_shared(**index)).count();
        if shared != 0 && shared != chain.len() {
            let detail = "some filters of the chain are shared with other threads, some are not";
            report.privilege(place, "thread_core.seccomp_filter", detail);
        }
        shared != 0
    }

    /// Judges another thread. The kernel passes filters on to threads without any, and silently
    /// installs nothing at all when one has its own: so there must be none of these.
    fn other(
        &mut self,
        place: Place<'_>,
        march: March,
        thread: &ThreadCoreEntry,
        shared: bool,
        report: &mut Report,
    ) {
        if shared {
            if mode(thread) != SeccompMode::Disabled {
                let detail = "is set although the process's filters are shared";
                report.privilege(place, "thread_core.seccomp_mode", detail);
            }
            return;
        }
        let chain = self
            .thread(place, march, thread, report)
            .unwrap_or_default();
        if chain.iter().any(|index| self.is_shared(*index)) {
            let detail = "would pass its filters on to other threads";
            report.privilege(place, "thread_core.seccomp_filter", detail);
        }
    }

    fn is_shared(&self, index: usize) -> bool {
        let flags = self
            .images
            .filters
            .get(index)
            .and_then(|filter| filter.flags);
        flags.is_some_and(|flags| flags & SYNC != 0)
    }

    /// Judges one thread by its own filters, and returns them.
    fn thread(
        &mut self,
        place: Place<'_>,
        march: March,
        thread: &ThreadCoreEntry,
        report: &mut Report,
    ) -> Option<Vec<usize>> {
        const FIELD: &str = "thread_core.seccomp_filter";
        let mode = mode(thread);
        let chain = match (mode, thread.seccomp_filter) {
            (SeccompMode::Filter, Some(last)) => match self.chain(last) {
                Ok(chain) => chain,
                Err(fault) => {
                    report.malformed(place, FIELD, fault);
                    return None;
                }
            },
            (SeccompMode::Filter, None) => {
                report.malformed(place, FIELD, "is missing");
                return None;
            }
            _ => Vec::new(),
        };
        let Some(profile) = &self.request.seccomp else {
            return Some(chain);
        };
        if mode != SeccompMode::Filter {
            let detail = format!("{mode:?}, the request has a profile");
            report.privilege(place, "thread_core.seccomp_mode", detail);
            return Some(chain);
        }
        let mut reason = String::new();
        for index in &chain {
            match self.verdict(*index, march, profile) {
                Ok(()) => return Some(chain),
                Err(fault) => reason = fault,
            }
        }
        let detail = format!("no filter is as strict as the request's profile: {reason}");
        report.privilege(place, FIELD, detail);
        Some(chain)
    }

    /// Indices from the last filter to the first.
    fn chain(&self, last: u32) -> Result<Vec<usize>, String> {
        let mut seen = BTreeSet::new();
        let mut chain = Vec::new();
        let mut next = Some(last);
        while let Some(number) = next {
            let index = usize::try_from(number).ok();
            let filter = index.and_then(|index| Some((index, self.images.filters.get(index)?)));
            let Some((index, filter)) = filter else {
                return Err(format!("no filter {number}"));
            };
            if !seen.insert(index) {
                return Err(format!("chain comes back to filter {number}"));
            }
            if chain.len() >= MAX_CHAIN {
                return Err(format!("more than {MAX_CHAIN} filters"));
            }
            chain.push(index);
            next = filter.prev;
        }
        Ok(chain)
    }

    fn verdict(
        &mut self,
        index: usize,
        march: March,
        profile: &SeccompProfile,
    ) -> Result<(), String> {
        let (Some(filter), Some(program)) =
            (self.images.filters.get(index), self.programs.get(index))
        else {
            return Err(format!("no filter {index}"));
        };
        let budget = &mut self.budget;
        self.verdicts
            .entry(filter.filter.as_slice())
            .or_insert_with(|| is_as_strict(program, profile, march, budget))
            .clone()
    }
}

fn mode(thread: &ThreadCoreEntry) -> SeccompMode {
    match thread.seccomp_mode {
        Some(_) => thread.seccomp_mode(),
        None => SeccompMode::Disabled,
    }
}

/// Proves that the program lets nothing through that the profile does not, or says what it does.
fn is_as_strict(
    program: &Program,
    profile: &SeccompProfile,
    march: March,
    budget: &mut u64,
) -> Result<(), String> {
    let entries = arch::entries(march).ok_or_else(|| format!("unknown machine {march:?}"))?;
    for entry in entries {
        for number in numbers(program, &entry) {
            let call = Call {
                audit: entry.audit,
                number,
                narrow: entry.is_narrow(number),
            };
            let mut beyond = false;
            let run = symbolic::run(program, call, budget, |level, facts| {
                beyond = level > profile.least(&entry, number, facts);
                !beyond
            });
            let (arch, plain) = entry.convention(number);
            let name = arch.names(plain).first().copied().unwrap_or("unknown call");
            match run {
                Ok(()) if !beyond => {}
                Ok(()) => return Err(format!("it lets {name} ({plain}, {arch:?}) through")),
                Err(TooComplex::Steps) => {
                    return Err(format!(
                        "it takes too many steps for {name} ({plain}, {arch:?})"
                    ));
                }
                Err(TooComplex::Number) => {
                    return Err("it computes with the system call number".to_owned());
                }
            }
        }
    }
    Ok(())
}

/// Numbers that stand for all: the filter compares the number with constants only, so between two
/// neighbouring constants it treats all numbers alike, and the profile treats all unknown alike. Of
/// its bits it may test the highest only, which makes ranges too.
fn numbers(program: &Program, entry: &arch::Entry) -> BTreeSet<u32> {
    let mut numbers: BTreeSet<u32> = entry.numbers().into_iter().collect();
    let mut around = |value: u32| {
        numbers.extend([value.saturating_sub(1), value, value.saturating_add(1)]);
    };
    for instruction in &program.instructions {
        match instruction {
            Instruction::Branch {
                compare: Compare::AnyBit,
                operand: Operand::Constant(bits),
                ..
            } if symbolic::is_coarse(*bits) => {
                // Ranges begin at the multiples of its lowest bit.
                let step = 1u32.checked_shl(bits.trailing_zeros()).unwrap_or(0);
                (0..=u8::MAX)
                    .filter_map(|n| step.checked_mul(n.into()))
                    .for_each(&mut around);
            }
            Instruction::Branch {
                operand: Operand::Constant(value),
                ..
            } => around(*value),
            _ => {}
        }
    }
    // No system call has the number -1: it marks a call to be skipped.
    numbers.remove(&u32::MAX);
    numbers
}
