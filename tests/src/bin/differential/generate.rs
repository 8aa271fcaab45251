//! Made-up series that the selectors of real expressions find: counters with resets, gauges, classic histograms, with
//! gaps and staleness markers. The same seed gives the same series.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::matcher::{MatchOp, Matcher};
use tributary_model::sample::{Sample, stale_nan};
use tributary_promql::ast::Expr;
use tributary_promql::source::Memory;
use tributary_tests::prometheus::{HistogramSeries, deliver, deliver_body, histograms_body};
use tributary_tests::random::Random;

use super::engine::Question;
use super::native::{self, NativeSeries};

const INTERVAL_MS: i64 = 30_000;
const LENGTH_MS: i64 = 3 * 3_600_000;
/// What is sent in one round: less than what a Prometheus still takes behind its newest sample.
const ROUND_MS: i64 = 20 * 60_000;
const SERIES_PER_REQUEST: usize = 500;
const MAX_SERIES_PER_METRIC: usize = 36;
const VARIANTS: usize = 4;

/// Label pairs and samples.
type Labelled<'a> = (Vec<(&'a str, &'a str)>, &'a [Sample]);

#[derive(Clone)]
pub struct Generated {
    pub memory: Memory,
    pub native: Vec<NativeSeries>,
    end_ms: i64,
}

impl Generated {
    pub fn series_count(&self) -> usize {
        self.memory.series().count()
    }

    pub fn sample_count(&self) -> usize {
        let numbers = self.memory.series().map(|(_, samples)| samples.len());
        numbers.chain(self.native.iter().map(|series| series.histograms.len())).sum()
    }

    /// The same with series of native histograms, which also depend on the seed.
    pub fn with_histograms(mut self, seed: u64) -> anyhow::Result<Self> {
        let end_ms = self.end_ms;
        let mut random = Random::of(&[seed, u64::from_le_bytes(*b"natively")]);
        self.native = native::series(&mut random, |random| times(end_ms, random))?;
        for series in &self.native {
            self.memory.add(&series.labels, series.numbers.iter().copied());
            self.memory.add_histograms(&series.labels, series.histograms.iter().cloned());
        }
        Ok(self)
    }

    /// The same series with a label more; one of that name that is there is kept as `exported_…`.
    pub fn stamped(&self, name: &str, value: &str) -> anyhow::Result<Self> {
        let stamp = |labels: &Labels| {
            let mut pairs: BTreeMap<String, String> =
                labels.iter().map(|l| (l.name.to_string(), l.value.to_string())).collect();
            if let Some(own) = pairs.insert(name.to_owned(), value.to_owned()) {
                pairs.insert(format!("exported_{name}"), own);
            }
            Labels::from_pairs(pairs)
        };
        let mut memory = Memory::default();
        for (labels, samples) in self.memory.series() {
            memory.add(&stamp(labels)?, samples.iter().copied());
        }
        let mut native = self.native.clone();
        for series in &mut native {
            series.labels = stamp(&series.labels)?;
            memory.add_histograms(&series.labels, series.histograms.iter().cloned());
        }
        Ok(Self { memory, native, end_ms: self.end_ms })
    }

    /// Five instants, and two ranges: one of steps that fit the minutes, and one of others.
    pub fn questions(&self) -> [Question; 7] {
        let end = self.end_ms;
        [
            Question::Instant(end - 4 * 60_000),
            Question::Instant(end - 21 * 60_000 - 500),
            Question::Instant(end - 47 * 60_000 + 1_234),
            Question::Instant(end - 75 * 60_000 + 29_999),
            Question::Instant(end - 100 * 60_000),
            Question::Range(end - 90 * 60_000 + 777, end - 2 * 60_000, 171_000),
            Question::Range(end - 120 * 60_000, end, 60_000),
        ]
    }

