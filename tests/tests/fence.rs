//! Two agents with one certificate: the older is fenced, and somebody is told.

use std::fs;

use tributary_tests::process::Process;
use tributary_tests::world::{EVERYTHING, World, binary, free_port};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_older_of_two_agents_is_fenced_and_an_alert_says_so() {
    let world = World::new();
    let collector = world.collector("").await;
    let older = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    collector.connected("eu-1", true).await;

    // The same folder somewhere else: a copied disk image, a second replica.
    let (here, copy) = (world.path("eu-1"), world.path("copy"));
    fs::create_dir_all(copy.join("tls")).unwrap();
    for name in ["tls/tls.crt", "tls/tls.key", "tls/ca.crt", "allowlist.yml"] {
        fs::copy(here.join(name), copy.join(name)).unwrap();
    }
    let old_port = older.url.rsplit(':').next().unwrap();
    let config = fs::read_to_string(here.join("agent.yml")).unwrap();
    let config = config.replace(old_port, &free_port().to_string());
    let config = world.write("copy/agent.yml", &config).display().to_string();
    let arguments = vec!["run".to_owned(), format!("--config.file={config}")];
    let newer = Process::start(binary("tributary-agent"), arguments, world.path("copy.log"));

    older.process.logged("another agent uses this identity").await;
    assert!(!newer.log().contains("another agent"), "{}", newer.log());
    assert_eq!(collector.agent("eu-1").await["connected"], true);
    assert_eq!(older.metric("tributary_agent_session_connected", &[]).await, 0.0);
    collector.counts("tributary_collector_ingest_agents_fenced_total", &["eu-1"], 1.0).await;
    let alert = collector.fires("TwoAgentsUseOneCertificate").await;
    assert!(alert["annotations"]["summary"].as_str().unwrap().contains("eu-1"), "{alert}");
}
