//! Random steps against a model that keeps every sample in a map and knows nothing of windows, pages or journals.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proptest::prelude::*;
use tributary_model::cluster::ClusterName;
use tributary_model::histogram::Histogram;
use tributary_model::sample::Timestamp;

use super::world::{Frame, HOUR, MINUTE, T0, World, histogram};
use crate::batch::{Accepted, Reason, StreamKey};
use crate::kv::memory::Memory;

const WINDOW: i64 = 2 * HOUR;

#[derive(Debug, Clone)]
enum Step {
    /// Stream, whether a frame segment begins, minutes that pass, samples: series, offset to now, value.
    Send(u8, bool, i64, Vec<(u32, i64, Kept)>),
    Maintain,
    Flush,
    /// The next writes of the key-value store fail; then the power goes.
    FailingFlush(u32),
    Reopen,
    PowerCut,
}

/// A value: the bits of a number, or a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Number(u64),
    Histogram(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![
        8 => (-20..1i64).prop_map(|s| s * 15_000),
        4 => (-300..1i64).prop_map(|m| m * MINUTE),
        1 => 0..5 * MINUTE,
    ];
    let value = prop_oneof![
        3 => (0..3u8).prop_map(|n| Kept::Number(f64::from(n).to_bits())),
        1 => (0..9u8).prop_map(Kept::Histogram),
    ];
    let samples = prop::collection::vec((0..6u32, offset, value), 0..30);
    prop_oneof![
        12 => (0..3u8, any::<bool>(), 0..90i64, samples).prop_map(|(s, b, t, v)| Step::Send(s, b, t, v)),
        2 => Just(Step::Maintain),
        1 => Just(Step::Flush),
        1 => (0..10u32).prop_map(Step::FailingFlush),
        1 => Just(Step::Reopen),
        1 => Just(Step::PowerCut),
    ]
}

#[derive(Default)]
struct Model {
    series: BTreeMap<(ClusterName, u32), BTreeMap<i64, Kept>>,
    watermarks: HashMap<StreamKey, i64>,
    totals: HashMap<StreamKey, (u64, [u64; 6])>,
}

impl Model {
    fn send(&mut self, frame: &Frame, samples: &[(u32, i64, Kept)]) -> Accepted {
        let bound = self.watermarks.get(&frame.stream).map_or(i64::MIN, |w| w - WINDOW);
        let mut accepted = Accepted::default();
        let mut oldest = i64::MAX;
        // In order first, then the rest: a frame's late samples are looked at after the others.
        let mut late = Vec::new();
        for (series, at, bits) in samples {
            let known = self.series.entry((frame.stream.cluster.clone(), *series)).or_default();
            let last = known.last_key_value().map(|(at, bits)| (*at, *bits));
            if *at > frame.received_at + 2 * MINUTE {
                accepted.add(Reason::Future);
            } else if last.is_none_or(|(last, _)| *at > last) {
                if last.is_none() && *at < bound {
                    accepted.add(Reason::OutOfOrder);
                } else {
                    known.insert(*at, *bits);
                    accepted.stored += 1;
                    oldest = oldest.min(*at);
                }
            } else if *at < bound && last.is_none_or(|(last, _)| *at != last) {
                accepted.add(Reason::OutOfOrder);
            } else {
                late.push((*series, *at, *bits));
            }
        }
        for (series, at, bits) in late {
            let known = self.series.entry((frame.stream.cluster.clone(), series)).or_default();
            match known.get(&at) {
                Some(there) if *there == bits => accepted.add(Reason::Duplicate),
                Some(_) => accepted.add(Reason::Conflict),
                None => {
                    known.insert(at, bits);
                    accepted.stored += 1;
                    oldest = oldest.min(at);
                }
            }
        }
        if oldest < i64::MAX {
            let mark = self.watermarks.entry(frame.stream.clone()).or_insert(oldest);
            *mark = oldest.max(*mark);
        }
        let totals = self.totals.entry(frame.stream.clone()).or_default();
        totals.0 += u64::from(accepted.stored);
        for (total, reason) in totals.1.iter_mut().zip(Reason::ALL) {
            *total += u64::from(accepted.of(reason));
        }
        accepted
    }
}

