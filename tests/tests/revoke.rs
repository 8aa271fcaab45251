//! A certificate that is taken back: its stream dies, and it does not come in again.

use std::fs;
use std::time::{Duration, Instant};

use tributary_tests::fleet::{Fleet, PKI};
use tributary_tests::world::{EVERYTHING, World, mount, run, text};

/// How long a stream may live after it was cut off.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_agent_is_out_within_a_second() {
    let world = World::new();
    let collector = world.collector(PKI).await;
    let mut agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    let other = world.agent("us-1", collector.ingest, EVERYTHING, "").await;
    collector.connected("eu-1", true).await;
    collector.connected("us-1", true).await;
    world.succeed(
        "tributary-collector",
        &["clusters", "revoke", "eu-1", "--why", "stolen", "--config.file", "collector.yml"],
    );
    let revoked = Instant::now();
    collector.connected("eu-1", false).await;
    assert!(revoked.elapsed() < AT_ONCE, "{:?}", revoked.elapsed());
    let refused = "tributary_collector_ingest_connections_refused_total";
    collector.counts(refused, &["revoked"], 1.0).await;
    agent.process.restart();
    collector.counts(refused, &["revoked"], 2.0).await;
    assert_eq!(collector.agent("eu-1").await["connected"], false);
    assert_eq!(collector.agent("us-1").await["connected"], true);
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rotation_the_old_authority_opens_no_door() {
    let mut fleet = Fleet::start(2).await;
    // Away for the whole rotation, and left behind.
    assert!(fleet.agents[1].process.terminate().await.success());
    let mut rotate = fleet.rotate(&["--ca", "--skip", "c-1"]);
    assert!(rotate.ended().await.success(), "{}", rotate.log());
    fleet.agents[1].process.restart();
    fleet.agents[1].process.logged("not signed by an authority in our CA bundle").await;
    // Even if somebody tells it of the new authority: its own certificate is of the old one.
    let (new, own) = (fleet.world.path("pki/ca.crt"), fleet.world.path("c-1/tls/ca.crt"));
    let both = fs::read_to_string(new).unwrap() + &fs::read_to_string(&own).unwrap();
    fs::write(own, both).unwrap();
    let refused = "tributary_collector_ingest_connections_refused_total";
    fleet.collector.counts(refused, &["unknown_authority"], 1.0).await;
    assert_eq!(fleet.collector.agent("c-1").await["connected"], false);
    assert_eq!(fleet.collector.agent("c-0").await["connected"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_of_a_retired_authority_is_closed() {
    let world = World::new();
    let collector = world.collector(PKI).await;
    // Its certificate is mounted read-only, so that it cannot renew it by itself.
    world.issue("eu-1");
    mount(&world.path("pki/eu-1"), &world.path("eu-1/tls"), "v1");
    let agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    collector.connected("eu-1", true).await;
    let printed = world.certs(&["rotate", "--ca", "--dir", "pki", "--skip", "eu-1"]);
    let retired = Instant::now();
    collector.connected("eu-1", false).await;
    assert!(retired.elapsed() < AT_ONCE, "{:?}: {printed}", retired.elapsed());
    drop(agent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emergency_ends_every_stream_of_the_old_authority_at_once() {
    let fleet = Fleet::start(2).await;
    let address = fleet.collector.ingest.to_string();
    let mut rotate = fleet.rotate(&["--emergency", "--address", &address]);
    assert!(rotate.ended().await.success(), "{}", rotate.log());
    let ended = Instant::now();
    fleet.collector.connected("c-0", false).await;
    fleet.collector.connected("c-1", false).await;
    assert!(ended.elapsed() < AT_ONCE, "{:?}", ended.elapsed());
    // It prints how each agent comes back.
    let printed = rotate.log();
    let join = printed.lines().skip_while(|line| *line != "# c-0/agent").nth(1).unwrap();
    let mut words: Vec<&str> = join.split(' ').skip(1).collect();
    words.extend(["--dir", "tls"]);
    let joined = run("tributary-agent", &words, &fleet.world.path("c-0"));
    assert!(joined.status.success(), "{join}: {}", text(&joined));
    fleet.collector.connected("c-0", true).await;
    assert_eq!(fleet.collector.agent("c-1").await["connected"], false);
}
