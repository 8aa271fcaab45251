//! Made-up series of native histograms: counters with resets, gauges, custom bounds, with gaps and staleness markers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tributary_model::histogram::{Buckets, Histogram, HistogramSample, Parts, ResetHint, Schema};
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::sample::{Sample, Timestamp, stale_nan};
use tributary_proto::{prometheus, remote};
use tributary_tests::prometheus::with_integers;
use tributary_tests::random::Random;

/// One series, as a Prometheus is to get it.
#[derive(Debug, Clone)]
pub struct NativeSeries {
    pub labels: Labels,
    pub histograms: Vec<HistogramSample>,
    /// What the series holds at other times.
    pub numbers: Vec<Sample>,
    /// Whether its counts are sent as integers.
    pub integers: bool,
}

impl NativeSeries {
    /// The histograms of some time before or after the numbers, as remote write has them.
    pub fn messages(&self, times: &Range<i64>, after: bool) -> Vec<prometheus::Histogram> {
        let first = self.numbers.first().map(|sample| sample.at);
        self.histograms
            .iter()
            .filter(|sample| times.contains(&sample.at.as_millis()))
            .filter(|sample| first.is_some_and(|first| sample.at > first) == after)
            .map(|sample| {
                let message = remote::message(sample);
                if self.integers { with_integers(message) } else { message }
            })
            .collect()
    }
}

/// How the series of one metric look.
struct Metric {
    name: &'static str,
    /// Each series has one of them.
    schemas: &'static [Bounds],
    /// What one observation counts for: 1, or less for a histogram of floats.
    weight: f64,
    /// How many of ten observations are below zero.
    negative: usize,
    gauge: bool,
    numbers: Numbers,
}

#[derive(Clone, Copy)]
enum Bounds {
    Exponential(i8),
    Custom(&'static [f64]),
}

/// Where a metric has plain numbers.
#[derive(Clone, Copy, PartialEq)]
enum Numbers {
    Nowhere,
    /// In series of their own.
    Beside,
    /// In the middle of each series.
    Between,
}

const FEW: &[f64] = &[0.1, 0.5, 1.0, 2.5, 10.0];
const MORE: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const METRICS: &[Metric] = &[
    Metric { name: "native_request_seconds", schemas: &[exp(0), exp(1), exp(2)], ..PLAIN },
    Metric { name: "native_response_bytes", schemas: &[exp(4), exp(3), exp(-1)], ..PLAIN },
    Metric { name: "native_offset", schemas: &[exp(1)], negative: 4, ..PLAIN },
    Metric { name: "native_cost", schemas: &[exp(2), exp(0)], weight: 0.1, negative: 2, ..PLAIN },
    Metric { name: "native_queue_depth", schemas: &[exp(0), exp(2)], gauge: true, ..PLAIN },
    Metric {
        name: "native_drift",
        schemas: &[exp(1)],
        weight: 0.3,
        negative: 5,
        gauge: true,
        ..PLAIN
    },
    Metric { name: "native_custom_seconds", schemas: &[Bounds::Custom(FEW)], ..PLAIN },
    Metric {
        name: "native_bounds_seconds",
        schemas: &[Bounds::Custom(FEW), Bounds::Custom(MORE), exp(0)],
        ..PLAIN
    },
    Metric { name: "native_or_number", schemas: &[exp(1)], numbers: Numbers::Beside, ..PLAIN },
    Metric { name: "native_then_number", schemas: &[exp(1)], numbers: Numbers::Between, ..PLAIN },
];

const PLAIN: Metric = Metric {
    name: "",
    schemas: &[],
    weight: 1.0,
    negative: 0,
    gauge: false,
    numbers: Numbers::Nowhere,
};

const LABELS: [[&str; 3]; 6] = [
    ["api", "a", "eu"],
    ["api", "b", "us"],
    ["api", "c", "eu"],
    ["web", "a", "eu"],
    ["web", "d", "us"],
    ["db", "a", "us"],
];

/// What a new program has observed at once. After it, a Prometheus 3.5, which extrapolates rates of histograms to below
/// zero, has no reason to.
const HEAD_START: usize = 40;

/// None cuts a bucket of any schema: a Prometheus counts observations twice that are below a threshold in one schema, but
/// above it in another.
const THRESHOLDS: [f64; 4] = [0.001, 0.001, 1e-128, 1.0 / 64.0];

const fn exp(schema: i8) -> Bounds {
    Bounds::Exponential(schema)
}

/// All series. `times` gives the times of one, and which of them are staleness markers.
pub fn series(
    random: &mut Random,
    times: impl Fn(&mut Random) -> Vec<(i64, bool)>,
) -> anyhow::Result<Vec<NativeSeries>> {
    let mut out = Vec::new();
    for metric in METRICS {
        for (at, [job, pod, zone]) in LABELS.into_iter().enumerate() {
            let pairs = [(METRIC_NAME, metric.name), ("job", job), ("pod", pod), ("zone", zone)];
            let labels = Labels::from_pairs(pairs)?;
            let bounds = metric.schemas[at % metric.schemas.len()];
            let times = times(random);
            let is_number = |place: usize| match metric.numbers {
                Numbers::Nowhere => false,
                Numbers::Beside => at % 3 == 2,
                Numbers::Between => (times.len() / 3..times.len() / 2).contains(&place),
            };
            let mut state = State::new(metric, bounds, random);
            let (mut histograms, mut numbers) = (Vec::new(), Vec::new());
            for (place, (millis, stale)) in times.iter().enumerate() {
                let at = Timestamp::from_millis(*millis);
                state.observe(random);
                if is_number(place) {
                    let value = if *stale { stale_nan() } else { state.sum() };
                    numbers.push(Sample { at, value });
                } else {
                    let histogram = if *stale { Histogram::stale() } else { state.histogram()? };
                    histograms.push(HistogramSample { at, histogram: Arc::new(histogram) });
                }
            }
            let integers = metric.weight == 1.0;
            out.push(NativeSeries { labels, histograms, numbers, integers });
        }
    }
    Ok(out)
}

/// What was counted so far. Counts are in units of the weight, so that they stay exact.
struct State {
    metric: &'static Metric,
    bounds: Bounds,
    threshold: f64,
    speed: usize,
    spread: f64,
    zero: u32,
    sum: f64,
    above: BTreeMap<i32, u32>,
    below: BTreeMap<i32, u32>,
    /// How many observations all that is.
    observed: usize,
}

impl State {
    fn new(metric: &'static Metric, bounds: Bounds, random: &mut Random) -> Self {
        let threshold = match bounds {
            Bounds::Exponential(_) => THRESHOLDS[random.below(THRESHOLDS.len())],
            Bounds::Custom(_) => 0.0,
        };
        let mut state = Self {
            metric,
            bounds,
            threshold,
            speed: random.below(12),
            spread: 1.0 + random.unit() * 3.0,
            zero: 0,
            sum: 0.0,
            above: BTreeMap::new(),
            below: BTreeMap::new(),
            observed: 0,
        };
        state.observe_many(HEAD_START, random);
        state
    }

