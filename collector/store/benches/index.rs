//! Times what the index answers without looking at a sample: selection, label names and values, and finding a series.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at what does not work")]

use std::hint::black_box;
use std::sync::mpsc::channel;

use criterion::Criterion;
use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::matcher::{MatchOp, Matcher};
use tributary_model::sample::{Sample, Timestamp};
use tributary_store::{Batch, Options, Replay, ReplayError, Resolver, Store, StreamKey};

const CLUSTERS: usize = 10;
/// Series of each cluster: 100 metrics of 200 pods.
const SERIES: usize = 20_000;
const PODS: usize = 200;
/// When each has its one sample.
const AT: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// The journal is never read back.
struct Nothing;

impl Replay for Nothing {
    fn replay(&mut self, _: &Resolver, _: &[u8]) -> Result<Batch, ReplayError> {
        Err(ReplayError("not read back".to_owned()))
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let folder = tempfile::tempdir().unwrap();
    let options = Options { path: folder.path().to_owned(), ..Options::default() };
    let (store, _) = Store::open(options, &mut [Nothing]).unwrap();
    for cluster in 0..CLUSTERS {
        fill(&store, &format!("eu-{cluster}").parse().unwrap());
    }

    let mut group = criterion.benchmark_group("200,000 series");
    let known = labels("eu-3", 4_711);
    let eu3 = "eu-3".parse().unwrap();
    group.bench_function("find one by its labels", |bencher| {
        bencher.iter(|| store.find(&eu3, black_box(&known)).unwrap());
    });
    let metric = matcher("__name__", MatchOp::Equal, "metric_7");
    let selections = [
        ("one series", vec![metric.clone(), matcher("pod", MatchOp::Equal, "pod-17")], CLUSTERS),
        ("a metric", vec![metric.clone()], CLUSTERS * PODS),
        ("a metric of a cluster", vec![metric, matcher("cluster", MatchOp::Equal, "eu-3")], PODS),
        ("pods by pattern", vec![matcher("pod", MatchOp::Match, "pod-1.*")], CLUSTERS * 111 * 100),
        ("no match", vec![matcher("pod", MatchOp::Equal, "none")], 0),
    ];
    for (name, matchers, expected) in &selections {
        assert_eq!(store.select(matchers, AT, AT).unwrap().len(), *expected, "{name}");
        group.bench_function(format!("select {name}"), |bencher| {
            bencher.iter(|| store.select(black_box(matchers), AT, AT).unwrap());
        });
    }
    group.bench_function("label names", |bencher| {
        bencher.iter(|| store.label_names(&[], AT, black_box(AT)));
    });
    group.bench_function("label values", |bencher| {
        bencher.iter(|| store.label_values(black_box("pod"), &[], AT, AT));
    });
    group.finish();
    criterion.final_summary();
}

fn matcher(name: &str, op: MatchOp, value: &str) -> Matcher {
    Matcher::new(name, op, value).unwrap()
}

fn labels(cluster: &str, number: usize) -> Labels {
    let metric = format!("metric_{}", number / PODS);
    let pod = format!("pod-{}", number % PODS);
    let pairs = [("__name__", &*metric), ("cluster", cluster), ("job", "app"), ("pod", &*pod)];
    Labels::from_pairs(pairs).unwrap()
}

/// Gives each series of a cluster a sample.
fn fill(store: &Store, cluster: &ClusterName) {
    let resolve = |n| store.resolve(cluster, &labels(cluster.as_str(), n));
    let samples = (0..SERIES).map(|n| (resolve(n), Sample { at: AT, value: 1.0 })).collect();
    let batch = Batch {
        stream: StreamKey { cluster: cluster.clone(), instance: "a".to_owned() },
        epoch: 1,
        seq: 1,
        starts_segment: true,
        state_only: false,
        received_at: AT,
        complete_until: AT,
        samples,
        metadata: Vec::new(),
        histograms: Vec::new(),
        gaps: Vec::new(),
    };
    let (reply, answer) = channel();
    let done = Box::new(move |done| {
        let _ = reply.send(done);
    });
    store.append(Vec::new(), batch, done);
    answer.recv().unwrap().unwrap();
}
