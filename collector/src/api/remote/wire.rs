//! Reads and writes the fields of protobuf messages.

/// The bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

const CUT: Malformed = Malformed("it ends in the middle of a field");

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
pub fn field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u64, Value<'a>)>, Malformed> {
    if rest.is_empty() {
        return Ok(None);
    }
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Value::Varint(varint(rest)?),
        1 => {
            let (bytes, after) = rest.split_first_chunk().ok_or(CUT)?;
            *rest = after;
            Value::Fixed64(u64::from_le_bytes(*bytes))
        }
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| CUT)?;
            let (bytes, after) = rest.split_at_checked(length).ok_or(CUT)?;
            *rest = after;
            Value::Bytes(bytes)
        }
        5 => {
            let (_, after) = rest.split_first_chunk::<4>().ok_or(CUT)?;
            *rest = after;
            Value::Fixed32
        }
        _ => return Err(Malformed("a field has an unknown wire type")),
    };
    match tag >> 3 {
        0 => Err(Malformed("a field has the number 0")),
        number => Ok(Some((number, value))),
    }
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut n = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(CUT)?;
        *rest = after;
        n |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Ok(n);
        }
    }
    Err(Malformed("a number is too long"))
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
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// An integer, a boolean or an enum.
    pub fn integer(&mut self, number: u8, value: u64) -> &mut Self {
        if value != 0 {
            self.0.push(number << 3);
            append_varint(&mut self.0, value);
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
        append_varint(&mut self.0, u64::try_from(value.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(value);
        self
    }
}

/// Appends a number, seven bits a byte, lowest first.
pub fn append_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
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
