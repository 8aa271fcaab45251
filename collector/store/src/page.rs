//! A page: several series' sealed chunks of one window side by side, compressed and checksummed, one value of the
//! key-value store.

use std::collections::HashMap;
use std::ops::Range;

use tributary_model::fields::{Fields, Malformed, put_bytes, put_varint};
use crate::codec::{clock, values};
use crate::keys::{PageKey, window_start};
use crate::kv::MAX_VALUE_BYTES;

/// The version this program writes and reads.
const VERSION: u8 = 1;
const FLAG_ZSTD: u8 = 1;
const ENVELOPE_BYTES: usize = 10;
const ZSTD_LEVEL: i32 = 3;

/// Most samples of one chunk. A full one of random values still fits a page.
pub(crate) const MAX_CHUNK_SAMPLES: usize = 480;
/// A page is closed when its content passes this before compression.
const FULL_BYTES: usize = MAX_VALUE_BYTES - ENVELOPE_BYTES - 256;
/// Most bytes a value may claim to hold uncompressed.
const MAX_RAW_BYTES: usize = 1 << 20;

/// Collects the chunks of one window, shard and metric group, by ascending series.
pub(crate) struct Builder {
    key: PageKey,
    clocks: Vec<Vec<u8>>,
    clock_of: HashMap<Vec<u8>, u64>,
    /// Series, clock, values.
    chunks: Vec<(u32, u64, Vec<u8>)>,
    bytes: usize,
}

impl Builder {
    /// An empty page; series and number of the key are filled in later.
    pub(crate) fn new(window: i64, shard: u32, group: u32) -> Self {
        let key = PageKey { window, shard, group, last: 0, first: 0, number: 0 };
        Self { key, clocks: Vec::new(), clock_of: HashMap::new(), chunks: Vec::new(), bytes: 0 }
    }

    /// Adds one chunk. Gives it back, encoded, if the page has no room for it.
    pub(crate) fn add(&mut self, chunk: Encoded) -> Result<(), Encoded> {
        let new_clock = !self.clock_of.contains_key(&chunk.clock);
        let clock_bytes = if new_clock { chunk.clock.len() + 2 } else { 0 };
        let bytes = self.bytes + clock_bytes + chunk.values.len() + 8;
        if bytes > FULL_BYTES && !self.chunks.is_empty() {
            return Err(chunk);
        }
        self.bytes = bytes;
        let next = self.clocks.len() as u64;
        let index = *self.clock_of.entry(chunk.clock).or_insert_with_key(|clock| {
            self.clocks.push(clock.clone());
            next
        });
        self.chunks.push((chunk.series, index, chunk.values));
        Ok(())
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The page's key and value.
    pub(crate) fn finish(
        self,
        number: u64,
        zstd: &mut zstd::bulk::Compressor<'_>,
    ) -> (PageKey, Vec<u8>) {
        let mut key = self.key;
        key.number = number;
        key.first = self.chunks.first().map_or(0, |(series, ..)| *series);
        key.last = self.chunks.last().map_or(0, |(series, ..)| *series);
        let mut raw = Vec::with_capacity(self.bytes + 16);
        put_varint(&mut raw, self.clocks.len() as u64);
        for clock in &self.clocks {
            put_bytes(&mut raw, clock);
        }
        put_varint(&mut raw, self.chunks.len() as u64);
        let mut before = key.first;
        for (series, clock, values) in &self.chunks {
            put_varint(&mut raw, u64::from(series - before));
            put_varint(&mut raw, *clock);
            put_bytes(&mut raw, values);
            before = *series;
        }
        let value = seal(&key.encode(), &raw, zstd);
        (key, value)
    }
}

/// A chunk ready for a page.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    series: u32,
    clock: Vec<u8>,
    values: Vec<u8>,
}

