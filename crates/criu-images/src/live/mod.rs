//! Which parts of the page images a running process still changes.
//!
//! A dump may leave pages as references in pipes and thaw the tasks before they are written. That
//! is a snapshot only of pages that the next write replaces by a copy. A fork of every process
//! right before the dump, whose child is killed at once, makes it so for private memory, with
//! exceptions; this module reads them out of the images once all are complete (`post-dump`). What
//! it names must be copied before the tasks are thawed.
//!
//! ```text
//!  mm-PID.img       |  shared by fork  |  not shared  |  shared  |x|  x: written since the fork
//!  pagemap-PID.img  | present | absent | present | parent | present |
//!                        │                  │                  │
//!  pages-N.img      |    ─    |      ─     ████    |      ─     ██   |  ██: live
//! ```
//!
//! Live are:
//! - page images of shared memory, whole;
//! - pages of processes in no mapping that fork shares copy-on-write (`mappings.rs`);
//! - pages that were written after the fork and before CRIU referred to them. They belong to the
//!   process alone, and the kernel writes to such a page in place, whoever else refers to it. The
//!   caller names those that the kernel writes when a task runs for CRIU ([`Written`]); those that
//!   CRIU itself writes are in the images.
//!
//! Invariant: what is not known to be protected is live.

mod mappings;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use prost::Message;

use crate::image::{Entries, ImageError};
use crate::limits::Limits;
use crate::names::ImageName;
use crate::policy::{PAGE, PE_PRESENT, pages_of};
use crate::proto;
use crate::source::ImageSource;

/// A part of a page image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivePart {
    /// The page image's number (`pages-NUMBER.img`).
    pub image: u32,
    /// Offset in bytes of the part's first byte.
    pub begin: u64,
    /// Offset in bytes after its last; `u64::MAX` for the end of the image.
    pub end: u64,
}

/// A place in a process's memory that is written between the fork and the dump: restartable
/// sequence areas (rseq(2)), which the kernel writes whenever it resumes a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The process's id as the images have it: that in its innermost pid namespace.
    pub pid: u32,
    /// Virtual address of the first byte.
    pub address: u64,
    /// Bytes; a place of none is nowhere.
    pub length: u64,
}

