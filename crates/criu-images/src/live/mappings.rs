//! Which addresses of a process fork leaves unprotected, or are written after it.
//!
//! CRIU writes mappings in the order of their addresses, and after them ranges with guard pages
//! (madvise(2), `MADV_GUARD_INSTALL`), which lie within those (`collect_mappings` in
//! `criu/cr-dump.c`) and hold nothing.

use std::ops::Range;

use crate::policy::PAGE;
use crate::proto::VmaEntry;

/// Classes of mappings (`criu/include/image.h` of CRIU 4.2).
const VMA_VSYSCALL: u32 = 1 << 2;
const VMA_FILE_PRIVATE: u32 = 1 << 6;
const VMA_FILE_SHARED: u32 = 1 << 7;
const VMA_ANON_SHARED: u32 = 1 << 8;
const VMA_ANON_PRIVATE: u32 = 1 << 9;
const VMA_SYSV: u32 = 1 << 10;
const VMA_AIO_RING: u32 = 1 << 13;
const VMA_SHADOW_STACK: u32 = 1 << 15;
const VMA_GUARD: u32 = 1 << 16;
/// Private memory of either kind.
const PRIVATE: u32 = VMA_FILE_PRIVATE | VMA_ANON_PRIVATE;
/// Shared memory, and shadow stacks, to which CRIU pushes
/// before it dumps pages (`parasite_setup_shstk` in `compel/arch/x86/src/lib/infect.c`).
const UNPROTECTED: u32 = VMA_FILE_SHARED | VMA_ANON_SHARED | VMA_SYSV | VMA_SHADOW_STACK;

/// Flags of mmap(2). `MAP_TYPE` also tells `MAP_SHARED`, `MAP_SHARED_VALIDATE` and
/// `MAP_DROPPABLE` (Linux 6.11), which fork leaves out.
const MAP_TYPE: u32 = 0x0f;
const MAP_PRIVATE: u32 = 0x02;
/// The kernel writes to such a page in place although others refer to it.
const MAP_HUGETLB: u32 = 0x40000;
/// Advice of madvise(2): fork leaves the mapping out, or gives the child an empty one. CRIU keeps
/// advice as bits of its number (`__parse_vmflags` in `criu/proc_parse.c`).
const NOT_FORKED: u64 = 1 << 10 | 1 << 18;

/// `PROT_EXEC` of mmap(2).
const PROT_EXEC: u32 = 4;

/// Addresses of the pages that hold some byte of `range`.
pub(super) fn pages_around(range: Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return range;
    }
    let end = range.end.checked_next_multiple_of(PAGE);
    range.start - range.start % PAGE..end.unwrap_or(u64::MAX)
}

/// Addresses whose pages are live, in order and apart: all that lie in no mapping which fork
/// shares copy-on-write, `written` ones, and the page that CRIU writes to.
///
/// All are where a process has asynchronous I/O (io_setup(2)): what a request under way reads into is
/// pinned, and fork gives the child a copy of a pinned page and leaves the parent's as it is
/// (`copy_present_page` in the kernel's `mm/memory.c`). CRIU does not wait for requests
/// (`parasite_check_aios` in `criu/pie/parasite.c`).
///
/// # Errors
///
/// What is wrong with the mappings.
pub(super) fn live(
    mappings: &[VmaEntry],
    written: Vec<Range<u64>>,
) -> Result<Vec<Range<u64>>, String> {
    if mappings
        .iter()
        .any(|mapping| mapping.status & VMA_AIO_RING != 0)
    {
        return Ok(std::iter::once(0..u64::MAX).collect());
    }
    let mut live = written;
    let (mut previous_end, mut protected_end, mut injected) = (0, 0, false);
    for mapping in mappings {
        if mapping.status & VMA_GUARD != 0 {
            continue;
        }
        let pages = mapping.start < mapping.end
            && mapping.start.is_multiple_of(PAGE)
            && mapping.end.is_multiple_of(PAGE);
        if !pages || mapping.start < previous_end {
            let fault = "is no range of pages after the one before";
            return Err(format!("vma {:#x}: {fault}", mapping.start));
        }
        previous_end = mapping.end;
        // CRIU injects system calls at the beginning of the first mapping with code, some of them
        // before it dumps pages (`get_exec_start` in `criu/parasite-syscall.c`,
        // `compel_execute_syscall` in `compel/src/lib/infect.c`).
        if !injected && mapping.prot & PROT_EXEC != 0 && mapping.status & VMA_VSYSCALL == 0 {
            injected = true;
            live.push(pages_around(mapping.start..mapping.start.saturating_add(1)));
        }
        if is_shared_by_fork(mapping) {
            live.push(protected_end..mapping.start);
            protected_end = mapping.end;
        }
    }
    live.push(protected_end..u64::MAX);
    Ok(joined(live))
}

/// Whether fork lets parent and child refer to the same pages until one of them writes.
fn is_shared_by_fork(mapping: &VmaEntry) -> bool {
    mapping.status & PRIVATE != 0
        && mapping.status & UNPROTECTED == 0
        && mapping.flags & MAP_TYPE == MAP_PRIVATE
        && mapping.flags & MAP_HUGETLB == 0
        && mapping.madv.unwrap_or(0) & NOT_FORKED == 0
}

/// Sorts ranges, drops empty ones and joins those that touch.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touch = next.start <= last.end;
        if touch {
            last.end = last.end.max(next.end);
        }
        touch
    });
    ranges
}
