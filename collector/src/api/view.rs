//! What the API shows of the collector's other parts, in the shapes of Prometheus' answers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use tributary_model::label::Labels;
use tributary_model::number;
use tributary_model::sample::Timestamp;

/// Where the API looks things up that are not series. Each call is a snapshot.
pub trait Facts: Send + Sync + 'static {
    /// The rule groups with their rules' states, in the order of the files.
    fn rule_groups(&self) -> Vec<RuleGroup>;
    /// The clusters that are or were connected, by name.
    fn clusters(&self) -> Vec<Cluster>;
    /// Each cluster's newest sample, not older than a second or so.
    fn newest(&self) -> Vec<(String, Timestamp)>;
    /// The collector's own targets.
    fn targets(&self) -> Vec<Target>;
    /// How the process is doing.
    fn runtime(&self) -> Runtime;
    /// The configuration in force, as YAML without secrets.
    fn config(&self) -> String;
}

/// A rule group.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleGroup {
    /// Its name.
    pub name: String,
    /// The file it stands in.
    pub file: String,
    /// Its rules, in their order.
    pub rules: Vec<Rule>,
    /// How often it is evaluated.
    #[serde(serialize_with = "seconds")]
    pub interval: Duration,
    /// Most series or alerts of a rule; 0 is no bound.
    pub limit: usize,
    /// How long the last evaluation took.
    #[serde(serialize_with = "seconds")]
    pub evaluation_time: Duration,
    /// When that was.
    #[serde(serialize_with = "time_or_zero")]
    pub last_evaluation: Option<Timestamp>,
}

/// A rule and its state.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Rule {
    /// `alert:`
    Alerting(AlertingRule),
    /// `record:`
    Recording(RecordingRule),
}

/// An alerting rule.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertingRule {
    /// The state of its most urgent alert.
    pub state: AlertState,
    /// The alert's name.
    pub name: String,
    /// The expression, as it is evaluated.
    pub query: String,
    /// `for:`
    #[serde(serialize_with = "seconds")]
    pub duration: Duration,
    /// `keep_firing_for:`
    #[serde(serialize_with = "seconds")]
    pub keep_firing_for: Duration,
    /// Labels that it adds.
    #[serde(serialize_with = "labels")]
    pub labels: Labels,
    /// Its annotations, unexpanded.
    pub annotations: BTreeMap<String, String>,
    /// Its alerts that are pending or firing; none if they were not asked for.
    pub alerts: Option<Vec<Alert>>,
    /// Whether its last evaluation succeeded.
    #[serde(flatten)]
    pub evaluation: Evaluation,
    /// Always [`Alerting`](RuleType::Alerting).
    #[serde(rename = "type")]
    pub kind: RuleType,
}

/// A recording rule.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingRule {
    /// The name it records.
    pub name: String,
    /// The expression, as it is evaluated.
    pub query: String,
    /// Labels that it adds.
    #[serde(serialize_with = "labels", skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Whether its last evaluation succeeded.
    #[serde(flatten)]
    pub evaluation: Evaluation,
    /// Always [`Recording`](RuleType::Recording).
    #[serde(rename = "type")]
    pub kind: RuleType,
}

/// The kind of a rule, as the API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleType {
    /// `alert:`
    Alerting,
    /// `record:`
    Recording,
}

/// How the last evaluation of a rule went.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names of the API")]
pub struct Evaluation {
    /// Good, bad, or not yet known.
    pub health: Health,
    /// What went wrong; empty if nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    /// How long it took.
    #[serde(serialize_with = "seconds")]
    pub evaluation_time: Duration,
    /// When it was.
    #[serde(serialize_with = "time_or_zero")]
    pub last_evaluation: Option<Timestamp>,
}

/// The health of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Not evaluated yet.
    Unknown,
    /// The last evaluation succeeded.
    Ok,
    /// The last evaluation failed.
    Err,
}

/// The state of an alert or of a rule's most urgent one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// No alert.
    Inactive,
    /// True, but not long enough.
    Pending,
    /// True long enough.
    Firing,
}

/// An alert.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// What identifies it.
    #[serde(serialize_with = "labels")]
    pub labels: Labels,
    /// Texts for people, expanded.
    pub annotations: BTreeMap<String, String>,
    /// Pending or firing.
    pub state: AlertState,
    /// Since when the expression is true.
    #[serde(serialize_with = "time_or_zero", skip_serializing_if = "Option::is_none")]
    pub active_at: Option<Timestamp>,
    /// Since when it fires only because of `keep_firing_for`.
    #[serde(serialize_with = "time_or_zero", skip_serializing_if = "Option::is_none")]
    pub keep_firing_since: Option<Timestamp>,
    /// The value of the expression.
    #[serde(serialize_with = "exponent")]
    pub value: f64,
}

