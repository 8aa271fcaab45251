//! Every decoder of stored bytes, fed with damaged and made-up ones whose checksums are right.
//!
//! A second is enough for every test run; `STORE_FUZZ_SECONDS=3600 STORE_FUZZ_SEED=1 cargo test --release -p tributary-store
//! --lib fuzz` goes on for an hour. The same seed makes the same bytes.

use std::time::{Duration, Instant};

use tributary_model::fields::Fields;
use tributary_model::histogram::Histogram;
use tributary_model::label::Labels;

use crate::batch::StreamKey;
use crate::block::testing::{clocks, directory, page};
use crate::block::{Clocks, MAX_CHUNK_SAMPLES, Page};
use crate::catalogue::{decode_block, encode_series};
use crate::codec::{clock, growing, histograms, integers, values};
use crate::flush::Stored;
use crate::ledger::{Gap, Stream, stream_key};
use crate::record::{self, BatchHead};
use crate::sealed::{compressor, seal, unseal};
use crate::tests::world::histogram;

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.bits() % end.max(1) as u64).unwrap()
    }

    fn small(&mut self, end: usize) -> i64 {
        i64::try_from(self.below(end)).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.bits().to_le_bytes()[0]
    }

    /// Small numbers, large ones, and those at the edges.
    fn number(&mut self) -> i64 {
        match self.below(6) {
            0 => 0,
            1 => self.small(7) - 3,
            2 => self.small(100_000),
            3 => [i64::MAX, i64::MIN, -1, 1 << 53, -(1 << 53)][self.below(5)],
            4 => (1i64 << self.below(63)) - 1,
            _ => self.bits().cast_signed(),
        }
    }

    /// What a decoder might meet: whole, with bits flipped, cut, with bytes set or repeated, or noise.
    fn damage(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 0x7f, 0x80, 0xff][self.below(4)],
                2 => bytes.truncate(at),
                3 => bytes.extend_from_within(at..),
                4 => bytes.insert(at, self.byte()),
                _ => bytes = (0..at).map(|_| self.byte()).collect(),
            }
        }
        bytes
    }

    fn times(&mut self) -> Vec<i64> {
        let mut at = self.number() / 4;
        let step = self.number().unsigned_abs() % 100_000;
        (0..=self.below(300))
            .map(|_| {
                let jitter = if self.below(9) == 0 { self.bits() % 50 } else { 0 };
                at += i64::try_from(step + jitter + 1).unwrap();
                at
            })
            .collect()
    }

    fn values(&mut self, count: usize) -> Vec<u64> {
        let kind = self.below(6);
        let mut at = self.number() / 1024;
        let unit = [1.0, 10.0, 1000.0, 0.1][self.below(4)];
        (0..count)
            .map(|_| {
                at = at.wrapping_add([0, self.small(50), self.number()][kind % 3]);
                match kind {
                    0..3 => (at as f64 / unit).to_bits(),
                    3 => (at as f64 * unit).sqrt().to_bits(),
                    _ => self.bits(),
                }
            })
            .collect()
    }
}

#[test]
fn decoders_refuse_or_read_and_never_fail_otherwise() {
    let setting = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap())
    };
    let time = Duration::from_secs(setting("STORE_FUZZ_SECONDS", 1));
    let begun = Instant::now();
    let mut rounds = 0u64;
    for seed in setting("STORE_FUZZ_SEED", 1).. {
        let mut random = Random(seed);
        let done = std::panic::catch_unwind(move || round(&mut random));
        assert!(done.is_ok(), "again with STORE_FUZZ_SEED={seed} STORE_FUZZ_SECONDS=0");
        rounds += 1;
        if begun.elapsed() >= time {
            break;
        }
    }
    println!("{rounds} rounds");
}

fn round(random: &mut Random) {
    chunks(random);
    let times = random.times();
    let bits = random.values(times.len());
    let bytes = random.damage(page(&times, &bits));
    if let Ok(page) = Page::parse(bytes) {
        for chunk in page.chunks() {
            let _ = page.values(chunk, &mut vec![0; times.len()]);
        }
    }
    let bytes = random.damage(clocks(&times));
    if let Ok(clocks) = Clocks::parse(0, bytes) {
        for clock in clocks.all() {
            if let Ok(times) = clocks.times(clock) {
                assert_eq!(times.len(), clock.count);
            }
        }
    }
    histogram_chunks(random);
    directory(&mut |bytes| random.damage(bytes));
    catalogue(random);
    records(random);
}