    /// Some observations more, or all anew.
    fn observe(&mut self, random: &mut Random) {
        // A counter that starts anew when it has hardly begun would rise by more than it was.
        let anew = if self.metric.gauge {
            random.one_in(3)
        } else {
            random.one_in(70) && self.observed > 2 * HEAD_START
        };
        if anew {
            (self.zero, self.sum, self.observed) = (0, 0.0, 0);
            self.above.clear();
            self.below.clear();
            // A program that starts again may choose a coarser or finer resolution.
            if let Bounds::Exponential(schema) = &mut self.bounds
                && random.one_in(4)
            {
                *schema = (*schema + [-1, 1][random.below(2)]).clamp(-1, 4);
            }
        }
        let many = random.below(self.speed + 2) + if anew { HEAD_START } else { 0 };
        self.observe_many(many, random);
    }

    fn observe_many(&mut self, many: usize, random: &mut Random) {
        self.observed += many;
        for _ in 0..many {
            self.observe_one(random);
        }
    }

    fn observe_one(&mut self, random: &mut Random) {
        let distance = ((random.unit() + random.unit() - 1.0) * self.spread * 2.0).exp2();
        let value = if random.below(10) < self.metric.negative { -distance } else { distance };
        let tiny = random.one_in(9);
        match self.bounds {
            Bounds::Exponential(_) if tiny || distance <= self.threshold => {
                self.zero += 1;
                return;
            }
            Bounds::Exponential(schema) => {
                let index = (distance.log2() * f64::from(schema).exp2()).ceil() as i32;
                let side = if value < 0.0 { &mut self.below } else { &mut self.above };
                *side.entry(index).or_default() += 1;
            }
            Bounds::Custom(bounds) => {
                let index = bounds.partition_point(|bound| *bound < value);
                *self.above.entry(index as i32).or_default() += 1;
            }
        }
        self.sum += value;
    }

    fn sum(&self) -> f64 {
        self.sum * self.metric.weight
    }

    fn histogram(&self) -> anyhow::Result<Histogram> {
        let weighed = |count: u32| f64::from(count) * self.metric.weight;
        let buckets = |side: &BTreeMap<i32, u32>| -> Buckets {
            side.iter().map(|(index, count)| (*index, weighed(*count))).collect()
        };
        let all = self.zero + self.above.values().chain(self.below.values()).sum::<u32>();
        Ok(Histogram::observed(Parts {
            hint: if self.metric.gauge { ResetHint::Gauge } else { ResetHint::Unknown },
            schema: match self.bounds {
                Bounds::Exponential(schema) => Schema::Exponential(schema),
                Bounds::Custom(bounds) => Schema::Custom(bounds.into()),
            },
            zero_threshold: self.threshold,
            zero_count: weighed(self.zero),
            count: weighed(all),
            sum: self.sum(),
            positive: buckets(&self.above),
            negative: buckets(&self.below),
        })?)
    }
}
