//! Makes the frames of a segment as an agent would.

use std::path::Path;

use tributary_model::histogram::{Buckets, Histogram, HistogramSample, Parts, Span};
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp, stale_nan};
use tributary_model::series::{Metadata, MetricType};
use tributary_proto::frame::{Content, Encoder, Gap, GapCause};

use crate::random::Random;

/// The frames of one segment, with what a source of some kind gives.
pub fn segment(random: &mut Random) -> Vec<Vec<u8>> {
    if random.one_in(16) {
        return version_1();
    }
    let mut encoder = Encoder::new(random.skewed(), random.skewed());
    let (frames, series) = (1 + random.below(6), 1 + random.below(40));
    let kinds = random.next();
    let mut now = i64::from_le_bytes(random.skewed().to_le_bytes());
    let mut seq = random.skewed().clamp(1, u64::MAX - 10);
    let mut out = Vec::new();
    for _ in 0..frames {
        now = now.wrapping_add(15_000);
        let samples = samples(series, kinds, now, random);
        let metadata = if random.one_in(4) { metadata(random) } else { Vec::new() };
        let gaps = if random.one_in(4) { gaps(random) } else { Vec::new() };
        let histograms = histograms(series, now, random);
        let content = Content {
            samples: &samples,
            histograms: &histograms,
            metadata: &metadata,
            gaps: &gaps,
        };
        if let Ok(frame) = encoder.encode(seq, Timestamp::from_millis(now), &content) {
            out.push(frame);
            seq += 1;
        }
    }
    out
}

fn samples(series: usize, kinds: u64, now: i64, random: &mut Random) -> Vec<(Labels, Sample)> {
    let mut out = Vec::new();
    for n in 0..random.below(series + 1) {
        let number = if random.one_in(20) { random.below(1_000) } else { n };
        let pairs = [
            ("__name__".to_owned(), format!("metric_{}", number % 7)),
            ("instance".to_owned(), "127.0.0.1:9100".to_owned()),
            ("n".to_owned(), number.to_string()),
        ];
        let at = if random.one_in(10) { now.wrapping_sub(i64::from(random.small(9))) } else { now };
        let Ok(labels) = Labels::from_pairs(pairs) else { continue };
        out.push((labels, Sample::new(at, value(kinds >> (n % 16 * 4), random))));
    }
    out
}

fn histograms(series: usize, now: i64, random: &mut Random) -> Vec<(Labels, HistogramSample)> {
    let mut out = Vec::new();
    let count = if random.one_in(3) { random.below(series + 1) } else { 0 };
    for n in 0..count {
        let pairs =
            [("__name__".to_owned(), "duration".to_owned()), ("n".to_owned(), n.to_string())];
        let Ok(labels) = Labels::from_pairs(pairs) else { continue };
        let kind = random.next();
        let length = random.small(9);
        let counts = (0..length).map(|_| value(kind % 2 * 5, random)).collect();
        let spans = [Span { offset: i32::from(random.small(5)), length: u32::from(length) }];
        let Ok(positive) = Buckets::new(&spans, counts) else { continue };
        let parts = Parts { sum: value(kind >> 8, random), positive, ..Parts::default() };
        let Ok(histogram) = Histogram::new(parts) else { continue };
        let at = Timestamp::from_millis(now);
        out.push((labels, HistogramSample { at, histogram: histogram.into() }));
    }
    out
}

fn value(kind: u64, random: &mut Random) -> f64 {
    let number = random.skewed() as f64;
    match kind % 8 {
        0 => 1.0,
        1 => number,
        2 => -number / 8.0,
        3 => number / 1000.0,
        4 => number * 0.1 + 0.2,
        5 => f64::from_bits(random.next()),
        6 if random.one_in(4) => stale_nan(),
        _ => f64::from(random.next().to_le_bytes()[0]),
    }
}

fn metadata(random: &mut Random) -> Vec<Metadata> {
    let entry = |n: usize| Metadata {
        metric: format!("metric_{n}"),
        kind: MetricType::Counter,
        help: "How often it was. ".repeat(n % 9),
        unit: String::new(),
    };
    (0..random.below(9)).map(entry).collect()
}

fn gaps(random: &mut Random) -> Vec<Gap> {
    let gap = |n: u8| Gap {
        from: Timestamp::from_millis(i64::from(n)),
        to: Timestamp::from_millis(i64::from(n) * 7),
        cause: GapCause::AgentDown,
        samples: u64::from(n),
    };
    (0..random.small(9)).map(gap).collect()
}

/// The recorded frames of version 1, which nothing writes any more.
fn version_1() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1");
    let read = |n: u32| {
        let text = std::fs::read_to_string(folder.join(format!("frame-{n}.hex"))).ok()?;
        let digits = text.trim().as_bytes().chunks(2);
        digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect()
    };
    (1..=3).filter_map(read).collect()
}
