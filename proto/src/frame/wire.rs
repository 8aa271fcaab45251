//! Integers and byte strings as a frame writes them, and a reader that checks every step.

use tributary_model::fields::{CUT, Fields, Malformed, put_varint};

use super::FrameError;

/// A length or count.
pub(super) fn put_len(out: &mut Vec<u8>, len: usize) {
    put_varint(out, u64::try_from(len).unwrap_or(u64::MAX));
}

/// Reads from the front of a byte slice, and names in errors what is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    fields: Fields<'a>,
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { fields: Fields(bytes), what }
    }

    /// Bytes not read yet.
    pub(super) fn remaining(&self) -> usize {
        self.fields.0.len()
    }

    /// The bytes not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.fields.0
    }

    pub(super) fn truncated(&self) -> FrameError {
        FrameError::Truncated { what: self.what }
    }

    pub(super) fn malformed(&self, why: &'static str) -> FrameError {
        FrameError::Malformed { what: self.what, why }
    }

    fn named<T>(&self, field: Result<T, Malformed>) -> Result<T, FrameError> {
        field.map_err(|error| if error == CUT { self.truncated() } else { self.malformed(error.0) })
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        let field = self.fields.byte();
        self.named(field)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let field = self.fields.take(len);
        self.named(field)
    }

    pub(super) fn u64_le(&mut self) -> Result<u64, FrameError> {
        let field = self.fields.u64_le();
        self.named(field)
    }

    pub(super) fn varint(&mut self) -> Result<u64, FrameError> {
        let field = self.fields.varint();
        self.named(field)
    }

    pub(super) fn signed(&mut self) -> Result<i64, FrameError> {
        let field = self.fields.signed();
        self.named(field)
    }

    /// A varint of at most 32 bits.
    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        let field = self.fields.small();
        self.named(field)
    }

    /// A count of things that take at least `each` bytes here, which bounds it by the input.
    pub(super) fn count(&mut self, each: usize) -> Result<usize, FrameError> {
        let count = self.len()?;
        if count.saturating_mul(each) > self.remaining() {
            return Err(self.truncated());
        }
        Ok(count)
    }

    /// A length or count that the caller bounds.
    pub(super) fn len(&mut self) -> Result<usize, FrameError> {
        let field = self.fields.count();
        self.named(field)
    }

    /// A length and that many bytes.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], FrameError> {
        let field = self.fields.bytes();
        self.named(field)
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn text(&mut self) -> Result<&'a str, FrameError> {
        let field = self.fields.text();
        self.named(field)
    }

    /// Refuses bytes that nothing explains.
    pub(super) fn end(&self) -> Result<(), FrameError> {
        self.named(self.fields.end())
    }
}
