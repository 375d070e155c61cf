//! The command line of a process, read from its memory in the page image.

use crate::model::{Images, Pagemap};
use crate::policy::{PAGE, PE_PRESENT, pages_of};
use crate::source::ImageSource;

/// Bytes of a command line that are shown.
const MAX_BYTES: u64 = 8192;

/// The arguments of the process `pid`, as far as their pages are in the images.
pub(super) fn arguments(source: &dyn ImageSource, images: &Images, pid: u32) -> Vec<String> {
    let (Some(memory), Some(map)) = (images.memory.get(&pid), images.pagemaps.get(&pid)) else {
        return Vec::new();
    };
    let start = memory.mm_arg_start;
    let end = memory.mm_arg_end.min(start.saturating_add(MAX_BYTES));
    let bytes = read(source, map, start, end);
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.iter().all(|byte| *byte == 0) {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(super::text_of).collect()
}

/// The memory `start..end`, up to the first page that the images lack.
fn read(source: &dyn ImageSource, map: &Pagemap, start: u64, end: u64) -> Vec<u8> {
    let name = format!("pages-{}.img", map.pages_id);
    let mut bytes = Vec::new();
    let mut address = start;
    let mut offset = 0u64;
    for entry in &map.entries {
        let present = entry.flags.unwrap_or(PE_PRESENT) & PE_PRESENT != 0;
        let Some(size) = pages_of(entry).checked_mul(PAGE) else {
            break;
        };
        let Some(run_end) = entry.vaddr.checked_add(size) else {
            break;
        };
        if (entry.vaddr..run_end).contains(&address) && address < end {
            let length = usize::try_from(run_end.min(end) - address).unwrap_or(0);
            let at = offset.saturating_add(address - entry.vaddr);
            let Some(part) = present.then(|| source.read_at(&name, at, length)) else {
                break;
            };
            let part = part.unwrap_or_default();
            bytes.extend_from_slice(&part);
            if part.len() < length {
                break;
            }
            address = run_end.min(end);
        }
        if present {
            offset = offset.saturating_add(size);
        }
    }
    bytes
}
