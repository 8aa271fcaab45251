//! A collector in memory, for tests of rules: it evaluates for real.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;
use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Sample, Timestamp};
use tributary_promql::ast::Expr;
use tributary_promql::eval::{self, Options};
use tributary_promql::feature::Features;
use tributary_promql::source::{Memory, Select, Series, Source, SourceError};
use tributary_promql::value;

use super::file::{self, Scoping};
use super::group::Group;
use super::{Host, HostError, Settings};
use crate::config::Scope;
use crate::notify::Alert;
use crate::query::engine::own;
use crate::query::{Answer, Cost, Point, QueryError};

/// Series, alerts and state in memory.
pub(super) struct Fake {
    pub(super) memory: Mutex<Memory>,
    pub(super) sent: Mutex<Vec<Alert>>,
    pub(super) state: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(super) clusters: Vec<ClusterName>,
    /// Evaluations fail with this.
    pub(super) broken: Mutex<Option<QueryError>>,
    /// How many evaluations there were.
    pub(super) evaluations: watch::Sender<usize>,
}

impl Fake {
    pub(super) fn new() -> Self {
        Self {
            memory: Mutex::default(),
            sent: Mutex::default(),
            state: Mutex::default(),
            clusters: vec!["eu-1".parse().unwrap(), "eu-2".parse().unwrap()],
            broken: Mutex::default(),
            evaluations: watch::Sender::new(0),
        }
    }

    /// Adds a sample of a series like `up{cluster="eu-1"}`.
    pub(super) fn add(&self, series: &str, at: Timestamp, value: f64) {
        let selector: tributary_model::selector::Selector = series.parse().unwrap();
        let pairs = selector.matchers().iter().map(|m| (m.name().to_owned(), m.value().to_owned()));
        let labels = Labels::from_pairs(pairs).unwrap();
        self.memory.lock().unwrap().add(&labels, [Sample { at, value }]);
    }

    /// What an expression yields, as `series value`, sorted.
    pub(super) fn look(&self, expr: &str, at: Timestamp) -> Vec<String> {
        let expr = tributary_promql::parse(expr).unwrap();
        let outcome = eval::instant(&expr, &*self.memory.lock().unwrap(), at, &options()).unwrap();
        let value::Value::Vector(series) = outcome.value else { panic!("no vector") };
        let mut lines: Vec<_> =
            series.iter().map(|s| format!("{} {}", s.labels, s.value.float().unwrap())).collect();
        lines.sort();
        lines
    }

    /// The alerts sent since the last call, as `name state`.
    pub(super) fn take_sent(&self, now: Timestamp) -> Vec<String> {
        let sent = std::mem::take(&mut *self.sent.lock().unwrap());
        let state = |alert: &Alert| if alert.ends_at <= now { "resolved" } else { "firing" };
        sent.iter().map(|alert| format!("{} {}", alert.labels, state(alert))).collect()
    }
}

/// A group from the text of a file that has one.
pub(super) fn group(scope: Scope, text: &str) -> Group {
    let scoping = Scoping {
        scope,
        label: "cluster".into(),
        local: "local".into(),
        features: Features::default(),
    };
    let spec = file::parse(text, "rules.yml", &scoping).unwrap().remove(0);
    Group { file: "rules.yml".into(), scope, spec }
}

pub(super) fn settings() -> Settings {
    Settings {
        cluster_label: "cluster".into(),
        local_cluster: "local".parse().unwrap(),
        external_url: "http://t.example.org".into(),
        external_labels: Labels::empty(),
        builtin: false,
        features: Features::default(),
    }
}

fn options() -> Options {
    Options { lookback: Duration::from_secs(300), ..Options::default() }
}

/// A source that shows only what satisfies the enforced matchers.
struct Narrow<'a> {
    inner: &'a Memory,
    enforced: &'a [Matcher],
}

impl Source for Narrow<'_> {
    fn select(&self, request: &Select<'_>) -> Result<Vec<Series>, SourceError> {
        let matchers: Vec<_> = request.matchers.iter().chain(self.enforced).cloned().collect();
        self.inner.select(&Select { matchers: &matchers, ..*request })
    }
}

impl Host for Fake {
    async fn evaluate(
        &self,
        expr: &Expr,
        at: Timestamp,
        enforced: &[Matcher],
    ) -> Result<Answer, QueryError> {
        self.evaluations.send_modify(|count| *count += 1);
        if let Some(broken) = &*self.broken.lock().unwrap() {
            return Err(broken.clone());
        }
        let memory = self.memory.lock().unwrap();
        let source = Narrow { inner: &memory, enforced };
        let outcome = eval::instant(expr, &source, at, &options())
            .map_err(|e| QueryError::Execution(e.to_string()))?;
        let value = own(outcome.value);
        Ok(Answer { value, warnings: vec![], infos: vec![], cost: Cost::default() })
    }

    async fn write(&self, samples: Vec<(Labels, Point)>) -> Result<(), HostError> {
        let mut memory = self.memory.lock().unwrap();
        for (labels, sample) in samples {
            match sample {
                Point::Number(sample) => memory.add(&labels, [sample]),
                Point::Histogram(sample) => memory.add_histograms(&labels, [sample]),
            }
        }
        Ok(())
    }

    fn clusters(&self) -> Vec<ClusterName> {
        self.clusters.clone()
    }

    async fn notify(&self, alerts: Vec<Alert>) {
        self.sent.lock().unwrap().extend(alerts);
    }

    async fn load(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, HostError> {
        let state = self.state.lock().unwrap();
        let found = state.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn put(&self, changes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), HostError> {
        let mut state = self.state.lock().unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => state.insert(key, value),
                None => state.remove(&key),
            };
        }
        Ok(())
    }
}
