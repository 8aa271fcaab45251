//! An alert becomes a mail: once, to everybody who can get it, and its end as well, whatever dies meanwhile.

use tributary_tests::fleet::PKI;
use tributary_tests::http::get;
use tributary_tests::mailbox::{Mailbox, Mood};
use tributary_tests::world::{Collector, World};
use tributary_tests::{eventually, now_ms};

/// An alert that fires from the start and ends by itself at `until` (seconds since the Unix epoch).
fn rules(until: i64) -> String {
    format!(
        "groups:
  - name: alerts
    interval: 1s
    rules:
      - alert: Deadline
        expr: vector(time()) < {until}
        labels: {{ severity: page }}
        annotations: {{ summary: 'the <b>{{{{ \"deadline\" | toUpper }}}}</b>' }}
"
    )
}

async fn start(world: &World, mailbox: &Mailbox, to: &str, until: i64) -> Collector {
    world.write("alertmanager.yml", &mailbox.alertmanager(to));
    world.write("rules.yml", &rules(until));
    world
        .collector(
            "rules: [ { files: [rules.yml], scope: global } ]
alerting: { config_file: alertmanager.yml, external_url: 'http://127.0.0.1:WEB' }
",
        )
        .await
}

async fn wait_until(second: i64) {
    eventually(&format!("second {second}"), async || (now_ms() > second * 1000).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_is_mailed_and_so_is_its_end() {
    let (world, mailbox) = (World::new(), Mailbox::start().await);
    let until = now_ms() / 1000 + 12;
    let _collector = start(&world, &mailbox, "a@example.org, b@example.org", until).await;
    let mails = mailbox.at_least(2).await;
    let [first, last] = mails.as_slice() else { panic!("{} mails", mails.len()) };
    assert_eq!(first.to, ["a@example.org", "b@example.org"]);
    assert_eq!(first.header("Subject").unwrap(), "[FIRING:1] Deadline (page)");
    assert_eq!(first.header("Auto-Submitted").unwrap(), "auto-generated");
    assert_eq!(first.header("In-Reply-To"), None);
    assert!(first.text.contains("summary: the <b>DEADLINE</b>"), "{}", first.text);
    assert!(first.text.contains("the &lt;b&gt;DEADLINE&lt;/b&gt;"), "{}", first.text);
    assert_eq!(last.header("Subject").unwrap(), "[RESOLVED] Deadline (page)");
    assert_eq!(last.header("In-Reply-To"), first.header("Message-ID"));
    assert_eq!(last.header("References"), first.header("Message-ID"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_after_the_mail_does_not_send_it_again() {
    let (world, mailbox) = (World::new(), Mailbox::start().await);
    let until = now_ms() / 1000 + 20;
    let mut collector = start(&world, &mailbox, "a@example.org", until).await;
    mailbox.at_least(1).await;
    for _ in 0..2 {
        eventually("the mail is noted", async || {
            (collector.metric("tributary_collector_notifications_pending", &[]).await == 0.0)
                .then_some(())
        })
        .await;
        collector.process.restart();
        collector.ready().await;
    }
    // The end is mailed last: what came before it is everything.
    let mails = mailbox.at_least(2).await;
    let subjects: Vec<String> = mails.iter().filter_map(|mail| mail.header("Subject")).collect();
    assert_eq!(subjects, ["[FIRING:1] Deadline (page)", "[RESOLVED] Deadline (page)"]);
    assert_eq!(mails[1].header("In-Reply-To"), mails[0].header("Message-ID"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_while_nobody_watched_is_mailed() {
    let (world, mailbox) = (World::new(), Mailbox::start().await);
    let until = now_ms() / 1000 + 12;
    let mut collector = start(&world, &mailbox, "a@example.org", until).await;
    mailbox.at_least(1).await;
    eventually("the mail is noted", async || {
        let sent = collector.metric("tributary_collector_notifications_total", &[]).await;
        (sent == 1.0).then_some(())
    })
    .await;
    collector.process.kill();
    wait_until(until + 1).await;
    collector.process.restart();
    let mails = mailbox.at_least(2).await;
    assert_eq!(mails[1].header("Subject").unwrap(), "[RESOLVED] Deadline (page)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_recipient_costs_the_others_nothing() {
    let (world, mailbox) = (World::new(), Mailbox::start().await);
    mailbox.set(Mood::Refuse("bad@example.org".into()));
    let until = now_ms() / 1000 + 12;
    let collector = start(&world, &mailbox, "bad@example.org, good@example.org", until).await;
    let mails = mailbox.at_least(2).await;
    assert!(mails.iter().all(|mail| mail.to == ["good@example.org"]), "{mails:?}");
    // Once for the alert, once for its end: no retry.
    assert_eq!(mailbox.asked("bad@example.org"), 2);
    let reason = ["reason=\"refused\""];
    let refused = collector.metric("tributary_collector_notifications_failed_total", &reason).await;
    assert!(refused >= 1.0, "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_is_the_same_mail() {
    let (world, mailbox) = (World::new(), Mailbox::start().await);
    mailbox.set(Mood::LoseReply);
    let _collector = start(&world, &mailbox, "a@example.org", now_ms() / 1000 + 3600).await;
    let mails = mailbox.at_least(2).await;
    assert_eq!(mails[0].text, mails[1].text);
    assert!(mails[0].header("Message-ID").unwrap().ends_with("@example.org>"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deferred_mail_comes_later() {
    let (world, mailbox) = (World::new(), Mailbox::start().await);
    mailbox.set(Mood::Defer);
    let _collector = start(&world, &mailbox, "a@example.org", now_ms() / 1000 + 3600).await;
    eventually("the first attempt", async || (mailbox.asked("a@example.org") == 1).then_some(()))
        .await;
    mailbox.set(Mood::Accept);
    mailbox.at_least(1).await;
    assert_eq!(mailbox.asked("a@example.org"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn built_in_alerts_are_on_unless_they_are_switched_off() {
    for (extra, groups) in [("", 1), ("alerting: { builtin: false }\n", 0)] {
        let world = World::new();
        let collector = world.collector(&format!("{PKI}{extra}")).await;
        let rules = get(&format!("{}/api/v1/rules", collector.url)).await.unwrap().json();
        assert_eq!(rules["data"]["groups"].as_array().unwrap().len(), groups, "{rules}");
        // What they look at is there in either case.
        for certificate in ["collector", "ca"] {
            let left = "tributary_collector_certificate_seconds_left";
            let left = format!("count({left}{{certificate=\"{certificate}\", cluster=\"local\"}})");
            collector.value(&left, "1").await;
        }
    }
}
