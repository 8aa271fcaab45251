//! Timelines: what is sent when, and what a restart changes.

use std::path::Path;

use proptest::prelude::*;

use super::*;

const CONFIG: &str = "
global: { smtp_smarthost: 'h:25', smtp_from: t@example.org, smtp_require_tls: false }
route:
  receiver: a
  group_by: [job]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 1h
receivers:
  - name: a
    email_configs:
      - { to: 'x@example.org, y@example.org', send_resolved: true }
  - name: quiet
    email_configs:
      - { to: z@example.org }
";

/// A disk: what survives a kill.
#[derive(Default)]
struct Disk(BTreeMap<String, Vec<u8>>);

struct World {
    groups: Groups,
    disk: Disk,
    now: i64,
}

fn config(text: &str) -> Arc<Config> {
    Arc::new(Config::parse("am.yml", Path::new(""), text).unwrap())
}

impl World {
    fn new(text: &str) -> Self {
        Self { groups: Groups::new(config(text), "c".into()), disk: Disk::default(), now: 0 }
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.now * 1000)
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for (key, value) in changes {
            match value {
                Some(value) => drop(self.disk.0.insert(key, value)),
                None => drop(self.disk.0.remove(&key)),
            }
        }
    }

    fn fires(&mut self, name: &str) {
        self.send(name, 240);
    }

    fn resolves(&mut self, name: &str) {
        self.send(name, 0);
    }

    fn send(&mut self, name: &str, valid: i64) {
        let alert = Alert {
            labels: Labels::from_pairs([("alertname", name), ("job", "j")]).unwrap(),
            annotations: BTreeMap::new(),
            starts_at: self.at(),
            ends_at: Timestamp::from_millis((self.now + valid) * 1000),
            generator_url: String::new(),
        };
        assert_eq!(self.groups.insert(vec![alert], self.at()), 0);
    }

    /// Runs until `until`, keeping `firing` alive; answers each delivery with `ended`; returns what was sent.
    fn run(&mut self, until: i64, firing: &[&str], ended: &Ended) -> Vec<String> {
        let mut sent = Vec::new();
        while self.now < until {
            self.now += 1;
            if self.now % 60 == 0 {
                for name in firing {
                    self.fires(name);
                }
            }
            for job in self.begin() {
                sent.push(format!("{}s {}", self.now, told(&job.intent)));
                let (_, changes) = self.groups.finished(&job.key, ended, self.at());
                self.apply(changes);
            }
        }
        sent
    }

    fn begin(&mut self) -> Vec<Job> {
        let due = self.groups.due(self.at());
        self.apply(due.changes);
        let changes = due.jobs.iter().map(|job| job.change.clone()).collect();
        self.apply(changes);
        due.jobs
    }

    /// SIGKILL, and a start `after` seconds later.
    fn restart(&mut self, text: &str, after: i64) {
        self.now += after;
        let records = self.disk.0.values().map(|bytes| log::decode(bytes).unwrap()).collect();
        self.groups = Groups::new(config(text), "c".into());
        let changes = self.groups.restore(records, self.at());
        self.apply(changes);
    }
}

fn told(intent: &Intent) -> String {
    let names = |alerts: &[Alert]| {
        alerts.iter().map(|a| a.labels.value("alertname").to_owned()).collect::<Vec<_>>().join(",")
    };
    format!("+{} -{}", names(&intent.firing), names(&intent.resolved))
}

fn all(answer: Answer) -> Ended {
    let list = ["x@example.org", "y@example.org", "z@example.org"];
    Ended::Answered(list.iter().map(|a| ((*a).to_owned(), answer)).collect())
}

fn ok() -> Ended {
    all(Answer::Accepted)
}

