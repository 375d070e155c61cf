//! Memory for whole huge pages, and whether memory that was forked stays as it is while a pipe refers to
//! it.
//!
//! vmsplice(2) puts references to pages into a pipe. A program that then writes to such a page changes
//! what lies in the pipe, unless the page was shared with a forked child: then it gets a copy, also once
//! the child has ended, for as long as somebody else refers to the page (`do_wp_page` in mm/memory.c;
//! Linux 5.19 and later). A checkpoint that lets the container run while its pages lie in pipes
//! rests on this, so it is tried on the kernel at hand.
#![expect(
    unsafe_code,
    reason = "mapping memory, fork(2) and vmsplice(2) have no safe wrapper"
)]

use std::io::{self, Read as _};
use std::ptr;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};
use rustix::pipe::{IoSliceRaw, PipeFlags, SpliceFlags};

/// More than a huge page, so that there is one where the system gives them.
const BYTES: usize = 4 << 20;
/// Length and alignment of a huge page on x86-64, and on arm64 with pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;
/// What lies in the pipe: the capacity of a usual one.
const PARKED_BYTES: usize = 64 << 10;
const BEFORE: u8 = 0x55;
const AFTER: u8 = 0xaa;

/// A buffer that begins at a multiple of 2 MiB and consists of huge pages where the system gives them:
/// few pieces of memory for a device to read. Filled with zeros at first.
#[derive(Debug)]
pub struct HugeBuffer {
    start: ptr::NonNull<u8>,
    length: usize,
    /// Kept for its end.
    mapping: Arc<Mapping>,
}

/// What was mapped: longer than what is used, so that a multiple of 2 MiB is within.
#[derive(Debug)]
struct Mapping {
    address: ptr::NonNull<u8>,
    length: usize,
}

// SAFETY: its bytes are reached through this value alone, and the mapping may be used from any thread.
unsafe impl Send for HugeBuffer {}

// SAFETY: it is memory that nothing is done with but unmapping it, by whoever comes last.
unsafe impl Send for Mapping {}

// SAFETY: nothing can be done with a reference to it.
unsafe impl Sync for Mapping {}

impl HugeBuffer {
    /// One of `length` bytes.
    ///
    /// # Errors
    ///
    /// What mmap(2) returns; `InvalidInput` for a length that cannot be.
    pub fn new(length: usize) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let mapped = length.checked_add(HUGE_PAGE).ok_or_else(invalid)?;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: the address is the kernel's choice, so that nothing else is mapped over.
        let address =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), mapped, protection, flags) }?;
        let address = ptr::NonNull::new(address.cast::<u8>()).ok_or_else(invalid)?;
        let mapping = Mapping {
            address,
            length: mapped,
        };
        let skip = address.as_ptr().align_offset(HUGE_PAGE);
        // SAFETY: less than a huge page is skipped, and a huge page more than `length` is mapped.
        let start = unsafe { address.add(skip) };
        let advice = rustix::mm::Advice::LinuxHugepage;
        // SAFETY: the range lies in the mapping; the advice changes no content. Where it is refused,
        // small pages do.
        unsafe { rustix::mm::madvise(start.as_ptr().cast(), length, advice) }.unwrap_or_default();
        Ok(Self {
            start,
            length,
            mapping: Arc::new(mapping),
        })
    }

    /// As many as `count`, of `length` bytes each, next to each other: several may have one huge page.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn several(count: usize, length: usize) -> io::Result<Vec<Self>> {
        let all = count.checked_mul(length);
        let all = Self::new(all.ok_or(io::ErrorKind::InvalidInput)?)?;
        let part = |index| Self {
            // SAFETY: `count` times `length` bytes are mapped from `start` on, and `index` is less than
            // `count`. No two parts overlap, and nothing else reaches the bytes once `all` is gone.
            start: unsafe { all.start.add(index * length) },
            length,
            mapping: Arc::clone(&all.mapping),
        };
        Ok((0..count).map(part).collect())
    }

    /// Its bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `length` bytes from `start` on are mapped, readable, writable and initialised with
        // zeros by the kernel, and borrowed through this value only.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// Where it begins, for the kernel to read.
    fn pointer(&self) -> *const u8 {
        self.start.as_ptr().cast_const()
    }

    /// Writes all of it without a reference to it, which pages that lie in a pipe would contradict.
    fn fill(&mut self, value: u8) {
        // SAFETY: `length` bytes from `start` on are mapped and writable, and no Rust reference to them
        // exists while this value is borrowed.
        unsafe { ptr::write_bytes(self.start.as_ptr(), value, self.length) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was made by `HugeBuffer::new` with this length, and nothing refers to it any more.
        unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.length) }
            .unwrap_or_default();
    }
}

