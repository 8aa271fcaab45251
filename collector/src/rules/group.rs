//! Evaluates a group: its rules one after the other, each result visible to the next, in the group's scope.

pub mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tracing::warn;
use tributary_model::cluster::ClusterName;
use tributary_model::histogram::HistogramSample;
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Sample, Timestamp, stale_nan};
use tributary_promql::ast::Expr;
use tributary_promql::scope::scope;

use self::state::{GroupState, RuleState, restore, state_key};
use super::alerting::{self, Found, Times};
use super::file::{GroupSpec, RuleKind, RuleSpec};
use super::metrics::{ByGroup, Metrics};
use super::status::Health;
use super::template::{self, Data, Expansion, Results};
use super::{DEFAULT_INTERVAL, Host, Settings};
use crate::config::Scope;
use crate::query::{Point, Value};

/// Alerts that pend or fire are written at least so often, so that a restart knows how long the pause was.
const STATE_REFRESH: Duration = Duration::from_secs(60);

/// A group in its file and scope.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The file it stands in.
    pub file: String,
    /// What its rules may see.
    pub scope: Scope,
    /// What it is made of.
    pub spec: GroupSpec,
}

impl Group {
    /// Tells it from every other group.
    pub fn key(&self) -> String {
        let scope = match self.scope {
            Scope::Local => "local",
            Scope::Each => "each",
            Scope::Global => "global",
        };
        format!("{scope}/{}/{}", self.file, self.spec.name)
    }

    /// How often it is evaluated.
    pub fn interval(&self) -> Duration {
        self.spec.interval.unwrap_or(DEFAULT_INTERVAL)
    }

    /// The last slot that is not after `now`. Slots are a fixed distance apart, shifted by the group's name so that not
    /// all groups are due at once.
    pub fn slot(&self, now: Timestamp) -> Timestamp {
        let interval = i64::try_from(self.interval().as_millis()).unwrap_or(i64::MAX).max(1);
        let hash = self.key().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let shift = i64::try_from(hash % interval.unsigned_abs()).unwrap_or(0);
        let since = now.as_millis().saturating_sub(shift).rem_euclid(interval);
        Timestamp::from_millis(now.as_millis().saturating_sub(since))
    }

    fn labels(&self) -> ByGroup {
        ByGroup { file: self.file.clone(), group: self.spec.name.clone() }
    }
}

/// What evaluations need beside the group.
pub struct Context<'a, H> {
    /// The rest of the collector.
    pub host: &'a H,
    /// What the configuration says.
    pub settings: &'a Settings,
    /// What is counted.
    pub metrics: &'a Metrics,
}

/// Evaluates a group for the slot `now`.
pub async fn evaluate<H: Host>(
    group: &Group,
    state: &mut GroupState,
    context: &Context<'_, H>,
    now: Timestamp,
) {
    let started = Instant::now();
    let targets = match group.scope {
        Scope::Each => context.host.clusters().into_iter().map(Some).collect(),
        Scope::Local | Scope::Global => vec![None],
    };
    for cluster in targets {
        if !state.instances.contains_key(&cluster) {
            match restore(group, cluster.as_ref(), context, now).await {
                Ok(rules) => {
                    state.instances.insert(cluster.clone(), rules);
                }
                Err(e) => {
                    warn!(
                        group = group.spec.name,
                        file = group.file,
                        "waiting with the evaluation: {e}"
                    );
                    context.metrics.failures.get_or_create(&group.labels()).inc();
                    continue;
                }
            }
        }
        if let Some(rules) = state.instances.get_mut(&cluster) {
            let scene = Scene::new(group, context, cluster.as_ref(), now);
            scene.evaluate(rules).await;
        }
    }
    state.last_evaluation = Some(now);
    state.evaluation_time = started.elapsed();
    let labels = group.labels();
    let metrics = context.metrics;
    metrics.duration.get_or_create(&labels).set(started.elapsed().as_secs_f64());
    metrics.last_evaluation.get_or_create(&labels).set(now.as_secs_f64());
}

/// What alerts and templates see: of a native histogram, as in Prometheus, no more than that it is there.
fn numbers(series: Vec<(Labels, Point)>) -> Vec<(Labels, f64)> {
    let number = |(labels, point)| match point {
        Point::Number(Sample { value, .. }) => (labels, value),
        Point::Histogram(_) => (labels, 0.0),
    };
    series.into_iter().map(number).collect()
}

/// One evaluation of a group in one cluster.
struct Scene<'a, H> {
    group: &'a Group,
    context: &'a Context<'a, H>,
    cluster: Option<&'a ClusterName>,
    /// The matcher that every selector must satisfy, and the label that the output is stamped with.
    enforced: Vec<Matcher>,
    now: Timestamp,
    /// The time that is evaluated.
    at: Timestamp,
}

