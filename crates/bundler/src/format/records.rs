//! pax records: what does not fit into a header.

use super::decode::Member;
use super::numbers::narrow;
use super::{Kind, Records, Time, XATTR_PREFIX};
use crate::error::Problem;

/// Longest path and link target (`PATH_MAX` of `linux/limits.h`).
pub(crate) const MAX_PATH_BYTES: usize = 4096;

pub(super) fn bad_extension(reason: &'static str) -> Problem {
    Problem::ExtendedHeader { reason }
}

/// Splits `LEN KEY=VALUE\n` records; a key that occurs twice is an error.
pub(super) fn parse_records(mut body: &[u8]) -> Result<Records, Problem> {
    let mut records = Records::new();
    let mut keys = std::collections::HashSet::new();
    while !body.is_empty() {
        let space = body.iter().take(9).position(|byte| *byte == b' ');
        let digits = space
            .and_then(|at| body.get(..at))
            .filter(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit));
        let length = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse::<usize>().ok())
            .ok_or(bad_extension("a record has no length"))?;
        let (whole, rest) = body
            .split_at_checked(length)
            .ok_or(bad_extension("a record is too long"))?;
        let start = digits.map_or(0, |digits| digits.len() + 1);
        let record = whole
            .get(start..)
            .and_then(|record| record.strip_suffix(b"\n"))
            .ok_or(bad_extension("a record does not end"))?;
        let equals = record.iter().position(|byte| *byte == b'=');
        let (key, value) = equals
            .and_then(|at| record.split_at_checked(at))
            .filter(|(key, _)| !key.is_empty())
            .ok_or(bad_extension("a record has no key"))?;
        if key != b"comment" && !keys.insert(key) {
            return Err(bad_extension("a record is given twice"));
        }
        records.push((key.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
        body = rest;
    }
    Ok(records)
}

/// Lets the records override what the header said.
pub(super) fn apply_records(member: &mut Member, records: Records) -> Result<(), Problem> {
    let mut sparse_name = None;
    let (mut major, mut real_size) = (None, None);
    for (key, value) in records {
        match key.as_slice() {
            b"path" => member.name = value,
            b"linkpath" => member.link = value,
            b"size" => member.size = decimal(&value, "size")?,
            b"uid" => member.uid = narrow(decimal(&value, "uid")?, "uid")?,
            b"gid" => member.gid = narrow(decimal(&value, "gid")?, "gid")?,
            b"mtime" => member.mtime = time(&value)?,
            b"GNU.sparse.major" => major = Some((decimal(&value, "sparse version")?, 0)),
            b"GNU.sparse.minor" => {
                let minor = decimal(&value, "sparse version")?;
                major = major.map(|(major, _)| (major, minor));
            }
            b"GNU.sparse.name" => sparse_name = Some(value),
            b"GNU.sparse.realsize" => real_size = Some(decimal(&value, "sparse size")?),
            key if key.starts_with(b"GNU.sparse.") => return Err(Problem::SparseMap),
            key => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    member.xattrs.push((name.to_vec(), value));
                }
            }
        }
    }
    if let Some(name) = sparse_name {
        member.name = name;
    }
    if major.is_some() || real_size.is_some() {
        let regular = member.kind == Some(Kind::Regular);
        let version_1_0 = major == Some((1, 0));
        member.sparse_size = real_size;
        if !regular || !version_1_0 || real_size.is_none() {
            return Err(Problem::SparseMap);
        }
    }
    let long = member.name.len() > MAX_PATH_BYTES || member.link.len() > MAX_PATH_BYTES;
    if long || member.name.contains(&0) || member.link.contains(&0) {
        return Err(Problem::UncleanName);
    }
    Ok(())
}

fn decimal(value: &[u8], field: &'static str) -> Result<u64, Problem> {
    let text = std::str::from_utf8(value)
        .ok()
        .filter(|text| !text.starts_with('+'));
    text.and_then(|text| text.parse().ok())
        .ok_or(Problem::Number { field })
}

fn time(value: &[u8]) -> Result<Time, Problem> {
    let bad = Problem::Number { field: "mtime" };
    let text = std::str::from_utf8(value).map_err(|_| bad.clone())?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err(bad);
    }
    let seconds: i64 = whole.parse().map_err(|_| bad.clone())?;
    let nanoseconds: u32 = format!("{fraction:0<9.9}")
        .parse()
        .map_err(|_| bad.clone())?;
    Ok(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}
