//! Protobuf messages as lists of fields, so that an edit leaves what it does not know as it is:
//! prost drops unknown fields when it decodes.
//!
//! ```text
//!  field = key varint (number << 3 | type), then by type: 0 varint · 1 eight bytes
//!          2 length varint and that many bytes · 5 four bytes
//! ```
//! (<https://protobuf.dev/programming-guides/encoding/>)

/// A message that is not protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a protobuf message at byte {at}")]
pub(super) struct Malformed {
    /// Where it stops making sense, from the message's start.
    pub(super) at: usize,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// Its number.
    pub(super) number: u64,
    /// Its value.
    pub(super) value: Value<'a>,
    /// Key and value as they stand.
    pub(super) whole: &'a [u8],
}

/// The fields of a message, in order.
pub(super) fn fields(message: &[u8]) -> Result<Vec<Field<'_>>, Malformed> {
    let mut rest = message;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let bad = Malformed {
            at: message.len().saturating_sub(rest.len()),
        };
        let (field, after) = field(rest).ok_or(bad)?;
        found.push(field);
        rest = after;
    }
    Ok(found)
}

fn field(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (key, rest) = varint(bytes)?;
    let number = key >> 3;
    if number == 0 {
        return None;
    }
    let (value, rest) = match key & 7 {
        0 => varint(rest).map(|(number, rest)| (Value::Varint(number), rest))?,
        1 => (Value::Fixed, rest.get(8..)?),
        2 => {
            let (length, rest) = varint(rest)?;
            let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            (Value::Bytes(bytes), rest)
        }
        5 => (Value::Fixed, rest.get(4..)?),
        _ => return None,
    };
    let whole = bytes.get(..bytes.len().checked_sub(rest.len())?)?;
    Some((
        Field {
            number,
            value,
            whole,
        },
        rest,
    ))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        let shift = u32::try_from(index).ok()?.checked_mul(7)?;
        let bits = u64::from(byte & 0x7f);
        if bits.checked_shl(shift)?.checked_shr(shift)? != bits {
            return None;
        }
        value |= bits.checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index.checked_add(1)?..)?));
        }
    }
    None
}

/// Appends a field of bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len().try_into().unwrap_or(u64::MAX));
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0x7f) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0x7f));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_field_is_found_where_it_stands() {
        let message = [
            0x08, 0xac, 0x02, // 1: varint 300
            0x12, 0x02, b'h', b'i', // 2: bytes
            0x1d, 1, 2, 3, 4, // 3: four bytes
            0x21, 1, 2, 3, 4, 5, 6, 7, 8, // 4: eight bytes
            0xfa, 0x07, 0x00, // 127: no bytes
        ];
        let found = fields(&message).unwrap();
        let kinds: Vec<_> = found
            .iter()
            .map(|field| (field.number, field.value))
            .collect();
        assert_eq!(
            kinds,
            [
                (1, Value::Varint(300)),
                (2, Value::Bytes(b"hi")),
                (3, Value::Fixed),
                (4, Value::Fixed),
                (127, Value::Bytes(b"")),
            ]
        );
        let whole: Vec<u8> = found
            .iter()
            .flat_map(|field| field.whole)
            .copied()
            .collect();
        assert_eq!(whole, message);
    }

    #[test]
    fn what_is_cut_or_absurd_is_refused() {
        for (message, at) in [
            (&[0x08][..], 0),
            (&[0x08, 0x01, 0x08, 0xff], 2),
            (&[0x12, 0x05, b'h'], 0),
            (
                &[
                    0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
                ],
                0,
            ),
            (
                &[
                    0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02,
                ],
                0,
            ),
            (
                &[
                    0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00,
                ],
                0,
            ),
            (&[0x0b], 0),
            (&[0x00, 0x00], 0),
        ] {
            assert_eq!(fields(message), Err(Malformed { at }), "{message:x?}");
        }
    }

    #[test]
    fn what_is_put_is_found_again() {
        let long = vec![7; 300];
        let mut out = Vec::new();
        put_bytes(&mut out, 2, b"x");
        put_bytes(&mut out, 1000, &long);
        let found = fields(&out).unwrap();
        assert_eq!(found[0].value, Value::Bytes(b"x"));
        assert_eq!(
            (found[1].number, found[1].value),
            (1000, Value::Bytes(&long))
        );
    }
}