/// Why the parts are not known.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The images could not be read.
    #[error("read {image}")]
    Unreadable {
        /// File name; `images` when their names could not be had.
        image: String,
        /// What the source says.
        #[source]
        error: io::Error,
    },
    /// An image is broken, or beyond [`Limits::default`].
    #[error("malformed {image}: {detail}")]
    Malformed {
        /// File name; `images` for all of them together.
        image: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl LiveError {
    fn unreadable(image: &str, error: io::Error) -> Self {
        Self::Unreadable {
            image: image.to_owned(),
            error,
        }
    }

    fn malformed(image: &str, detail: impl Into<String>) -> Self {
        Self::Malformed {
            image: image.to_owned(),
            detail: detail.into(),
        }
    }
}

/// The parts of page images that the processes still change once they run, in the order of image
/// and offset, apart from each other.
///
/// Of the images only page maps (`pagemap-*.img`) and address spaces (`mm-PID.img`) are opened, so
/// page images may be pipes. A part may belong to a page image that has no bytes. Places of
/// `written` that lie in no page of the images are passed over.
///
/// # Errors
///
/// [`LiveError::Unreadable`] when the source fails; [`LiveError::Malformed`] for images that CRIU
/// does not write or that are beyond the limits. Nothing is known about any page then.
pub fn live_parts(
    source: &dyn ImageSource,
    written: &[Written],
) -> Result<Vec<LivePart>, LiveError> {
    let images = Images::list(source)?;
    let mut places: BTreeMap<u32, Vec<Range<u64>>> = BTreeMap::new();
    for place in written {
        let end = place.address.saturating_add(place.length);
        let ranges = places.entry(place.pid).or_default();
        ranges.push(mappings::pages_around(place.address..end));
    }
    let mut parts = Vec::new();
    let mut used = BTreeSet::new();
    for (&name, file) in &images.files {
        let pid = match name {
            ImageName::Pagemap(pid) => Some(pid),
            ImageName::ShmemPagemap(_) => None,
            _ => continue,
        };
        let mut map = images.open(name, file)?;
        let head: proto::PagemapHead = map.first("pagemap_head")?;
        // Offsets count from the beginning of an image that is this map's alone.
        if !used.insert(head.pages_id) {
            let detail = format!("pages-{}.img belongs to another page map", head.pages_id);
            return Err(map.malformed(detail));
        }
        let Some(pid) = pid else {
            parts.push(whole(head.pages_id));
            continue;
        };
        let written = places.remove(&pid).unwrap_or_default();
        let live = images.live_memory(pid, written)?;
        private_pages(&mut map, head.pages_id, live, &mut parts)?;
    }
    Ok(joined(parts))
}

fn whole(image: u32) -> LivePart {
    LivePart {
        image,
        begin: 0,
        end: u64::MAX,
    }
}

/// Sorts parts, and joins those that touch.
fn joined(mut parts: Vec<LivePart>) -> Vec<LivePart> {
    parts.sort_by_key(|part| (part.image, part.begin));
    parts.dedup_by(|next, last| {
        let touch = next.image == last.image && next.begin <= last.end;
        if touch {
            last.end = last.end.max(next.end);
        }
        touch
    });
    parts
}

/// Finds `live` addresses, in order and apart, in the page image `image` of a process; `None`: all
/// are. Both lists are walked once.
fn private_pages(
    map: &mut Image<'_>,
    image: u32,
    live: Option<Vec<Range<u64>>>,
    parts: &mut Vec<LivePart>,
) -> Result<(), LiveError> {
    let all = live.is_none();
    let mut live = live.unwrap_or_default().into_iter().peekable();
    let (mut previous_end, mut offset, mut stored) = (0, 0u64, false);
    while let Some(entry) = map.next::<proto::PagemapEntry>()? {
        let (start, size, end) = run(&entry, previous_end)
            .map_err(|fault| map.malformed(format!("vaddr {:#x}: {fault}", entry.vaddr)))?;
        previous_end = end;
        if !is_stored(&entry) {
            continue;
        }
        stored = true;
        while let Some(range) = live.peek().filter(|range| range.start < end) {
            let (first, last) = (range.start.max(start), range.end.min(end));
            if first < last {
                parts.push(LivePart {
                    image,
                    begin: offset.saturating_add(first - start),
                    end: offset.saturating_add(last - start),
                });
            }
            if range.end > end {
                break;
            }
            live.next();
        }
        // Runs lie apart, so that their sizes together are below 2^64.
        offset = offset.saturating_add(size);
    }
    if all && stored {
        parts.push(whole(image));
    }
    Ok(())
}

/// Start, size and end of a run of pages after the one before.
fn run(entry: &proto::PagemapEntry, previous_end: u64) -> Result<(u64, u64, u64), &'static str> {
    let counts = (entry.compat_nr_pages, entry.nr_pages);
    if matches!(counts, (old, Some(new)) if old != 0 && u64::from(old) != new) {
        return Err("has two page counts");
    }
    let start = entry.vaddr;
    pages_of(entry)
        .checked_mul(PAGE)
        .and_then(|size| Some((start, size, start.checked_add(size)?)))
        .filter(|&(_, size, _)| size > 0 && start.is_multiple_of(PAGE) && start >= previous_end)
        .ok_or("is no run of pages after the one before")
}

/// Whether an entry's pages are in the page image (`write_pagemap_loc` in `criu/page-xfer.c`;
/// without flags as `init_compat_pagemap_entry` in `criu/pagemap.c` takes it).
fn is_stored(entry: &proto::PagemapEntry) -> bool {
    match entry.flags {
        Some(flags) => flags & PE_PRESENT != 0,
        None => entry.in_parent != Some(true),
    }
}