fn check(world: &World, model: &Model) -> Result<(), TestCaseError> {
    for ((cluster, series), samples) in &model.series {
        let numbers = samples.iter().filter_map(|(at, kept)| match kept {
            Kept::Number(bits) => Some((*at, *bits)),
            Kept::Histogram(_) => None,
        });
        let expected: Vec<_> = numbers.collect();
        prop_assert_eq!(world.read(cluster, *series), expected, "series {}", series);
        let histograms = samples.iter().filter_map(|(at, kept)| match kept {
            Kept::Number(_) => None,
            Kept::Histogram(kind) => Some((*at, histogram(*kind))),
        });
        let (expected, found): (Vec<_>, _) =
            (histograms.collect(), world.histograms(cluster, *series));
        prop_assert_eq!(expected.len(), found.len(), "series {}", series);
        for ((at, histogram), sample) in expected.iter().zip(&found) {
            prop_assert_eq!(*at, sample.at.as_millis());
            prop_assert!(histogram.has_data_of(&sample.histogram), "{} {}", series, at);
        }
    }
    for stream in world.store().streams() {
        let (stored, refused) = model.totals[&stream.key];
        prop_assert_eq!(stream.stored, stored);
        prop_assert_eq!(stream.refused.map(|(_, n)| n), refused);
    }
    Ok(())
}

fn number(sample: &(u32, i64, Kept)) -> Option<(u32, i64, u64)> {
    match *sample {
        (series, at, Kept::Number(bits)) => Some((series, at, bits)),
        (.., Kept::Histogram(_)) => None,
    }
}

fn histogram_of(sample: &(u32, i64, Kept)) -> Option<(u32, i64, Arc<Histogram>)> {
    match *sample {
        (series, at, Kept::Histogram(kind)) => Some((series, at, histogram(kind))),
        (.., Kept::Number(_)) => None,
    }
}

/// Streams 0 and 1 share a cluster.
fn key(name: u8) -> StreamKey {
    let cluster = if name < 2 { "eu-1" } else { "us-1" };
    StreamKey { cluster: cluster.parse().unwrap(), instance: name.to_string() }
}

/// Runs the steps against both. Without `kv` the store is on sled, and a power cut is a restart.
fn run(kv: Option<&Memory>, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let fail_after = |operations| {
        if let Some(kv) = kv {
            kv.fail_after(operations);
        }
    };
    let cut_power = |world: &mut World| {
        world.store = None;
        if let Some(kv) = kv {
            kv.cut_power();
        }
        world.reopen();
    };
    let mut world = World::new(kv.cloned());
    let mut model = Model::default();
    let mut now = T0;
    let mut seqs: HashMap<StreamKey, u64> = HashMap::new();
    for step in steps {
        match step {
            Step::Send(name, begins, minutes, samples) => {
                now += minutes * MINUTE;
                let key = key(name);
                let seq = seqs.entry(key.clone()).or_default();
                *seq += 1;
                let samples = samples.into_iter().map(|(s, offset, v)| (s, now + offset, v));
                // A batch has its numbers first.
                let (numbers, histograms): (Vec<_>, Vec<_>) =
                    samples.partition(|(.., kept)| matches!(kept, Kept::Number(_)));
                let all = [numbers, histograms].concat();
                let frame = Frame {
                    starts_segment: begins || !world.has_state(&key),
                    stream: key,
                    epoch: 1,
                    seq: *seq,
                    received_at: now,
                    samples: all.iter().filter_map(number).collect(),
                    histograms: all.iter().filter_map(histogram_of).collect(),
                    gaps: Vec::new(),
                };
                let expected = model.send(&frame, &all);
                prop_assert_eq!(world.send(&frame).unwrap(), expected);
            }
            Step::Maintain => {
                world.store().maintain(Timestamp::from_millis(now)).unwrap();
            }
            Step::Flush => {
                world.store().flush_head_before(Timestamp::from_millis(now)).unwrap();
            }
            Step::FailingFlush(budget) => {
                fail_after(Some(budget));
                // Whether it failed depends on how much there was to write.
                let _ = world.store().flush_head_before(Timestamp::from_millis(now));
                fail_after(None);
            }
            Step::Reopen => world.reopen(),
            Step::PowerCut => cut_power(&mut world),
        }
        prop_assert!(world.report.is_clean(), "{:?}", world.report);
    }
    check(&world, &model)?;
    cut_power(&mut world);
    prop_assert!(world.report.is_clean(), "{:?}", world.report);
    check(&world, &model)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn behaves_like_a_map(steps in prop::collection::vec(step(), 1..60)) {
        run(Some(&Memory::default()), steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn behaves_like_a_map_on_sled(steps in prop::collection::vec(step(), 1..30)) {
        run(None, steps)?;
    }
}
