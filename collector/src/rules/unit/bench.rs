//! A collector in memory, whose series appear as time goes on.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::Timestamp;
use tributary_promql::ast::Expr;
use tributary_promql::eval::{self, Options};
use tributary_promql::feature;
use tributary_promql::source::{Memory, Select, Series, Source, SourceError};

use super::compare::{Compared, Values};
use super::file::TestGroup;
use crate::notify::Alert;
use crate::query::{Answer, Cost, Point, QueryError, Value, engine};
use crate::rules::{Host, HostError, Settings};

/// Made-up series and what rules recorded.
pub(super) struct Bench {
    memory: Mutex<Memory>,
    /// Samples that are not there yet, by time.
    coming: Mutex<Vec<(Labels, Point)>>,
    clusters: Vec<ClusterName>,
    options: Options,
}

impl Bench {
    pub(super) fn new(test: &TestGroup, settings: &Settings) -> Self {
        let mut coming: Vec<(Labels, Point)> = test
            .series
            .iter()
            .flat_map(|(labels, samples)| samples.iter().map(|s| (labels.clone(), s.clone())))
            .collect();
        // The next one is the last: it is taken from the end.
        coming.sort_by_key(|(_, sample)| std::cmp::Reverse(sample.at()));
        let names: BTreeSet<&str> =
            test.series.iter().filter_map(|(l, _)| l.get(&settings.cluster_label)).collect();
        Self {
            memory: Mutex::default(),
            coming: Mutex::new(coming),
            clusters: names.into_iter().filter_map(|name| name.parse().ok()).collect(),
            options: Options { features: settings.features, ..Options::default() },
        }
    }

    /// Everything up to `millis` is there now.
    pub(super) fn advance(&self, millis: i64) {
        let (mut memory, mut coming) = (lock(&self.memory), lock(&self.coming));
        while let Some((labels, sample)) = coming.pop_if(|(_, s)| s.at().as_millis() <= millis) {
            add(&mut memory, &labels, sample);
        }
    }

    /// The value of an expression, sorted by labels.
    pub(super) fn value(&self, text: &str, at: Timestamp) -> Result<Values, String> {
        let features = self.options.features;
        let expr = tributary_promql::parse(text)
            .and_then(|expr| feature::check(text, &expr, features).map(|()| expr))
            .map_err(|e| e.to_string())?;
        let answer = self.evaluated(&expr, at, &[]).map_err(|e| e.to_string())?;
        match answer.value {
            Value::Vector(series) => {
                let value = |point| match point {
                    Point::Number(sample) => Compared::Number(sample.value),
                    Point::Histogram(sample) => Compared::Histogram(sample.histogram, true),
                };
                Ok(series.into_iter().map(|(labels, point)| (labels, value(point))).collect())
            }
            Value::Scalar(sample) => Ok(vec![(Labels::empty(), Compared::Number(sample.value))]),
            Value::Text(..) | Value::Matrix(_) => {
                Err("rule result is not a vector or scalar".to_owned())
            }
        }
    }

    fn evaluated(
        &self,
        expr: &Expr,
        at: Timestamp,
        enforced: &[Matcher],
    ) -> Result<Answer, QueryError> {
        let memory = lock(&self.memory);
        let source = Narrow { inner: &memory, enforced };
        let outcome = eval::instant(expr, &source, at, &self.options)
            .map_err(|e| QueryError::Execution(e.to_string()))?;
        let value = engine::own(outcome.value);
        Ok(Answer { value, warnings: Vec::new(), infos: Vec::new(), cost: Cost::default() })
    }
}

fn add(memory: &mut Memory, labels: &Labels, point: Point) {
    match point {
        Point::Number(sample) => memory.add(labels, [sample]),
        Point::Histogram(sample) => memory.add_histograms(labels, [sample]),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Host for Bench {
    async fn evaluate(
        &self,
        expr: &Expr,
        at: Timestamp,
        enforced: &[Matcher],
    ) -> Result<Answer, QueryError> {
        self.evaluated(expr, at, enforced)
    }

    async fn write(&self, samples: Vec<(Labels, Point)>) -> Result<(), HostError> {
        let mut memory = lock(&self.memory);
        for (labels, sample) in samples {
            add(&mut memory, &labels, sample);
        }
        Ok(())
    }

    fn clusters(&self) -> Vec<ClusterName> {
        self.clusters.clone()
    }

    async fn notify(&self, _: Vec<Alert>) {}

    async fn load(&self, _: &str) -> Result<Vec<(String, Vec<u8>)>, HostError> {
        Ok(Vec::new())
    }

    async fn put(&self, _: Vec<(String, Option<Vec<u8>>)>) -> Result<(), HostError> {
        Ok(())
    }
}
