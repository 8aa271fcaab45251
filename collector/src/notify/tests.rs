//! The notifier as a whole: alerts in, mail out, and what is on disk meanwhile.

use std::sync::Mutex;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::config::Email;
use super::email::tests::{Act, PLAIN, Script, Server};
use super::route::{GroupBy, Route, Timing};
use super::*;

/// A disk in memory, shared by a notifier and the one that comes after it.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl StateStore for Disk {
    async fn load(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StateError> {
        let disk = self.0.lock().unwrap();
        let found = disk.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn put(&self, changes: Vec<Change>) -> Result<(), StateError> {
        let mut disk = self.0.lock().unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => disk.insert(key, value),
                None => disk.remove(&key),
            };
        }
        Ok(())
    }
}

impl Disk {
    fn intents(&self) -> usize {
        let disk = self.0.lock().unwrap();
        let logs = disk.iter().filter(|(key, _)| key.starts_with(log::PREFIX));
        logs.filter(|(_, bytes)| log::decode(bytes).unwrap().1.intent.is_some()).count()
    }

    fn sent(&self) -> usize {
        let disk = self.0.lock().unwrap();
        let logs = disk.iter().filter(|(key, _)| key.starts_with(log::PREFIX));
        logs.filter(|(_, bytes)| log::decode(bytes).unwrap().1.sent.is_some()).count()
    }
}

fn settings(email: Email) -> Settings {
    let route = Route {
        receiver: "a".into(),
        matchers: Vec::new(),
        goes_on: false,
        routes: Vec::new(),
        timing: Timing { group_wait: Duration::ZERO, ..Timing::default() },
        group_by: GroupBy::Everything,
        key: "{}".into(),
    };
    let config = Config { route, receivers: [("a".to_owned(), vec![email])].into() };
    let sender = Sender { external_url: None, cluster_label: "cluster".into() };
    Settings { config: Arc::new(config), sender }
}

fn alert() -> Alert {
    Alert {
        labels: Labels::from_pairs([("alertname", "Down")]).unwrap(),
        annotations: BTreeMap::new(),
        starts_at: Timestamp::default(),
        ends_at: Timestamp::MAX,
        generator_url: String::new(),
    }
}

async fn until(what: impl Fn() -> bool) {
    let patience = Duration::from_secs(20);
    let poll = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(patience, poll).await.unwrap();
}

#[tokio::test]
async fn an_alert_becomes_one_mail_even_over_a_restart() {
    let server = Server::start(PLAIN).await;
    let email = Email { to: vec!["a@x.org".parse().unwrap()], ..server.email(false) };
    let disk = Disk::default();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    for _ in 0..2 {
        let notifier = Notifier::new(settings(email.clone()), disk.clone(), metrics.clone());
        let (sender, stop) = (notifier.sender(), CancellationToken::new());
        let running = tokio::spawn(notifier.run(stop.clone()));
        sender.send(vec![alert()]).await.unwrap();
        until(|| disk.sent() == 1 && disk.intents() == 0 && metrics.alerts.get() == 1).await;
        stop.cancel();
        running.await.unwrap().unwrap();
        metrics.alerts.set(0);
    }
    assert_eq!(server.heard().matches("DATA").count(), 1);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    assert!(text.contains("notifications_total{receiver=\"a\"} 1"), "{text}");
}

#[tokio::test]
async fn an_intent_is_on_disk_before_the_server_is_asked() {
    let acts: &[(&str, Act)] = &[(".", Act::Hang)];
    let server = Server::start(Script { acts, ..PLAIN }).await;
    let email = Email { to: vec!["a@x.org".parse().unwrap()], ..server.email(false) };
    let disk = Disk::default();
    let notifier = Notifier::new(settings(email), disk.clone(), Metrics::default());
    let sender = notifier.sender();
    let running = tokio::spawn(notifier.run(CancellationToken::new()));
    sender.send(vec![alert()]).await.unwrap();
    until(|| server.heard().ends_with("DATA|.")).await;
    assert_eq!((disk.intents(), disk.sent()), (1, 0));
    running.abort();
}

#[tokio::test]
async fn a_failed_mail_is_counted_and_kept() {
    let server = Server::start(PLAIN).await;
    let to = vec!["a@x.org".parse().unwrap()];
    let email = Email { to, port: 1, host: "127.0.0.1".into(), ..server.email(false) };
    let disk = Disk::default();
    let metrics = Metrics::default();
    let notifier = Notifier::new(settings(email.clone()), disk.clone(), metrics.clone());
    let (sender, replace) = (notifier.sender(), notifier.settings());
    let stop = CancellationToken::new();
    let running = tokio::spawn(notifier.run(stop.clone()));
    sender.send(vec![alert()]).await.unwrap();
    let reason = metrics::ByReason { receiver: "a".into(), reason: "connection".into() };
    until(|| metrics.failed.get_or_create(&reason).get() == 1).await;
    // New settings do not lose it.
    replace.send_replace(settings(email));
    until(|| metrics.pending.get() == 1).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!((disk.intents(), disk.sent()), (1, 0));
}
