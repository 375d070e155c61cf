//! The strict reader of protobuf messages.
//!
//! CRIU reads images with protobuf-c, we read them with prost. A forger gains wherever the two see
//! different values, so a message is accepted only in the one form in which CRIU writes it, before
//! prost decodes it:
//! - no field that this build does not know, no group, no packed list;
//! - each single field once, each required field present;
//! - varints as short as possible and within their type; truth values 0 or 1; known enum values;
//! - strings without a zero byte (CRIU would read them only up to it).

use std::collections::HashSet;
use std::fmt;

use crate::schema::{Field, Kind, Message, Schema};

/// Messages are nested at most this deep in honest images (a cgroup tree is the deepest).
const MAX_DEPTH: usize = 32;

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It ends in the middle of a field.
    Truncated,
    /// A number takes more bytes than it needs, or more than ten.
    BadVarint,
    /// A field that no known version of CRIU writes in this message.
    UnknownField(u32),
    /// The field has another wire type than its declaration says.
    WireType(u8),
    /// A field that may be there once is there again.
    Repeated,
    /// A required field is absent.
    Missing,
    /// The value does not fit the field's type.
    OutOfRange(u64),
    /// The value is none of the enumeration.
    UnknownValue(u64),
    /// A string with a zero byte.
    ZeroByte,
    /// Messages nested too deep.
    TooDeep,
    /// The message type itself is not known.
    UnknownMessage,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("ends in the middle of a field"),
            Self::BadVarint => f.write_str("number is not in its shortest form"),
            Self::UnknownField(number) => write!(f, "unknown field number {number}"),
            Self::WireType(wire) => write!(f, "unexpected wire type {wire}"),
            Self::Repeated => f.write_str("appears more than once"),
            Self::Missing => f.write_str("required field is absent"),
            Self::OutOfRange(value) => write!(f, "value {value} is out of range"),
            Self::UnknownValue(value) => write!(f, "unknown value {value}"),
            Self::ZeroByte => f.write_str("string contains a zero byte"),
            Self::TooDeep => f.write_str("messages are nested too deep"),
            Self::UnknownMessage => f.write_str("unknown message type"),
        }
    }
}

/// A fault and the field it was found in, as `outer.inner`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldFault {
    pub(crate) field: String,
    pub(crate) fault: Fault,
}

impl FieldFault {
    fn here(fault: Fault) -> Self {
        Self {
            field: String::new(),
            fault,
        }
    }

    fn within(mut self, name: &str) -> Self {
        self.field = if self.field.is_empty() {
            name.to_owned()
        } else {
            format!("{name}.{}", self.field)
        };
        self
    }
}

/// Checks `bytes` as a message of the type `name` (`creds_entry`, ...).
pub(crate) fn check(name: &str, bytes: &[u8]) -> Result<(), FieldFault> {
    check_message(name, bytes, 0)
}

fn check_message(name: &str, bytes: &[u8], depth: usize) -> Result<(), FieldFault> {
    if depth > MAX_DEPTH {
        return Err(FieldFault::here(Fault::TooDeep));
    }
    let message = Schema::get()
        .message(name)
        .ok_or_else(|| FieldFault::here(Fault::UnknownMessage))?;
    let mut seen = HashSet::new();
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.tag().map_err(FieldFault::here)? {
        let field = message
            .fields
            .get(&number)
            .ok_or_else(|| FieldFault::here(Fault::UnknownField(number)))?;
        let fault = |fault| FieldFault::here(fault).within(&field.name);
        if !seen.insert(number) && !field.repeated {
            return Err(fault(Fault::Repeated));
        }
        let value = reader.value(wire).map_err(fault)?;
        match (&field.kind, value) {
            (Kind::Message(inner), Value::Bytes(bytes)) => {
                check_message(inner, bytes, depth + 1).map_err(|f| f.within(&field.name))?;
            }
            (_, value) => check_value(field, value, wire).map_err(fault)?,
        }
    }
    check_required(message, &seen)
}

fn check_required(message: &Message, seen: &HashSet<u32>) -> Result<(), FieldFault> {
    let missing = message
        .fields
        .iter()
        .filter(|(number, field)| field.required && !seen.contains(number))
        .min_by_key(|(number, _)| **number);
    match missing {
        Some((_, field)) => Err(FieldFault::here(Fault::Missing).within(&field.name)),
        None => Ok(()),
    }
}

