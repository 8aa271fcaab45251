//! A page: chunks side by side, in the order of metric group, series and time. It is one section of a block.

use std::ops::Range;

use tributary_model::fields::{Fields, Malformed, put_bytes, put_varint};

use crate::codec::values;

/// Most samples of one chunk.
pub(crate) const MAX_CHUNK_SAMPLES: usize = 480;
/// A page is closed when its content passes this before compression: enough for a checksum and a read to be cheap,
/// little enough for the reader of one series.
const FULL_BYTES: usize = 16 << 10;

/// A series' place in a block: series of one metric stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Place {
    /// The metric's group.
    pub(crate) group: u32,
    /// The series.
    pub(crate) series: u32,
}

/// Collects chunks by ascending place.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    chunks: Vec<(Place, u32, Vec<u8>)>,
    bytes: usize,
}

impl Builder {
    /// Adds a chunk: its clock's number, and the values' bits.
    pub(crate) fn add(&mut self, place: Place, clock: u32, bits: &[u64]) {
        let mut encoded = Vec::new();
        values::encode(&mut encoded, bits);
        self.add_encoded(place, clock, encoded);
    }

    /// The same with values that are encoded.
    pub(crate) fn add_encoded(&mut self, place: Place, clock: u32, encoded: Vec<u8>) {
        self.bytes += encoded.len() + 8;
        self.chunks.push((place, clock, encoded));
    }

    /// Whether it is time for another page.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= FULL_BYTES
    }

    /// First and last place; `None` if the page is empty.
    pub(crate) fn places(&self) -> Option<(Place, Place)> {
        Some((self.chunks.first()?.0, self.chunks.last()?.0))
    }

    /// The page's bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes + 16);
        let groups = self.chunks.chunk_by(|(a, ..), (b, ..)| a.group == b.group);
        put_varint(&mut out, groups.clone().count() as u64);
        for group in groups {
            let Some((place, ..)) = group.first() else { continue };
            out.extend_from_slice(&place.group.to_be_bytes());
            put_varint(&mut out, group.len() as u64);
            let mut before = 0;
            for (place, clock, _) in group {
                put_varint(&mut out, u64::from(place.series - before));
                put_varint(&mut out, u64::from(*clock));
                before = place.series;
            }
        }
        for (.., values) in &self.chunks {
            put_bytes(&mut out, values);
        }
        out
    }
}

/// A page as it is read; chunks are decoded when they are asked for.
#[derive(Debug)]
pub(crate) struct Page {
    raw: Vec<u8>,
    chunks: Vec<ChunkRef>,
}

/// Where a chunk is.
#[derive(Debug, Clone)]
pub(crate) struct ChunkRef {
    /// Its series.
    pub(crate) place: Place,
    /// Its clock's number in the block.
    pub(crate) clock: u32,
    values: Range<u32>,
}

impl Page {
    /// Reads what [`Builder::finish`] made.
    pub(crate) fn parse(raw: Vec<u8>) -> Result<Self, Malformed> {
        let mut fields = Fields(&raw);
        let mut chunks: Vec<ChunkRef> = Vec::new();
        for _ in 0..fields.count()? {
            let group = fields.u32_be()?;
            let mut series = 0u32;
            for _ in 0..fields.count()? {
                let step = fields.small()?;
                series = series.checked_add(step).ok_or(Malformed("a number is too large"))?;
                let place = Place { group, series };
                chunks.push(ChunkRef { place, clock: fields.small()?, values: 0..0 });
            }
        }
        if !chunks.is_sorted_by_key(|chunk| chunk.place) {
            return Err(Malformed("chunks are not in order"));
        }
        let length = raw.len();
        for chunk in &mut chunks {
            let bytes = fields.bytes()?.len();
            let end = length - fields.0.len();
            let place = |at: usize| u32::try_from(at).map_err(|_| Malformed("a page is too long"));
            chunk.values = place(end - bytes)?..place(end)?;
        }
        fields.end()?;
        Ok(Self { raw, chunks })
    }

    /// Bytes held in memory.
    pub(crate) fn size(&self) -> usize {
        self.raw.len() + self.chunks.len() * size_of::<ChunkRef>() + 64
    }

    /// The chunks of a series, in order.
    pub(crate) fn of(&self, place: Place) -> &[ChunkRef] {
        self.chunks.get(self.of_near(place, 0)).unwrap_or_default()
    }

    /// Where the chunks of a series are; looked for first where `near` says.
    pub(crate) fn of_near(&self, place: Place, near: usize) -> Range<usize> {
        let is_first = self.chunks.get(near).is_some_and(|chunk| chunk.place == place)
            && near
                .checked_sub(1)
                .and_then(|at| self.chunks.get(at))
                .is_none_or(|c| c.place < place);
        let from =
            if is_first { near } else { self.chunks.partition_point(|chunk| chunk.place < place) };
        let behind = self.chunks.iter().skip(from);
        from..from + behind.take_while(|chunk| chunk.place == place).count()
    }

    /// All chunks, in order.
    pub(crate) fn chunks(&self) -> &[ChunkRef] {
        &self.chunks
    }

    /// A chunk's values, one for each slot.
    pub(crate) fn values(&self, chunk: &ChunkRef, slots: &mut [u64]) -> Result<(), Malformed> {
        values::decode(self.encoded(chunk), slots)
    }

    /// A chunk's values as they are encoded.
    pub(crate) fn encoded(&self, chunk: &ChunkRef) -> &[u8] {
        let (from, to) = (index(chunk.values.start), index(chunk.values.end));
        self.raw.get(from..to).unwrap_or_default()
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_come_back(
            mut places in prop::collection::vec((0..3u32, any::<u32>()), 1..20),
            values in prop::collection::vec(any::<u64>(), 1..50),
        ) {
            places.sort_unstable();
            let mut builder = Builder::default();
            for (number, (group, series)) in (0..).zip(&places) {
                builder.add(Place { group: *group, series: *series }, number, &values);
            }
            let (first, last) = builder.places().unwrap();
            prop_assert_eq!((first.group, first.series), places[0]);
            prop_assert_eq!((last.group, last.series), places[places.len() - 1]);
            let page = Page::parse(builder.finish()).unwrap();
            prop_assert_eq!(page.chunks().len(), places.len());
            for (number, (group, series)) in (0..).zip(&places) {
                let found = page.of(Place { group: *group, series: *series });
                let chunk = found.iter().find(|chunk| chunk.clock == number).unwrap();
                let mut back = vec![0; values.len()];
                page.values(chunk, &mut back).unwrap();
                prop_assert_eq!(&back, &values);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Page::parse(bytes);
        }
    }
}
