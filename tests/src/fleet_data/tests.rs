//! What a fleet promises: the same for the same seed, labels as clusters have them, values that behave.

use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum as _;
use prost::Message as _;
use tributary_proto::prometheus::WriteRequest;

use super::{Cluster, Plan, REQUEST_SAMPLES, Shape};

/// Two and a half hours.
const STEPS: u64 = 300;

fn plan(shape: Shape) -> Plan {
    Plan {
        clusters: 2,
        series: 240,
        steps: STEPS,
        step_ms: 30_000,
        start_ms: 1 << 40,
        shape,
        seed: 7,
    }
}

type Key = Vec<(String, String)>;

/// Every series with its samples.
fn decoded(plan: &Plan, number: usize) -> BTreeMap<Key, Vec<(i64, f64)>> {
    let mut cluster = Cluster::new(plan, number, true);
    let mut all: BTreeMap<Key, Vec<(i64, f64)>> = BTreeMap::new();
    for _ in 0..plan.steps {
        let bodies = cluster.scrape();
        assert_eq!(bodies.len(), plan.series.div_ceil(REQUEST_SAMPLES));
        for body in bodies {
            let message = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
            for series in WriteRequest::decode(&*message).unwrap().timeseries {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let key = series.labels.iter().map(|l| (text(&l.name), text(&l.value))).collect();
                let samples = series.samples.iter().map(|s| (s.timestamp, s.value));
                all.entry(key).or_default().extend(samples);
            }
        }
    }
    all
}

#[test]
fn every_shape_has_as_many_samples_as_planned_in_the_order_of_time() {
    for shape in Shape::value_variants() {
        let plan = Plan { steps: 20, ..plan(*shape) };
        let all = decoded(&plan, 1);
        let count: usize = all.values().map(Vec::len).sum();
        assert_eq!(count as u64 * plan.clusters as u64, plan.samples(), "{shape:?}");
        let series = if *shape == Shape::Churn { all.len().min(plan.series) } else { all.len() };
        assert_eq!(series, plan.series, "{shape:?}");
        for samples in all.values() {
            assert!(samples.is_sorted_by(|a, b| a.0 < b.0));
            let (first, last) = (samples[0].0, samples[samples.len() - 1].0);
            assert!(first >= plan.start_ms && last < plan.end_ms());
        }
    }
}

#[test]
fn a_scrape_of_more_series_than_a_request_takes_is_several_requests() {
    let plan = Plan { series: REQUEST_SAMPLES + 1, steps: 1, ..plan(Shape::Fleet) };
    assert_eq!(Cluster::new(&plan, 0, false).scrape().len(), 2);
    assert_eq!(decoded(&plan, 0).len(), plan.series);
}

#[test]
fn seeds_decide_and_clusters_differ() {
    let scrape =
        |seed, number| Cluster::new(&Plan { seed, ..plan(Shape::Fleet) }, number, true).scrape();
    assert_eq!(scrape(7, 1), scrape(7, 1));
    assert_ne!(scrape(7, 1), scrape(8, 1));
    assert_ne!(scrape(7, 1), scrape(7, 0));
}

#[test]
fn labels_are_sorted_as_many_as_in_clusters_and_name_the_cluster_only_if_they_shall() {
    let plan = plan(Shape::Fleet);
    for labels in decoded(&plan, 1).keys() {
        assert!((11..=13).contains(&labels.len()), "{labels:?}");
        assert!(labels.is_sorted_by(|a, b| a.0 < b.0), "{labels:?}");
        assert!(labels.contains(&("cluster".into(), "us-001".into())), "{labels:?}");
    }
    let unnamed = Cluster::new(&plan, 1, false).scrape();
    assert!(unnamed.iter().map(bytes::Bytes::len).sum::<usize>() > 0);
    for body in unnamed {
        let message = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
        for series in WriteRequest::decode(&*message).unwrap().timeseries {
            assert!(series.labels.iter().all(|label| &*label.name != b"cluster"));
        }
    }
}

#[test]
fn a_fleet_is_mixed_as_it_says() {
    let mut parts: BTreeMap<&str, usize> = BTreeMap::new();
    let all = decoded(&Plan { series: 2_000, steps: 2, ..plan(Shape::Fleet) }, 0);
    for labels in all.keys() {
        let name = &labels.iter().find(|(name, _)| name == "__name__").unwrap().1;
        let part = match &**name {
            name if name.ends_with("_seconds_total") => "float counters",
            name if name.ends_with("_bucket") || name.ends_with("_total") => "integer counters",
            _ => "gauges",
        };
        *parts.entry(part).or_default() += 1;
    }
    let expected = [("float counters", 200), ("gauges", 600), ("integer counters", 1200)];
    assert_eq!(parts, BTreeMap::from(expected));
}

#[test]
fn counters_fall_only_to_zero_and_buckets_contain_smaller_ones() {
    let all = decoded(&plan(Shape::Fleet), 0);
    let mut fallen = 0;
    for (labels, samples) in &all {
        let name = &labels.iter().find(|(name, _)| name == "__name__").unwrap().1;
        if name.ends_with("_total") || name.ends_with("_bucket") {
            for pair in samples.windows(2).filter(|pair| pair[1].1 < pair[0].1) {
                assert_eq!(pair[1].1, 0.0, "{labels:?}");
                fallen += 1;
            }
        }
    }
    assert!(fallen > 0, "no process ever started again");
    let histograms = decoded(&plan(Shape::Histograms), 0);
    let mut by_bound: BTreeMap<Key, BTreeMap<u64, f64>> = BTreeMap::new();
    for (mut labels, samples) in histograms {
        let place = labels.iter().position(|(name, _)| name == "le").unwrap();
        let bound: f64 = labels.remove(place).1.parse().unwrap();
        by_bound.entry(labels).or_default().insert(bound.to_bits(), samples[9].1);
    }
    for buckets in by_bound.values() {
        let values: Vec<f64> = buckets.values().copied().collect();
        assert!(values.len() == 12 && values.is_sorted(), "{values:?}");
    }
}

#[test]
fn pods_that_are_replaced_take_their_series_along() {
    let all = decoded(&plan(Shape::Churn), 0);
    let pods: BTreeSet<&String> =
        all.keys().flatten().filter(|(name, _)| name == "pod").map(|(_, value)| value).collect();
    // Two and a half hours: what is not of a node had three or four pods one after the other.
    assert!((600..850).contains(&all.len()), "{}", all.len());
    assert!((70..100).contains(&pods.len()), "{}", pods.len());
}
