//! The host name in `utsns-ID.img`.
//!
//! A container restored into a pod's UTS namespace joins it, and CRIU then sets the names of the
//! image there all the same: the archive would rename the pod.

use super::splice::Fields;
use super::{RepairError, entries, join};

const UTSNS_MAGIC: u32 = 0x5447_3203;
/// Fields of `utsns_entry`.
const NODE_NAME: u32 = 1;
const DOMAIN_NAME: u32 = 2;

/// Puts the pod's host name, and no domain name, in place of the image's.
///
/// # Errors
///
/// [`RepairError::Malformed`] when it is not a `utsns-ID.img`.
pub fn set_host_name(utsns: &[u8], name: &str) -> Result<Vec<u8>, RepairError> {
    let (header, old) = entries(utsns, UTSNS_MAGIC)?;
    let mut new = Vec::with_capacity(old.len());
    for entry in old {
        let mut names = Fields::read(entry)?;
        names.set_bytes(NODE_NAME, name.as_bytes());
        names.set_bytes(DOMAIN_NAME, b"(none)");
        new.push(names.write());
    }
    join(header, &new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(entry: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x19, 0x43, 0x56, 0x54];
        bytes.extend(UTSNS_MAGIC.to_le_bytes());
        bytes.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
        bytes.extend(entry);
        bytes
    }

    #[test]
    fn both_names_are_replaced() {
        let old = image(b"\x0a\x05first\x12\x07example");
        let new = set_host_name(&old, "pod-2").unwrap();
        assert_eq!(new, image(b"\x0a\x05pod-2\x12\x06(none)"));
    }

    #[test]
    fn another_image_is_refused() {
        assert!(set_host_name(b"no image", "x").is_err());
    }
}
