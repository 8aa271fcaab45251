//! A sample's whole walk: remote write, allowlist, mTLS, store, query.

use tributary_tests::prometheus::deliver;
use tributary_tests::world::{EVERYTHING, World, aligned, free_port};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_of_three_clusters_arrive_under_their_certificates_names() {
    let world = World::new();
    let collector = world.collector("").await;
    let at = aligned(1000, 60_000);
    let mut agents = Vec::new();
    for (cluster, value) in [("eu-1", 1.0), ("us-1", 2.0), ("lab", 4.0)] {
        let agent = world.agent(cluster, collector.ingest, EVERYTHING, "").await;
        let labels = [("__name__", "answer"), ("job", "story")];
        deliver(&agent.write_url(), &[(&labels, vec![(at, value), (at + 15_000, value + 0.5)])])
            .await;
        agents.push(agent);
    }
    collector.value("sum(answer)", "8.5").await;
    collector.value("answer{cluster=\"us-1\"}", "2.5").await;

    let matrix = collector.samples("answer", 10).await.unwrap();
    assert_eq!(matrix.len(), 3);
    for (labels, samples) in &matrix {
        assert_eq!(labels["job"], "story");
        let times: Vec<i64> = samples.iter().map(|(t, _)| *t).collect();
        assert_eq!(times, [at, at + 15_000]);
    }
    for mut agent in agents {
        assert!(agent.process.terminate().await.success(), "{}", agent.process.log());
    }
    let mut process = collector.process;
    assert!(process.terminate().await.success(), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_cluster_label_is_kept_aside() {
    let world = World::new();
    let collector = world.collector("").await;
    let agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    let labels = [("__name__", "forged"), ("cluster", "us-1")];
    deliver(&agent.write_url(), &[(&labels, vec![(aligned(1000, 30_000), 1.0)])]).await;
    collector.value("forged{cluster=\"eu-1\", exported_cluster=\"us-1\"}", "1").await;
    assert_eq!(
        collector.query("forged{cluster=\"us-1\"}").await.unwrap().as_array().unwrap().len(),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_sample_cannot_be_changed() {
    let world = World::new();
    let collector = world.collector("").await;
    let agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    let labels = [("__name__", "fact")];
    let at = aligned(1000, 30_000);
    deliver(&agent.write_url(), &[(&labels, vec![(at, 1.0)])]).await;
    collector.value("fact", "1").await;
    deliver(&agent.write_url(), &[(&labels, vec![(at, 2.0), (at + 1000, 3.0)])]).await;
    collector.value("fact", "3").await;
    let matrix = collector.samples("fact", 10).await.unwrap();
    let samples = matrix.values().next().unwrap();
    assert_eq!(*samples, [(at, "1".to_owned()), (at + 1000, "3".to_owned())]);
    let refused =
        collector.metric("tributary_collector_ingest_samples_rejected_total", &["conflict"]).await;
    assert_eq!(refused, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collector_may_dial() {
    let world = World::new();
    let address = format!("127.0.0.1:{}", free_port());
    let dial = format!("dial: [ {{ cluster: eu-1, address: '{address}' }} ]\n");
    let collector = world.collector(&dial).await;
    let listen = format!("listen: {{ grpc: '{address}' }}\n");
    let mut agent = world.agent("eu-1", collector.ingest, EVERYTHING, &listen).await;
    let at = aligned(1000, 30_000);
    deliver(&agent.write_url(), &[(&[("__name__", "fetched")], vec![(at, 7.0)])]).await;
    collector.value("fetched{cluster=\"eu-1\"}", "7").await;
    agent.process.restart();
    agent.ready().await;
    deliver(&agent.write_url(), &[(&[("__name__", "fetched")], vec![(at + 1000, 8.0)])]).await;
    collector.value("fetched{cluster=\"eu-1\"}", "8").await;
}
