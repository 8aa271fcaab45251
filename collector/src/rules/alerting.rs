//! The life of alerts: pending, firing, resolved, exactly as Prometheus has it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tributary_model::label::{Label, Labels, METRIC_NAME};
use tributary_model::sample::{Sample, Timestamp};

use super::RESEND_DELAY;
use crate::notify;

/// How long a resolved alert is kept, and sent again and again, in case a notification got lost.
pub const RESOLVED_RETENTION: Duration = Duration::from_secs(15 * 60);

/// After a longer pause of the collector, alerts that were pending begin anew.
pub const OUTAGE_TOLERANCE: Duration = Duration::from_secs(60 * 60);

/// Where an alert is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Was firing, and is resolved.
    Inactive,
    /// True, but not for long enough.
    Pending,
    /// True for long enough.
    Firing,
}

impl State {
    /// The value of the label `alertstate`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending => "pending",
            Self::Firing => "firing",
        }
    }
}

/// One alert of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Texts for people.
    pub annotations: BTreeMap<String, String>,
    /// Where it is in its life.
    pub state: State,
    /// The newest value of the expression.
    #[serde(with = "bits")]
    pub value: f64,
    /// Since when the expression is true.
    #[serde(with = "millis")]
    pub active_at: Timestamp,
    /// Since when it fires.
    #[serde(with = "maybe_millis", default)]
    pub fired_at: Option<Timestamp>,
    /// When it was resolved.
    #[serde(with = "maybe_millis", default)]
    pub resolved_at: Option<Timestamp>,
    /// Since when it fires only because of `keep_firing_for`.
    #[serde(with = "maybe_millis", default)]
    pub keep_firing_since: Option<Timestamp>,
    /// When it was last sent.
    #[serde(with = "maybe_millis", default)]
    pub last_sent_at: Option<Timestamp>,
}

/// One series of a rule's result as an alert.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What identifies the alert.
    pub labels: Labels,
    /// Texts for people.
    pub annotations: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// How long things take in a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// `for:`
    pub hold: Duration,
    /// `keep_firing_for:`
    pub keep_firing_for: Duration,
    /// Most alerts; 0 is no bound.
    pub limit: usize,
}

/// Why a rule's result cannot become alerts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlertingError {
    /// Two series of the result become the same alert.
    #[error("vector contains metrics with the same labelset after applying alert labels")]
    Duplicate,
    /// The group's `limit` is exceeded.
    #[error("exceeded limit of {limit} with {alerts} alerts")]
    Limit {
        /// The limit.
        limit: usize,
        /// How many there would be.
        alerts: usize,
    },
}

/// The alerts of one rule, by their labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Alerts {
    active: BTreeMap<Labels, Alert>,
}

