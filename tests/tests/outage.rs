//! The collector is away: nothing is lost while the spool has room, and what is lost is known.

use tributary_tests::eventually;
use tributary_tests::http::get;
use tributary_tests::link::Link;
use tributary_tests::prometheus::deliver;
use tributary_tests::world::{EVERYTHING, World, aligned};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_wire_delays_and_loses_nothing() {
    let world = World::new();
    let collector = world.collector("").await;
    let link = Link::to(collector.ingest).await;
    let agent = world.agent("eu-1", link.address(), EVERYTHING, "").await;
    let start = aligned(1000, 300_000);
    for i in 0..60 {
        if i == 20 {
            link.cut();
        }
        let labels = [("__name__", "steady")];
        deliver(&agent.write_url(), &[(&labels, vec![(start + i * 1000, i as f64)])]).await;
    }
    link.mend();
    collector.value("count_over_time(steady[10m])", "60").await;
    collector.value("sum_over_time(steady[10m])", "1770").await;
    collector.value("steady", "59").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_drops_the_oldest_and_the_gap_is_known() {
    let world = World::new();
    let collector = world.collector("").await;
    let link = Link::to(collector.ingest).await;
    let spool = "spool: { path: spool, max_bytes: 2MiB }\n";
    let agent = world.agent("eu-1", link.address(), EVERYTHING, spool).await;
    link.cut();
    let names: Vec<String> = (0..400).map(|i| format!("series-{i}")).collect();
    let start = aligned(1000, 1_200_000);
    let mut value = 0.1_f64;
    for step in 0..1000 {
        let labels: Vec<[(&str, &str); 2]> =
            names.iter().map(|name| [("__name__", "noise"), ("name", name.as_str())]).collect();
        let series: Vec<_> = labels
            .iter()
            .map(|labels| {
                value = (value * 1.618_033_988_749 + 0.123_456_789).fract();
                (labels.as_slice(), vec![(start + step * 1000, value)])
            })
            .collect();
        deliver(&agent.write_url(), &series).await;
    }
    let kept = std::fs::read_dir(world.path("eu-1/spool")).unwrap();
    let bytes: u64 = kept.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 3 << 20, "the spool has {bytes} bytes");
    link.mend();
    let newest = (start + 999_000) as f64 / 1000.0;
    collector.value("max(timestamp(noise))", &format!("{newest}")).await;
    let gaps = eventually("the gap is in the ledger", async || {
        let answer = get(&format!("{}/api/v1/tributary/gaps", collector.url)).await.ok()?.json();
        let gaps = answer["data"].as_array()?.clone();
        (!gaps.is_empty()).then_some(gaps)
    })
    .await;
    assert_eq!(gaps[0]["cluster"], "eu-1", "{gaps:?}");
    assert_eq!(gaps[0]["cause"], "spool_full", "{gaps:?}");
    let oldest = collector.samples("noise{name=\"series-0\"}", 30).await.unwrap();
    let first = oldest.values().next().unwrap()[0].0;
    assert!(first > start, "the oldest data went first");
}
