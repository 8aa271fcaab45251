//! A rotation of the certificate authority under load: nothing is lost, nothing comes twice, nobody is turned away.

use std::process::Command;
use std::time::Instant;

use tributary_tests::eventually;
use tributary_tests::fleet::{Fleet, setting};
use tributary_tests::world::text;

/// The steps of a rotation, in order.
const STEPS: [&str; 9] =
    ["preflight", "prepare", "publish", "wait", "activate", "drain", "prove", "taint", "retire"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_a_rotation() {
    let fleet = Fleet::start(setting("STORIES_AGENTS", 20)).await;
    let (load, started) = (fleet.load(), Instant::now());
    load.goes_on(2).await;
    let mut rotate = fleet.rotate(&["--ca"]);
    assert!(rotate.ended().await.success(), "{}", rotate.log());
    load.goes_on(2).await;
    let sent = load.stop().await;
    println!(
        "{} samples of {} agents in {:?}",
        sent.count(),
        fleet.agents.len(),
        started.elapsed()
    );
    sent.is_stored(&fleet.collector).await;
    fleet.is_on_new_authority().await;
    for agent in &fleet.agents {
        let folder = fleet.world.path(&agent.cluster).join("tls");
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-CAfile", "ca.crt", "tls.crt"]).current_dir(folder);
        let verified = openssl.output().unwrap();
        assert!(verified.status.success(), "{}: {}", agent.cluster, text(&verified));
    }
    assert_eq!(fleet.failures().await, 0.0, "handshakes or sessions failed");
    let rejected = "tributary_collector_ingest_samples_rejected_total";
    assert_eq!(fleet.collector.metric(rejected, &[]).await, 0.0, "samples came twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_are_dialled_do_not_notice_either() {
    let fleet = Fleet::start_dialled(3).await;
    let failures = fleet.failures().await;
    let load = fleet.load();
    load.goes_on(1).await;
    let mut rotate = fleet.rotate(&["--ca"]);
    assert!(rotate.ended().await.success(), "{}", rotate.log());
    load.goes_on(1).await;
    load.stop().await.is_stored(&fleet.collector).await;
    fleet.is_on_new_authority().await;
    assert_eq!(fleet.failures().await, failures, "handshakes or sessions failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_alone_are_rotated_too() {
    let fleet = Fleet::start(3).await;
    let load = fleet.load();
    let before = fleet.serials().await;
    for (arguments, changed) in
        [(&["--leaf", "c-1"][..], [false, true, false]), (&["--all"], [true, true, true])]
    {
        let mut rotate = fleet.rotate(arguments);
        assert!(rotate.ended().await.success(), "{}", rotate.log());
        let now = fleet.serials().await;
        let differ: Vec<bool> = now.iter().zip(&before).map(|(now, old)| now != old).collect();
        assert_eq!(differ, changed, "{arguments:?}");
    }
    load.goes_on(1).await;
    load.stop().await.is_stored(&fleet.collector).await;
    assert_eq!(fleet.failures().await, 0.0, "handshakes or sessions failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_away_is_named_and_waited_for() {
    let mut fleet = Fleet::start(3).await;
    let load = fleet.load();
    assert!(fleet.agents[2].process.terminate().await.success());

    let mut rotate = fleet.rotate(&["--ca"]);
    assert_eq!(rotate.ended().await.code(), Some(1), "{}", rotate.log());
    assert!(rotate.log().contains("c-2"), "the one who is away is named: {}", rotate.log());
    assert!(fleet.rotation().is_null(), "the plan is withdrawn");

    let mut rotate = fleet.rotate(&["--ca", "--wait"]);
    eventually("the rotation waits", async || (fleet.rotation()["step"] == "wait").then_some(()))
        .await;
    let mut status = fleet.rotate(&["--status"]);
    status.ended().await;
    let lines = status.log();
    let line = lines.lines().rev().find(|line| line.contains("c-2/agent"));
    assert!(line.is_some_and(|line| line.contains("is not connected")), "{lines}");
    fleet.collector.counts("tributary_collector_rotation_waits_for", &["c-2", "wait"], 1.0).await;
    assert!(rotate.is_running());

    fleet.agents[2].process.restart();
    assert!(rotate.ended().await.success(), "{}", rotate.log());
    load.goes_on(1).await;
    load.stop().await.is_stored(&fleet.collector).await;
    fleet.is_on_new_authority().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_everybody_at_every_step_costs_nothing() {
    let mut fleet = Fleet::start(4).await;
    let load = fleet.load();
    for (number, step) in STEPS.iter().enumerate() {
        // Without a subject it goes on with what was begun, and begins nothing.
        let begin: &[&str] = if number == 0 { &["--ca", "--wait"] } else { &[] };
        let mut rotate = fleet.rotate(&[begin, &["--until", step]].concat());
        eventually(&format!("{step} is begun"), async || {
            let rotation = fleet.rotation();
            (rotation["until"] == *step || rotation.is_null()).then_some(())
        })
        .await;
        fleet.kill_everybody(&mut rotate, number);
        let ended = rotate.ended().await;
        let rotation = fleet.rotation();
        let over = *step == "retire" && rotation.is_null();
        let paused = ended.success() && rotation["paused"] == true;
        assert!(over || paused, "{step}: {rotation}: {}", rotate.log());
    }
    load.goes_on(1).await;
    load.stop().await.is_stored(&fleet.collector).await;
    fleet.is_on_new_authority().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_everybody_whenever_a_step_is_passed_costs_nothing() {
    let mut fleet = Fleet::start(4).await;
    let load = fleet.load();
    let begun = fleet.rotate(&["--ca", "--wait", "--until", "preflight"]).ended().await;
    assert!(begun.success());
    let mut rotate = fleet.rotate(&[]);
    let (mut step, mut kills) = (String::new(), 0);
    while fleet.passes_a_step(&mut step).await {
        fleet.kill_everybody(&mut rotate, kills);
        kills += 1;
    }
    load.goes_on(1).await;
    load.stop().await.is_stored(&fleet.collector).await;
    fleet.is_on_new_authority().await;
}
