//! Certificates that somebody else puts into a folder are taken up when they change: whole pairs, and nothing else.

use std::fs;

use tributary_tests::eventually;
use tributary_tests::http::get;
use tributary_tests::prometheus::deliver;
use tributary_tests::world::{Agent, Collector, EVERYTHING, World, aligned, mount};

/// Issues another certificate for eu-1 into a folder of the world.
fn issue(world: &World, folder: &str) {
    world.certs(&["issue", "eu-1", "--dir", "pki", "--instance", "agent", "--out", folder]);
}

/// The serial number of the certificate that eu-1 is connected with.
async fn serial(collector: &Collector) -> String {
    collector.agent("eu-1").await["certificate_serial"].as_str().unwrap_or("").to_owned()
}

async fn becomes_other(collector: &Collector, serial_before: &str) -> String {
    eventually("the new certificate is in use", async || {
        let now = serial(collector).await;
        (!now.is_empty() && now != serial_before).then_some(now)
    })
    .await
}

/// Sends one more sample and waits until it is stored.
async fn delivers(agent: &Agent, collector: &Collector, number: i64) {
    let sample = (aligned(1000, 60_000) + number, number as f64);
    deliver(&agent.write_url(), &[(&[("__name__", "steady")], vec![sample])]).await;
    collector.value("last_over_time(steady[5m])", &number.to_string()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_swapped_is_taken_up() {
    let world = World::new();
    let collector = world.collector("").await;
    issue(&world, "v1");
    issue(&world, "v2");
    let volume = world.path("eu-1/tls");
    mount(&world.path("v1"), &volume, "v1");
    let agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    delivers(&agent, &collector, 1).await;
    let before = serial(&collector).await;
    mount(&world.path("v2"), &volume, "v2");
    becomes_other(&collector, &before).await;
    delivers(&agent, &collector, 2).await;
    assert_eq!(agent.metric("tributary_agent_session_failures_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_that_does_not_match_is_refused_and_the_old_one_stays() {
    let world = World::new();
    let collector = world.collector("").await;
    let agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    delivers(&agent, &collector, 1).await;
    let before = serial(&collector).await;
    issue(&world, "new");
    let (new, own) = (world.path("new"), world.path("eu-1/tls"));
    let whole = fs::read(new.join("tls.crt")).unwrap();
    let refused = "tributary_agent_certificate_reloads_refused_total";
    // First half of a certificate, then the whole of it beside the old key.
    for (number, part) in [(1, &whole[..whole.len() / 2]), (2, &whole[..])] {
        fs::write(own.join("tls.crt"), part).unwrap();
        eventually("the refusal is counted", async || {
            (agent.metric(refused, &[]).await >= f64::from(number)).then_some(())
        })
        .await;
    }
    assert!(get(&format!("{}/-/ready", agent.url)).await.unwrap().status.is_success());
    delivers(&agent, &collector, 2).await;
    assert_eq!(serial(&collector).await, before);
    fs::copy(new.join("tls.key"), own.join("tls.key")).unwrap();
    becomes_other(&collector, &before).await;
    delivers(&agent, &collector, 3).await;
    assert_eq!(agent.metric("tributary_agent_session_failures_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collectors_own_pair_is_watched_too() {
    let world = World::new();
    let collector = world.collector("").await;
    let agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    fs::write(world.path("pki/collector/tls.crt"), "half a certif").unwrap();
    collector.counts("tributary_collector_certificate_reloads_refused_total", &[], 1.0).await;
    assert!(get(&format!("{}/-/ready", collector.url)).await.unwrap().status.is_success());
    delivers(&agent, &collector, 1).await;
    // The authority is another one, which only a new agent knows: that it gets in shows what is in force.
    world.certs(&["init", "--dir", "pki", "--host", "127.0.0.1", "--force"]);
    let other = world.agent("us-1", collector.ingest, EVERYTHING, "").await;
    collector.connected("us-1", true).await;
    drop(other);
}