/// A target that the collector scrapes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// What it was found with.
    #[serde(serialize_with = "labels")]
    pub discovered_labels: Labels,
    /// The labels of its series.
    #[serde(serialize_with = "labels")]
    pub labels: Labels,
    /// The job.
    pub scrape_pool: String,
    /// The address.
    pub scrape_url: String,
    /// The address as others see it.
    pub global_url: String,
    /// What went wrong; empty if nothing.
    pub last_error: String,
    /// When it was last scraped.
    #[serde(serialize_with = "time_or_zero")]
    pub last_scrape: Option<Timestamp>,
    /// How long that took.
    #[serde(serialize_with = "seconds")]
    pub last_scrape_duration: Duration,
    /// `up`, `down` or `unknown`.
    pub health: TargetHealth,
    /// How often it is scraped.
    #[serde(serialize_with = "prometheus_duration")]
    pub scrape_interval: Duration,
    /// How long a scrape may take.
    #[serde(serialize_with = "prometheus_duration")]
    pub scrape_timeout: Duration,
}

/// The health of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetHealth {
    /// Not scraped yet.
    Unknown,
    /// The last scrape succeeded.
    Up,
    /// The last scrape failed.
    Down,
}

/// A cluster, as `/api/v1/tributary/clusters` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Cluster {
    /// Its name, from its agents' certificates.
    #[serde(rename = "cluster")]
    pub name: String,
    /// Live series.
    pub series: usize,
    /// When the newest sample was true.
    #[serde(serialize_with = "time", skip_serializing_if = "Option::is_none")]
    pub last_sample: Option<Timestamp>,
    /// Samples accepted since the collector's start.
    pub samples: u64,
    /// Samples accepted per second, averaged over the last minute or so.
    #[serde(serialize_with = "rate")]
    pub samples_per_second: f64,
    /// Samples refused since the collector's start, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Its agents, by instance.
    pub agents: Vec<Agent>,
}

/// One agent of a cluster.
#[derive(Debug, Clone, Serialize)]
pub struct Agent {
    /// Its instance name, from its certificate.
    pub instance: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// Its address, or the last one.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Since when it is connected.
    #[serde(serialize_with = "time", skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The last frame that is on our disk.
    pub last_sequence: u64,
    /// Up to when it vouches that nothing is missing, except what the gap ledger lists.
    #[serde(serialize_with = "time", skip_serializing_if = "Option::is_none")]
    pub complete_until: Option<Timestamp>,
    /// When its last frame came.
    #[serde(serialize_with = "time", skip_serializing_if = "Option::is_none")]
    pub last_frame: Option<Timestamp>,
    /// When its newest sample was true.
    #[serde(serialize_with = "time", skip_serializing_if = "Option::is_none")]
    pub last_sample: Option<Timestamp>,
    /// Samples of it that were stored since the collector's start.
    pub samples: u64,
    /// How far its clock is ahead of ours, in milliseconds.
    pub clock_skew_ms: i64,
    /// Bytes that wait in its spool.
    pub spool_bytes: u64,
    /// Its certificate's serial number; empty while it is not connected.
    pub certificate_serial: String,
    /// The authority that signed its certificate; empty while it is not connected.
    pub certificate_issuer: String,
    /// When its certificate ends.
    #[serde(serialize_with = "time", skip_serializing_if = "Option::is_none")]
    pub certificate_until: Option<Timestamp>,
    /// Whether it trusts the authorities that it should.
    pub bundle: BundleState,
    /// Whether it can renew its certificate itself; nothing if it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewable: Option<bool>,
    /// Why it could not put the last bundle or certificate in force; empty if it could.
    pub trust_error: String,
    /// When it was heard of last.
    #[serde(serialize_with = "time", skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Why it is not connected, if that is known; empty otherwise.
    pub reason: String,
}

/// The authorities that an agent trusts, beside those it should trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BundleState {
    /// The same.
    Current,
    /// Others.
    Other,
    /// It does not say, or it is nobody's affair here: there is no PKI folder.
    Unknown,
}

/// How the process is doing.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// When it started.
    pub started: Timestamp,
    /// Whether the last reload succeeded.
    pub reload_ok: bool,
    /// When the configuration in force was read.
    pub config_read: Timestamp,
    /// How long samples are kept.
    pub retention: Duration,
    /// Damaged places found in the store.
    pub corruptions: u64,
}

/// RFC 3339 with as many decimals as needed.
pub fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.as_millis())
        .map_or_else(|_| GO_ZERO_TIME.to_owned(), |at| at.to_string())
}

/// How Go writes the time that was never set.
const GO_ZERO_TIME: &str = "0001-01-01T00:00:00Z";

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let value = duration.as_secs_f64();
    // Go writes whole floats without a decimal point.
    if value.fract() == 0.0 {
        serializer.serialize_u64(duration.as_secs())
    } else {
        serializer.serialize_f64(value)
    }
}

fn prometheus_duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&tributary_model::duration::format(*value))
}

#[expect(clippy::ref_option, reason = "serde's serialize_with hands over a reference to the field")]
fn time<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serializer.serialize_str(&rfc3339(*at)),
        None => serializer.serialize_none(),
    }
}

#[expect(clippy::ref_option, reason = "serde's serialize_with hands over a reference to the field")]
fn time_or_zero<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.map_or_else(|| GO_ZERO_TIME.to_owned(), rfc3339))
}

/// The sum of no rates is -0, which would look odd.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as above")]
fn rate<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(value.abs())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as above")]
fn exponent<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&number::format_exponent(*value))
}

fn labels<S: Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(labels.len()))?;
    for label in labels {
        map.serialize_entry(&*label.name, &*label.value)?;
    }
    map.end()
}
