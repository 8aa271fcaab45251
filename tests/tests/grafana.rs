//! Grafana's Prometheus data source against a collector: health, page load, variables, every panel of two dashboards.

use http::Method;
use tributary_tests::grafana::DataSource;
use tributary_tests::grafana::dashboard::Dashboard;
use tributary_tests::prometheus::{Series, deliver};
use tributary_tests::world::{EVERYTHING, World, aligned};

const STEP_MS: i64 = 15_000;
const SAMPLES: i64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_of_two_dashboards_shows_something() {
    let world = World::new();
    world.write("rules.yml", "groups: [ { name: a, rules: [ { record: r, expr: sum(up) } ] } ]\n");
    let collector = world.collector("rules: [ { files: [ rules.yml ], scope: global } ]\n").await;
    let agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    let start = aligned(STEP_MS, SAMPLES * STEP_MS);
    let rising = |by: f64| -> Vec<(i64, f64)> {
        (0..SAMPLES).map(|i| (start + i * STEP_MS, i as f64 * by)).collect()
    };
    let series: &[(&[(&str, &str)], f64)] = &[
        (&[("__name__", "up"), ("job", "node")], 0.0),
        (&[("__name__", "node_cpu_seconds_total"), ("job", "node"), ("mode", "idle")], 14.0),
        (&[("__name__", "node_cpu_seconds_total"), ("job", "node"), ("mode", "user")], 1.0),
        (&[("__name__", "node_memory_MemAvailable_bytes"), ("job", "node")], 1.0),
        (&[("__name__", "node_memory_MemTotal_bytes"), ("job", "node")], 2.0),
        (&[("__name__", "http_requests_total"), ("code", "200"), ("job", "web")], 9.0),
        (&[("__name__", "http_requests_total"), ("code", "500"), ("job", "web")], 1.0),
        (
            &[("__name__", "http_request_duration_seconds_bucket"), ("job", "web"), ("le", "0.1")],
            5.0,
        ),
        (
            &[("__name__", "http_request_duration_seconds_bucket"), ("job", "web"), ("le", "+Inf")],
            9.0,
        ),
    ];
    let sent: Vec<Series<'_>> = series.iter().map(|(labels, by)| (*labels, rising(*by))).collect();
    deliver(&agent.write_url(), &sent).await;
    let last = (SAMPLES - 1) as f64 * 9.0;
    collector.value("http_requests_total{code=\"200\"}", &last.to_string()).await;

    let end = start / 1000 + (SAMPLES - 1) * STEP_MS / 1000;
    for method in [Method::POST, Method::GET] {
        let source = DataSource::new(&collector.url, method, (end - 600, end));
        source.save_and_test().await.unwrap();
        source.load_page().await.unwrap();
        for text in [
            include_str!("../testdata/dashboards/fleet.json"),
            include_str!("../testdata/dashboards/requests.json"),
        ] {
            let dashboard = Dashboard::parse(text).unwrap();
            let values = source.variables(&dashboard).await.unwrap();
            for panel in &dashboard.panels {
                let shown = source.panel(panel, &values).await.unwrap();
                let filled = !shown.frames.is_empty()
                    && shown.frames.iter().all(|frame| !frame.points.is_empty());
                assert!(filled, "{}: {} shows {shown:?}", dashboard.title, panel.title);
            }
        }
    }
    // A cluster's own path is a data source of its own.
    let only = format!("{}/cluster/eu-1", collector.url);
    let source = DataSource::new(&only, Method::POST, (end - 600, end));
    source.save_and_test().await.unwrap();
    source.load_page().await.unwrap();
}