fn check_value(field: &Field, value: Value<'_>, wire: u8) -> Result<(), Fault> {
    let bits32 = |value: u64| {
        if u32::try_from(value).is_ok() {
            Ok(())
        } else {
            Err(Fault::OutOfRange(value))
        }
    };
    match (&field.kind, value) {
        (Kind::Unsigned32 | Kind::ZigZag32, Value::Varint(value)) => bits32(value),
        (Kind::Word, Value::Varint(_))
        | (Kind::Fixed32, Value::Fixed32)
        | (Kind::Fixed64, Value::Fixed64)
        | (Kind::Bytes, Value::Bytes(_)) => Ok(()),
        (Kind::Signed32, Value::Varint(value)) => {
            signed32(value).map(|_| ()).ok_or(Fault::OutOfRange(value))
        }
        (Kind::Bool, Value::Varint(value)) => {
            if value <= 1 {
                Ok(())
            } else {
                Err(Fault::OutOfRange(value))
            }
        }
        (Kind::Enum(values), Value::Varint(value)) => match signed32(value) {
            Some(number) if values.contains(&number) => Ok(()),
            _ => Err(Fault::UnknownValue(value)),
        },
        (Kind::Text, Value::Bytes(bytes)) => {
            if bytes.contains(&0) {
                Err(Fault::ZeroByte)
            } else {
                Ok(())
            }
        }
        _ => Err(Fault::WireType(wire)),
    }
}

/// The 64-bit pattern as a sign-extended 32-bit number.
fn signed32(value: u64) -> Option<i32> {
    i32::try_from(value.cast_signed()).ok()
}

/// One value, not yet interpreted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed32,
    Fixed64,
    Bytes(&'a [u8]),
}

/// Walks the fields of a message.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next field's number and wire type; `None` at the end.
    pub(crate) fn tag(&mut self) -> Result<Option<(u32, u8)>, Fault> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let tag = u32::try_from(tag).map_err(|_| Fault::OutOfRange(tag))?;
        let wire = (tag & 7).to_le_bytes().first().copied().unwrap_or_default();
        match tag >> 3 {
            0 => Err(Fault::UnknownField(0)),
            number => Ok(Some((number, wire))),
        }
    }

    /// The value after a tag with that wire type.
    pub(crate) fn value(&mut self, wire: u8) -> Result<Value<'a>, Fault> {
        match wire {
            0 => self.varint().map(Value::Varint),
            1 => self.take(8).map(|_| Value::Fixed64),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| Fault::Truncated)?;
                self.take(length).map(Value::Bytes)
            }
            5 => self.take(4).map(|_| Value::Fixed32),
            other => Err(Fault::WireType(other)),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (head, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(Fault::Truncated)?;
        self.bytes = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.bytes.split_first().ok_or(Fault::Truncated)?;
            self.bytes = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Fault::BadVarint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let padded = byte == 0 && shift > 0;
                return if padded {
                    Err(Fault::BadVarint)
                } else {
                    Ok(value)
                };
            }
        }
        Err(Fault::BadVarint)
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, check};

    fn fault(message: &str, bytes: &[u8]) -> (String, Fault) {
        let fault = check(message, bytes).unwrap_err();
        (fault.field, fault.fault)
    }

    #[test]
    fn a_message_as_criu_writes_it_passes() {
        check(
            "rlimit_entry",
            &[0x08, 5, 0x10, 0xff, 0xff, 0xff, 0xff, 0x0f],
        )
        .unwrap();
        check("fs_entry", &[0x08, 1, 0x10, 2, 0x18, 18]).unwrap();
    }

    #[test]
    fn each_departure_from_the_one_form_is_named() {
        let entry = "fs_entry";
        assert_eq!(
            fault(entry, &[0x08, 1, 0x10, 2, 0x20, 1]),
            (String::new(), Fault::UnknownField(4))
        );
        assert_eq!(fault(entry, &[0x08, 1]), ("root_id".into(), Fault::Missing));
        assert_eq!(
            fault(entry, &[0x08, 1, 0x08, 2, 0x10, 2]),
            ("cwd_id".into(), Fault::Repeated)
        );
        assert_eq!(
            fault(entry, &[0x08, 0x81, 0]),
            ("cwd_id".into(), Fault::BadVarint)
        );
        assert_eq!(
            fault(entry, &[0x0a, 1, 1]),
            ("cwd_id".into(), Fault::WireType(2))
        );
        assert_eq!(fault(entry, &[0x08]), ("cwd_id".into(), Fault::Truncated));
        assert_eq!(
            fault(entry, &[0x08, 0x80, 0x80, 0x80, 0x80, 0x10]),
            ("cwd_id".into(), Fault::OutOfRange(1 << 32))
        );
        assert_eq!(
            fault("utsns_entry", &[0x0a, 3, b'a', 0, b'b', 0x12, 0]),
            ("nodename".into(), Fault::ZeroByte)
        );
        assert_eq!(
            fault("fdinfo_entry", &[0x08, 1, 0x10, 0, 0x18, 99, 0x20, 1]),
            ("type".into(), Fault::UnknownValue(99))
        );
        assert_eq!(
            fault("seccomp_entry", &[0x0a, 2, 0x10, 1]),
            ("seccomp_filters.filter".into(), Fault::Missing)
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let mut bytes = vec![0x0a, 0];
        for _ in 0..40 {
            let mut outer = vec![0x0a, 0, 0x12];
            prost::encoding::encode_varint(u64::try_from(bytes.len()).unwrap(), &mut outer);
            outer.extend(&bytes);
            bytes = outer;
        }
        let fault = check("cgroup_dir_entry", &bytes).unwrap_err();
        assert_eq!(fault.fault, Fault::TooDeep);
    }
}
