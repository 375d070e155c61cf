//! Pax extended headers: `LENGTH KEY=VALUE\n`, the length counting the whole record (pax(1),
//! "pax Extended Header").

use rustix::fs::Timespec;

/// Most extended attributes of one entry.
const MAX_XATTRS: usize = 128;
/// Longest value of an extended attribute (`XATTR_SIZE_MAX`, `linux/limits.h`).
const MAX_XATTR_BYTES: usize = 65536;

/// What a pax header says about the entry that follows.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timespec>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(super) fn parse(text: &[u8]) -> Result<Attributes, String> {
    let mut attributes = Attributes::default();
    let mut rest = text;
    while !rest.is_empty() {
        let (record, after) = split_record(rest).ok_or("its pax header is malformed")?;
        let at = record.iter().position(|byte| *byte == b'=');
        let (key, value) = at
            .and_then(|at| Some((record.get(..at)?, record.get(at + 1..)?)))
            .ok_or("its pax header has a record without a value")?;
        apply(&mut attributes, key, value)?;
        rest = after;
    }
    Ok(attributes)
}

/// `key=value` of the first record, and what follows it.
fn split_record(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = number(text.get(..space)?)?.try_into().ok()?;
    let record = text.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, text.get(length..)?))
}

fn apply(attributes: &mut Attributes, key: &[u8], value: &[u8]) -> Result<(), String> {
    let bad = || format!("its pax header has a bad {}", String::from_utf8_lossy(key));
    match key {
        b"path" | b"linkpath" if value.contains(&0) => return Err(bad()),
        b"path" => attributes.path = Some(value.to_vec()),
        b"linkpath" => attributes.link = Some(value.to_vec()),
        b"size" => attributes.size = Some(number(value).ok_or_else(bad)?),
        b"uid" => attributes.uid = Some(number(value).ok_or_else(bad)?),
        b"gid" => attributes.gid = Some(number(value).ok_or_else(bad)?),
        b"mtime" => attributes.mtime = Some(time(value).ok_or_else(bad)?),
        key if key.starts_with(b"GNU.sparse.") => {
            return Err("is a sparse file, which an image layer may not have".to_owned());
        }
        key => {
            let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else {
                return Ok(());
            };
            let known = attributes.xattrs.iter().any(|(have, _)| have == name);
            let many = attributes.xattrs.len() >= MAX_XATTRS;
            if name.is_empty()
                || name.contains(&0)
                || known
                || many
                || value.len() > MAX_XATTR_BYTES
            {
                return Err(bad());
            }
            attributes.xattrs.push((name.to_vec(), value.to_vec()));
        }
    }
    Ok(())
}

fn number(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional sign and fraction.
fn time(text: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        let tv_sec = seconds.checked_sub(1)?;
        return Some(Timespec {
            tv_sec,
            tv_nsec: 1_000_000_000 - nanoseconds,
        });
    }
    Some(Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    })
}
