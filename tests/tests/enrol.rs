//! An agent gets its first certificate with a token: once, for one cluster, and from nobody else.

use std::fs;
use std::process::Output;

use tributary_tests::fleet::PKI;
use tributary_tests::prometheus::deliver;
use tributary_tests::world::{Collector, EVERYTHING, World, aligned, free_port, run, text};

/// The command that `clusters add` prints for the other side, without the program's name.
fn add(world: &World, cluster: &str, more: &[&str]) -> Vec<String> {
    let mut arguments = vec!["clusters", "add", cluster, "--instance", "agent"];
    arguments.extend(["--config.file", "collector.yml"]);
    arguments.extend(more);
    let printed = world.succeed("tributary-collector", &arguments);
    let line = printed.lines().find(|line| line.contains("tributary-agent join"));
    let line = line.unwrap_or_else(|| panic!("no command in:\n{printed}")).trim();
    let words = line.split(' ').map(|word| word.trim_matches('\'').to_owned());
    words.skip(1).collect()
}

/// Runs such a command where the agent of `cluster` lives.
fn join(world: &World, cluster: &str, command: &[String]) -> Output {
    let folder = world.path(cluster);
    fs::create_dir_all(&folder).unwrap();
    let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    arguments.extend(["--dir", "tls"]);
    run("tributary-agent", &arguments, &folder)
}

/// Lets the only token run out.
fn expire(world: &World) {
    let path = world.path("pki/state.json");
    let mut state: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    state["tokens"][0]["created_at"] = "2020-01-01T00:00:00Z".into();
    state["tokens"][0]["expires_at"] = "2020-01-01T01:00:00Z".into();
    fs::write(path, state.to_string()).unwrap();
}

/// With another value for an option.
fn with(command: &[String], option: &str, value: &str) -> Vec<String> {
    let mut changed = command.to_vec();
    let at = changed.iter().position(|word| word == option).unwrap();
    changed[at + 1] = value.to_owned();
    changed
}

async fn delivers(world: &World, collector: &Collector, cluster: &str, extra: &str) {
    let agent = world.agent(cluster, collector.ingest, EVERYTHING, extra).await;
    let sample = (aligned(1000, 30_000), 1.0);
    deliver(&agent.write_url(), &[(&[("__name__", "joined")], vec![sample])]).await;
    collector.value(&format!("joined{{cluster=\"{cluster}\"}}"), "1").await;
}

const REFUSED: &str = "tributary_collector_enrolments_refused_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_one_agent_in_once() {
    let world = World::new();
    let collector = world.collector(PKI).await;
    let command = add(&world, "eu-1", &[]);
    let joined = join(&world, "eu-1", &command);
    assert!(joined.status.success(), "{}", text(&joined));
    let key = fs::read(world.path("eu-1/tls/tls.key")).unwrap();
    delivers(&world, &collector, "eu-1", "").await;

    let again = join(&world, "eu-1", &command);
    assert!(again.status.success(), "with a certificate there is nothing to do: {}", text(&again));
    assert_eq!(fs::read(world.path("eu-1/tls/tls.key")).unwrap(), key);
    assert_eq!(collector.metric(REFUSED, &[]).await, 0.0, "the token was not even shown");

    let thief = join(&world, "elsewhere", &command);
    assert_eq!(thief.status.code(), Some(1), "{}", text(&thief));
    assert!(text(&thief).contains("used"), "{}", text(&thief));
    assert_eq!(collector.metric(REFUSED, &["spent"]).await, 1.0);
    collector.fires("EnrolmentTokenReused").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_with_its_reason() {
    let world = World::new();
    let collector = world.collector(PKI).await;
    let command = add(&world, "eu-1", &[]);
    let nobody = "aaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbb";
    let mut other = command.clone();
    other.extend(["--cluster".to_owned(), "us-1".to_owned()]);
    for (wrong, says, counted) in [
        (with(&command, "--token", nobody), "token", Some("unknown")),
        (with(&command, "--token", "nonsense"), "token", None),
        (other, "us-1", Some("other_cluster")),
        (with(&command, "--ca-hash", &format!("sha256:{}", "0".repeat(64))), "sha256:", None),
    ] {
        let refused = join(&world, "eu-1", &wrong);
        assert!(!refused.status.success(), "{wrong:?}");
        assert!(text(&refused).contains(says), "{wrong:?}: {}", text(&refused));
        if let Some(reason) = counted {
            assert_eq!(collector.metric(REFUSED, &[reason]).await, 1.0, "{reason}");
        }
        assert!(!world.path("eu-1/tls/tls.crt").exists(), "{wrong:?}");
    }
    // None of these spent the token.
    expire(&world);
    let late = join(&world, "eu-1", &command);
    assert_eq!(late.status.code(), Some(1));
    assert!(text(&late).contains("expired"), "{}", text(&late));
    assert_eq!(collector.metric(REFUSED, &["expired"]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_waits_to_be_dialled_can_join_too() {
    let world = World::new();
    let address = format!("127.0.0.1:{}", free_port());
    let dial = format!("{PKI}dial: [ {{ cluster: eu-1, address: '{address}' }} ]\n");
    let collector = world.collector(&dial).await;
    let command = add(&world, "eu-1", &[]);
    let joined = join(&world, "eu-1", &with(&command, "--listen", &address));
    assert!(joined.status.success(), "{}", text(&joined));
    delivers(&world, &collector, "eu-1", &format!("listen: {{ grpc: '{address}' }}\n")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_is_given_again_only_on_purpose() {
    let world = World::new();
    let collector = world.collector(PKI).await;
    assert!(join(&world, "eu-1", &add(&world, "eu-1", &[])).status.success());
    let arguments = ["clusters", "add", "eu-1", "--instance", "agent"];
    let arguments = [&arguments[..], &["--config.file", "collector.yml"]].concat();
    let refused = run("tributary-collector", &arguments, &world.path(""));
    assert!(!refused.status.success());
    assert!(text(&refused).contains("--replace"), "{}", text(&refused));
    let joined = join(&world, "eu-1", &add(&world, "eu-1", &["--replace"]));
    assert!(joined.status.success(), "{}", text(&joined));
    delivers(&world, &collector, "eu-1", "").await;
}