impl Encoded {
    /// Encodes at most [`MAX_CHUNK_SAMPLES`] samples of a window, by ascending time.
    pub(crate) fn new(series: u32, window: i64, times: &[i64], bits: &[u64]) -> Self {
        let mut out = Self { series, clock: Vec::new(), values: Vec::new() };
        clock::encode(&mut out.clock, window_start(window), times);
        values::encode(&mut out.values, bits);
        out
    }
}

/// A compressor for pages.
pub(crate) fn compressor() -> std::io::Result<zstd::bulk::Compressor<'static>> {
    zstd::bulk::Compressor::new(ZSTD_LEVEL)
}

/// Compresses, if that helps, and puts version, length and checksum in front. The checksum covers the key, so that a
/// value under another key is damage.
pub(crate) fn seal(key: &[u8], raw: &[u8], zstd: &mut zstd::bulk::Compressor<'_>) -> Vec<u8> {
    let compressed = zstd.compress(raw).ok().filter(|compressed| compressed.len() < raw.len());
    let (flags, stored) = compressed.as_deref().map_or((0, raw), |stored| (FLAG_ZSTD, stored));
    let length = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(ENVELOPE_BYTES + stored.len());
    out.extend_from_slice(&[VERSION, flags]);
    out.extend_from_slice(&length.to_le_bytes());
    let crc = checksum(key, &out, stored);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(stored);
    out
}

/// Checks and decompresses what [`seal`] made.
pub(crate) fn unseal(key: &[u8], value: &[u8]) -> Result<Vec<u8>, Malformed> {
    let (head, rest) = value.split_at_checked(6).ok_or(Malformed("it is too short"))?;
    let (crc, stored) = rest.split_at_checked(4).ok_or(Malformed("it is too short"))?;
    if checksum(key, head, stored).to_le_bytes() != crc {
        return Err(Malformed("it does not match its checksum"));
    }
    let [version, flags, l0, l1, l2, l3] = *head else {
        return Err(Malformed("it is too short"));
    };
    if version != VERSION {
        return Err(Malformed("it has an unknown version"));
    }
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if length > MAX_RAW_BYTES {
        return Err(Malformed("it claims too many bytes"));
    }
    let raw = match flags {
        0 => stored.to_vec(),
        FLAG_ZSTD => zstd::bulk::decompress(stored, length)
            .map_err(|_| Malformed("it cannot be decompressed"))?,
        _ => return Err(Malformed("it has unknown flags")),
    };
    if raw.len() != length {
        return Err(Malformed("it has another length than it says"));
    }
    Ok(raw)
}

fn checksum(key: &[u8], head: &[u8], stored: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), head);
    crc32c::crc32c_append(crc, stored)
}

/// A page, checked and decompressed; chunks are decoded when they are asked for.
#[derive(Debug)]
pub(crate) struct Page {
    base: i64,
    raw: Vec<u8>,
    clocks: Vec<Range<usize>>,
    /// Series, clock, values; by ascending series.
    chunks: Vec<(u32, usize, Range<usize>)>,
}

