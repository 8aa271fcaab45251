//! The clocks of a block: the times of its chunks, each list of times once, whatever number of series share it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::OnceLock;

use tributary_model::fields::{Fields, Malformed, put_bytes, put_signed, put_varint};

use super::page::MAX_CHUNK_SAMPLES;
use crate::codec::clock;

/// A section of clocks is closed when it has so many, or so many bytes.
const FULL_CLOCKS: u32 = 64;
const FULL_BYTES: usize = 16 << 10;

/// Numbers clocks, and makes sections of them.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    /// By two hashes with keys that nobody knows: the times themselves would take too much memory.
    numbers: HashMap<(u64, u64), u32>,
    hashers: (RandomState, RandomState),
    /// The clock asked for last: most often the next one, too.
    last: (Vec<i64>, u32),
    open: Vec<u8>,
    count: u32,
}

impl Builder {
    /// The number of the clock with these times.
    pub(crate) fn number(&mut self, base: i64, times: &[i64]) -> u32 {
        if self.last.0 == times {
            return self.last.1;
        }
        let hash = (self.hashers.0.hash_one(times), self.hashers.1.hash_one(times));
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(hash).or_insert(next);
        if number == next {
            self.add(base, times);
        }
        self.last = (times.to_vec(), number);
        number
    }

    fn add(&mut self, base: i64, times: &[i64]) {
        let first = times.first().copied().unwrap_or(base);
        let last = times.last().copied().unwrap_or(first);
        put_signed(&mut self.open, first.wrapping_sub(base));
        put_varint(&mut self.open, last.abs_diff(first));
        put_varint(&mut self.open, times.len() as u64);
        let mut encoded = Vec::new();
        clock::encode(&mut encoded, base, times);
        put_bytes(&mut self.open, &encoded);
        self.count += 1;
    }

    /// Whether it is time for [`Builder::close`].
    pub(crate) fn is_full(&self) -> bool {
        self.count >= FULL_CLOCKS || self.open.len() >= FULL_BYTES
    }

    /// The clocks since the last section, as one, with the first one's number; `None` if there is none.
    pub(crate) fn close(&mut self) -> Option<(u32, Vec<u8>)> {
        if self.count == 0 {
            return None;
        }
        let mut section = Vec::with_capacity(self.open.len() + 2);
        put_varint(&mut section, u64::from(self.count));
        section.append(&mut self.open);
        let all = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        Some((all - std::mem::take(&mut self.count), section))
    }
}

/// A section of clocks as it is read; a clock is decoded when it is first asked for.
#[derive(Debug)]
pub(crate) struct Clocks {
    base: i64,
    raw: Vec<u8>,
    all: Vec<Clock>,
    size: usize,
}

/// One clock.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Its first time.
    pub(crate) first: i64,
    /// Its last time.
    pub(crate) last: i64,
    /// How many times it has.
    pub(crate) count: usize,
    encoded: Range<usize>,
    times: OnceLock<Box<[i64]>>,
}

impl Clocks {
    /// Reads a section; times are relative to `base`.
    pub(crate) fn parse(base: i64, raw: Vec<u8>) -> Result<Self, Malformed> {
        let mut fields = Fields(&raw);
        let mut all = Vec::new();
        let mut size = raw.len();
        for _ in 0..fields.count()? {
            let first = base.wrapping_add(fields.signed()?);
            let last = first.checked_add_unsigned(fields.varint()?);
            let last = last.ok_or(Malformed("a time is too large"))?;
            let count = fields.count()?;
            if count > MAX_CHUNK_SAMPLES {
                return Err(Malformed("a clock has too many times"));
            }
            let bytes = fields.bytes()?.len();
            let end = raw.len() - fields.0.len();
            size += count * size_of::<i64>() + size_of::<Clock>();
            let times = OnceLock::new();
            all.push(Clock { first, last, count, encoded: end - bytes..end, times });
        }
        fields.end()?;
        Ok(Self { base, raw, all, size })
    }

    /// Bytes held in memory once every clock is decoded.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The clock at a place in the section.
    pub(crate) fn at(&self, place: u32) -> Result<&Clock, Malformed> {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        self.all.get(place).ok_or(Malformed("a chunk has no clock"))
    }

    /// All clocks.
    #[cfg(test)]
    pub(crate) fn all(&self) -> &[Clock] {
        &self.all
    }

    /// A clock's times.
    pub(crate) fn times<'a>(&self, clock: &'a Clock) -> Result<&'a [i64], Malformed> {
        if let Some(times) = clock.times.get() {
            return Ok(times);
        }
        let encoded = self.raw.get(clock.encoded.clone()).unwrap_or_default();
        let times = clock::decode(encoded, self.base, MAX_CHUNK_SAMPLES)?;
        let ends = (times.first().copied(), times.last().copied());
        if times.len() != clock.count
            || (clock.count > 0 && ends != (Some(clock.first), Some(clock.last)))
        {
            return Err(Malformed("a clock does not say what is in it"));
        }
        if !times.is_sorted_by(|a, b| a < b) {
            return Err(Malformed("a clock does not go forward"));
        }
        Ok(clock.times.get_or_init(|| times.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn clocks_come_back(mut lists in prop::collection::vec(prop::collection::btree_set(-1000i64..1000, 1..20), 1..150), base in -5i64..5) {
            let mut builder = Builder::default();
            lists.push(lists[0].clone());
            let lists: Vec<Vec<i64>> = lists.into_iter().map(|list| list.into_iter().collect()).collect();
            let mut sections = Vec::new();
            let mut numbers = Vec::new();
            for times in &lists {
                numbers.push(builder.number(base, times));
                if builder.is_full() {
                    sections.extend(builder.close());
                }
            }
            sections.extend(builder.close());
            prop_assert_eq!(numbers[0], numbers[numbers.len() - 1]);
            let sections: Vec<(u32, Clocks)> =
                sections.into_iter().map(|(first, raw)| (first, Clocks::parse(base, raw).unwrap())).collect();
            for (number, times) in numbers.iter().zip(&lists) {
                let (first, section) = sections.iter().rfind(|(first, _)| first <= number).unwrap();
                let clock = section.at(number - first).unwrap();
                prop_assert_eq!(section.times(clock).unwrap(), times.as_slice());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(clocks) = Clocks::parse(0, bytes) {
                for clock in clocks.all() {
                    let _ = clocks.times(clock);
                }
            }
        }
    }
}