/// Tries it: fills memory, forks, lets the child end, puts pages into a pipe, writes to the memory, and
/// looks into the pipe.
///
/// It forks. The child does nothing but end, so other threads do not matter; until then it holds every
/// descriptor of this process.
///
/// # Errors
///
/// What mmap(2), fork(2), pipe(2) or vmsplice(2) return.
pub fn forked_pages_keep() -> io::Result<bool> {
    let mut mapping = HugeBuffer::new(BYTES)?;
    mapping.fill(BEFORE);
    fork_and_reap()?;
    kept(&mut mapping)
}

fn kept(mapping: &mut HugeBuffer) -> io::Result<bool> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: the first `PARKED_BYTES` of the mapping, which outlives the pipe's content: that is read
    // below, before the mapping is dropped by its owner.
    let pages = unsafe { std::slice::from_raw_parts(mapping.pointer(), PARKED_BYTES) };
    let slice = IoSliceRaw::from_slice(pages);
    // SAFETY: the slice names mapped memory; the pages stay mapped until the pipe has been read.
    let spliced = unsafe { rustix::pipe::vmsplice(&writer, &[slice], SpliceFlags::NONBLOCK) }?;
    drop(writer);
    mapping.fill(AFTER);
    let mut found = Vec::with_capacity(spliced);
    std::fs::File::from(reader).read_to_end(&mut found)?;
    Ok(found.len() == spliced && spliced > 0 && found.iter().all(|byte| *byte == BEFORE))
}

fn fork_and_reap() -> io::Result<()> {
    // SAFETY: the child calls _exit(2) only, which is safe after fork(2) whatever other threads held.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: it takes a number and does not return.
            unsafe { libc::_exit(0) }
        }
        child => loop {
            // SAFETY: a null status is not written to.
            if unsafe { libc::waitpid(child, ptr::null_mut(), 0) } == child {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_all_of_them_can_be_used() {
        let mut buffer = HugeBuffer::new((4 << 20) + 5).unwrap();
        let bytes = buffer.bytes();
        assert_eq!(bytes.as_ptr().align_offset(HUGE_PAGE), 0);
        assert_eq!(bytes.len(), (4 << 20) + 5);
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(7);
        assert!(buffer.bytes().iter().all(|byte| *byte == 7));
        assert!(HugeBuffer::new(usize::MAX).is_err());
    }

    #[test]
    fn buffers_beside_each_other_are_each_their_own() {
        let mut buffers = HugeBuffer::several(3, 5000).unwrap();
        for (buffer, value) in buffers.iter_mut().zip(1..) {
            assert_eq!(buffer.bytes().len(), 5000);
            buffer.bytes().fill(value);
        }
        // The others stay where they are when one of them ends.
        drop(buffers.remove(0));
        for (buffer, value) in buffers.iter_mut().zip(2..) {
            assert!(buffer.bytes().iter().all(|byte| *byte == value));
        }
        assert!(HugeBuffer::several(2, usize::MAX).is_err());
    }

    #[test]
    fn forked_pages_keep_their_content_and_others_do_not() {
        assert!(forked_pages_keep().unwrap());
        // What the barrier of a checkpoint is for: this is why the trial means something.
        let mut mapping = HugeBuffer::new(BYTES).unwrap();
        mapping.fill(BEFORE);
        assert!(!kept(&mut mapping).unwrap());
    }
}