#[test]
fn a_group_waits_changes_and_ends() {
    let mut world = World::new(CONFIG);
    world.fires("A");
    assert_eq!(world.run(20, &["A"], &ok()), [""; 0]);
    world.fires("B");
    assert_eq!(world.run(40, &["A", "B"], &ok()), ["30s +A,B -"]);
    world.fires("C");
    assert_eq!(world.run(600, &["A", "B", "C"], &ok()), ["330s +A,B,C -"]);
    world.resolves("B");
    assert_eq!(world.run(900, &["A", "C"], &ok()), ["630s +A,C -B"]);
    // The rules send the end again for a while; people hear of it once.
    world.resolves("B");
    assert_eq!(world.run(1000, &["A", "C"], &ok()), [""; 0]);
    world.resolves("A");
    world.resolves("C");
    assert_eq!(world.run(1300, &[], &ok()), ["1230s + -A,C"]);
    assert!(world.disk.0.is_empty() && world.groups.alerts() == 0);
    assert_eq!(world.groups.next_at(), None);
}

#[test]
fn an_unchanged_group_is_repeated() {
    let mut world = World::new(CONFIG);
    world.fires("A");
    // 3630 is the first flush an hour after 30.
    assert_eq!(world.run(4000, &["A"], &ok()), ["30s +A -", "3630s +A -"]);
}

#[test]
fn what_ends_before_the_first_mail_is_not_told() {
    let mut world = World::new(CONFIG);
    world.fires("A");
    world.run(10, &[], &ok());
    world.resolves("A");
    assert_eq!(world.run(1000, &[], &ok()), [""; 0]);
    assert_eq!(world.groups.alerts(), 0);
}

#[test]
fn an_alert_that_is_not_heard_of_again_ends() {
    let mut world = World::new(CONFIG);
    world.fires("A");
    assert_eq!(world.run(1000, &[], &ok()), ["30s +A -", "330s + -A"]);
}

#[test]
fn a_receiver_that_wants_no_ends_gets_none() {
    let text = CONFIG.replace("receiver: a", "receiver: quiet");
    let mut world = World::new(&text);
    world.fires("A");
    world.fires("B");
    assert_eq!(world.run(100, &["A", "B"], &ok()), ["30s +A,B -"]);
    world.resolves("A");
    assert_eq!(world.run(700, &["B"], &ok()), [""; 0]);
    world.resolves("B");
    assert_eq!(world.run(1000, &[], &ok()), [""; 0]);
    assert!(world.disk.0.is_empty());
    world.fires("A");
    assert_eq!(world.run(1100, &[], &ok()), ["1030s +A -"]);
}

#[test]
fn failures_are_retried_with_one_message_id() {
    let mut world = World::new(CONFIG);
    world.fires("A");
    let sent = world.run(200, &["A"], &Ended::Failed);
    assert!((5..=6).contains(&sent.len()), "{sent:?}");
    let first = world.groups.logs.values().next().unwrap().log.intent.clone().unwrap();
    world.restart(CONFIG, 10);
    world.run(world.now + 300, &["A"], &Ended::Failed);
    let later = world.groups.logs.values().next().unwrap().log.intent.clone().unwrap();
    assert_eq!(first.message_id, later.message_id);
    assert!(later.attempts > first.attempts);
    assert_eq!(world.run(world.now + 400, &["A"], &ok()).len(), 1);
    assert_eq!(world.groups.pending(), 0);
}

#[test]
fn a_refused_recipient_is_not_asked_again() {
    let mut world = World::new(CONFIG);
    world.fires("A");
    world.now = 30;
    let job = world.begin().remove(0);
    let mixed = Ended::Answered(vec![
        ("x@example.org".into(), Answer::Refused),
        ("y@example.org".into(), Answer::Later),
    ]);
    assert_eq!(world.groups.finished(&job.key, &mixed, world.at()).0, Fate::Retry);
    world.now = 40;
    let job = world.begin().remove(0);
    let states: Vec<Progress> = job.intent.recipients.iter().map(|r| r.state).collect();
    assert_eq!(states, [Progress::Refused, Progress::Pending]);
    assert_eq!(world.groups.finished(&job.key, &ok(), world.at()).0, Fate::Over);
    // All refused for good: over as well.
    world.fires("B");
    assert_eq!(world.run(1000, &["A", "B"], &all(Answer::Refused)).len(), 1);
}

#[test]
fn a_refused_login_looks_often_and_gives_up_after_a_day() {
    let mut world = World::new(CONFIG);
    world.fires("A");
    let looks = world.run(90, &["A"], &Ended::LoginRefused);
    assert_eq!(looks.len(), 13);
    let log = &world.groups.logs.values().next().unwrap().log;
    assert_eq!(log.intent.as_ref().unwrap().attempts, 0);
    world.now += 24 * 3600;
    let job = world.begin().remove(0);
    let fate = world.groups.finished(&job.key, &Ended::LoginRefused, world.at()).0;
    assert_eq!(fate, Fate::GivenUp);
}

