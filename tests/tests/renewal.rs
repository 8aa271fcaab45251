//! Certificates past half of their lives are renewed by those who use them, and nobody notices.

use std::process::Command;

use tributary_tests::eventually;
use tributary_tests::fleet::PKI;
use tributary_tests::load::Load;
use tributary_tests::world::{EVERYTHING, World, binary, text};

/// Runs `tributary-certs` on a day in the past.
fn certs_ago(world: &World, days: &str, arguments: &[&str]) {
    let mut command = Command::new("faketime");
    command.args(["-f", days]).arg(binary("tributary-certs")).args(arguments);
    let output = command.current_dir(world.path("")).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_renew_in_time() {
    let world = World::new();
    certs_ago(&world, "-20d", &["init", "--dir", "pki", "--host", "127.0.0.1", "--force"]);
    certs_ago(&world, "-20d", &["issue", "eu-1", "--dir", "pki", "--instance", "agent"]);
    let old = std::fs::read(world.path("pki/eu-1/tls.crt")).unwrap();
    let collector = world.collector(PKI).await;
    let agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    let load = Load::start([&agent], 20);
    for certificate in ["collector", "agent"] {
        eventually(&format!("the certificate of the {certificate} is new"), async || {
            let left = "tributary_collector_certificate_seconds_left";
            let left = collector.metric(left, &[&format!("certificate=\"{certificate}\"")]).await;
            (left > 29.0 * 86_400.0).then_some(())
        })
        .await;
    }
    load.goes_on(1).await;
    load.stop().await.is_stored(&collector).await;
    assert_ne!(std::fs::read(world.path("eu-1/tls/tls.crt")).unwrap(), old, "it is on disk, too");
    assert_eq!(agent.metric("tributary_agent_session_failures_total", &[]).await, 0.0);
    let refused = "tributary_collector_ingest_connections_refused_total";
    assert_eq!(collector.metric(refused, &[]).await, 0.0);
}
