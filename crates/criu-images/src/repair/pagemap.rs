//! Restoring from a page image that lies 4096 bytes into a file.
//!
//! CRIU reads a page image from its beginning. When the file is the archive itself, whose first
//! page is a header, one entry in front of the page map takes the header away: it "restores" it to
//! the address of the first real page, which the next entry then overwrites.

use super::splice::Fields;
use super::{RepairError, entries, join};

const PAGEMAP_MAGIC: u32 = 0x5608_4025;
/// Fields of `pagemap_entry`.
/// `pagemap_head.pages_id`.
const PAGES_ID: u32 = 1;
const ADDRESS: u32 = 1;
const OLD_COUNT: u32 = 2;
const FLAGS: u32 = 4;
const COUNT: u32 = 5;
/// Flags of an entry.
const LAZY: u64 = 2;
const PRESENT: u64 = 4;

/// Why a page map cannot be made to skip a page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SkipError {
    /// The image is broken.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// It has no pages: there is nothing to restore the header to, and no need.
    #[error("page map has no pages")]
    Empty,
    /// Its first pages may be restored lazily, and a lazy restore would leave the header there.
    #[error("first pages may be restored lazily")]
    FirstIsLazy,
    /// Its first entry has no pages in the image.
    #[error("first pages are not in the page image")]
    FirstIsAbsent,
}

/// Prepends the entry to a `pagemap-ID.img`. `lazy`: the restore is a lazy one.
///
/// # Errors
///
/// [`SkipError`]; the page image must then be copied out of the archive.
pub fn skip_header_page(pagemap: &[u8], lazy: bool) -> Result<Vec<u8>, SkipError> {
    let (header, old) = entries(pagemap, PAGEMAP_MAGIC)?;
    let mut entries = old.into_iter().map(<[u8]>::to_vec);
    let malformed = || RepairError::Malformed("page map without a head".to_owned());
    let head = entries.next().ok_or_else(malformed)?;
    let first = entries.next().ok_or(SkipError::Empty)?;
    let fields = Fields::read(&first)?;
    let flags = fields.number(FLAGS).unwrap_or(PRESENT);
    if flags & PRESENT == 0 {
        return Err(SkipError::FirstIsAbsent);
    }
    if lazy && flags & LAZY != 0 {
        return Err(SkipError::FirstIsLazy);
    }
    let address = fields.number(ADDRESS).ok_or_else(malformed)?;
    let mut skip = Fields::read(&[])?;
    skip.set_number(ADDRESS, address);
    // Both counts: older versions of CRIU know the first only.
    skip.set_number(OLD_COUNT, 1);
    skip.set_number(FLAGS, PRESENT);
    skip.set_number(COUNT, 1);
    let all: Vec<Vec<u8>> = [head, skip.write(), first]
        .into_iter()
        .chain(entries)
        .collect();
    Ok(join(header, &all)?)
}

/// The number of the page image that a `pagemap-ID.img` describes (`pages-NUMBER.img`).
///
/// # Errors
///
/// [`RepairError::Malformed`] when it is no page map.
pub fn page_image_of(pagemap: &[u8]) -> Result<u32, RepairError> {
    let (_, entries) = entries(pagemap, PAGEMAP_MAGIC)?;
    let number = entries
        .first()
        .and_then(|head| Fields::read(head).ok()?.number(PAGES_ID));
    number
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| RepairError::Malformed("page map without a head".to_owned()))
}