#[test]
fn a_kill_after_delivery_does_not_mail_twice() {
    let mut world = World::new(CONFIG);
    world.fires("A");
    world.run(33, &["A"], &ok());
    world.restart(CONFIG, 3);
    world.fires("A");
    assert_eq!(world.run(1000, &["A"], &ok()), [""; 0]);
}

#[test]
fn a_kill_between_delivery_and_note_repeats_the_same_message() {
    let mut world = World::new(CONFIG);
    world.fires("A");
    world.now = 30;
    let before = world.begin().remove(0);
    world.restart(CONFIG, 3);
    world.now += 10;
    let after = world.begin().remove(0);
    assert_eq!(before.intent.message_id, after.intent.message_id);
    assert_eq!(before.intent.created_at, after.intent.created_at);
    assert_eq!(before.intent.firing, after.intent.firing);
}

#[test]
fn an_end_during_the_downtime_is_told() {
    let mut world = World::new(CONFIG);
    world.fires("A");
    world.run(100, &["A"], &ok());
    world.restart(CONFIG, 1800);
    assert_eq!(world.run(world.now + 2, &[], &ok()), [""; 0]);
    world.resolves("A");
    let sent = world.run(world.now + 400, &[], &ok());
    assert!(sent.len() == 1 && sent[0].ends_with("+ -A"), "{sent:?}");
    // Also if nobody says so.
    world.fires("A");
    world.run(world.now + 100, &["A"], &ok());
    world.restart(CONFIG, 1800);
    let sent = world.run(world.now + 700, &[], &ok());
    assert!(sent.len() == 1 && sent[0].ends_with("+ -A"), "{sent:?}");
    assert!(world.disk.0.is_empty());
}

#[test]
fn the_next_incident_is_a_new_thread() {
    let mut world = World::new(CONFIG);
    let mut ids = Vec::new();
    for _ in 0..2 {
        world.fires("A");
        world.now += 30;
        let first = world.begin().remove(0);
        assert_eq!(first.intent.in_reply_to, None);
        world.groups.finished(&first.key, &ok(), world.at());
        world.resolves("A");
        world.now += 300;
        let last = world.begin().remove(0);
        assert_eq!(last.intent.in_reply_to.as_ref(), Some(&first.intent.message_id));
        world.groups.finished(&last.key, &ok(), world.at());
        ids.extend([first.intent.message_id, last.intent.message_id]);
    }
    let distinct: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), 4);
}

#[test]
fn a_new_configuration_keeps_what_was_told() {
    let mut world = World::new(CONFIG);
    world.fires("A");
    world.run(40, &["A"], &ok());
    let changes = world.groups.reconfigure(config(&CONFIG.replace("5m", "1m")), world.at());
    assert!(changes.is_empty());
    assert_eq!(world.run(600, &["A"], &ok()), [""; 0]);
    let other =
        CONFIG.replace("receiver: a\n", "receiver: quiet\n").replace("- name: a\n", "- name: b\n");
    let changes = world.groups.reconfigure(config(&other), world.at());
    assert_eq!(changes.len(), 1);
    let sent = world.run(700, &["A"], &ok());
    assert!(sent.len() == 1 && sent[0].ends_with("+A -"), "{sent:?}");
}

#[test]
fn a_clock_set_back_does_not_stop_the_groups() {
    let mut world = World::new(CONFIG);
    world.now = 100_000;
    world.fires("A");
    world.now = 0;
    world.fires("A");
    assert_eq!(world.run(400, &["A"], &ok()).len(), 1);
}

#[test]
fn alerts_over_the_bound_are_counted() {
    let mut world = World::new(CONFIG);
    let alert = |n: usize| Alert {
        labels: Labels::from_pairs([("n", n.to_string())]).unwrap(),
        annotations: BTreeMap::new(),
        starts_at: Timestamp::default(),
        ends_at: Timestamp::MAX,
        generator_url: String::new(),
    };
    let dropped = world.groups.insert((0..MAX_ALERTS + 2).map(alert).collect(), world.at());
    assert_eq!((dropped, world.groups.alerts()), (2, MAX_ALERTS));
}

