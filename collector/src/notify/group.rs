//! Decides what is sent when: groups of alerts, their timers, and what each receiver was told. Knows no clock but `now`.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use lettre::message::Mailbox;
use tributary_certs::digest::sha256_hex;
use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;

use super::Alert;
use super::config::{Config, Email};
use super::log::{self, Intent, Key, Log, Progress, Recipient, Sent};
use super::route::{Route, Timing};

/// Alerts held at once; those over it are not taken, and counted.
pub const MAX_ALERTS: usize = 20_000;
/// How long an alert that was firing before a restart counts as firing without being heard of again.
pub const RESTORE_GRACE: Duration = Duration::from_secs(5 * 60);
/// The first wait after a failed attempt; it doubles up to [`MAX_BACK_OFF`].
pub const FIRST_BACK_OFF: Duration = Duration::from_secs(5);
/// The longest wait between two attempts, without jitter.
pub const MAX_BACK_OFF: Duration = Duration::from_secs(5 * 60);
/// How often a refused login looks whether the password has changed.
pub const LOGIN_CHECK: Duration = Duration::from_secs(5);
/// When an intent that cannot be delivered is given up; the group's next flush decides anew.
pub const GIVE_UP: Duration = Duration::from_secs(24 * 3600);

/// A change of the durable state: a key, and its new value or nothing.
pub type Change = (String, Option<Vec<u8>>);

/// All groups, and what each receiver knows of them.
pub struct Groups {
    config: Arc<Config>,
    /// Makes Message-Ids of different collectors different.
    collector: String,
    by_id: BTreeMap<GroupId, Group>,
    logs: BTreeMap<Key, Entry>,
}

/// A route's key, its receiver, and the group's labels.
type GroupId = (String, String, Labels);

struct Group {
    timing: Timing,
    alerts: BTreeMap<Labels, Alert>,
    next_flush: Timestamp,
    /// Whether it was looked at once; before that `group_wait` counts.
    flushed: bool,
}

#[derive(Default)]
struct Entry {
    log: Log,
    /// Whether a delivery is under way.
    running: bool,
}

/// One delivery to make now.
#[derive(Debug)]
pub struct Job {
    /// Whom it is for.
    pub key: Key,
    /// How to reach them.
    pub email: Email,
    /// What to tell.
    pub intent: Intent,
    /// Must be durable before the delivery begins.
    pub change: Change,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub struct Due {
    /// Deliveries to make.
    pub jobs: Vec<Job>,
    /// Changes of the durable state besides those of the jobs.
    pub changes: Vec<Change>,
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The server answered for each recipient.
    Answered(Vec<(String, Answer)>),
    /// Nobody got it; try again after the usual wait.
    Failed,
    /// The login was refused, or waits for a new password.
    LoginRefused,
}

/// The server's answer for one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has taken responsibility.
    Accepted,
    /// Never (5xx).
    Refused,
    /// Not now (4xx).
    Later,
}

/// What became of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Everyone has it, or is refused for good.
    Over,
    /// It is tried again.
    Retry,
    /// It was tried for [`GIVE_UP`] in vain.
    GivenUp,
    /// Nobody waits for it any more: the receiver is gone.
    Forgotten,
}

impl Groups {
    /// No groups yet. `collector` tells this collector from others.
    pub fn new(config: Arc<Config>, collector: String) -> Self {
        Self { config, collector, by_id: BTreeMap::new(), logs: BTreeMap::new() }
    }

    /// Takes up the log of an earlier run: what was firing counts as firing until it is heard of or
    /// [`RESTORE_GRACE`] is over, so that an end during the downtime is still told.
    pub fn restore(&mut self, records: Vec<(Key, Log)>, now: Timestamp) -> Vec<Change> {
        let until = now.plus(RESTORE_GRACE);
        let mut alerts = Vec::new();
        for (key, mut log) in records {
            let firing = log.sent.iter().flat_map(|sent| &sent.firing);
            let firing = firing.chain(log.intent.iter().flat_map(|intent| &intent.firing));
            alerts.extend(firing.map(|a| Alert { ends_at: a.ends_at.max(until), ..a.clone() }));
            if let Some(intent) = &mut log.intent {
                intent.next_attempt = intent.next_attempt.min(now.plus(FIRST_BACK_OFF));
            }
            self.logs.insert(key, Entry { log, running: false });
        }
        self.insert(alerts, now);
        for group in self.by_id.values_mut() {
            // The rules get a moment to say what has ended meanwhile.
            group.flushed = true;
            group.next_flush = now.plus(group.timing.group_wait);
        }
        self.forget_orphans()
    }

