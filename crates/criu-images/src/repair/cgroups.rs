//! A cgroup2 of the host's namespace in `mountpoints-ID.img`.
//!
//! CRIU would mount it anew, without the options that the host's mount has, and so take them away from
//! the host's. Named as external, it is a bind of what the request has there.

use super::splice::Fields;
use super::{RepairError, entries, join};

const MNTS_MAGIC: u32 = 0x5556_3928;
/// Fields of `mnt_entry`.
const FSTYPE: u32 = 1;
const MOUNTPOINT: u32 = 7;
const EXT_MOUNT: u32 = 13;
const EXT_KEY: u32 = 18;
/// `CGROUP2` of `fstype`.
const CGROUP2: u64 = 23;

/// Makes the cgroup2 at `mountpoint` external under that name, if there is one that is not external yet.
///
/// # Errors
///
/// [`RepairError::Malformed`] when it is not a `mountpoints-ID.img`.
pub fn bind_cgroups(mountpoints: &[u8], mountpoint: &str) -> Result<Vec<u8>, RepairError> {
    let (header, old) = entries(mountpoints, MNTS_MAGIC)?;
    let mut new = Vec::with_capacity(old.len());
    for entry in old {
        let mut fields = Fields::read(entry)?;
        let ours = fields.number(FSTYPE) == Some(CGROUP2)
            && fields.bytes(MOUNTPOINT) == Some(mountpoint.as_bytes());
        let external = fields.bytes(EXT_KEY).is_some() || fields.number(EXT_MOUNT) == Some(1);
        if ours && !external {
            fields.set_bytes(EXT_KEY, mountpoint.as_bytes());
        }
        new.push(fields.write());
    }
    join(header, &new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::MntEntry;
    use prost::Message as _;

    fn entry(fstype: i32, mountpoint: &str, ext_key: Option<&str>) -> MntEntry {
        MntEntry {
            fstype: fstype.try_into().unwrap(),
            mountpoint: mountpoint.into(),
            ext_key: ext_key.map(Into::into),
            ..MntEntry::default()
        }
    }

    fn image(table: &[MntEntry]) -> Vec<u8> {
        let mut header = vec![0x19, 0x43, 0x56, 0x54];
        header.extend(MNTS_MAGIC.to_le_bytes());
        let table: Vec<Vec<u8>> = table.iter().map(MntEntry::encode_to_vec).collect();
        join(&header, &table).unwrap()
    }

    #[test]
    fn only_a_cgroup2_at_that_place_becomes_external() {
        let at = "/sys/fs/cgroup";
        let others = [
            entry(2, at, None),
            entry(23, "/elsewhere", None),
            entry(23, at, Some("other")),
        ];
        let before = image(&others);
        assert_eq!(bind_cgroups(&before, at).unwrap(), before);
        let found = bind_cgroups(&image(&[entry(23, at, None)]), at).unwrap();
        assert_eq!(found, image(&[entry(23, at, Some(at))]));
    }

    #[test]
    fn another_image_is_refused() {
        assert!(bind_cgroups(b"no image", "/x").is_err());
    }
}