/// What happens to a notifier, in any order.
#[derive(Debug, Clone)]
enum Event {
    Fire(usize),
    End(usize),
    /// Time passes; every server answers so.
    Pass(i64, Ended),
    /// SIGKILL, and a start so many seconds later.
    Kill(i64),
    /// SIGKILL after the server took the mail, before that was noted.
    KillUnnoted,
}

const NAMES: [&str; 3] = ["A", "B", "C"];

fn event() -> impl Strategy<Value = Event> {
    let ended = prop_oneof![
        3 => Just(ok()),
        1 => Just(Ended::Failed),
        1 => Just(Ended::LoginRefused),
        1 => Just(all(Answer::Later)),
    ];
    prop_oneof![
        3 => (0..3usize).prop_map(Event::Fire),
        2 => (0..3usize).prop_map(Event::End),
        4 => (1..400i64, ended).prop_map(|(seconds, ended)| Event::Pass(seconds, ended)),
        1 => (1..200i64).prop_map(Event::Kill),
        1 => Just(Event::KillUnnoted),
    ]
}

/// What people know: the mails they got, by Message-Id.
#[derive(Default)]
struct Inbox {
    by_id: BTreeMap<String, String>,
    believed: BTreeSet<String>,
    copies: usize,
}

impl Inbox {
    fn take(&mut self, intent: &Intent) {
        let text = format!("{} {:?}", told(intent), intent.in_reply_to);
        if let Some(known) = self.by_id.insert(intent.message_id.clone(), text.clone()) {
            assert_eq!(known, text, "one Message-Id, two mails");
            self.copies += 1;
            return;
        }
        let name = |alert: &Alert| alert.labels.value("alertname").to_owned();
        self.believed = intent.firing.iter().map(name).collect();
    }
}

struct Life {
    world: World,
    inbox: Inbox,
    firing: BTreeSet<usize>,
    unnoted: usize,
}

impl Life {
    fn pass(&mut self, seconds: i64, ended: &Ended) {
        let until = self.world.now + seconds;
        while self.world.now < until {
            self.world.now += 1;
            if self.world.now % 60 == 0 {
                self.refresh();
            }
            for job in self.world.begin() {
                if *ended == ok() {
                    self.inbox.take(&job.intent);
                }
                let (_, changes) = self.world.groups.finished(&job.key, ended, self.world.at());
                self.world.apply(changes);
            }
        }
    }

    /// As the rules do: everything that fires is sent again every minute.
    fn refresh(&mut self) {
        for index in &self.firing {
            self.world.fires(NAMES[*index]);
        }
    }

    fn restart(&mut self, after: i64) {
        self.world.restart(CONFIG, after);
        self.refresh();
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Fire(index) => {
                self.firing.insert(index);
                self.world.fires(NAMES[index]);
            }
            Event::End(index) if self.firing.remove(&index) => self.world.resolves(NAMES[index]),
            Event::End(_) => {}
            Event::Pass(seconds, ended) => self.pass(seconds, &ended),
            Event::Kill(after) => self.restart(after),
            Event::KillUnnoted => {
                for job in self.world.begin() {
                    self.inbox.take(&job.intent);
                    self.unnoted += 1;
                }
                self.restart(1);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn people_know_in_the_end_what_is_true(events in proptest::collection::vec(event(), 0..40)) {
        let (world, inbox) = (World::new(CONFIG), Inbox::default());
        let mut life = Life { world, inbox, firing: BTreeSet::new(), unnoted: 0 };
        for event in events {
            life.step(event);
        }
        life.pass(2000, &ok());
        let true_now: BTreeSet<String> = life.firing.iter().map(|i| NAMES[*i].to_owned()).collect();
        prop_assert_eq!(&life.inbox.believed, &true_now);
        prop_assert!(life.inbox.copies <= life.unnoted);
        prop_assert_eq!(life.world.groups.pending(), 0);
        prop_assert!(!true_now.is_empty() || life.world.disk.0.is_empty());
    }
}