    /// Sends all samples in order of time, with remote write.
    pub async fn send(&self, url: &str) {
        let url = format!("{url}/api/v1/write");
        let start = self.end_ms - LENGTH_MS - INTERVAL_MS;
        let native: BTreeSet<&Labels> = self.native.iter().map(|series| &series.labels).collect();
        let all: Vec<Labelled<'_>> = self
            .memory
            .series()
            .filter(|(labels, _)| !native.contains(labels))
            .map(|(labels, samples)| (pairs(labels), samples))
            .collect();
        for round in 0..=(LENGTH_MS + 2 * INTERVAL_MS) / ROUND_MS {
            let times = start + round * ROUND_MS..start + (round + 1) * ROUND_MS;
            for some in all.chunks(SERIES_PER_REQUEST) {
                send_numbers(&url, some, &times).await;
            }
            let numbers: Vec<Labelled<'_>> =
                self.native.iter().map(|s| (pairs(&s.labels), s.numbers.as_slice())).collect();
            // A series that turns to numbers and back gets them between its histograms.
            send_histograms(&url, &self.native, &times, false).await;
            send_numbers(&url, &numbers, &times).await;
            send_histograms(&url, &self.native, &times, true).await;
        }
    }
}

fn pairs(labels: &Labels) -> Vec<(&str, &str)> {
    labels.iter().map(|l| (&*l.name, &*l.value)).collect()
}

