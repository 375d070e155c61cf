//! Ranges with guard pages.
//!
//! Guard pages (madvise(2), `MADV_GUARD_INSTALL`) lie within mappings. CRIU 4.2 and later write
//! ranges of them as if they were mappings, after all of those (`collect_madv_guards` in
//! `criu/mem.c`):
//!
//! ```text
//!  mm-PID.img   │ mapping │ mapping │ … │ mapping │ guards │ … │ guards │
//!               │      in order, apart            │ in order, apart,    │
//!               │                                 │ in the mappings     │
//! ```
//!
//! To restore them it gives the advice again, in the task, when all memory is in place
//! (`restore_madv_guard_regions` in `criu/pie/restorer.c`). Its own code lies in that task, with
//! root's rights, where no mapping will be. It looks for the place among the mappings up to the
//! first range (`restorer_get_vma_hint` in `criu/cr-restore.c`): one after it would be mapped over
//! that code. So nothing follows guard pages but guard pages, and they lie in mappings.

use super::memory::{
    PAGE, VMA_ANON_PRIVATE, VMA_ANON_SHARED, VMA_FILE_PRIVATE, VMA_FILE_SHARED, VMA_VSYSCALL,
    page_outside,
};
use crate::proto::VmaEntry;
use crate::violation::{Place, Report};

/// Classes of mappings (`criu/include/image.h` of CRIU 4.2).
const VMA_VDSO: u32 = 1 << 3;
const VMA_VVAR: u32 = 1 << 12;
const VMA_AIO_RING: u32 = 1 << 13;
const VMA_GUARD: u32 = 1 << 16;
/// What a program maps: private since Linux 6.13, shared and of files since 6.15.
const MEMORY: u32 = VMA_FILE_PRIVATE | VMA_FILE_SHARED | VMA_ANON_SHARED | VMA_ANON_PRIVATE;
/// What the kernel maps.
const SPECIAL: u32 = VMA_VSYSCALL | VMA_VDSO | VMA_VVAR | VMA_AIO_RING;
/// Flag of mmap(2).
const MAP_HUGETLB: u32 = 0x40000;

/// The mappings of an address space, and what follows them from the first guard pages on.
pub(super) fn split(vmas: &[VmaEntry]) -> (&[VmaEntry], &[VmaEntry]) {
    let first = vmas.iter().position(|vma| vma.status & VMA_GUARD != 0);
    vmas.split_at(first.unwrap_or(vmas.len()))
}

/// Holds what follows the mappings against them. Whether it is sound; they are.
pub(super) fn check(
    place: Place<'_>,
    mappings: &[VmaEntry],
    guards: &[VmaEntry],
    report: &mut Report,
) -> bool {
    let mut mappings = mappings.iter().peekable();
    let mut previous_end = 0;
    for guard in guards {
        let field = format!("vma {:#x}", guard.start);
        if let Some(fault) = fault(guard, previous_end) {
            report.malformed(place, &field, fault);
            return false;
        }
        previous_end = guard.end;
        // What follows without a gap is one range to the kernel, whatever mappings it lies in.
        if let Some(page) = page_outside(&mut mappings, guard.start..guard.end, takes_guards) {
            let detail = format!("page {page:#x} lies in no mapping that takes guard pages");
            report.malformed(place, &field, detail);
            return false;
        }
    }
    true
}

fn fault(guard: &VmaEntry, previous_end: u64) -> Option<&'static str> {
    if guard.status & VMA_GUARD == 0 {
        return Some("is a mapping after guard pages");
    }
    let nothing_else = VmaEntry {
        start: guard.start,
        end: guard.end,
        status: VMA_GUARD,
        fd: -1,
        ..VmaEntry::default()
    };
    if *guard != nothing_else {
        return Some("is more than guard pages");
    }
    if guard.start >= guard.end
        || !guard.start.is_multiple_of(PAGE)
        || !guard.end.is_multiple_of(PAGE)
    {
        return Some("is no range of pages");
    }
    (guard.start < previous_end).then_some("overlaps the one before")
}

/// Whether the kernel lets guard pages into a mapping (`is_valid_guard_vma` in `mm/madvise.c`).
fn takes_guards(vma: &VmaEntry) -> bool {
    vma.status & MEMORY != 0 && vma.status & SPECIAL == 0 && vma.flags & MAP_HUGETLB == 0
}