impl<'a, H: Host> Scene<'a, H> {
    fn new(
        group: &'a Group,
        context: &'a Context<'a, H>,
        cluster: Option<&'a ClusterName>,
        now: Timestamp,
    ) -> Self {
        let label = &context.settings.cluster_label;
        let name = match group.scope {
            Scope::Local => Some(&context.settings.local_cluster),
            Scope::Each => cluster,
            Scope::Global => None,
        };
        let enforced = name.map(|name| Matcher::equal(label, name.as_str())).into_iter().collect();
        let at = now.minus(group.spec.query_offset);
        Self { group, context, cluster, enforced, now, at }
    }

    async fn evaluate(&self, rules: &mut [RuleState]) {
        for (spec, rule) in self.group.spec.rules.iter().zip(rules.iter_mut()) {
            let started = Instant::now();
            let result = self.rule(spec, rule).await;
            rule.last_evaluation = Some(self.now);
            rule.evaluation_time = started.elapsed();
            let labels = self.group.labels();
            self.context.metrics.evaluations.get_or_create(&labels).inc();
            match result {
                Ok(()) => {
                    rule.health = Health::Ok;
                    rule.last_error.clear();
                }
                Err(why) => {
                    warn!(group = self.group.spec.name, rule = spec.name, "rule failed: {why}");
                    self.context.metrics.failures.get_or_create(&labels).inc();
                    rule.health = Health::Err;
                    rule.last_error = why;
                }
            }
        }
        self.keep(rules).await;
    }

    async fn rule(&self, spec: &RuleSpec, rule: &mut RuleState) -> Result<(), String> {
        let series = self.query(&spec.expr, self.at).await?;
        let samples = match &spec.kind {
            RuleKind::Recording => self.record(spec, series)?,
            RuleKind::Alerting { hold, keep_firing_for, annotations } => {
                let (hold, keep_firing_for) = (*hold, *keep_firing_for);
                let times = Times { hold, keep_firing_for, limit: self.group.spec.limit };
                let found = self.found(spec, annotations, numbers(series)).await;
                let updated = rule.alerts.update(found, times, self.now);
                updated.map_err(|e| e.to_string())?;
                let samples = rule.alerts.samples(self.at).into_iter();
                samples.map(|(labels, sample)| (labels, Point::Number(sample))).collect()
            }
        };
        let written = self.write(rule, samples).await;
        if matches!(spec.kind, RuleKind::Alerting { .. }) {
            self.send(spec, rule).await;
        }
        written
    }

    /// The value of an expression as series.
    async fn query(&self, expr: &Expr, at: Timestamp) -> Result<Vec<(Labels, Point)>, String> {
        let narrowed = match self.enforced.first() {
            Some(matcher) => {
                Some(scope(expr, matcher.name(), matcher.value()).map_err(|e| e.to_string())?)
            }
            None => None,
        };
        let expr = narrowed.as_ref().unwrap_or(expr);
        let answer = self.context.host.evaluate(expr, at, &self.enforced).await;
        match answer.map_err(|e| e.to_string())?.value {
            Value::Vector(series) => Ok(series),
            Value::Scalar(sample) => Ok(vec![(Labels::empty(), Point::Number(sample))]),
            Value::Text(..) | Value::Matrix(_) => {
                Err("rule result is not a vector or scalar".to_owned())
            }
        }
    }

    /// The labels with the cluster that the rule saw.
    fn stamped(&self, labels: &Labels) -> Labels {
        self.enforced
            .iter()
            .fold(labels.clone(), |l, matcher| l.with(matcher.name(), matcher.value()))
    }

    fn record(
        &self,
        spec: &RuleSpec,
        series: Vec<(Labels, Point)>,
    ) -> Result<Vec<(Labels, Point)>, String> {
        let limit = self.group.spec.limit;
        if limit > 0 && series.len() > limit {
            return Err(format!("exceeded limit of {limit} with {} series", series.len()));
        }
        let mut seen = BTreeSet::new();
        let mut samples = Vec::with_capacity(series.len());
        for (labels, point) in series {
            let named = labels.with(METRIC_NAME, &spec.name);
            let labelled = spec.labels.iter().fold(named, |l, (name, value)| l.with(name, value));
            let labels = self.stamped(&labelled);
            if !seen.insert(labels.clone()) {
                return Err(
                    "vector contains metrics with the same labelset after applying rule labels"
                        .to_owned(),
                );
            }
            let point = match point {
                Point::Number(sample) => Point::Number(Sample { at: self.at, ..sample }),
                Point::Histogram(sample) => {
                    Point::Histogram(HistogramSample { at: self.at, ..sample })
                }
            };
            samples.push((labels, point));
        }
        Ok(samples)
    }