async fn send_numbers(url: &str, series: &[Labelled<'_>], times: &Range<i64>) {
    let request: Vec<_> = series
        .iter()
        .map(|(labels, samples)| {
            let of_round = samples
                .iter()
                .map(|sample| (sample.at.as_millis(), sample.value))
                .filter(|(at, _)| times.contains(at));
            (labels.as_slice(), of_round.collect::<Vec<_>>())
        })
        .filter(|(_, samples)| !samples.is_empty())
        .collect();
    if !request.is_empty() {
        deliver(url, &request).await;
    }
}

/// Sends the histograms before or after a series' numbers.
async fn send_histograms(url: &str, all: &[NativeSeries], times: &Range<i64>, after: bool) {
    let labels: Vec<_> = all.iter().map(|series| pairs(&series.labels)).collect();
    let request: Vec<HistogramSeries<'_>> = all
        .iter()
        .zip(&labels)
        .map(|(series, labels)| (labels.as_slice(), series.messages(times, after)))
        .filter(|(_, histograms)| !histograms.is_empty())
        .collect();
    if !request.is_empty() {
        deliver_body(url, histograms_body(&request)).await;
    }
}

/// What the expressions say about one metric.
#[derive(Default)]
struct Metric {
    selectors: BTreeSet<Vec<(String, &'static str, String)>>,
    labels: BTreeSet<String>,
}

pub fn generate(expressions: &[String], seed: u64, end_ms: i64) -> anyhow::Result<Generated> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let mut pools: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for text in expressions {
        let expr = tributary_promql::parse(text)?;
        let mut names = BTreeSet::new();
        let mut grouping = BTreeSet::new();
        inspect(&expr, &mut |node| note(node, &mut metrics, &mut names, &mut grouping));
        for name in names {
            metrics.entry(name).or_default().labels.extend(grouping.iter().cloned());
        }
    }
    for metric in metrics.values() {
        for (name, op, value) in metric.selectors.iter().flatten() {
            if *op == "=" && !value.is_empty() {
                *pools.entry(name.clone()).or_default().entry(value.clone()).or_default() += 1;
            }
        }
    }
    let pools: BTreeMap<String, Vec<String>> = pools
        .into_iter()
        .map(|(name, counts)| {
            let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
            counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            (name, counts.into_iter().take(3).map(|(value, _)| value).collect())
        })
        .collect();
    let mut random = Random::new(seed);
    let mut memory = Memory::default();
    for (name, metric) in &metrics {
        for labels in label_sets(name, metric, &pools, &mut random) {
            add_series(&mut memory, name, &labels, end_ms, &mut random);
        }
    }
    Ok(Generated { memory, native: Vec::new(), end_ms })
}

fn inspect(expr: &Expr, visit: &mut impl FnMut(&Expr)) {
    visit(expr);
    for child in expr.children() {
        inspect(child, visit);
    }
}

fn note(
    node: &Expr,
    metrics: &mut BTreeMap<String, Metric>,
    names: &mut BTreeSet<String>,
    grouping: &mut BTreeSet<String>,
) {
    let selector = match node {
        Expr::Vector(selector) => selector,
        Expr::Matrix(matrix) => &matrix.selector,
        Expr::Aggregate(aggregate) if !aggregate.without => {
            grouping.extend(aggregate.grouping.iter().cloned());
            return;
        }
        Expr::Binary(binary) => {
            if let Some(matching) = binary.matching.as_ref().filter(|matching| matching.on) {
                grouping.extend(matching.labels.iter().chain(&matching.include).cloned());
            }
            return;
        }
        _ => return,
    };
    let (named, others): (Vec<&Matcher>, Vec<&Matcher>) =
        selector.matchers.iter().partition(|matcher| matcher.name() == METRIC_NAME);
    let others: Vec<(String, &'static str, String)> = others
        .into_iter()
        .map(|m| (m.name().to_owned(), m.op().as_str(), m.value().to_owned()))
        .collect();
    for matcher in named {
        for name in literals(matcher) {
            let metric = metrics.entry(name.clone()).or_default();
            metric.labels.extend(others.iter().map(|(label, ..)| label.clone()));
            metric.selectors.insert(others.clone());
            names.insert(name);
        }
    }
}

/// Values that a matcher lets through, guessed from its text.
fn literals(matcher: &Matcher) -> Vec<String> {
    match matcher.op() {
        MatchOp::Equal => vec![matcher.value().to_owned()],
        MatchOp::Match => matcher
            .value()
            .replace(['(', ')', '^', '$'], "")
            .split('|')
            .flat_map(|part| {
                let plain = part.replace("\\.", ".").replace('?', "");
                [
                    plain.replace(".*", "").replace(".+", "x").replace("..", "00"),
                    plain.replace(".*", "x"),
                ]
            })
            .filter(|value| matcher.matches(value))
            .take(4)
            .collect(),
        MatchOp::NotEqual | MatchOp::NotMatch => Vec::new(),
    }
}

/// Label sets that the selectors find, each in a few variants.
fn label_sets(
    name: &str,
    metric: &Metric,
    pools: &BTreeMap<String, Vec<String>>,
    random: &mut Random,
) -> Vec<BTreeMap<String, String>> {
    let mut out: Vec<BTreeMap<String, String>> = Vec::new();
    for selector in &metric.selectors {
        for variant in 0..VARIANTS {
            let mut labels = BTreeMap::from([(METRIC_NAME.to_owned(), name.to_owned())]);
            for label in metric.labels.iter().filter(|label| *label != "le") {
                let matchers: Vec<Matcher> =
                    selector.iter().filter(|(l, ..)| l == label).filter_map(matcher).collect();
                let mut values: Vec<String> = matchers.iter().flat_map(literals).collect();
                values.extend(pools.get(label).cloned().unwrap_or_default());
                values.extend([format!("{label}-a"), format!("{label}-b"), String::new()]);
                values.retain(|value| matchers.iter().all(|m| m.matches(value)));
                // The first variant is the plainest one, so that joins find partners.
                let choice = if variant == 0 { 0 } else { random.below(values.len().min(3)) };
                if let Some(value) = values.get(choice).filter(|value| !value.is_empty()) {
                    labels.insert(label.clone(), value.clone());
                }
            }
            if !out.contains(&labels) {
                out.push(labels);
            }
        }
    }
    out.truncate(MAX_SERIES_PER_METRIC);
    out
}

fn matcher((name, op, value): &(String, &'static str, String)) -> Option<Matcher> {
    let op = match *op {
        "=" => MatchOp::Equal,
        "!=" => MatchOp::NotEqual,
        "=~" => MatchOp::Match,
        _ => MatchOp::NotMatch,
    };
    Matcher::new(name.clone(), op, value.clone()).ok()
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    /// 1, seldom 0.
    Flag,
}

fn kind(name: &str, random: &mut Random) -> Kind {
    let flags = ["_info", "_status", "_owner", "_condition", "relabel", "_created", "ALERTS", "up"];
    if ["_total", "_count", "_sum"].iter().any(|end| name.ends_with(end)) {
        Kind::Counter
    } else if flags.iter().any(|part| name.contains(part)) && !random.one_in(8) {
        Kind::Flag
    } else {
        Kind::Gauge
    }
}

/// Bucket bounds, with those that expressions ask for.
const BOUNDS: [&str; 12] =
    ["0.005", "0.05", "0.1", "0.4", "0.5", "1", "2.5", "5", "10", "30", "60", "+Inf"];

fn add_series(
    memory: &mut Memory,
    name: &str,
    labels: &BTreeMap<String, String>,
    end_ms: i64,
    random: &mut Random,
) {
    let times = times(end_ms, random);
    if !name.ends_with("_bucket") {
        let values = values(kind(name, random), times.len(), random);
        add(memory, labels, times.iter().copied().zip(values));
        return;
    }
    // Buckets are cumulative: each adds to the one below.
    let mut below = vec![0.0; times.len()];
    for bound in BOUNDS {
        let own = values(Kind::Counter, times.len(), random);
        for (sum, value) in below.iter_mut().zip(own) {
            *sum += if value.is_nan() { 0.0 } else { value };
        }
        let mut labels = labels.clone();
        labels.insert("le".to_owned(), bound.to_owned());
        add(memory, &labels, times.iter().copied().zip(below.iter().copied()));
    }
}

fn add(
    memory: &mut Memory,
    labels: &BTreeMap<String, String>,
    samples: impl Iterator<Item = ((i64, bool), f64)>,
) {
    let Ok(labels) = Labels::from_pairs(labels.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    else {
        return;
    };
    let samples = samples
        .map(|((at, stale), value)| Sample::new(at, if stale { stale_nan() } else { value }));
    memory.add(&labels, samples);
}

/// The times of one series' samples, with gaps, and which of them are staleness markers.
fn times(end_ms: i64, random: &mut Random) -> Vec<(i64, bool)> {
    let offset = random.below(INTERVAL_MS as usize) as i64;
    let count = (LENGTH_MS / INTERVAL_MS) as usize;
    let gap = if random.one_in(5) {
        let start = random.below(count);
        start..start + 6 + random.below(30)
    } else {
        0..0
    };
    let marked = random.one_in(2);
    let end = if random.one_in(20) { count / 2 + random.below(count / 2) } else { count };
    let mut out = Vec::new();
    for i in 0..count {
        let at = end_ms - LENGTH_MS + offset + i as i64 * INTERVAL_MS;
        if i == end || (marked && i == gap.start && !gap.is_empty()) {
            out.push((at, true));
        } else if i < end && !gap.contains(&i) && !random.one_in(200) {
            out.push((at, false));
        }
    }
    out
}

fn values(kind: Kind, count: usize, random: &mut Random) -> Vec<f64> {
    let speed = random.unit() * 20.0;
    let idle = random.one_in(6);
    let mut value = match kind {
        Kind::Counter => (random.unit() * 1000.0).floor(),
        Kind::Gauge => random.unit() * [1.0, 100.0, 1e9][random.below(3)],
        Kind::Flag => 1.0,
    };
    (0..count)
        .map(|_| {
            match kind {
                Kind::Counter if random.one_in(300) => value = 0.0,
                Kind::Counter if idle => {}
                Kind::Counter => value += (random.unit() * speed).floor(),
                Kind::Gauge if random.one_in(2) => value *= 0.95 + random.unit() * 0.1,
                Kind::Gauge => {}
                Kind::Flag => value = if random.one_in(15) { 0.0 } else { 1.0 },
            }
            if random.one_in(2000) { f64::NAN } else { value }
        })
        .collect()
}
