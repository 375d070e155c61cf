//! Address spaces, page maps and the sizes of page images.
//!
//! CRIU reads page images at a running offset: what the maps ask for must be what the image holds,
//! and every page must lie in a mapping of the task.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::ops::Range;

use super::{Context, guards, tasks};
use crate::model::Pagemap;
use crate::proto::{MmEntry, VmaEntry};
use crate::violation::{Place, Report};

pub(crate) const PAGE: u64 = 4096;
/// No user address is above this on any machine.
const ADDRESS_MAX: u64 = 1 << 56;
/// Words of the auxiliary vector that CRIU has room for.
const AUXV_WORDS: usize = 64;
/// Flags of a page map entry.
const PE_PARENT: u32 = 1;
const PE_LAZY: u32 = 2;
pub(crate) const PE_PRESENT: u32 = 4;
/// Classes of mappings (`criu/include/image.h`).
pub(super) const VMA_VSYSCALL: u32 = 1 << 2;
pub(super) const VMA_FILE_PRIVATE: u32 = 1 << 6;
pub(super) const VMA_FILE_SHARED: u32 = 1 << 7;
pub(super) const VMA_ANON_SHARED: u32 = 1 << 8;
pub(super) const VMA_ANON_PRIVATE: u32 = 1 << 9;
const VMA_SYSV: u32 = 1 << 10;
const VMA_SOCKET: u32 = 1 << 11;
const VMA_KNOWN: u32 = (1 << 18) - 1;
/// Open flags that make or empty files: `O_CREAT | O_EXCL | O_TRUNC`.
const CREATING: u32 = 0o1300;

/// Pages of one entry; CRIU before 4.2 wrote them in the old field only.
pub(crate) fn pages_of(entry: &crate::proto::PagemapEntry) -> u64 {
    entry
        .nr_pages
        .unwrap_or_else(|| u64::from(entry.compat_nr_pages))
}

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    for process in &context.images.processes {
        if !tasks::is_alive(context, process.pid) {
            continue;
        }
        let pid = process.pid;
        let Some(memory) = context.images.memory.get(&pid) else {
            continue;
        };
        let image = format!("mm-{pid}.img");
        let sound = mappings(context, Place::task(pid, &image), memory, report);
        if let (Some(mappings), Some(map)) = (sound, context.images.pagemaps.get(&pid)) {
            let image = format!("pagemap-{pid}.img");
            private_pages(Place::task(pid, &image), map, mappings, report);
        }
    }
    shared_pages(context, report);
    page_images(context, report);
}

/// The mappings; `None` when they or ranges with guard pages are unsound.
fn mappings<'m>(
    context: &Context<'_>,
    place: Place<'_>,
    memory: &'m MmEntry,
    report: &mut Report,
) -> Option<&'m [VmaEntry]> {
    if memory.vmas.len() > context.request.limits.max_mappings {
        report.malformed(place, "vmas", format!("{} mappings", memory.vmas.len()));
        return None;
    }
    if memory.mm_saved_auxv.len() > AUXV_WORDS {
        report.malformed(place, "mm_saved_auxv", "is too long");
    }
    if memory
        .dumpable
        .is_some_and(|value| !(0..=2).contains(&value))
    {
        report.malformed(place, "dumpable", "is no mode");
    }
    let file = |id: u32| context.images.files.get(&id);
    if file(memory.exe_file_id).is_none_or(|file| file.reg.is_none() && file.memfd.is_none()) {
        report.malformed(
            place,
            "exe_file_id",
            format!("no path {}", memory.exe_file_id),
        );
    }
    let (mappings, guards) = guards::split(&memory.vmas);
    let mut end = 0;
    for vma in mappings {
        let field = format!("vma {:#x}", vma.start);
        if let Some(fault) = mapping_fault(vma, end) {
            report.malformed(place, &field, fault);
            return None;
        }
        end = vma.end;
        if vma.fdflags.is_some_and(|flags| flags & CREATING != 0) {
            report.privilege(place, &field, "opens its file to create or truncate it");
        }
        let id = u32::try_from(vma.shmid).ok();
        let target = id.and_then(file);
        let missing = if vma.status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED) != 0 {
            target.is_none_or(|file| file.reg.is_none() && file.memfd.is_none())
        } else if vma.status & VMA_SOCKET != 0 {
            target.is_none_or(|file| file.psk.is_none())
        } else if vma.status & VMA_SYSV != 0 {
            let segments = &context.images.ipc_segments;
            !segments.iter().any(|segment| Some(segment.desc.id) == id)
                && context.request.namespaces.ipc == super::Namespace::Own
        } else {
            false
        };
        if missing {
            report.malformed(
                place,
                &field,
                format!("maps {}, which is nothing", vma.shmid),
            );
        }
    }
    guards::check(place, mappings, guards, report).then_some(mappings)
}