fn chunks(random: &mut Random) {
    let times = random.times();
    let bits = random.values(times.len());
    let mut bytes = Vec::new();
    values::encode(&mut bytes, &bits);
    let mut back = vec![0; bits.len()];
    values::decode(&bytes, &mut back).unwrap();
    assert_eq!(back, bits);
    let mut slots = vec![0; bits.len() + random.below(3)];
    let damaged = random.damage(bytes.clone());
    let _ = values::decode(&damaged, &mut slots);
    let _ = values::decode_all([(&*damaged, &mut *slots), (&*bytes, &mut *back)]);
    let other = random.damage(bytes);
    let _ = values::decode_all([(&*other, &mut *back), (&*damaged, &mut *slots)]);

    let mut bytes = Vec::new();
    clock::encode(&mut bytes, 5, &times);
    assert_eq!(clock::decode(&bytes, 5, MAX_CHUNK_SAMPLES).as_ref(), Ok(&times));
    if let Ok(times) = clock::decode(&random.damage(bytes), 5, MAX_CHUNK_SAMPLES) {
        assert!(times.len() <= MAX_CHUNK_SAMPLES);
    }

    let numbers: Vec<i64> = (0..random.below(200)).map(|_| random.number()).collect();
    let mut bytes = Vec::new();
    integers::encode(&mut bytes, &numbers);
    let mut back = vec![0; numbers.len()];
    integers::decode(&mut Fields(&bytes), &mut back).unwrap();
    assert!(back.iter().map(|bits| bits.cast_signed()).eq(numbers));
    let _ = integers::decode(&mut Fields(&random.damage(bytes)), &mut [0; 200]);

    let mut appender = growing::Appender::default();
    times.iter().zip(&bits).for_each(|(at, value)| appender.push(*at, *value));
    let bytes = random.damage(appender.finish());
    let _ = growing::decode(&bytes, 1000, |_, _| true);
}

fn histogram_chunks(random: &mut Random) {
    let all: Vec<_> = (0..=random.below(20)).map(|_| histogram(random.byte())).collect();
    let mut bytes = Vec::new();
    let mut before: Option<&Histogram> = None;
    for histogram in &all {
        histograms::append(&mut bytes, before, histogram);
        before = Some(histogram);
    }
    let read = |bytes: &[u8], count: usize| {
        let mut back = Vec::new();
        let read = histograms::decode(bytes, count, |histogram| {
            back.push(histogram);
            true
        });
        read.map(|()| back)
    };
    assert_eq!(read(&bytes, all.len()).as_ref(), Ok(&all));
    let _ = read(&random.damage(bytes), all.len());
}

fn catalogue(random: &mut Random) {
    let mut bytes = Vec::new();
    for number in 0..3u32 {
        let value = "x".repeat(random.below(50) + 1);
        let labels = Labels::from_pairs([("__name__", "up"), ("a", &value)]).unwrap();
        encode_series(&mut bytes, number, &labels);
    }
    let _ = decode_block(&random.damage(bytes.clone()));
    let mut zstd = compressor().unwrap();
    let sealed = seal(b"key", &bytes, &mut zstd);
    assert_eq!(unseal(b"key", &sealed).as_ref(), Ok(&bytes));
    let damaged = random.damage(sealed.clone());
    assert!(damaged == sealed || unseal(b"key", &damaged).is_err());
    // Right checksums around what is wrong inside: a length that is not so, and bytes that are not zstd's.
    let mut inside = random.damage(sealed[10..].to_vec());
    let mut value = vec![1, sealed[1]];
    value.extend_from_slice(&u32::try_from(random.below(1 << 26)).unwrap().to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(b"key"), &value);
    value.extend_from_slice(&crc32c::crc32c_append(crc, &inside).to_le_bytes());
    value.append(&mut inside);
    if let Ok(raw) = unseal(b"key", &value) {
        assert!(raw.len() <= 1 << 24);
    }
}

fn records(random: &mut Random) {
    let stream = StreamKey { cluster: "eu-1".parse().unwrap(), instance: "a".to_owned() };
    let mut key = Vec::new();
    crate::ledger::put_stream_key(&mut key, &stream);
    let _ = stream_key(&mut Fields(&random.damage(key)));
    let _ = Stream::decode(&random.damage(Stream::default().encode()));
    let changes = vec![("rule/a".to_owned(), Some(vec![1, 2, 3])), ("b".to_owned(), None)];
    let _ = record::decode_state(&random.damage(record::encode_state(&changes)));
    let stored = Stored { marks: Vec::new(), attempts: 7, in_blocks_until: 9 };
    let _ = Stored::decode(&random.damage(stored.encode()));
    let noise: Vec<u8> = (0..random.below(120)).map(|_| random.byte()).collect();
    let _ = Gap::decode(&noise);
    let _ = BatchHead::decode(&noise);
}
