//! The fields of protobuf messages, as remote write and remote read have them. Encoding:
//! <https://protobuf.dev/programming-guides/encoding/>.

use crate::fields::{CUT, Fields, Malformed, put_bytes, put_varint};

/// A field's value, by its wire type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Integers, booleans, enums.
    Varint(u64),
    /// Doubles.
    Fixed64(u64),
    /// Texts, bytes, messages.
    Bytes(&'a [u8]),
    /// Of no message here.
    Fixed32,
}

/// Takes the next field and its number; `None` at the end.
#[expect(clippy::inline_always, reason = "an agent does little else with a sample")]
#[inline(always)]
pub fn field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u64, Value<'a>)>, Malformed> {
    if rest.is_empty() {
        return Ok(None);
    }
    let mut fields = Fields(rest);
    let tag = short(&mut fields)?;
    if tag >> 3 == 0 {
        return Err(Malformed("a field has the number 0"));
    }
    let value = match tag & 7 {
        0 => Value::Varint(fields.varint()?),
        1 => Value::Fixed64(fields.u64_le()?),
        2 => {
            let length = short(&mut fields)?;
            Value::Bytes(fields.take(usize::try_from(length).map_err(|_| CUT)?)?)
        }
        5 => {
            fields.take(4)?;
            Value::Fixed32
        }
        _ => return Err(Malformed("a field has an unknown wire type")),
    };
    *rest = fields.0;
    Ok(Some((tag >> 3, value)))
}

/// A varint that nearly always is one byte, as tags and lengths are.
#[inline]
fn short(fields: &mut Fields<'_>) -> Result<u64, Malformed> {
    match fields.0 {
        [byte, rest @ ..] if *byte < 0x80 => {
            fields.0 = rest;
            Ok(u64::from(*byte))
        }
        _ => fields.varint(),
    }
}

/// A message in the making. As in proto3, numbers that are 0 are left out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// How many bytes so far.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// An integer, a boolean or an enum.
    pub fn integer(&mut self, number: u8, value: u64) -> &mut Self {
        if value != 0 {
            self.0.push(number << 3);
            put_varint(&mut self.0, value);
        }
        self
    }

    /// A double.
    pub fn double(&mut self, number: u8, value: f64) -> &mut Self {
        if value.to_bits() != 0 {
            self.0.push(number << 3 | 1);
            self.0.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        self
    }

    /// A text, bytes, or a message inside; written even if empty.
    pub fn bytes(&mut self, number: u8, value: &[u8]) -> &mut Self {
        self.0.push(number << 3 | 2);
        put_bytes(&mut self.0, value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = Message::default();
        message.integer(1, 300).integer(2, 0).double(3, 1.5).bytes(4, b"abc");
        message.integer(5, (-1_i64).cast_unsigned());
        let bytes = message.into_bytes();
        let mut rest = bytes.as_slice();
        let mut fields = Vec::new();
        while let Some(field) = field(&mut rest).unwrap() {
            fields.push(field);
        }
        assert_eq!(
            fields,
            [
                (1, Value::Varint(300)),
                (3, Value::Fixed64(1.5_f64.to_bits())),
                (4, Value::Bytes(b"abc")),
                (5, Value::Varint(u64::MAX)),
            ]
        );
        for cut in 1..bytes.len() {
            let mut rest = &bytes[..cut];
            while let Ok(Some(_)) = field(&mut rest) {}
        }
        assert!(
            field(&mut [0x0f, 0].as_slice()).is_err() && field(&mut [0x00].as_slice()).is_err()
        );
    }
}
