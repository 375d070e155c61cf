//! Cutting and joining protobuf messages field by field.

use super::RepairError;

/// A message as a list of its fields, each with its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    fields: Vec<Field<'a>>,
}

/// One field: its number, what is in it, and all its bytes, tag included.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field<'a> {
    number: u32,
    content: Content<'a>,
    raw: std::borrow::Cow<'a, [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

impl<'a> Fields<'a> {
    pub(super) fn read(message: &'a [u8]) -> Result<Self, RepairError> {
        let broken = || RepairError::Malformed("broken message".to_owned());
        let mut rest = message;
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let start = rest;
            let tag = varint(&mut rest).ok_or_else(broken)?;
            let number = u32::try_from(tag >> 3).map_err(|_| broken())?;
            let content = match tag & 7 {
                0 => Content::Number(varint(&mut rest).ok_or_else(broken)?),
                1 => take(&mut rest, 8)
                    .map(|_| Content::Other)
                    .ok_or_else(broken)?,
                2 => {
                    let length = varint(&mut rest).and_then(|length| usize::try_from(length).ok());
                    let bytes = length.and_then(|length| take(&mut rest, length));
                    Content::Bytes(bytes.ok_or_else(broken)?)
                }
                5 => take(&mut rest, 4)
                    .map(|_| Content::Other)
                    .ok_or_else(broken)?,
                _ => return Err(broken()),
            };
            let raw = start.get(..start.len() - rest.len()).ok_or_else(broken)?;
            fields.push(Field {
                number,
                content,
                raw: raw.into(),
            });
        }
        Ok(Self { fields })
    }

    /// The last value of a number field.
    pub(super) fn number(&self, number: u32) -> Option<u64> {
        self.find(number).and_then(|content| match content {
            Content::Number(value) => Some(value),
            _ => None,
        })
    }

    /// The last value of a field of bytes or of a message.
    pub(super) fn bytes(&self, number: u32) -> Option<&'a [u8]> {
        self.find(number).and_then(|content| match content {
            Content::Bytes(bytes) => Some(bytes),
            _ => None,
        })
    }

    /// Every value of a field of messages, in order.
    pub(super) fn all_bytes(&self, number: u32) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.fields
            .iter()
            .filter(move |field| field.number == number)
            .filter_map(|field| match field.content {
                Content::Bytes(bytes) => Some(bytes),
                _ => None,
            })
    }

    /// Puts a number in the place of a field, or at the end.
    pub(super) fn set_number(&mut self, number: u32, value: u64) {
        let mut raw = Vec::new();
        prost::encoding::encode_varint(u64::from(number) << 3, &mut raw);
        prost::encoding::encode_varint(value, &mut raw);
        self.replace(number, Content::Number(value), raw);
    }

    /// Puts a message in the place of a field, or at the end.
    pub(super) fn set_bytes(&mut self, number: u32, value: &[u8]) {
        self.replace(number, Content::Other, field_of_bytes(number, value));
    }

    /// Puts messages in the place of the values of a field, in order, value by value.
    pub(super) fn replace_all(&mut self, number: u32, values: &[Vec<u8>]) {
        let of_number = self
            .fields
            .iter_mut()
            .filter(|field| field.number == number);
        for (field, value) in of_number.zip(values) {
            field.raw = field_of_bytes(number, value).into();
            field.content = Content::Other;
        }
    }

    /// Drops a field.
    pub(super) fn remove(&mut self, number: u32) {
        self.fields.retain(|field| field.number != number);
    }

    /// The message.
    pub(super) fn write(&self) -> Vec<u8> {
        self.fields
            .iter()
            .flat_map(|field| field.raw.iter().copied())
            .collect()
    }

    fn find(&self, number: u32) -> Option<Content<'a>> {
        self.fields
            .iter()
            .rev()
            .find(|field| field.number == number)
            .map(|field| field.content)
    }

    fn replace(&mut self, number: u32, content: Content<'a>, raw: Vec<u8>) {
        let field = Field {
            number,
            content,
            raw: raw.into(),
        };
        match self.fields.iter().rposition(|field| field.number == number) {
            Some(at) => {
                if let Some(place) = self.fields.get_mut(at) {
                    *place = field;
                }
            }
            None => self.fields.push(field),
        }
    }
}

fn field_of_bytes(number: u32, value: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(value.len() + 8);
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut raw);
    prost::encoding::encode_varint(u64::try_from(value.len()).unwrap_or(u64::MAX), &mut raw);
    raw.extend_from_slice(value);
    raw
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(rest).ok()
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}