    /// Takes a new configuration: alerts are routed anew, logs stay with their groups.
    pub fn reconfigure(&mut self, config: Arc<Config>, now: Timestamp) -> Vec<Change> {
        self.config = config;
        let groups = std::mem::take(&mut self.by_id);
        let alerts = groups.into_values().flat_map(|group| group.alerts.into_values()).collect();
        self.insert(alerts, now);
        self.forget_orphans()
    }

    /// Takes alerts as they come; returns how many found no room.
    pub fn insert(&mut self, alerts: Vec<Alert>, now: Timestamp) -> usize {
        let config = Arc::clone(&self.config);
        let mut held = self.alerts();
        let mut dropped = 0;
        for alert in alerts {
            for route in config.route.matching(&alert.labels) {
                let id = group_id(route, &alert);
                let known =
                    self.by_id.get(&id).is_some_and(|g| g.alerts.contains_key(&alert.labels));
                if !known && alert.ends_at <= now {
                    // The end of something nobody knows of, or was told of already.
                    continue;
                }
                if !known && held >= MAX_ALERTS {
                    dropped += 1;
                    continue;
                }
                held += usize::from(!known);
                let group = self.by_id.entry(id).or_insert_with(|| Group::new(route.timing, now));
                group.insert(alert.clone(), now);
            }
        }
        dropped
    }

    /// The number of alerts held.
    pub fn alerts(&self) -> usize {
        self.by_id.values().map(|group| group.alerts.len()).sum()
    }

    /// The number of notifications that have not ended.
    pub fn pending(&self) -> usize {
        self.logs.values().filter(|entry| entry.log.intent.is_some()).count()
    }

    /// When [`Groups::due`] should be asked next.
    pub fn next_at(&self) -> Option<Timestamp> {
        let flushes = self.by_id.values().map(|group| group.next_flush);
        let idle = self.logs.values().filter(|entry| !entry.running);
        let attempts = idle.filter_map(|entry| Some(entry.log.intent.as_ref()?.next_attempt));
        flushes.chain(attempts).min()
    }

    /// Flushes the groups whose time has come, and begins the deliveries that are due.
    pub fn due(&mut self, now: Timestamp) -> Due {
        let mut due = Due::default();
        self.follow_clock(now);
        let ids: Vec<GroupId> = self
            .by_id
            .iter()
            .filter(|(_, g)| g.next_flush <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            self.flush(&id, now, &mut due.changes);
        }
        for (key, entry) in &mut self.logs {
            let Some(intent) = entry.log.intent.as_ref().filter(|i| i.next_attempt <= now) else {
                continue;
            };
            if entry.running {
                continue;
            }
            let Some(email) = email(&self.config, key) else { continue };
            let (intent, email) = (intent.clone(), email.clone());
            entry.running = true;
            due.jobs.push(Job { key: key.clone(), email, intent, change: record(key, &entry.log) });
        }
        due
    }

    /// Notes how a delivery ended; the changes must be made durable.
    pub fn finished(&mut self, key: &Key, ended: &Ended, now: Timestamp) -> (Fate, Vec<Change>) {
        let Some(entry) = self.logs.get_mut(key) else {
            return (Fate::Forgotten, vec![(key.state_key(), None)]);
        };
        entry.running = false;
        let Some(mut intent) = entry.log.intent.take() else {
            return (Fate::Forgotten, Vec::new());
        };
        note(&mut intent, ended, now);
        if intent.recipients.iter().any(|r| r.state == Progress::Pending) {
            if now.since(intent.created_at) >= GIVE_UP {
                if entry.log.sent.is_none() {
                    self.logs.remove(key);
                    return (Fate::GivenUp, vec![(key.state_key(), None)]);
                }
                return (Fate::GivenUp, vec![record(key, &entry.log)]);
            }
            entry.log.intent = Some(intent);
            return (Fate::Retry, vec![record(key, &entry.log)]);
        }
        let resolved = intent.resolved.clone();
        let change = conclude(&mut self.logs, key, intent);
        self.drop_told(&key.group, &resolved);
        (Fate::Over, vec![change])
    }