    async fn found(
        &self,
        spec: &RuleSpec,
        annotations: &BTreeMap<String, String>,
        series: Vec<(Labels, f64)>,
    ) -> Vec<Found> {
        let mut found = Vec::with_capacity(series.len());
        for (labels, value) in series {
            let labels = self.stamped(&labels);
            let mut results = Results::new();
            let data = Data {
                labels: &labels,
                value,
                now: self.now,
                external_url: &self.context.settings.external_url,
                external_labels: &self.context.settings.external_labels,
            };
            let mut texts = BTreeMap::new();
            for (name, text) in annotations {
                texts.insert(name.clone(), self.expand(spec, text, &data, &mut results).await);
            }
            let mut set = Vec::new();
            for (name, text) in &spec.labels {
                set.push((name.as_str(), self.expand(spec, text, &data, &mut results).await));
            }
            let labels = alerting::labels(&labels, set.into_iter(), &spec.name);
            found.push(Found { labels: self.stamped(&labels), annotations: texts, value });
        }
        found
    }

    async fn expand(
        &self,
        spec: &RuleSpec,
        text: &str,
        data: &Data<'_>,
        results: &mut Results,
    ) -> String {
        loop {
            match template::expand(text, data, results) {
                Expansion::Done(text) => return text,
                Expansion::Failed(why) => {
                    warn!(group = self.group.spec.name, rule = spec.name, "template failed: {why}");
                    self.context.metrics.template_failures.inc();
                    return format!("<error expanding template: {why}>");
                }
                Expansion::Query(query) => {
                    let result = match tributary_promql::parse(&query) {
                        Ok(expr) => self.query(&expr, self.now).await.map(numbers),
                        Err(e) => Err(e.to_string()),
                    };
                    results.insert(query, result);
                }
            }
        }
    }

    /// Stores a rule's series, and ends those that it no longer has.
    async fn write(
        &self,
        rule: &mut RuleState,
        mut samples: Vec<(Labels, Point)>,
    ) -> Result<(), String> {
        let outputs: BTreeSet<Labels> = samples.iter().map(|(labels, _)| labels.clone()).collect();
        let end = || Point::Number(Sample { at: self.at, value: stale_nan() });
        samples.extend(rule.outputs.difference(&outputs).map(|labels| (labels.clone(), end())));
        if samples.is_empty() {
            return Ok(());
        }
        let count = u64::try_from(samples.len()).unwrap_or(u64::MAX);
        self.context.host.write(samples).await.map_err(|e| e.to_string())?;
        rule.outputs = outputs;
        self.context.metrics.samples.get_or_create(&self.group.labels()).inc_by(count);
        Ok(())
    }

    async fn send(&self, spec: &RuleSpec, rule: &mut RuleState) {
        let link = template::graph_link(&spec.expr.to_string(), 1);
        let url = format!("{}{link}", self.context.settings.external_url.trim_end_matches('/'));
        let alerts = rule.alerts.take_due(self.now, self.group.interval(), &url);
        if !alerts.is_empty() {
            self.context.host.notify(alerts).await;
        }
    }

    /// Makes the alerts' state durable where it changed. It comes after sending: what is lost in between is sent twice,
    /// not never.
    async fn keep(&self, rules: &mut [RuleState]) {
        let mut changes = Vec::new();
        for rule in rules.iter() {
            let changed = match &rule.kept {
                None => !rule.alerts.is_empty(),
                Some((kept, at)) => {
                    let old = self.now.since(*at) >= STATE_REFRESH && !rule.alerts.is_empty();
                    old || !kept.same_lives(&rule.alerts)
                }
            };
            if changed {
                let key = state_key(&self.group.key(), self.cluster, &rule.key);
                changes.push((key, rule.alerts.to_bytes(self.now)));
            }
        }
        if changes.is_empty() {
            return;
        }
        let changed: BTreeSet<String> = changes.iter().map(|(key, _)| key.clone()).collect();
        if let Err(e) = self.context.host.put(changes).await {
            warn!(group = self.group.spec.name, "keeping the state of alerts failed: {e}");
            self.context.metrics.state_failures.inc();
            return;
        }
        for rule in rules {
            if changed.contains(&state_key(&self.group.key(), self.cluster, &rule.key)) {
                let alerts = rule.alerts.clone();
                rule.kept = (!alerts.is_empty()).then_some((alerts, self.now));
            }
        }
    }
}

#[cfg(test)]
mod tests;
