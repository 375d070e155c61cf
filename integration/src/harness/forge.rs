//! Archives as an attacker, or a broken disk, would change them: in place, so that everything not
//! changed on purpose stays as thawd wrote it.

use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

/// Unit of a tar file.
const BLOCK: usize = 512;

/// An archive in memory.
#[derive(Clone)]
pub(crate) struct Forged {
    bytes: Vec<u8>,
}

/// Where a member is.
struct Member {
    header: Range<usize>,
    data: Range<usize>,
}

impl Forged {
    /// Reads an archive.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Ok(Self {
            bytes: std::fs::read(path).with_context(|| path.display().to_string())?,
        })
    }

    /// Finds a member by its name, which is short enough to stand in the header.
    fn member(&self, name: &str) -> Result<Member> {
        let mut at = 0;
        while let Some(header) = self.bytes.get(at..at + BLOCK) {
            let field = |range: Range<usize>| -> Result<String> {
                let bytes = header.get(range).context("header")?;
                let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
                Ok(String::from_utf8_lossy(text).trim().to_owned())
            };
            let size = field(124..136)?;
            if size.is_empty() {
                break;
            }
            let size = usize::from_str_radix(&size, 8).context("size")?;
            let data = at + BLOCK..at + BLOCK + size;
            if field(0..100)? == name {
                return Ok(Member {
                    header: at..at + BLOCK,
                    data,
                });
            }
            at = data.end.next_multiple_of(BLOCK);
        }
        anyhow::bail!("{name} is not in the archive")
    }

    /// Changes a member's content, without telling the manifest.
    pub(crate) fn damage(mut self, name: &str, change: impl FnOnce(&mut [u8])) -> Result<Self> {
        let data = self.member(name)?.data;
        change(self.bytes.get_mut(data).context("data")?);
        Ok(self)
    }

    /// Changes a member's content, and its digest in the manifest, as who forges an archive would.
    pub(crate) fn forge(
        self,
        name: &str,
        change: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        let mut forged = self;
        let data = forged.member(name)?.data;
        let content = forged.bytes.get_mut(data).context("data")?;
        let before = hex(content);
        change(content)?;
        let after = hex(content);
        ensure!(before != after, "nothing was changed in {name}");
        let manifest = forged.member("manifest.json")?.data;
        let manifest = forged.bytes.get_mut(manifest).context("manifest")?;
        let at = manifest
            .windows(before.len())
            .position(|window| window == before.as_bytes())
            .with_context(|| format!("the manifest has no digest of {name}"))?;
        manifest
            .get_mut(at..at + after.len())
            .context("digest")?
            .copy_from_slice(after.as_bytes());
        Ok(forged)
    }

    /// Changes a member's header and makes its check sum right again.
    pub(crate) fn header(mut self, name: &str, change: impl FnOnce(&mut [u8])) -> Result<Self> {
        let range = self.member(name)?.header;
        let header = self.bytes.get_mut(range).context("header")?;
        change(header);
        header.get_mut(148..156).context("check sum")?.fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        let sum = format!("{sum:06o}\0 ");
        header
            .get_mut(148..156)
            .context("check sum")?
            .copy_from_slice(sum.as_bytes());
        Ok(self)
    }

    /// Cuts the end off.
    pub(crate) fn truncate(mut self, length: usize) -> Self {
        self.bytes.truncate(length);
        self
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes it as root's alone.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&self.bytes)?;
        Ok(file.set_permissions(Permissions::from_mode(0o600))?)
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Puts `to` wherever `from` is; they are of one length, so that nothing moves.
pub(crate) fn replace(content: &mut [u8], from: &str, to: &str) -> Result<()> {
    ensure!(
        from.len() == to.len(),
        "{from:?} and {to:?} differ in length"
    );
    let mut at = 0;
    let mut changed = 0;
    while let Some(window) = content.get_mut(at..at + from.len()) {
        if window == from.as_bytes() {
            window.copy_from_slice(to.as_bytes());
            changed += 1;
        }
        at += 1;
    }
    ensure!(changed > 0, "{from:?} is not there");
    Ok(())
}

/// Makes the last entry of a page map claim more pages than it has. Layout of the file: a word of
/// magic common to all images and one of its own, then records of a 32-bit length and a protobuf
/// message. In those after the first, field 2 is the number of pages as older CRIUs read it and
/// field 5 as newer ones do; the two must agree.
pub(crate) fn claim_more_pages(image: &mut [u8]) -> Result<()> {
    let mut at = 8;
    let mut last = None;
    while let Some(length) = image.get(at..at + 4) {
        let length = usize::try_from(u32::from_le_bytes(length.try_into()?))?;
        last = Some(at + 4..at + 4 + length);
        at += 4 + length;
    }
    let record = image
        .get_mut(last.context("no records")?)
        .context("record")?;
    let mut position = 0;
    let mut changed = 0;
    // All fields are varints: a tag of one byte, then bytes of which the last has no high bit.
    while let Some(&tag) = record.get(position) {
        ensure!(tag & 7 == 0, "a field that is no varint: tag {tag:#x}");
        let value = record.get_mut(position + 1).context("value")?;
        if matches!(tag >> 3, 2 | 5) {
            ensure!(*value & 0x7f != 0x7f, "the last entry cannot claim more");
            *value |= 0x7f;
            changed += 1;
        }
        position += 1;
        while record.get(position).context("value")? & 0x80 != 0 {
            position += 1;
        }
        position += 1;
    }
    ensure!(changed > 0, "the record has no number of pages");
    Ok(())
}