    /// Looks at one group: decides for each of the receiver's mail settings whether there is something to tell.
    fn flush(&mut self, id: &GroupId, now: Timestamp, changes: &mut Vec<Change>) {
        let Some(group) = self.by_id.get_mut(id) else { return };
        group.flushed = true;
        group.next_flush = now.plus(group.timing.group_interval);
        let (firing, resolved): (Vec<Alert>, Vec<Alert>) =
            group.alerts.values().cloned().partition(|alert| alert.ends_at > now);
        let repeat = group.timing.repeat_interval;
        let (route_key, receiver, labels) = id;
        let emails = self.config.receivers.get(receiver).map_or(&[][..], Vec::as_slice);
        let mut waiting = false;
        for (integration, email) in emails.iter().enumerate() {
            let key = Key {
                receiver: receiver.clone(),
                integration,
                group: group_key(route_key, labels),
            };
            let known = self.logs.get(&key).map(|entry| &entry.log);
            if known.is_some_and(|log| log.intent.is_some()) {
                waiting = true;
                continue;
            }
            let sent = known.and_then(|log| log.sent.as_ref());
            let resolved = if email.send_resolved { &resolved[..] } else { &[] };
            if !needed(sent, &firing, resolved, repeat, now) {
                continue;
            }
            if firing.is_empty() && !email.send_resolved {
                // Nothing to tell, but the incident is over: the next one begins anew.
                self.logs.remove(&key);
                changes.push((key.state_key(), None));
                continue;
            }
            let entry = self.logs.entry(key.clone()).or_default();
            let told = Told { labels, firing: &firing, resolved };
            entry.log.sequence = now.as_millis().max(entry.log.sequence.saturating_add(1));
            let id = message_id(&self.collector, &key, entry.log.sequence, &firing);
            entry.log.intent = Some(intend(&entry.log, email, &told, &id, now));
            waiting = true;
        }
        if !waiting && let Some(group) = self.by_id.get_mut(id) {
            group.alerts.retain(|_, alert| alert.ends_at > now);
            if group.alerts.is_empty() {
                self.by_id.remove(id);
            }
        }
    }

    /// Drops resolved alerts that were told, unless they changed since or another notification still waits.
    fn drop_told(&mut self, group: &str, told: &[Alert]) {
        let waits = |(key, entry): (&Key, &Entry)| key.group == group && entry.log.intent.is_some();
        if self.logs.iter().any(waits) {
            return;
        }
        self.by_id.retain(|(route, _, labels), found| {
            if group_key(route, labels) == group {
                for alert in told {
                    if found.alerts.get(&alert.labels).is_some_and(|a| a.ends_at == alert.ends_at) {
                        found.alerts.remove(&alert.labels);
                    }
                }
            }
            !found.alerts.is_empty()
        });
    }

    /// After the clock was set back, nothing waits longer than it would have.
    fn follow_clock(&mut self, now: Timestamp) {
        for group in self.by_id.values_mut() {
            let longest = group.timing.group_wait.max(group.timing.group_interval);
            group.next_flush = group.next_flush.min(now.plus(longest));
        }
        for intent in self.logs.values_mut().filter_map(|entry| entry.log.intent.as_mut()) {
            intent.next_attempt = intent.next_attempt.min(now.plus(MAX_BACK_OFF * 2));
        }
    }

    /// Removes logs whose receiver is gone, and those without a group that have nothing to deliver.
    fn forget_orphans(&mut self) -> Vec<Change> {
        let mut live = BTreeSet::new();
        for (route, receiver, labels) in self.by_id.keys() {
            live.insert((receiver.clone(), group_key(route, labels)));
        }
        let config = Arc::clone(&self.config);
        let mut changes = Vec::new();
        self.logs.retain(|key, entry| {
            let keep = email(&config, key).is_some()
                && (entry.log.intent.is_some()
                    || live.contains(&(key.receiver.clone(), key.group.clone())));
            if !keep {
                changes.push((key.state_key(), None));
            }
            keep
        });
        changes
    }
}

impl Group {
    fn new(timing: Timing, now: Timestamp) -> Self {
        let next_flush = now.plus(timing.group_wait);
        Self { timing, alerts: BTreeMap::new(), next_flush, flushed: false }
    }

    fn insert(&mut self, mut alert: Alert, now: Timestamp) {
        if let Some(known) = self.alerts.get(&alert.labels) {
            let fired_through = known.ends_at > now && alert.ends_at > now;
            if fired_through {
                alert.starts_at = alert.starts_at.min(known.starts_at);
            }
        }
        // An alert that has waited long enough elsewhere (before a restart, say) does not wait again.
        if !self.flushed && alert.starts_at.plus(self.timing.group_wait) < now {
            self.next_flush = self.next_flush.min(now);
        }
        self.alerts.insert(alert.labels.clone(), alert);
    }
}

/// What there is to tell about a group.
struct Told<'a> {
    labels: &'a Labels,
    firing: &'a [Alert],
    resolved: &'a [Alert],
}