fn mapping_fault(vma: &VmaEntry, previous_end: u64) -> Option<&'static str> {
    if vma.start >= vma.end || !vma.start.is_multiple_of(PAGE) || !vma.end.is_multiple_of(PAGE) {
        return Some("is no range of pages");
    }
    if vma.start < previous_end {
        return Some("overlaps the one before");
    }
    if vma.end > ADDRESS_MAX && vma.status & VMA_VSYSCALL == 0 {
        return Some("is beyond user space");
    }
    if vma.status & !VMA_KNOWN != 0 {
        return Some("has an unknown class");
    }
    let kinds =
        vma.status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED | VMA_ANON_SHARED | VMA_ANON_PRIVATE);
    (kinds.count_ones() > 1).then_some("has several classes")
}

/// Faults that page maps of tasks and of shared memory have in common. The end of the entry.
fn entry_end(
    place: Place<'_>,
    entry: &crate::proto::PagemapEntry,
    previous_end: u64,
    report: &mut Report,
) -> Option<u64> {
    let field = format!("vaddr {:#x}", entry.vaddr);
    let flags = entry.flags.unwrap_or(PE_PRESENT);
    if entry.in_parent == Some(true) || flags & PE_PARENT != 0 {
        report.malformed(place, &field, "lies in an earlier checkpoint");
        return None;
    }
    if flags & !(PE_PARENT | PE_LAZY | PE_PRESENT) != 0 {
        report.malformed(place, &field, format!("unknown flags {flags:#x}"));
        return None;
    }
    let compatible = entry.compat_nr_pages == 0
        || entry
            .nr_pages
            .is_none_or(|pages| pages == u64::from(entry.compat_nr_pages));
    if !compatible {
        report.malformed(place, &field, "has two page counts");
        return None;
    }
    let end = pages_of(entry)
        .checked_mul(PAGE)
        .and_then(|size| entry.vaddr.checked_add(size));
    match end {
        Some(end)
            if end > entry.vaddr
                && entry.vaddr.is_multiple_of(PAGE)
                && entry.vaddr >= previous_end =>
        {
            Some(end)
        }
        _ => {
            report.malformed(place, &field, "is no run of pages after the one before");
            None
        }
    }
}

fn private_pages(place: Place<'_>, map: &Pagemap, mappings: &[VmaEntry], report: &mut Report) {
    let is_private = |vma: &VmaEntry| vma.status & (VMA_FILE_PRIVATE | VMA_ANON_PRIVATE) != 0;
    let mut mappings = mappings.iter().peekable();
    let mut previous_end = 0;
    for entry in &map.entries {
        let Some(end) = entry_end(place, entry, previous_end, report) else {
            return;
        };
        previous_end = end;
        // A run may span mappings that follow each other without a gap.
        if let Some(page) = page_outside(&mut mappings, entry.vaddr..end, is_private) {
            let field = format!("vaddr {:#x}", entry.vaddr);
            let detail = format!("page {page:#x} lies in no private mapping");
            return report.malformed(place, &field, detail);
        }
    }
}

