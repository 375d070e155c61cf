//! Numbers in headers.

use crate::error::Problem;

pub(super) fn narrow(value: u64, field: &'static str) -> Result<u32, Problem> {
    u32::try_from(value).map_err(|_| Problem::Number { field })
}

/// Octal digits, or base-256 when the first bit is set.
pub(super) fn unsigned(field: &[u8], name: &'static str) -> Result<u64, Problem> {
    u64::try_from(signed(field, name)?).map_err(|_| Problem::Number { field: name })
}

pub(super) fn signed(field: &[u8], name: &'static str) -> Result<i64, Problem> {
    let bad = Problem::Number { field: name };
    let Some((first, rest)) = field.split_first() else {
        return Err(bad);
    };
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = if negative {
            i128::from(first | 0x80) - 256
        } else {
            i128::from(first & 0x3f)
        };
        let mut value = start;
        for byte in rest {
            value = value.checked_mul(256).ok_or(bad.clone())? + i128::from(*byte);
        }
        return i64::try_from(value).map_err(|_| bad);
    }
    let text = field
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .trim_ascii();
    let mut value = 0_i64;
    for byte in text {
        if !(b'0'..=b'7').contains(byte) {
            return Err(bad);
        }
        let digit = i64::from(byte - b'0');
        value = value
            .checked_mul(8)
            .and_then(|v| v.checked_add(digit))
            .ok_or(bad.clone())?;
    }
    Ok(value)
}
