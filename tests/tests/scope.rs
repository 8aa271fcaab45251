//! Rules see what they should: the same names from three clusters, and each rule in its scope.

use tributary_tests::prometheus::deliver;
use tributary_tests::world::{EVERYTHING, World, aligned, run, text};

const LOCAL_RULES: &str = "groups:
  - name: local
    interval: 1s
    rules:
      - record: local:up:sum
        expr: sum(up)
      - record: local:top
        expr: topk(scalar(count(answer)), answer)
      - record: local:up:info
        expr: info(up)
";

const EACH_RULES: &str = "groups:
  - name: each
    interval: 1s
    rules:
      - record: each:answer:sum
        expr: sum(answer)
";

const GLOBAL_RULES: &str = "groups:
  - name: global
    interval: 1s
    rules:
      - record: global:answer:sum
        expr: sum(answer)
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_sees_its_scope_only() {
    let world = World::new();
    world.write("rules/local.yml", LOCAL_RULES);
    world.write("rules/each.yml", EACH_RULES);
    world.write("rules/global.yml", GLOBAL_RULES);
    let collector = world
        .collector(
            "scrape:
  - job_name: collector
    scrape_interval: 1s
    static_configs: [ { targets: ['127.0.0.1:WEB'] } ]
query: { enable_features: [promql-experimental-functions] }
rules:
  - { files: [rules/local.yml], scope: local }
  - { files: [rules/each.yml], scope: each }
  - { files: [rules/global.yml], scope: global }
",
        )
        .await;
    // The collector scrapes itself, so that it has local series of its own.
    let own = collector.url.trim_start_matches("http://").to_owned();
    let mut agents = Vec::new();
    for (cluster, value) in [("eu-1", 1.0), ("us-1", 2.0), ("lab", 4.0)] {
        let agent = world.agent(cluster, collector.ingest, EVERYTHING, "").await;
        let at = aligned(1000, 20_000);
        let up = [("__name__", "up"), ("job", "story")];
        let answer = [("__name__", "answer"), ("job", "story")];
        // `info(up)` takes labels from whatever `target_info` it can see, and `job` and `instance` find these.
        let about = [
            ("__name__", "target_info"),
            ("job", "collector"),
            ("instance", own.as_str()),
            ("leaked", cluster),
        ];
        let series: [(&[(&str, &str)], _); 3] =
            [(&up, vec![(at, 1.0)]), (&answer, vec![(at, value)]), (&about, vec![(at, 1.0)])];
        deliver(&agent.write_url(), &series).await;
        agents.push(agent);
    }
    collector.value("global:answer:sum", "7").await;
    collector.value("each:answer:sum{cluster=\"us-1\"}", "2").await;
    collector.value("count(each:answer:sum)", "3").await;
    // Four targets are up, and one of them is the collector's own.
    collector.value("count(up)", "4").await;
    collector.value("local:up:sum", "1").await;
    // A query without a scope is spoiled by what the clusters say of the collector's target; the rule is not.
    let spoiled = collector.query("info(up{job=\"collector\"})").await;
    assert!(spoiled.is_none(), "{spoiled:?}");
    collector.value("count(local:up:info)", "1").await;
    collector.value("count(target_info{leaked!=\"\"})", "3").await;
    let seen = collector.query("{__name__=~\"local:.+\"}").await.unwrap();
    for series in seen.as_array().unwrap() {
        assert_eq!(series["metric"]["cluster"], "local", "{series}");
        assert_eq!(series["metric"].get("leaked"), None, "{series}");
        assert_ne!(series["metric"]["job"], "story", "a local rule saw another cluster's series");
    }
}

#[test]
fn scoped_rule_files_can_be_looked_at() {
    let world = World::new();
    let file = world.write("rules.yml", LOCAL_RULES);
    let file = file.display().to_string();
    let output = run(
        "tributary-collector",
        &["rules", "scope", "--cluster", "local", &file],
        &world.path(""),
    );
    let printed = text(&output);
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("sum(up{cluster=\"local\"})"), "{printed}");
    assert_eq!(printed.matches("answer{cluster=\"local\"}").count(), 2, "{printed}");

    let conflict = LOCAL_RULES.replace("sum(up)", "sum(up{cluster=\"eu-1\"})");
    let file = world.write("conflict.yml", &conflict).display().to_string();
    let output = run(
        "tributary-collector",
        &["rules", "scope", "--cluster", "local", &file],
        &world.path(""),
    );
    let printed = text(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains("conflict.yml:6") && printed.contains('^'), "{printed}");
}