impl Alerts {
    /// The alerts that are pending, firing or lately resolved.
    pub fn iter(&self) -> impl Iterator<Item = (&Labels, &Alert)> {
        self.active.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Whether the same alerts are at the same place in their lives, whatever their values and texts are.
    pub fn same_lives(&self, other: &Self) -> bool {
        let life = |alert: &Alert| {
            let Alert { state, active_at, fired_at, resolved_at, .. } = alert;
            let (kept, sent) = (alert.keep_firing_since, alert.last_sent_at);
            (*state, *active_at, *fired_at, *resolved_at, kept, sent)
        };
        self.active.len() == other.active.len()
            && self
                .active
                .iter()
                .zip(&other.active)
                .all(|((a, x), (b, y))| a == b && life(x) == life(y))
    }

    /// The state of the most urgent alert.
    pub fn state(&self) -> State {
        self.active.values().map(|alert| alert.state).max().unwrap_or(State::Inactive)
    }

    /// Brings the alerts up to `now` with the rule's result.
    pub fn update(
        &mut self,
        found: Vec<Found>,
        times: Times,
        now: Timestamp,
    ) -> Result<(), AlertingError> {
        let mut present = BTreeMap::new();
        for Found { labels, annotations, value } in found {
            let alert = Alert::new(annotations, value, now);
            if present.insert(labels, alert).is_some() {
                return Err(AlertingError::Duplicate);
            }
        }
        let is_present: Vec<Labels> = present.keys().cloned().collect();
        for (labels, new) in present {
            match self.active.get_mut(&labels) {
                Some(old) if old.state != State::Inactive => {
                    old.value = new.value;
                    old.annotations = new.annotations;
                }
                _ => {
                    self.active.insert(labels, new);
                }
            }
        }
        self.active.retain(|labels, alert| {
            let present = is_present.binary_search(labels).is_ok();
            present || alert.keep_without_series(times, now)
        });
        let live = self.active.values_mut().filter(|alert| alert.state != State::Inactive);
        let mut alerts = 0;
        for alert in live {
            alerts += 1;
            alert.fire_or_wait(times.hold, now);
        }
        for labels in is_present {
            if let Some(alert) = self.active.get_mut(&labels) {
                alert.keep_firing_since = None;
            }
        }
        if times.limit > 0 && alerts > times.limit {
            self.active.clear();
            return Err(AlertingError::Limit { limit: times.limit, alerts });
        }
        Ok(())
    }

    /// `ALERTS` and `ALERTS_FOR_STATE` of the alerts that are pending or firing.
    pub fn samples(&self, at: Timestamp) -> Vec<(Labels, Sample)> {
        let mut samples = Vec::new();
        for (labels, alert) in &self.active {
            if alert.state == State::Inactive {
                continue;
            }
            let state = labels.with(METRIC_NAME, "ALERTS").with("alertstate", alert.state.as_str());
            samples.push((state, Sample { at, value: 1.0 }));
            let since = labels.with(METRIC_NAME, "ALERTS_FOR_STATE");
            let seconds = alert.active_at.as_millis().div_euclid(1000) as f64;
            samples.push((since, Sample { at, value: seconds }));
        }
        samples
    }

    /// The alerts that are due to be sent, which then count as sent.
    pub fn take_due(
        &mut self,
        now: Timestamp,
        interval: Duration,
        generator_url: &str,
    ) -> Vec<notify::Alert> {
        let mut alerts = Vec::new();
        for (labels, alert) in &mut self.active {
            if !alert.needs_sending(now) {
                continue;
            }
            alert.last_sent_at = Some(now);
            // Two evaluations or deliveries may fail before it counts as resolved.
            let valid_until = now.plus(4 * interval.max(RESEND_DELAY));
            alerts.push(notify::Alert {
                labels: labels.clone(),
                annotations: alert.annotations.clone(),
                starts_at: alert.fired_at.unwrap_or(alert.active_at),
                ends_at: alert.resolved_at.unwrap_or(valid_until),
                generator_url: generator_url.to_owned(),
            });
        }
        alerts
    }

    /// The alerts as they are kept over a restart; nothing if there is none.
    pub fn to_bytes(&self, written_at: Timestamp) -> Option<Vec<u8>> {
        if self.active.is_empty() {
            return None;
        }
        let alerts = self.active.iter().map(|(labels, alert)| KeptAlert {
            labels: labels.iter().map(|l| (l.name.to_string(), l.value.to_string())).collect(),
            alert: alert.clone(),
        });
        let kept = Kept { version: VERSION, written_at, alerts: alerts.collect() };
        serde_json::to_vec(&kept).ok()
    }

    /// The alerts as they were kept, for an evaluation at `now`.
    pub fn from_bytes(bytes: &[u8], now: Timestamp) -> Result<Self, RestoreError> {
        let kept: Kept = serde_json::from_slice(bytes)?;
        if kept.version != VERSION {
            return Err(RestoreError::Version(kept.version));
        }
        let long_ago = now.since(kept.written_at) > OUTAGE_TOLERANCE;
        let mut active = BTreeMap::new();
        for KeptAlert { labels, alert } in kept.alerts {
            if long_ago && alert.state == State::Pending {
                continue;
            }
            active.insert(Labels::from_pairs(labels)?, alert);
        }
        Ok(Self { active })
    }
}

/// The version of [`Kept`].
const VERSION: u32 = 1;

/// Why kept alerts cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Not what this version writes.
    #[error("reading the kept state of alerts: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Written by another version.
    #[error("the kept state of alerts has version {0}, this program knows {VERSION}")]
    Version(u32),
    /// A label set that is none.
    #[error("reading the kept state of alerts: {0}")]
    Labels(#[from] tributary_model::label::LabelError),
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    #[serde(with = "millis")]
    written_at: Timestamp,
    alerts: Vec<KeptAlert>,
}

#[derive(Serialize, Deserialize)]
struct KeptAlert {
    labels: Vec<(String, String)>,
    alert: Alert,
}

impl Alert {
    fn new(annotations: BTreeMap<String, String>, value: f64, now: Timestamp) -> Self {
        Self {
            annotations,
            state: State::Pending,
            value,
            active_at: now,
            fired_at: None,
            resolved_at: None,
            keep_firing_since: None,
            last_sent_at: None,
        }
    }

