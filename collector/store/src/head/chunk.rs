//! A chunk of numbers in memory.

use std::sync::Arc;

use tributary_model::fields::Malformed;
use tributary_model::sample::Numbers;

use crate::codec::growing::{self, Appender};

/// A sealed chunk; it lies in one window.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// First sample's time.
    pub(crate) min: i64,
    /// Last sample's time.
    pub(crate) max: i64,
    count: u32,
    bytes: Box<[u8]>,
}

impl Chunk {
    pub(super) fn seal(open: Appender) -> Arc<Self> {
        let (min, max, count) = (open.first(), open.last(), open.count());
        Arc::new(Self { min, max, count, bytes: open.finish().into() })
    }

    /// Visits times and values' bits in order until `visit` says no.
    pub(crate) fn read(&self, visit: impl FnMut(i64, u64) -> bool) -> Result<(), Malformed> {
        growing::decode(&self.bytes, self.count, visit)
    }

    /// Appends the samples between two times.
    pub(super) fn read_between(
        &self,
        range: (i64, i64),
        out: &mut Numbers,
    ) -> Result<(), Malformed> {
        read((&self.bytes, self.count), range, out)
    }

    /// Bytes of its samples.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn find(&self, at: i64) -> Option<u64> {
        if !(self.min..=self.max).contains(&at) {
            return None;
        }
        find(&self.bytes, self.count, at)
    }
}

/// The value at a time in a chunk.
pub(super) fn find(bytes: &[u8], count: u32, at: i64) -> Option<u64> {
    let mut found = None;
    let read = growing::decode(bytes, count, |here, value| {
        if here == at {
            found = Some(value);
        }
        here < at
    });
    read.ok().and(found)
}

/// Appends the samples of a chunk between two times.
pub(super) fn read(
    (bytes, count): (&[u8], u32),
    (from, to): (i64, i64),
    out: &mut Numbers,
) -> Result<(), Malformed> {
    growing::decode(bytes, count, |at, value| {
        if at >= from && at <= to {
            out.times.push(at);
            out.values.push(f64::from_bits(value));
        }
        at < to
    })
}