/// Page maps and address spaces of a set of images.
struct Images<'s> {
    source: &'s dyn ImageSource,
    limits: Limits,
    files: BTreeMap<ImageName, String>,
}

impl<'s> Images<'s> {
    fn list(source: &'s dyn ImageSource) -> Result<Self, LiveError> {
        const ALL: &str = "images";
        let limits = Limits::default();
        let names = source
            .list()
            .map_err(|error| LiveError::unreadable(ALL, error))?;
        if names.len() > limits.max_images {
            let detail = format!("{} files, limit is {}", names.len(), limits.max_images);
            return Err(LiveError::malformed(ALL, detail));
        }
        let mut files = BTreeMap::new();
        let mut all_bytes = 0u64;
        for (name, size) in names {
            let image = match ImageName::parse(&name) {
                Some(
                    image @ (ImageName::Pagemap(_) | ImageName::ShmemPagemap(_) | ImageName::Mm(_)),
                ) => image,
                _ => continue,
            };
            if size > limits.max_image_bytes {
                let detail = format!("{size} bytes, limit is {}", limits.max_image_bytes);
                return Err(LiveError::malformed(&name, detail));
            }
            all_bytes = all_bytes.saturating_add(size);
            files.insert(image, name);
        }
        if all_bytes > limits.max_metadata_bytes {
            let detail = format!("{all_bytes} bytes, limit is {}", limits.max_metadata_bytes);
            return Err(LiveError::malformed(ALL, detail));
        }
        Ok(Self {
            source,
            limits,
            files,
        })
    }

    fn open<'i>(&'i self, image: ImageName, name: &'i str) -> Result<Image<'i>, LiveError> {
        let reader = self
            .source
            .open(name)
            .map_err(|error| LiveError::unreadable(name, error))?
            .ok_or_else(|| LiveError::malformed(name, "is listed but absent"))?;
        let entries =
            Entries::open(reader, image, &self.limits).map_err(|error| image_error(name, error))?;
        Ok(Image {
            name,
            entries,
            bytes: Vec::new(),
        })
    }

    /// Addresses of a process whose pages are live, in order and apart. `None` when there is no
    /// image of its address space (CRIU may leave it out where processes share one): all are.
    fn live_memory(
        &self,
        pid: u32,
        written: Vec<Range<u64>>,
    ) -> Result<Option<Vec<Range<u64>>>, LiveError> {
        let name = ImageName::Mm(pid);
        let Some(file) = self.files.get(&name) else {
            return Ok(None);
        };
        let mut image = self.open(name, file)?;
        let memory: proto::MmEntry = image.first("mm_entry")?;
        if memory.vmas.len() > self.limits.max_mappings {
            return Err(image.malformed(format!("{} mappings", memory.vmas.len())));
        }
        mappings::live(&memory.vmas, written)
            .map(Some)
            .map_err(|fault| image.malformed(fault))
    }
}

/// One image, read entry by entry.
struct Image<'i> {
    name: &'i str,
    entries: Entries<'i>,
    /// The message of the last entry.
    bytes: Vec<u8>,
}

impl Image<'_> {
    fn next<M: Message + Default>(&mut self) -> Result<Option<M>, LiveError> {
        let more = self
            .entries
            .next_into(&mut self.bytes)
            .map_err(|error| image_error(self.name, error))?;
        if !more {
            return Ok(None);
        }
        M::decode(self.bytes.as_slice())
            .map(Some)
            .map_err(|error| self.malformed(error.to_string()))
    }

    fn first<M: Message + Default>(&mut self, message: &str) -> Result<M, LiveError> {
        self.next()?
            .ok_or_else(|| self.malformed(format!("holds no {message}")))
    }

    fn malformed(&self, detail: impl Into<String>) -> LiveError {
        LiveError::malformed(self.name, detail)
    }
}

fn image_error(name: &str, error: ImageError) -> LiveError {
    match error {
        ImageError::Read(error) => LiveError::unreadable(name, error),
        error => LiveError::malformed(name, error.to_string()),
    }
}