/// Whether a receiver must be told. `resolved` is empty if the receiver does not want to know.
fn needed(
    sent: Option<&Sent>,
    firing: &[Alert],
    resolved: &[Alert],
    repeat: Duration,
    now: Timestamp,
) -> bool {
    let Some(sent) = sent else { return !firing.is_empty() };
    let told_firing = |alert: &Alert| sent.firing.iter().any(|a| a.labels == alert.labels);
    if !firing.iter().all(told_firing) {
        return true;
    }
    if firing.is_empty() {
        return !sent.firing.is_empty();
    }
    if !resolved.iter().all(|alert| sent.resolved.contains(&alert.labels)) {
        return true;
    }
    now.since(sent.at) >= repeat
}

fn intend(log: &Log, email: &Email, told: &Told<'_>, id: &str, now: Timestamp) -> Intent {
    let recipient =
        |to: &Mailbox| Recipient { address: to.email.to_string(), state: Progress::Pending };
    Intent {
        sequence: log.sequence,
        message_id: format!("<{id}@{}>", email.from.email.domain()),
        in_reply_to: log.root.clone(),
        created_at: now,
        group_labels: told.labels.clone(),
        firing: told.firing.to_vec(),
        resolved: told.resolved.to_vec(),
        recipients: email.to.iter().map(recipient).collect(),
        attempts: 0,
        next_attempt: now,
    }
}

/// The part before the `@`: the same for every attempt, different for everything else.
fn message_id(collector: &str, key: &Key, sequence: i64, firing: &[Alert]) -> String {
    let mut text = format!("{collector}\0{}\0{}\0", key.receiver, key.integration);
    let _ = write!(text, "{}\0{sequence}", key.group);
    for alert in firing {
        let _ = write!(text, "\0{}", alert.labels);
    }
    let mut hash = sha256_hex(text.as_bytes());
    hash.truncate(40);
    hash
}

/// Writes an attempt's result into the intent.
fn note(intent: &mut Intent, ended: &Ended, now: Timestamp) {
    match ended {
        Ended::Answered(answers) => {
            for (address, answer) in answers {
                let state = match answer {
                    Answer::Accepted => Progress::Delivered,
                    Answer::Refused => Progress::Refused,
                    Answer::Later => continue,
                };
                let found = intent.recipients.iter_mut().filter(|r| r.address == *address);
                found.for_each(|recipient| recipient.state = state);
            }
        }
        Ended::Failed => {}
        Ended::LoginRefused => {
            intent.next_attempt = now.plus(LOGIN_CHECK);
            return;
        }
    }
    intent.next_attempt = now.plus(back_off(&intent.message_id, intent.attempts));
    intent.attempts = intent.attempts.saturating_add(1);
}

/// 5 s, 10 s, … 5 min, each up to a fifth longer so that groups do not knock together.
fn back_off(message_id: &str, attempts: u32) -> Duration {
    let base = FIRST_BACK_OFF.saturating_mul(1 << attempts.min(16)).min(MAX_BACK_OFF);
    let mut hasher = DefaultHasher::new();
    (message_id, attempts).hash(&mut hasher);
    let percent = u32::try_from(hasher.finish() % 20).unwrap_or(0);
    base + base * percent / 100
}

/// An intent has ended: it becomes what was sent. After the end of an incident nothing is left to remember.
fn conclude(logs: &mut BTreeMap<Key, Entry>, key: &Key, intent: Intent) -> Change {
    if intent.firing.is_empty() {
        logs.remove(key);
        return (key.state_key(), None);
    }
    let entry = logs.entry(key.clone()).or_default();
    let resolved = intent.resolved.iter().map(|alert| alert.labels.clone()).collect();
    entry.log.root.get_or_insert(intent.message_id);
    entry.log.sent = Some(Sent { at: intent.created_at, firing: intent.firing, resolved });
    record(key, &entry.log)
}

fn record(key: &Key, log: &Log) -> Change {
    // Writing to memory cannot fail; if it ever did, the old record would be the safer one to lose.
    (key.state_key(), log::encode(key, log).ok())
}

fn email<'a>(config: &'a Config, key: &Key) -> Option<&'a Email> {
    config.receivers.get(&key.receiver)?.get(key.integration)
}

fn group_id(route: &Route, alert: &Alert) -> GroupId {
    (route.key.clone(), route.receiver.clone(), route.group_by.group(&alert.labels))
}

fn group_key(route: &str, labels: &Labels) -> String {
    format!("{route}:{labels}")
}

#[cfg(test)]
mod tests;
