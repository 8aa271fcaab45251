//! Series of numbers, of native histograms and of both, with everything that goes wrong in real ones.

use std::sync::Arc;
use std::time::Duration;

use tributary_model::histogram::{
    Buckets, COARSEST, FINEST, Histogram, HistogramSample, Parts, ResetHint, Schema,
};
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp, stale_nan};
use tributary_promql::source::Memory;

use super::random::Random;

/// The metrics that expressions name.
pub(crate) const METRICS: [&str; 6] = ["c_total", "g", "h", "mixed", "b_bucket", "target_info"];

const SAMPLES: usize = 60;

const STRANGE: [f64; 10] = [
    0.0,
    -0.0,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
    f64::MIN_POSITIVE,
    -1.5,
    1e300,
    1e-300,
];

/// A source of some series of each metric.
pub(crate) fn memory(random: &mut Random) -> Memory {
    let mut memory = Memory::default();
    for metric in METRICS {
        for x in 0..=random.below(4) {
            let mut pairs = vec![
                ("__name__", metric.to_owned()),
                ("x", x.to_string()),
                ("job", format!("job-{}", random.below(2))),
                ("instance", random.below(3).to_string()),
            ];
            if metric == "b_bucket" {
                let bounds = ["0.1", "1", "10", "+Inf", "none"];
                pairs.push(("le", random.pick(&bounds).copied().unwrap_or("1").to_owned()));
            }
            if random.once_in(4) {
                pairs.push(("strange.name", "ä \"b\"".to_owned()));
            }
            let labels = Labels::from_pairs(pairs).unwrap_or_default();
            match metric {
                "h" => histograms(&mut memory, &labels, random, 1),
                "mixed" => {
                    numbers(&mut memory, &labels, random, 2);
                    histograms(&mut memory, &labels, random, 2);
                }
                _ => numbers(&mut memory, &labels, random, 1),
            }
        }
    }
    memory
}

/// A time near the samples, or one that is none.
pub(crate) fn time(random: &mut Random) -> Timestamp {
    let millis = match random.below(20) {
        0 => i64::MIN,
        1 => i64::MAX,
        2 => -1,
        3 => 0,
        _ => i64::try_from(random.below(SAMPLES * 30_000)).unwrap_or(0),
    };
    Timestamp::from_millis(millis)
}

/// A step of a range query.
pub(crate) fn step(random: &mut Random) -> Duration {
    let steps = [1, 10_000, 30_000, 47_000, 300_000, 86_400_000];
    Duration::from_millis(random.pick(&steps).copied().unwrap_or(1))
}

fn at(random: &mut Random, index: usize) -> Timestamp {
    let jitter = if random.once_in(3) { random.below(5000) } else { 0 };
    Timestamp::from_millis(i64::try_from(index * 30_000 + jitter).unwrap_or(0))
}

/// Of so many `kinds`, the numbers are one.
fn numbers(memory: &mut Memory, labels: &Labels, random: &mut Random, kinds: usize) {
    let mut value = random.below(100) as f64;
    for index in 0..SAMPLES {
        if random.once_in(9) || !random.once_in(kinds) {
            continue;
        }
        value += random.below(10) as f64;
        let sample = match random.below(40) {
            0 => stale_nan(),
            1..=2 => random.pick(&STRANGE).copied().unwrap_or(0.0),
            3 => {
                value = 0.0;
                value
            }
            _ => value,
        };
        let at = at(random, index);
        memory.add(labels, [Sample { at, value: sample }]);
        start(memory, labels, at, random);
    }
}

fn histograms(memory: &mut Memory, labels: &Labels, random: &mut Random, kinds: usize) {
    let mut current = histogram(random);
    for index in 0..SAMPLES {
        if random.once_in(9) || !random.once_in(kinds) {
            continue;
        }
        current = match random.below(20) {
            0 => Histogram::stale(),
            1..=3 => histogram(random),
            _ => {
                let mut next = current.clone();
                if next.is_stale() || next.add(&histogram(random)).is_err() {
                    next = histogram(random);
                }
                next
            }
        };
        let at = at(random, index);
        let histogram = Arc::new(current.clone());
        memory.add_histograms(labels, [HistogramSample { at, histogram }]);
        start(memory, labels, at, random);
    }
}

fn start(memory: &mut Memory, labels: &Labels, at: Timestamp, random: &mut Random) {
    if random.once_in(6) {
        let before = Duration::from_millis(u64::try_from(random.below(120_000)).unwrap_or(0));
        memory.set_starts(labels, [(at, at.minus(before))]);
    }
}

fn histogram(random: &mut Random) -> Histogram {
    let hints = [ResetHint::Unknown, ResetHint::Reset, ResetHint::NotReset, ResetHint::Gauge];
    let hint = random.pick(&hints).copied().unwrap_or_default();
    let count = |random: &mut Random| match random.below(30) {
        0 => random.pick(&STRANGE).copied().unwrap_or(0.0),
        other => other as f64,
    };
    let custom = random.once_in(3);
    let mut parts = Parts { hint, sum: count(random), ..Parts::default() };
    if custom {
        let mut bounds: Vec<f64> =
            (0..random.below(6)).map(|_| random.below(20) as f64 - 5.0).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let last = i32::try_from(bounds.len()).unwrap_or(0);
        parts.positive = (0..=last).map(|index| (index, count(random))).collect();
        parts.schema = Schema::Custom(bounds.into());
    } else {
        let schemas = usize::try_from(FINEST - COARSEST).unwrap_or(0);
        let schema = i8::try_from(random.below(schemas + 1)).unwrap_or(0) + COARSEST;
        parts.schema = Schema::Exponential(schema);
        parts.zero_threshold = random.below(3) as f64 / 2.0;
        parts.zero_count = count(random);
        parts.positive = side(random, count);
        parts.negative = side(random, count);
    }
    let buckets = parts.positive.counts().iter().chain(parts.negative.counts());
    parts.count = parts.zero_count + buckets.sum::<f64>() + random.below(2) as f64;
    Histogram::new(parts).unwrap_or_default()
}

fn side(random: &mut Random, count: impl Fn(&mut Random) -> f64) -> Buckets {
    let mut index = match random.below(12) {
        0 => -(1 << 28),
        1 => 1 << 28,
        _ => i32::try_from(random.below(40)).unwrap_or(0) - 20,
    };
    let buckets = (0..random.below(8)).map(|_| {
        index += 1 + i32::try_from(random.below(3)).unwrap_or(0);
        (index, count(random))
    });
    buckets.collect()
}