/// The first page of `range` that lies in no mapping which is `fit`. Mappings are passed over on the
/// way: they and the ranges of later calls come in order.
pub(super) fn page_outside<'m>(
    mappings: &mut Peekable<impl Iterator<Item = &'m VmaEntry>>,
    range: Range<u64>,
    fit: impl Fn(&VmaEntry) -> bool,
) -> Option<u64> {
    let mut page = range.start;
    while page < range.end {
        while mappings.next_if(|vma| vma.end <= page).is_some() {}
        let inside = mappings.peek().filter(|vma| vma.start <= page && fit(vma));
        page = match inside {
            Some(vma) => vma.end,
            None => return Some(page),
        };
    }
    None
}

/// Pages of shared memory lie within their segment.
fn shared_pages(context: &Context<'_>, report: &mut Report) {
    let images = context.images;
    let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
    let mut grow = |id: u64, size: u64| {
        let known = sizes.entry(id).or_default();
        *known = (*known).max(size);
    };
    for vma in images.memory.values().flat_map(|memory| &memory.vmas) {
        if vma.status & VMA_ANON_SHARED != 0 {
            grow(
                vma.shmid,
                vma.pgoff.saturating_add(vma.end.saturating_sub(vma.start)),
            );
        }
    }
    let up = |size: u64| size.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    for memfd in &images.memfds {
        grow(memfd.shmid.into(), up(memfd.size));
    }
    for segment in &images.ipc_segments {
        grow(segment.desc.id.into(), up(segment.size));
    }
    for (id, map) in &images.shmem_pagemaps {
        let image = format!("pagemap-shmem-{id}.img");
        let place = Place::image(&image);
        let Some(size) = sizes.get(id) else {
            report.malformed(place, "", "belongs to no shared memory");
            continue;
        };
        let mut previous_end = 0;
        for entry in &map.entries {
            let Some(end) = entry_end(place, entry, previous_end, report) else {
                break;
            };
            previous_end = end;
            if end > *size {
                let field = format!("vaddr {:#x}", entry.vaddr);
                report.malformed(
                    place,
                    &field,
                    format!("ends after the segment's {size} bytes"),
                );
                break;
            }
        }
    }
}

/// Each page image is used by one map and holds exactly what that asks for.
fn page_images(context: &Context<'_>, report: &mut Report) {
    let images = context.images;
    let named = images
        .pagemaps
        .iter()
        .map(|(id, map)| (format!("pagemap-{id}.img"), map))
        .chain(
            images
                .shmem_pagemaps
                .iter()
                .map(|(id, map)| (format!("pagemap-shmem-{id}.img"), map)),
        );
    let mut used = BTreeSet::new();
    for (name, map) in named {
        let pages = format!("pages-{}.img", map.pages_id);
        let place = Place::image(&pages);
        if !used.insert(map.pages_id) {
            report.malformed(place, "", format!("is used by {name} and another page map"));
            continue;
        }
        let wanted = map
            .entries
            .iter()
            .filter(|entry| entry.flags.unwrap_or(PE_PRESENT) & PE_PRESENT != 0)
            .try_fold(0u64, |sum, entry| {
                sum.checked_add(pages_of(entry).checked_mul(PAGE)?)
            });
        let Some(wanted) = wanted else {
            report.malformed(Place::image(&name), "nr_pages", "overflows");
            continue;
        };
        match images.pages.get(&map.pages_id) {
            Some(size) if *size == wanted => {}
            None if wanted == 0 => {}
            None => report.malformed(place, "", format!("is missing, {name} asks for it")),
            Some(size) => {
                report.malformed(
                    place,
                    "",
                    format!("has {size} bytes, {name} asks for {wanted}"),
                );
            }
        }
    }
    for id in images.pages.keys().filter(|id| !used.contains(id)) {
        let image = format!("pages-{id}.img");
        report.malformed(Place::image(&image), "", "is used by no page map");
    }
}