    /// What becomes of an alert whose series is not in the result; false when it is forgotten.
    fn keep_without_series(&mut self, times: Times, now: Timestamp) -> bool {
        if self.state == State::Firing && !times.keep_firing_for.is_zero() {
            let since = *self.keep_firing_since.get_or_insert(now);
            if now.since(since) < times.keep_firing_for {
                return true;
            }
        }
        let kept_enough =
            self.resolved_at.is_some_and(|resolved| now.since(resolved) > RESOLVED_RETENTION);
        if self.state == State::Pending || kept_enough {
            return false;
        }
        if self.state != State::Inactive {
            self.state = State::Inactive;
            self.resolved_at = Some(now);
        }
        true
    }

    fn fire_or_wait(&mut self, hold: Duration, now: Timestamp) {
        let long_enough = now.since(self.active_at) >= hold;
        if self.state == State::Pending && long_enough {
            self.state = State::Firing;
            self.fired_at = Some(now);
        }
        // `for` was raised since: it has to wait again.
        if self.state == State::Firing && !long_enough {
            self.state = State::Pending;
            self.fired_at = None;
            self.last_sent_at = None;
            self.keep_firing_since = None;
        }
    }

    fn needs_sending(&self, now: Timestamp) -> bool {
        if self.state == State::Pending {
            return false;
        }
        let Some(sent) = self.last_sent_at else { return true };
        self.resolved_at.is_some_and(|resolved| resolved > sent) || sent.plus(RESEND_DELAY) < now
    }
}

/// The labels of an alert: the series' without its name, the rule's, and the alert's name.
pub fn labels<'a>(
    series: &Labels,
    rule: impl Iterator<Item = (&'a str, String)>,
    name: &str,
) -> Labels {
    let mut labels: BTreeMap<String, String> = series
        .iter()
        .filter(|label| &*label.name != METRIC_NAME)
        .map(|Label { name, value }| (name.to_string(), value.to_string()))
        .collect();
    for (label, value) in rule {
        labels.insert(label.to_owned(), value);
    }
    labels.insert("alertname".to_owned(), name.to_owned());
    Labels::from_pairs(labels).unwrap_or_default()
}

mod millis {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use tributary_model::sample::Timestamp;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(super) fn serialize<S: Serializer>(at: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i64(at.as_millis())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(d).map(Timestamp::from_millis)
    }
}

mod maybe_millis {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
    use tributary_model::sample::Timestamp;

    #[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
    pub(super) fn serialize<S: Serializer>(
        at: &Option<Timestamp>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        at.map(Timestamp::as_millis).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Ok(Option::<i64>::deserialize(d)?.map(Timestamp::from_millis))
    }
}

/// A float by its bits: JSON has no NaN and no infinity.
mod bits {
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(super) fn serialize<S: Serializer>(value: &f64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        u64::deserialize(d).map(f64::from_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + minute * MINUTE)
    }

    fn times(hold: u64, keep: u64, limit: usize) -> Times {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Times { hold: minutes(hold), keep_firing_for: minutes(keep), limit }
    }

    fn found(names: &[&str]) -> Vec<Found> {
        let one = |name: &&str| Found {
            labels: Labels::from_pairs([("alertname", "A"), ("x", *name)]).unwrap(),
            annotations: BTreeMap::new(),
            value: 1.0,
        };
        names.iter().map(one).collect()
    }

    /// A timeline: at each minute whether the series is there; the states it goes through and what is sent
    /// (`F` firing, `R` resolved, `.` nothing).
    fn timeline(times: Times, series: &str) -> (String, String) {
        let mut alerts = Alerts::default();
        let (mut states, mut sent) = (String::new(), String::new());
        for (minute, present) in (0..).zip(series.chars()) {
            let now = at(minute);
            let result = if present == '1' { found(&["a"]) } else { Vec::new() };
            alerts.update(result, times, now).unwrap();
            let restored = alerts.to_bytes(now).map(|b| Alerts::from_bytes(&b, now).unwrap());
            assert_eq!(restored.unwrap_or_default(), alerts);
            states.push(match alerts.iter().next().map(|(_, alert)| alert.state) {
                None => '-',
                Some(State::Inactive) => 'i',
                Some(State::Pending) => 'p',
                Some(State::Firing) => 'f',
            });
            let batch = alerts.take_due(now, Duration::from_secs(60), "");
            sent.push(match batch.first() {
                None => '.',
                Some(alert) if alert.ends_at <= now => 'R',
                Some(_) => 'F',
            });
        }
        (states, sent)
    }

