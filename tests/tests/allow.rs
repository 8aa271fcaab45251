//! Nothing leaves that is not listed: not over the wire, not on disk, not in a log.

use std::fs;
use std::path::Path;

use tributary_tests::prometheus::{body, deliver, write};
use tributary_tests::world::{World, aligned};

const ALLOWLIST: &str = "rules:
  - match: 'http_requests_total'
    labels: [code]
    merge: sum
  - match: '{__name__=~\"node_.+\"}'
    labels: [instance]
";

/// A label value that must appear nowhere.
const SECRET: &str = "sk-planted-7f3a9c";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unlisted_series_and_labels_appear_nowhere() {
    let world = World::new();
    let mut collector = world.collector("").await;
    let mut agent = world.agent("eu-1", collector.ingest, ALLOWLIST, "").await;
    let at = aligned(1000, 120_000);
    let users: Vec<String> = (0..5).map(|i| format!("{SECRET}-{i}")).collect();
    for round in 0..4 {
        let requests: Vec<[(&str, &str); 3]> = users
            .iter()
            .map(|user| {
                [("__name__", "http_requests_total"), ("code", "200"), ("user", user.as_str())]
            })
            .collect();
        let time = at + round * 15_000;
        let mut series: Vec<_> =
            requests.iter().map(|r| (r.as_slice(), vec![(time, 10.0 + round as f64)])).collect();
        let unlisted = [("__name__", "secrets_total"), ("token", SECRET)];
        let stripped = [("__name__", "node_load1"), ("instance", "n1"), ("pod", SECRET)];
        series.push((&unlisted, vec![(time, 1.0)]));
        series.push((&stripped, vec![(time, 0.5)]));
        deliver(&agent.write_url(), &series).await;
    }
    collector.value("count_over_time(node_load1[5m])", "4").await;
    collector.value("http_requests_total", "65").await;
    let every = collector.query("count({__name__=~\".+\", cluster=\"eu-1\"})").await.unwrap();
    assert_eq!(every[0]["value"][1], "2", "only what is listed: {every}");

    // A malformed body that carries the secret must not be quoted in the log either.
    let mut broken = body(&[(&[("__name__", "x"), ("user", SECRET)], vec![(at, 1.0)])]);
    broken.truncate(broken.len() - 3);
    assert!(write(&agent.write_url(), broken).await.unwrap().status.is_client_error());

    assert!(agent.process.terminate().await.success());
    assert!(collector.process.terminate().await.success());
    for place in ["data", "eu-1/spool", "eu-1.log", "collector.log"] {
        assert!(!contains(&world.path(place), SECRET), "the secret is in {place}");
    }
}

fn contains(path: &Path, text: &str) -> bool {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().any(|entry| contains(&entry.unwrap().path(), text));
    }
    let bytes = fs::read(path).unwrap();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
