//! Times encoding and decoding: a segment of frames, one scrape in each, whose values move as those of exporters do.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at what does not work")]

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};
use tributary_proto::frame::{Content, Decoder, Encoder};
use tributary_proto::limits::Limits;

const SERIES: u32 = 1_000;
const SCRAPES: u32 = 40;
const STEP_MS: i64 = 30_000;
const EPOCH: u64 = 1 << 60;

type Scrape = Vec<(Labels, Sample)>;

/// How the values of a benchmark's series move.
#[derive(Debug, Clone, Copy)]
enum Motion {
    /// Counters of whole numbers.
    Counters,
    /// Counters of hundredths of seconds.
    Seconds,
    /// Gauges that are multiples of a page.
    Gauges,
    /// Values that stay.
    Constants,
    /// Any 64 bits: what cannot be made smaller.
    Noise,
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, motion) in [
        ("counters", Motion::Counters),
        ("seconds", Motion::Seconds),
        ("gauges", Motion::Gauges),
        ("constants", Motion::Constants),
        ("noise", Motion::Noise),
    ] {
        segment(&mut criterion, name, &scrapes(motion));
    }
    criterion.final_summary();
}

fn segment(criterion: &mut Criterion, name: &str, scrapes: &[Scrape]) {
    let frames = encoded(scrapes);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements((SERIES * SCRAPES).into()));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| encoded(black_box(scrapes)));
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let mut decoder = Decoder::new(Limits::default());
            for frame in black_box(&frames) {
                black_box(decoder.decode(frame).unwrap());
            }
        });
    });
    group.finish();
}

fn encoded(scrapes: &[Scrape]) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(EPOCH, 1);
    let frames = (1..).zip(scrapes).map(|(seq, scrape)| {
        let at = scrape.first().map_or(Timestamp::from_millis(0), |(_, sample)| sample.at);
        encoder.encode(seq, at, &Content { samples: scrape, ..Content::default() }).unwrap()
    });
    frames.collect()
}

fn scrapes(motion: Motion) -> Vec<Scrape> {
    let labels: Vec<Labels> = (0..SERIES).map(labels).collect();
    let mut random = Random(7);
    let mut values: Vec<f64> = labels.iter().map(|_| random.below(1e6)).collect();
    let scrapes = (0..SCRAPES).map(|step| {
        let at = Timestamp::from_millis(1_760_000_000_000 + i64::from(step) * STEP_MS);
        let series = labels.iter().zip(&mut values);
        let scrape = series.map(|(labels, value)| {
            *value = motion.next(*value, &mut random);
            (labels.clone(), Sample { at, value: *value })
        });
        scrape.collect()
    });
    scrapes.collect()
}

fn labels(number: u32) -> Labels {
    let (pod, code) = (format!("app-{}", number / 4), ["200", "304", "404", "500"]);
    let code = code.into_iter().cycle().nth(number as usize % 4).unwrap_or_default();
    let pairs = [
        ("__name__", "requests_total"),
        ("code", code),
        ("job", "apps"),
        ("namespace", "shop"),
        ("pod", &*pod),
    ];
    Labels::from_pairs(pairs).unwrap()
}

impl Motion {
    fn next(self, value: f64, random: &mut Random) -> f64 {
        match self {
            Self::Counters => value + random.below(60.0),
            Self::Seconds => ((value * 100.0).round() + random.below(900.0)) / 100.0,
            Self::Gauges => 4096.0 * (1e5 + random.below(1e3)),
            Self::Constants => value,
            Self::Noise => f64::from_bits(random.next()),
        }
    }
}

/// The same numbers each time (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A whole number from 0 up to, and without, `end`.
    fn below(&mut self, end: f64) -> f64 {
        ((self.next() >> 11) as f64 / (1_u64 << 53) as f64 * end).floor()
    }
}
