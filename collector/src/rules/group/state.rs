//! What a group remembers: over evaluations, reloads and restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::warn;
use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;

use super::{Context, Group};
use crate::rules::alerting::{Alerts, State};
use crate::rules::file::{GroupSpec, RuleKind, RuleSpec};
use crate::rules::status::{AlertStatus, AlertingStatus, GroupStatus, Health, RuleStatus};
use crate::rules::{Host, HostError};

/// What a group remembers from one evaluation to the next.
#[derive(Debug, Default)]
pub struct GroupState {
    /// For the scope `each` by cluster, otherwise under nothing.
    pub(super) instances: BTreeMap<Option<ClusterName>, Vec<RuleState>>,
    pub(super) last_evaluation: Option<Timestamp>,
    pub(super) evaluation_time: Duration,
}

/// What a rule remembers, in one cluster.
#[derive(Debug)]
pub(super) struct RuleState {
    /// Tells it from the group's other rules, as long as its name and labels stay.
    pub(super) key: String,
    /// The series of its last result.
    pub(super) outputs: BTreeSet<Labels>,
    pub(super) alerts: Alerts,
    /// The alerts as they are in the durable state, and since when.
    pub(super) kept: Option<(Alerts, Timestamp)>,
    pub(super) health: Health,
    pub(super) last_error: String,
    pub(super) last_evaluation: Option<Timestamp>,
    pub(super) evaluation_time: Duration,
}

/// What is left of rules that are no longer there.
#[derive(Debug, Default)]
pub struct Leftover {
    /// Their series, which end.
    pub outputs: BTreeSet<Labels>,
    /// The keys of their durable state.
    pub keys: Vec<String>,
}

impl GroupState {
    /// The state for a group whose rules may have changed: rules with the same name and labels keep theirs.
    pub fn adapt(&mut self, group: Option<&Group>, group_key: &str) -> Leftover {
        let mut left = Leftover::default();
        let wanted = group.map(|group| rule_keys(&group.spec)).unwrap_or_default();
        for (cluster, rules) in &mut self.instances {
            let mut old: BTreeMap<String, RuleState> =
                rules.drain(..).map(|rule| (rule.key.clone(), rule)).collect();
            for key in &wanted {
                rules.push(old.remove(key).unwrap_or_else(|| RuleState::new(key.clone())));
            }
            for (key, rule) in old {
                left.outputs.extend(rule.outputs);
                if rule.kept.is_some() {
                    left.keys.push(state_key(group_key, cluster.as_ref(), &key));
                }
            }
        }
        left
    }

    /// What the group tells about itself.
    pub fn status(&self, group: &Group) -> GroupStatus {
        let rules = group.spec.rules.iter().enumerate().map(|(at, spec)| {
            let states: Vec<&RuleState> =
                self.instances.values().filter_map(|rules| rules.get(at)).collect();
            rule_status(spec, &states)
        });
        GroupStatus {
            file: group.file.clone(),
            name: group.spec.name.clone(),
            interval: group.interval(),
            limit: group.spec.limit,
            last_evaluation: self.last_evaluation,
            evaluation_time: self.evaluation_time,
            rules: rules.collect(),
        }
    }
}

impl RuleState {
    fn new(key: String) -> Self {
        Self {
            key,
            outputs: BTreeSet::new(),
            alerts: Alerts::default(),
            kept: None,
            health: Health::Unknown,
            last_error: String::new(),
            last_evaluation: None,
            evaluation_time: Duration::ZERO,
        }
    }
}

/// Fresh states of a group's rules, with the alerts that were kept.
pub(super) async fn restore<H: Host>(
    group: &Group,
    cluster: Option<&ClusterName>,
    context: &Context<'_, H>,
    now: Timestamp,
) -> Result<Vec<RuleState>, HostError> {
    let prefix = state_key(&group.key(), cluster, "");
    let mut kept: BTreeMap<String, Vec<u8>> =
        context.host.load(&prefix).await?.into_iter().collect();
    let states = rule_keys(&group.spec).into_iter().map(|key| {
        let mut state = RuleState::new(key);
        if let Some(bytes) = kept.remove(&format!("{prefix}{}", state.key)) {
            match Alerts::from_bytes(&bytes, now) {
                Ok(alerts) => {
                    state.outputs = alerts.samples(now).into_iter().map(|(l, _)| l).collect();
                    state.alerts = alerts.clone();
                    state.kept = Some((alerts, now));
                }
                Err(e) => warn!(group = group.spec.name, rule = state.key, "{e}"),
            }
        }
        state
    });
    Ok(states.collect())
}

/// The rules' keys, in their order: kind, name, labels, and a number where those are the same.
fn rule_keys(spec: &GroupSpec) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let key = |rule: &RuleSpec| {
        let kind = match rule.kind {
            RuleKind::Recording => "record",
            RuleKind::Alerting { .. } => "alert",
        };
        let labels = Labels::from_pairs(rule.labels.clone()).unwrap_or_default();
        let key = format!("{kind} {}{labels}", rule.name);
        let number = seen.entry(key.clone()).or_default();
        *number += 1;
        format!("{key} {number}")
    };
    spec.rules.iter().map(key).collect()
}

/// Where a rule's alerts are kept.
pub(super) fn state_key(group: &str, cluster: Option<&ClusterName>, rule: &str) -> String {
    let cluster = cluster.map_or("-", ClusterName::as_str);
    format!("rules/{group}/{cluster}/{rule}")
}

fn rule_status(spec: &RuleSpec, states: &[&RuleState]) -> RuleStatus {
    let alerting = match &spec.kind {
        RuleKind::Recording => None,
        RuleKind::Alerting { hold, keep_firing_for, annotations } => Some(AlertingStatus {
            duration: *hold,
            keep_firing_for: *keep_firing_for,
            annotations: annotations.clone(),
            state: states.iter().map(|rule| rule.alerts.state()).max().unwrap_or(State::Inactive),
            alerts: states.iter().flat_map(|rule| alert_statuses(&rule.alerts)).collect(),
        }),
    };
    let worst = states.iter().max_by_key(|rule| rule.health);
    RuleStatus {
        name: spec.name.clone(),
        query: spec.expr.to_string(),
        labels: spec.labels.clone(),
        health: worst.map_or(Health::Unknown, |rule| rule.health),
        last_error: worst.map(|rule| rule.last_error.clone()).unwrap_or_default(),
        last_evaluation: states.iter().filter_map(|rule| rule.last_evaluation).max(),
        evaluation_time: states.iter().map(|rule| rule.evaluation_time).sum(),
        alerting,
    }
}

fn alert_statuses(alerts: &Alerts) -> impl Iterator<Item = AlertStatus> {
    let live = alerts.iter().filter(|(_, alert)| alert.state != State::Inactive);
    live.map(|(labels, alert)| AlertStatus {
        labels: labels.clone(),
        annotations: alert.annotations.clone(),
        state: alert.state,
        active_at: alert.active_at,
        keep_firing_since: alert.keep_firing_since,
        value: alert.value,
    })
}
