//! Edits of images that a restore needs.
//!
//! Every edit cuts and joins bytes; messages are never decoded and encoded again, so that fields
//! this build does not know stay as they are. An edit of an image that needs none returns it
//! unchanged. Edits come before [`crate::policy::check`], but for [`skip_header_page`], which
//! belongs after it: it makes the page map ask for a page that the image does not hold.

mod cgroups;
mod core;
mod hostname;
mod label;
mod pagemap;
mod splice;
mod timerfd;

#[cfg(test)]
mod tests;

pub use self::core::{CoreEdits, edit_core};
pub use cgroups::bind_cgroups;
pub use hostname::set_host_name;
pub use label::{Relabel, Relabelled, forget_security_module, relabel_core, relabel_files};
pub use pagemap::{SkipError, page_image_of, skip_header_page};
pub use timerfd::rearm_timers;

/// Why an image could not be edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepairError {
    /// It is not an image of the kind that the edit is for, or is broken.
    #[error("malformed image: {0}")]
    Malformed(String),
}

/// Splits an image that has two magic numbers and no raw data into those and its entries.
fn entries(bytes: &[u8], magic: u32) -> Result<(&[u8], Vec<&[u8]>), RepairError> {
    let malformed = |what: &str| RepairError::Malformed(what.to_owned());
    let (header, mut rest) = bytes
        .split_at_checked(8)
        .ok_or_else(|| malformed("no room for a header"))?;
    if header.get(4..) != Some(magic.to_le_bytes().as_slice()) {
        return Err(malformed("wrong magic number"));
    }
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let entry = rest.split_first_chunk::<4>().and_then(|(length, rest)| {
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            rest.split_at_checked(length)
        });
        let (entry, after) = entry.ok_or_else(|| malformed("ends in the middle of an entry"))?;
        entries.push(entry);
        rest = after;
    }
    Ok((header, entries))
}

/// Joins a header and entries to an image.
fn join(header: &[u8], entries: &[Vec<u8>]) -> Result<Vec<u8>, RepairError> {
    let mut bytes = header.to_vec();
    for entry in entries {
        let length = u32::try_from(entry.len())
            .map_err(|_| RepairError::Malformed("entry is too long".to_owned()))?;
        bytes.extend(length.to_le_bytes());
        bytes.extend(entry);
    }
    Ok(bytes)
}
