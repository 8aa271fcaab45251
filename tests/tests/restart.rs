//! Either side is killed at any moment: every sample that was taken is there, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tributary_tests::eventually;
use tributary_tests::prometheus::deliver;
use tributary_tests::world::{EVERYTHING, World, aligned};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_both_sides_loses_and_doubles_nothing() {
    let world = World::new();
    let mut collector = world.collector("").await;
    let mut agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    let url = agent.write_url();
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let start = aligned(1000, 900_000);
    let sender = tokio::spawn(async move {
        for i in 0..600 {
            let labels = [("__name__", "counted")];
            deliver(&url, &[(&labels, vec![(start + i * 1000, i as f64)])]).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    for round in 0..6 {
        let enough = 80 * (round + 1);
        eventually("the sender goes on", async || {
            (sent.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
        if round % 2 == 0 {
            agent.process.restart();
        } else {
            collector.process.restart();
        }
    }
    sender.await.unwrap();
    collector.ready().await;
    collector.value("count_over_time(counted[20m])", "600").await;
    let matrix = collector.samples("counted", 20).await.unwrap();
    let samples = matrix.values().next().unwrap();
    for (i, (at, value)) in samples.iter().enumerate() {
        assert_eq!((*at, value.as_str()), (start + i as i64 * 1000, i.to_string().as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_agent_delivers_first() {
    let world = World::new();
    let collector = world.collector("").await;
    let mut agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    let labels = [("__name__", "last_words")];
    deliver(&agent.write_url(), &[(&labels, vec![(aligned(1000, 5_000), 42.0)])]).await;
    assert!(agent.process.terminate().await.success(), "{}", agent.process.log());
    let stored = collector.query("last_words").await.unwrap();
    assert_eq!(stored[0]["value"][1], "42");
}