impl Page {
    /// Opens a page.
    pub(crate) fn open(key: &PageKey, value: &[u8]) -> Result<Self, Malformed> {
        let raw = unseal(&key.encode(), value)?;
        let mut fields = Fields(&raw);
        let part = |fields: &mut Fields<'_>| -> Result<Range<usize>, Malformed> {
            let bytes = fields.bytes()?;
            let end = raw.len() - fields.0.len();
            Ok(end - bytes.len()..end)
        };
        let mut clocks = Vec::new();
        for _ in 0..fields.count()? {
            clocks.push(part(&mut fields)?);
        }
        let mut chunks = Vec::new();
        let mut series = key.first;
        for _ in 0..fields.count()? {
            series = series.wrapping_add(fields.small()?);
            let clock = fields.count()?;
            if clock >= clocks.len() {
                return Err(Malformed("a chunk has no clock"));
            }
            chunks.push((series, clock, part(&mut fields)?));
        }
        fields.end()?;
        Ok(Self { base: window_start(key.window), raw, clocks, chunks })
    }

    /// Bytes held in memory.
    pub(crate) fn size(&self) -> usize {
        self.raw.len() + self.clocks.len() * 16 + self.chunks.len() * 32 + 64
    }

    /// Visits the samples of one series, chunk by chunk; each chunk ascends.
    pub(crate) fn read(
        &self,
        series: u32,
        mut visit: impl FnMut(i64, u64),
    ) -> Result<(), Malformed> {
        let from = self.chunks.partition_point(|(s, ..)| *s < series);
        let mut bits = Vec::new();
        for (_, clock, values) in self.chunks.iter().skip(from).take_while(|(s, ..)| *s == series) {
            let clock = self.clocks.get(*clock).and_then(|range| self.raw.get(range.clone()));
            let times = clock::decode(clock.unwrap_or(&[]), self.base, MAX_CHUNK_SAMPLES)?;
            bits.clear();
            let bytes = self.raw.get(values.clone()).unwrap_or(&[]);
            values::decode(bytes, times.len(), &mut bits)?;
            times.iter().zip(&bits).for_each(|(at, bits)| visit(*at, *bits));
        }
        Ok(())
    }

    /// The series in the page, ascending; one with several chunks comes several times.
    #[cfg(test)]
    pub(crate) fn series(&self) -> impl Iterator<Item = u32> {
        self.chunks.iter().map(|(series, ..)| *series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(chunks: &[(u32, Vec<(i64, u64)>)]) -> Vec<(PageKey, Vec<u8>)> {
        let mut zstd = compressor().unwrap();
        let mut pages = Vec::new();
        let mut builder = Builder::new(3, 1, 2);
        for (series, samples) in chunks {
            let (times, bits): (Vec<_>, Vec<_>) = samples.iter().copied().unzip();
            if let Err(chunk) = builder.add(Encoded::new(*series, 3, &times, &bits)) {
                let full = std::mem::replace(&mut builder, Builder::new(3, 1, 2));
                pages.push(full.finish(7, &mut zstd));
                assert!(builder.add(chunk).is_ok());
            }
        }
        pages.push(builder.finish(7, &mut zstd));
        pages
    }

    proptest! {
        #[test]
        fn chunks_come_back_and_pages_are_small(
            mut series in prop::collection::vec(any::<u32>(), 1..20),
            values in prop::collection::vec(prop_oneof![any::<u64>(), Just(0), (0..100i64).prop_map(|i| (i as f64).to_bits())], 1..MAX_CHUNK_SAMPLES),
        ) {
            series.sort_unstable();
            let base = window_start(3);
            let samples: Vec<_> = (0..).map(|i| base + i * 15_000).zip(values).collect();
            let chunks: Vec<_> = series.iter().map(|s| (*s, samples.clone())).collect();
            let pages = page(&chunks);
            let mut all = Vec::new();
            for (key, value) in &pages {
                prop_assert!(value.len() <= MAX_VALUE_BYTES);
                let opened = Page::open(key, value).unwrap();
                let mut inside: Vec<u32> = opened.series().collect();
                all.extend_from_slice(&inside);
                inside.dedup();
                for series in inside {
                    let mut back = Vec::new();
                    opened.read(series, |at, bits| back.push((at, bits))).unwrap();
                    prop_assert!(back.chunks(samples.len()).all(|chunk| chunk == samples));
                }
            }
            prop_assert_eq!(all, series);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let samples: Vec<_> = (0..50).map(|i| (i * 15_000, (i as f64).to_bits())).collect();
        let pages = page(&[(1, samples.clone()), (9, samples)]);
        let (key, value) = &pages[0];
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Page::open(key, &flipped).is_err(), "bit {bit}");
        }
        for length in 0..value.len() {
            assert!(Page::open(key, &value[..length]).is_err(), "cut at {length}");
        }
        assert!(Page::open(&PageKey { number: 8, ..*key }, value).is_err());
    }
}
