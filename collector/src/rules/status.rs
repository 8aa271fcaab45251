//! What rules tell about themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;

use super::alerting::State;

/// A group and how its last evaluation went.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupStatus {
    /// The file it stands in.
    pub file: String,
    /// Its name.
    pub name: String,
    /// How often it is evaluated.
    pub interval: Duration,
    /// Most series or alerts of a rule; 0 is no bound.
    pub limit: usize,
    /// The slot of the last evaluation.
    pub last_evaluation: Option<Timestamp>,
    /// How long that took.
    pub evaluation_time: Duration,
    /// Its rules in order.
    pub rules: Vec<RuleStatus>,
}

/// A rule and how its last evaluation went.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleStatus {
    /// What it records, or the alert's name.
    pub name: String,
    /// The expression, as it is evaluated.
    pub query: String,
    /// Labels that it sets.
    pub labels: BTreeMap<String, String>,
    /// Whether the last evaluation succeeded.
    pub health: Health,
    /// What went wrong in it; empty if nothing did.
    pub last_error: String,
    /// The slot of the last evaluation.
    pub last_evaluation: Option<Timestamp>,
    /// How long that took.
    pub evaluation_time: Duration,
    /// What only alerting rules have.
    pub alerting: Option<AlertingStatus>,
}

/// What only alerting rules have.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertingStatus {
    /// `for:`
    pub duration: Duration,
    /// `keep_firing_for:`
    pub keep_firing_for: Duration,
    /// Texts for people, as templates.
    pub annotations: BTreeMap<String, String>,
    /// The state of the most urgent alert.
    pub state: State,
    /// The alerts that are pending or firing.
    pub alerts: Vec<AlertStatus>,
}

/// An alert that is pending or firing.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertStatus {
    /// What identifies it.
    pub labels: Labels,
    /// Texts for people.
    pub annotations: BTreeMap<String, String>,
    /// Pending or firing.
    pub state: State,
    /// Since when the expression is true.
    pub active_at: Timestamp,
    /// Since when it fires only because of `keep_firing_for`.
    pub keep_firing_since: Option<Timestamp>,
    /// The value of the expression.
    pub value: f64,
}

/// Whether the last evaluation of a rule succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// There was none.
    Unknown,
    /// It did.
    Ok,
    /// It did not.
    Err,
}
