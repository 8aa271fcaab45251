//! Native histograms from a Prometheus to the answers of the collector, over a kill of either side.

use serde_json::json;
use tributary_proto::prometheus::{BucketSpan, Histogram, histogram};
use tributary_tests::eventually;
use tributary_tests::prometheus::{deliver, deliver_body, histograms_body, write};
use tributary_tests::world::{World, aligned};

const ALLOWED: &str = "rules:\n- { match: '{__name__=~\"rpc_seconds|size|up\"}', labels: [job] }\n";

/// What a Prometheus counted of requests after some rounds: of each one, in 0.5 to 1, 1 to 2 and 4 to 8 seconds.
fn rpc(at: i64, rounds: u64) -> Histogram {
    let each = i64::try_from(rounds).unwrap();
    Histogram {
        count: Some(histogram::Count::CountInt(rounds * 4)),
        sum: rounds as f64 * 8.5,
        schema: 0,
        zero_threshold: 0.001,
        zero_count: Some(histogram::ZeroCount::ZeroCountInt(rounds)),
        positive_spans: vec![
            BucketSpan { offset: 0, length: 2 },
            BucketSpan { offset: 1, length: 1 },
        ],
        positive_deltas: vec![each, 0, 0],
        timestamp: at,
        ..Histogram::default()
    }
}

/// Sizes as a float histogram with custom bounds.
fn size(at: i64) -> Histogram {
    Histogram {
        count: Some(histogram::Count::CountFloat(4.5)),
        sum: 100.0,
        schema: -53,
        positive_spans: vec![BucketSpan { offset: 0, length: 3 }],
        positive_counts: vec![1.0, 3.0, 0.5],
        custom_values: vec![10.0, 100.0],
        timestamp: at,
        reset_hint: histogram::ResetHint::Gauge.into(),
        ..Histogram::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_histograms_are_kept_and_queried() {
    let world = World::new();
    let rules = world.write(
        "rules.yml",
        "groups:\n- name: native\n  interval: 1s\n  rules:\n  - record: job:rpc_seconds:sum\n    expr: sum by (job, cluster) (rpc_seconds)\n",
    );
    let extra = format!("rules: [ {{ files: [ {} ], scope: global }} ]\n", rules.display());
    let mut collector = world.collector(&extra).await;
    let mut agent = world.agent("eu-1", collector.ingest, ALLOWED, "").await;
    let start = aligned(1000, 240_000);
    let labels = [("__name__", "rpc_seconds"), ("job", "api"), ("pod", "secret")];
    let sizes = [("__name__", "size"), ("job", "api")];
    let unlisted = [("__name__", "other"), ("job", "api")];
    for round in 1..=16u64 {
        let at = start + i64::try_from(round).unwrap() * 15_000;
        deliver_body(
            &agent.write_url(),
            histograms_body(&[
                (&labels, vec![rpc(at, round)]),
                (&sizes, vec![size(at)]),
                (&unlisted, vec![size(at)]),
            ]),
        )
        .await;
        match round {
            5 => collector.process.restart(),
            9 => agent.process.restart(),
            _ => {}
        }
    }
    collector.ready().await;
    let answers = async |collector: &tributary_tests::world::Collector| {
        let both = r#"cluster="eu-1",job="api""#;
        let check = async |expression: String, expected: &str| {
            collector.value(&expression, expected).await;
        };
        check(format!("histogram_count(rpc_seconds{{{both}}})"), "64").await;
        check(format!("histogram_sum(rpc_seconds{{{both}}})"), "136").await;
        check(format!("count_over_time(rpc_seconds{{{both}}}[10m])"), "16").await;
        check("histogram_count(sum(increase(rpc_seconds[2m]))) > bool 20".into(), "1").await;
        check("histogram_quantile(0.25, sum(rpc_seconds))".into(), "0.001").await;
        check("histogram_quantile(1, rate(rpc_seconds[4m]))".into(), "8").await;
        check("histogram_fraction(-Inf, 100, size)".into(), "0.8888888888888888").await;
        check("count({__name__=~\"other|.*secret.*\"}) or vector(0)".into(), "0").await;
        check("resets(rpc_seconds[10m])".into(), "0").await;
        check("count(rpc_seconds{pod=~\".+\"}) or vector(0)".into(), "0").await;
    };
    answers(&collector).await;

    let raw = collector.query("size").await.unwrap();
    let expected = json!({
        "count": "4.5",
        "sum": "100",
        "buckets": [[3, "-Inf", "10", "1"], [0, "10", "100", "3"], [0, "100", "+Inf", "0.5"]],
    });
    assert_eq!(raw[0]["histogram"][1], expected, "{raw}");
    assert_eq!(raw[0]["metric"], json!({"__name__": "size", "cluster": "eu-1", "job": "api"}));
    let raw = collector.query("rpc_seconds[10m]").await.unwrap();
    let histograms = raw[0]["histograms"].as_array().unwrap();
    assert_eq!(histograms.len(), 16, "{raw}");
    let expected = json!({
        "count": "4",
        "sum": "8.5",
        "buckets": [
            [3, "-0.001", "0.001", "1"], [0, "0.5", "1", "1"], [0, "1", "2", "1"], [0, "4", "8", "1"]
        ],
    });
    assert_eq!(histograms[0][1], expected, "{raw}");

    collector.value("histogram_count(job:rpc_seconds:sum{job=\"api\"})", "64").await;

    let federated = format!("{}/federate?match[]=rpc_seconds", collector.url);
    let federated = tributary_tests::http::get(&federated).await.unwrap().text();
    assert!(
        federated.contains("rpc_seconds_count{cluster=\"eu-1\",job=\"api\"} 64 "),
        "{federated}"
    );

    // What is sent again, and what is sent in the place of another, changes nothing.
    deliver_body(&agent.write_url(), histograms_body(&[(&labels, vec![rpc(start + 240_000, 16)])]))
        .await;
    deliver_body(&agent.write_url(), histograms_body(&[(&labels, vec![rpc(start + 240_000, 17)])]))
        .await;
    deliver(&agent.write_url(), &[(&[("__name__", "up"), ("job", "api")], vec![(start, 1.0)])])
        .await;
    eventually("what came last is there", async || {
        let result = collector.query("count_over_time(up[10m])").await?;
        result.as_array().filter(|list| list.len() == 1).map(|_| ())
    })
    .await;
    collector.process.restart();
    collector.ready().await;
    answers(&collector).await;

    let bad = Histogram { schema: 99, ..size(start) };
    let refused = write(&agent.write_url(), histograms_body(&[(&sizes, vec![bad])])).await.unwrap();
    assert_eq!(refused.status.as_u16(), 400);
    assert!(refused.text().contains("unknown schema"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_series_of_histograms_ends() {
    let world = World::new();
    let collector = world.collector("").await;
    let agent = world.agent("eu-1", collector.ingest, ALLOWED, "").await;
    let at = aligned(1000, 20_000);
    let labels = [("__name__", "rpc_seconds"), ("job", "api")];
    let stale = Histogram {
        sum: tributary_model::sample::stale_nan(),
        timestamp: at + 10_000,
        ..Histogram::default()
    };
    deliver_body(&agent.write_url(), histograms_body(&[(&labels, vec![rpc(at, 3), stale])])).await;
    collector.value("count_over_time(rpc_seconds[5m])", "1").await;
    assert_eq!(collector.query("rpc_seconds").await.unwrap(), json!([]));
    collector.value("histogram_count(rpc_seconds offset 15s)", "12").await;
}
