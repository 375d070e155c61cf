//! Headers out.

use super::{BLOCK_LEN, Kind, Records, Time};

/// The header of one entry, and the records that do not fit into it.
#[derive(Debug, Clone)]
pub(crate) struct Header<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) kind: Kind,
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Bytes of data that follow.
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    /// pax records besides those that the fields need.
    pub(crate) records: Records,
}

impl<'a> Header<'a> {
    /// A regular file of root's that only root can read.
    pub(crate) fn file(name: &'a [u8], size: u64, mtime: Time) -> Self {
        Self {
            name,
            kind: Kind::Regular,
            link: b"",
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime,
            size,
            device: (0, 0),
            records: Vec::new(),
        }
    }

    /// The header's blocks: two parts when there are records, else one.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let records = self.all_records();
        let mut bytes = Vec::with_capacity(4 * BLOCK_LEN);
        if !records.is_empty() {
            let mut body = Vec::new();
            for (key, value) in &records {
                record(&mut body, key, value);
            }
            self.extended(&mut bytes, &body);
        }
        bytes.extend_from_slice(&self.block());
        bytes
    }

    /// The header in exactly `total` bytes, filled up by a `comment` record; `None` when `total`
    /// is no multiple of the block size or too small.
    pub(crate) fn encode_padded(&self, total: u64) -> Option<Vec<u8>> {
        let total = usize::try_from(total).ok()?;
        let room = total.checked_sub(2 * BLOCK_LEN)?;
        if !total.is_multiple_of(BLOCK_LEN) {
            return None;
        }
        let mut body = Vec::with_capacity(room);
        for (key, value) in &self.all_records() {
            record(&mut body, key, value);
        }
        let left = room.checked_sub(body.len())?;
        if left > 0 {
            comment(&mut body, left)?;
        }
        let mut bytes = Vec::with_capacity(total);
        self.extended(&mut bytes, &body);
        bytes.extend_from_slice(&self.block());
        (bytes.len() == total).then_some(bytes)
    }

    fn all_records(&self) -> Records {
        let mut records = Vec::new();
        let mut push = |key: &[u8], value: Vec<u8>| records.push((key.to_vec(), value));
        if !fits_name(self.name) {
            push(b"path", self.name.to_vec());
        }
        if !fits_name(self.link) {
            push(b"linkpath", self.link.to_vec());
        }
        if self.size >= 1 << 33 {
            push(b"size", self.size.to_string().into_bytes());
        }
        for (key, id) in [(&b"uid"[..], self.uid), (&b"gid"[..], self.gid)] {
            if id >= 1 << 21 {
                push(key, id.to_string().into_bytes());
            }
        }
        let Time {
            seconds,
            nanoseconds,
        } = self.mtime;
        if nanoseconds != 0 || !(0..1 << 33).contains(&seconds) {
            push(b"mtime", time_text(self.mtime).into_bytes());
        }
        records.extend(self.records.iter().cloned());
        records
    }

    /// A header of type x with `body`, which is padded to whole blocks.
    fn extended(&self, bytes: &mut Vec<u8>, body: &[u8]) {
        let mut name = b"PaxHeaders/".to_vec();
        name.extend(
            self.name
                .iter()
                .copied()
                .filter(u8::is_ascii_graphic)
                .take(80),
        );
        let header = Header {
            name: &name,
            kind: Kind::Other(b'x'),
            link: b"",
            mode: 0o600,
            size: u64::try_from(body.len()).unwrap_or(u64::MAX),
            device: (0, 0),
            records: Vec::new(),
            uid: 0,
            gid: 0,
            mtime: Time::default(),
        };
        bytes.extend_from_slice(&header.block());
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
    }

    /// The ustar block. What does not fit is cut: a record says it in full.
    pub(crate) fn block(&self) -> [u8; BLOCK_LEN] {
        let mut fields = Fields {
            block: [0; BLOCK_LEN],
            at: 0,
        };
        fields.text(self.name, 100);
        fields.number(u64::from(self.mode & 0o7777), 8);
        fields.number(u64::from(self.uid), 8);
        fields.number(u64::from(self.gid), 8);
        fields.number(self.size, 12);
        fields.number(u64::try_from(self.mtime.seconds).unwrap_or(0), 12);
        fields.text(b"        ", 8);
        fields.text(&[self.kind.flag()], 1);
        fields.text(self.link, 100);
        fields.text(b"ustar\x0000", 8);
        fields.text(b"root", 32);
        fields.text(b"root", 32);
        fields.number(u64::from(self.device.0), 8);
        fields.number(u64::from(self.device.1), 8);
        let sum: u64 = fields.block.iter().map(|byte| u64::from(*byte)).sum();
        fields.at = 148;
        fields.text(format!("{sum:06o}\0 ").as_bytes(), 8);
        fields.block
    }
}

/// Fills the fields of a block one after the other.
struct Fields {
    block: [u8; BLOCK_LEN],
    at: usize,
}

impl Fields {
    fn text(&mut self, text: &[u8], width: usize) {
        let field = self.block.iter_mut().skip(self.at).take(width);
        for (byte, value) in field.zip(text) {
            *byte = *value;
        }
        self.at += width;
    }

    /// Octal digits and a NUL; base-256 (GNU tar) when there are too many.
    fn number(&mut self, value: u64, width: usize) {
        let digits = format!("{value:0width$o}", width = width - 1);
        if digits.len() < width {
            self.text(digits.as_bytes(), width);
            return;
        }
        let mut field = vec![0_u8; width.saturating_sub(8)];
        field.extend_from_slice(&value.to_be_bytes());
        let mut field = field.split_off(field.len() - width);
        if let Some(first) = field.first_mut() {
            *first |= 0x80;
        }
        self.text(&field, width);
    }
}

/// Whether the header's field of 100 bytes can say it as it is.
fn fits_name(name: &[u8]) -> bool {
    name.len() <= 100 && name.is_ascii()
}

/// Appends `LEN KEY=VALUE\n`; LEN counts itself.
fn record(body: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() > length {
        length += 1;
    }
    body.extend_from_slice(format!("{length} ").as_bytes());
    body.extend_from_slice(key);
    body.push(b'=');
    body.extend_from_slice(value);
    body.push(b'\n');
}

/// Appends one `comment` record of exactly `length` bytes.
fn comment(body: &mut Vec<u8>, length: usize) -> Option<()> {
    let head = format!("{length} comment=");
    let padding = length.checked_sub(head.len() + 1)?;
    body.extend_from_slice(head.as_bytes());
    body.resize(body.len() + padding, b' ');
    body.push(b'\n');
    Some(())
}

/// A pax time: seconds with a fraction. Times before 1970 are negative as a whole.
fn time_text(time: Time) -> String {
    let total = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let total = total.unsigned_abs();
    format!(
        "{sign}{}.{:09}",
        total / 1_000_000_000,
        total % 1_000_000_000
    )
}