    #[test]
    fn lives_as_in_prometheus() {
        for (times, series, states, sent) in [
            // Fires at once; sent again strictly after a minute, so every second evaluation.
            (times(0, 0, 0), "11111", "fffff", "F.F.F"),
            (times(2, 0, 0), "1111", "ppff", "..F."),
            (times(2, 0, 0), "110111", "pp-ppf", ".....F"),
            (times(0, 0, 0), "1000", "fiii", "FR.R"),
            (times(0, 0, 0), "10000000000000000100", "fiiiiiiiiiiiiiiiif", ""),
            (times(0, 0, 0), "101", "fif", "FRF"),
            (times(0, 2, 0), "10000", "fffii", "F.FR."),
            (times(0, 2, 0), "100100", "ffffff", "F.F.F."),
        ] {
            let (got_states, got_sent) = timeline(times, series);
            if sent.is_empty() {
                assert_eq!(got_states.get(..17), states.get(..17), "{series}");
            } else {
                assert_eq!((got_states.as_str(), got_sent.as_str()), (states, sent), "{series}");
            }
        }
    }

    #[test]
    fn a_resolved_alert_is_forgotten_after_a_quarter_of_an_hour() {
        let mut alerts = Alerts::default();
        alerts.update(found(&["a"]), times(0, 0, 0), at(0)).unwrap();
        alerts.update(vec![], times(0, 0, 0), at(1)).unwrap();
        alerts.update(vec![], times(0, 0, 0), at(16)).unwrap();
        assert!(!alerts.is_empty());
        alerts.update(vec![], times(0, 0, 0), at(17)).unwrap();
        assert!(alerts.is_empty());
    }

    #[test]
    fn two_equal_alerts_are_an_error_and_change_nothing() {
        let mut alerts = Alerts::default();
        alerts.update(found(&["a"]), times(0, 0, 0), at(0)).unwrap();
        let before = alerts.clone();
        let twice = alerts.update(found(&["b", "b"]), times(0, 0, 0), at(1));
        assert_eq!(twice, Err(AlertingError::Duplicate));
        assert_eq!(alerts, before);
    }

    #[test]
    fn over_the_limit_all_alerts_go() {
        let mut alerts = Alerts::default();
        let over = alerts.update(found(&["a", "b"]), times(0, 0, 1), at(0));
        assert_eq!(over.unwrap_err().to_string(), "exceeded limit of 1 with 2 alerts");
        assert!(alerts.is_empty());
    }

    #[test]
    fn a_raised_hold_makes_a_firing_alert_wait() {
        let mut alerts = Alerts::default();
        alerts.update(found(&["a"]), times(0, 0, 0), at(0)).unwrap();
        assert_eq!(alerts.state(), State::Firing);
        alerts.update(found(&["a"]), times(5, 0, 0), at(1)).unwrap();
        assert_eq!(alerts.state(), State::Pending);
        alerts.update(found(&["a"]), times(5, 0, 0), at(5)).unwrap();
        assert_eq!(alerts.state(), State::Firing);
    }

    #[test]
    fn series_tell_the_state() {
        let mut alerts = Alerts::default();
        alerts.update(found(&["a"]), times(5, 0, 0), at(0)).unwrap();
        alerts.update(found(&["a"]), times(5, 0, 0), at(1)).unwrap();
        let samples: Vec<_> = alerts
            .samples(at(1))
            .into_iter()
            .map(|(labels, sample)| format!("{labels} {}", sample.value))
            .collect();
        assert_eq!(
            samples,
            [
                r#"ALERTS{alertname="A", alertstate="pending", x="a"} 1"#,
                r#"ALERTS_FOR_STATE{alertname="A", x="a"} 1700000000"#,
            ]
        );
    }

    #[test]
    fn a_long_outage_begins_pending_alerts_anew_but_not_firing_ones() {
        let mut alerts = Alerts::default();
        alerts.update(found(&["a"]), times(0, 0, 0), at(0)).unwrap();
        let mut both = found(&["a", "b"]);
        both.reverse();
        alerts.update(both, times(1, 0, 0), at(1)).unwrap();
        let bytes = alerts.to_bytes(at(1)).unwrap();
        assert_eq!(Alerts::from_bytes(&bytes, at(61)).unwrap().iter().count(), 2);
        assert_eq!(Alerts::from_bytes(&bytes, at(62)).unwrap().iter().count(), 1);
        assert!(Alerts::from_bytes(b"{}", at(0)).is_err());
    }
}
