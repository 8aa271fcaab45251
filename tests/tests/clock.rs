//! Clocks that differ: two minutes do no harm, an hour is named as what is wrong.

use tributary_tests::prometheus::deliver;
use tributary_tests::world::{World, aligned};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_minutes_do_no_harm() {
    let world = World::new();
    let collector = world.collector("").await;
    for (cluster, shift) in [("ahead", "+115s"), ("behind", "-115s")] {
        let agent = world.agent_with_clock(cluster, collector.ingest, shift);
        agent.ready().await;
        let sample = (aligned(1000, 10_000), 1.0);
        deliver(&agent.write_url(), &[(&[("__name__", "told")], vec![sample])]).await;
        collector.value(&format!("told{{cluster=\"{cluster}\"}}"), "1").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_is_named() {
    let world = World::new();
    let collector = world.collector("").await;
    for (cluster, shift) in [("ahead", "+1h"), ("behind", "-1h")] {
        let agent = world.agent_with_clock(cluster, collector.ingest, shift);
        agent.process.logged("clock").await;
        collector.process.logged("clock").await;
    }
}
