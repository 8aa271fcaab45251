//! Runs PromQL over the store within bounds: the only file that sees both.

mod answer;
pub mod engine;
pub mod metrics;
pub mod store;
pub mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::series::Metadata;
use tributary_promql::ast::Expr;
use tributary_promql::feature::Features;

pub use answer::{Answer, Cost, Point, Row, Value};
use metrics::QueryMetrics;

/// Longest query, in bytes. A longer one is refused unread.
pub const MAX_QUERY_BYTES: usize = 128 << 10;

/// Rule evaluations at once. They have their own permits, so that no number of dashboards can starve a rule.
pub const MAX_RULE_EVALUATIONS: usize = 4;

/// Bounds that the configuration sets.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Longest evaluation, the time in the queue included.
    pub timeout: Duration,
    /// Ad-hoc queries at once; others wait.
    pub max_concurrency: usize,
    /// Samples that one query may hold in memory.
    pub max_samples: usize,
    /// How far an instant selector looks back.
    pub lookback: Duration,
    /// What is enabled beyond the stable language.
    pub features: Features,
}

/// What one caller asks beside the expression.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// Matchers that every selector must satisfy as well, whatever the expression says.
    pub enforced: Vec<Matcher>,
    /// A shorter time-out than the configured one.
    pub timeout: Option<Duration>,
    /// Another look-back than the configured one.
    pub lookback: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The text is not an expression; has the place.
    #[error("{0}")]
    Parse(String),
    /// The request cannot be carried out as it is.
    #[error("{0}")]
    Refused(String),
    /// The evaluation failed.
    #[error("{0}")]
    Execution(String),
    /// Too late; says where.
    #[error("query timed out in {0}")]
    Timeout(&'static str),
    /// The caller went away.
    #[error("query was canceled in expression evaluation")]
    Canceled,
    /// The store failed.
    #[error("{0}")]
    Internal(String),
}

/// The times of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// One time.
    Instant(Timestamp),
    /// From `start` to `end`, both included, every `step`.
    Range {
        /// The first time.
        start: Timestamp,
        /// No time after this.
        end: Timestamp,
        /// At least a millisecond.
        step: Duration,
    },
}

/// An interval that is known to be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Whose samples are missing.
    pub cluster: String,
    /// Which agent's.
    pub instance: String,
    /// First missing millisecond.
    pub from: Timestamp,
    /// Last missing millisecond.
    pub to: Timestamp,
    /// Why.
    pub cause: String,
    /// How many samples, if that is known.
    pub samples: u64,
}

/// What series to look at.
#[derive(Debug, Clone)]
pub struct Look {
    /// A series is wanted if it satisfies all matchers of any set; no set at all: every series.
    pub any_of: Vec<Vec<Matcher>>,
    /// Matchers that it must satisfy as well.
    pub enforced: Vec<Matcher>,
    /// With samples not before this …
    pub from: Timestamp,
    /// … and not after this.
    pub to: Timestamp,
}

impl Look {
    /// The sets with the enforced matchers added; never empty.
    pub fn sets(&self) -> Vec<Vec<Matcher>> {
        if self.any_of.is_empty() {
            return vec![self.enforced.clone()];
        }
        let with = |set: &Vec<Matcher>| set.iter().chain(&self.enforced).cloned().collect();
        self.any_of.iter().map(with).collect()
    }
}

/// What to evaluate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// As a person wrote it; read when its turn comes.
    Text(String),
    /// Read before.
    Tree(Box<Expr>),
}

/// An evaluation as the engine gets it.
#[derive(Debug, Clone)]
pub struct Job {
    /// The expression.
    pub expression: Expression,
    /// The times.
    pub when: When,
    /// Matchers that every selector must satisfy as well.
    pub enforced: Vec<Matcher>,
    /// How far an instant selector looks back.
    pub lookback: Duration,
    /// Samples that may be in memory.
    pub max_samples: usize,
    /// What is enabled beyond the stable language.
    pub features: Features,
}

/// Takes one series with its numbers and native histograms; false if no more are wanted.
pub type Take<'a> = &'a mut dyn FnMut(&Labels, &[Sample], &[HistogramSample]) -> bool;

/// Takes series one after the other.
pub trait Taker: Send + 'static {
    /// Takes one series with its numbers and native histograms; false if no more are wanted.
    fn take(&mut self, labels: &Labels, samples: &[Sample], histograms: &[HistogramSample])
    -> bool;
}

/// What evaluates and looks up, on the thread it is called on.
pub trait Engine: Send + Sync + 'static {
    /// Evaluates an expression; asks `watch` often whether to stop.
    fn evaluate(&self, job: &Job, watch: &Watch) -> Result<Answer, QueryError>;
    /// The label sets, sorted.
    fn series(&self, look: &Look) -> Result<Vec<Labels>, QueryError>;
    /// The label names, sorted.
    fn label_names(&self, look: &Look) -> Result<Vec<Arc<str>>, QueryError>;
    /// The values of a label, sorted.
    fn label_values(&self, name: &str, look: &Look) -> Result<Vec<Arc<str>>, QueryError>;
    /// The newest sample of each series, by label set; series that are stale at the end are left out.
    fn latest(&self, look: &Look) -> Result<Vec<(Labels, Point)>, QueryError>;
    /// Every sample of each series, by label set, staleness markers too; ends early when `take` returns false.
    fn samples(&self, look: &Look, take: Take<'_>, watch: &Watch) -> Result<(), QueryError>;
    /// What is known of the metrics, with the cluster that says so.
    fn metadata(&self) -> Result<Vec<(String, Metadata)>, QueryError>;
    /// The intervals that are known to be missing.
    fn gaps(&self) -> Result<Vec<Gap>, QueryError>;
}

/// The one door to series: every caller goes through its bounds. Cheap to clone.
#[derive(Clone)]
pub struct Queries(Arc<Inner>);

struct Inner {
    engine: Box<dyn Engine>,
    bounds: Bounds,
    /// Ad-hoc queries.
    adhoc: Pool,
    /// Lookups of series and labels.
    lookups: Pool,
    /// Rules.
    rules: Pool,
    metrics: QueryMetrics,
}

/// Permits of one kind of work. None left: it waits, and the wait counts toward its time-out.
struct Pool {
    name: &'static str,
    permits: Arc<Semaphore>,
}

impl Pool {
    fn new(name: &'static str, size: usize) -> Self {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        Self { name, permits: Arc::new(Semaphore::new(size)) }
    }
}

impl Queries {
    /// A door to `engine`.
    pub fn new(engine: impl Engine, bounds: Bounds) -> Self {
        Self(Arc::new(Inner {
            engine: Box::new(engine),
            adhoc: Pool::new("query", bounds.max_concurrency),
            lookups: Pool::new("lookup", bounds.max_concurrency),
            rules: Pool::new("rule", MAX_RULE_EVALUATIONS),
            bounds,
            metrics: QueryMetrics::default(),
        }))
    }

    /// Shows what is counted in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
    }

    /// The bounds in force.
    pub fn bounds(&self) -> &Bounds {
        &self.0.bounds
    }

    /// The value of an expression at one time.
    pub async fn instant(
        &self,
        text: &str,
        at: Timestamp,
        call: Call,
    ) -> Result<Answer, QueryError> {
        self.adhoc(text, When::Instant(at), call).await
    }

    /// The values of an expression from `start` to `end`, both included, every `step`.
    pub async fn range(&self, text: &str, when: When, call: Call) -> Result<Answer, QueryError> {
        self.adhoc(text, when, call).await
    }

    /// The value of a rule's expression at one time; never waits for ad-hoc queries.
    pub async fn instant_scoped(
        &self,
        expression: &Expr,
        at: Timestamp,
        enforced: &[Matcher],
    ) -> Result<Answer, QueryError> {
        let call = Call { enforced: enforced.to_vec(), ..Call::default() };
        let expression = Expression::Tree(Box::new(expression.clone()));
        self.evaluate(&self.0.rules, expression, When::Instant(at), call).await
    }

    /// The label sets that satisfy `look`, sorted.
    pub async fn series(&self, look: Look) -> Result<Vec<Labels>, QueryError> {
        self.look_up(move |engine| engine.series(&look)).await
    }

    /// The names of labels of series that satisfy `look`, sorted.
    pub async fn label_names(&self, look: Look) -> Result<Vec<Arc<str>>, QueryError> {
        self.look_up(move |engine| engine.label_names(&look)).await
    }

    /// The values of one label of series that satisfy `look`, sorted.
    pub async fn label_values(
        &self,
        name: String,
        look: Look,
    ) -> Result<Vec<Arc<str>>, QueryError> {
        self.look_up(move |engine| engine.label_values(&name, &look)).await
    }

    /// The newest sample of each series that satisfies `look`.
    pub async fn latest(&self, look: Look) -> Result<Vec<(Labels, Point)>, QueryError> {
        self.look_up(move |engine| engine.latest(&look)).await
    }

    /// Hands every sample of the series that satisfy `look` to `taker`, series by series, and gives it back.
    pub async fn samples<T: Taker>(&self, look: Look, mut taker: T) -> Result<T, QueryError> {
        let work = move |engine: &dyn Engine, watch: &Watch| {
            let take: Take<'_> =
                &mut |labels, samples, histograms| taker.take(labels, samples, histograms);
            engine.samples(&look, take, watch)?;
            Ok(taker)
        };
        let taken = self.run(&self.0.lookups, self.0.bounds.timeout, work).await;
        taken.map(|(taker, _)| taker)
    }

    /// What is known of the metrics, with the cluster that says so.
    pub async fn metadata(&self) -> Result<Vec<(String, Metadata)>, QueryError> {
        self.look_up(Engine::metadata).await
    }

    /// The intervals that are known to be missing.
    pub async fn gaps(&self) -> Result<Vec<Gap>, QueryError> {
        self.look_up(Engine::gaps).await
    }

    async fn adhoc(&self, text: &str, when: When, call: Call) -> Result<Answer, QueryError> {
        if text.len() > MAX_QUERY_BYTES {
            return Err(QueryError::Refused(format!(
                "the query is longer than {MAX_QUERY_BYTES} bytes"
            )));
        }
        self.evaluate(&self.0.adhoc, Expression::Text(text.to_owned()), when, call).await
    }

    async fn evaluate(
        &self,
        pool: &Pool,
        expression: Expression,
        when: When,
        call: Call,
    ) -> Result<Answer, QueryError> {
        let bounds = &self.0.bounds;
        let timeout = call.timeout.map_or(bounds.timeout, |t| t.min(bounds.timeout));
        let job = Job {
            expression,
            when,
            enforced: call.enforced,
            lookback: call.lookback.unwrap_or(bounds.lookback),
            max_samples: bounds.max_samples,
            features: bounds.features,
        };
        let evaluate = move |engine: &dyn Engine, watch: &Watch| {
            let started = Instant::now();
            let mut answer = engine.evaluate(&job, watch)?;
            answer.cost.evaluation = started.elapsed();
            Ok(answer)
        };
        let (mut answer, queue) = self.run(pool, timeout, evaluate).await?;
        answer.cost.queue = queue;
        Ok(answer)
    }

    async fn look_up<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Engine) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let pool = &self.0.lookups;
        let work = move |engine: &dyn Engine, _: &Watch| work(engine);
        self.run(pool, self.0.bounds.timeout, work).await.map(|(found, _)| found)
    }

    /// Works, and counts how that ended.
    async fn run<T: Send + 'static>(
        &self,
        pool: &Pool,
        timeout: Duration,
        work: impl FnOnce(&dyn Engine, &Watch) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<(T, Duration), QueryError> {
        let started = Instant::now();
        let result = self.run_uncounted(pool, timeout, work).await;
        let seconds = started.elapsed().as_secs_f64();
        self.0.metrics.ended(pool.name, result.as_ref().err(), seconds);
        result
    }

    /// Waits for a permit, works on a thread that may block, and gives up at the deadline. Dropping the future cancels.
    async fn run_uncounted<T: Send + 'static>(
        &self,
        pool: &Pool,
        timeout: Duration,
        work: impl FnOnce(&dyn Engine, &Watch) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<(T, Duration), QueryError> {
        let started = Instant::now();
        let deadline = started + timeout;
        let waiting = self.0.metrics.wait();
        let permit = Arc::clone(&pool.permits).acquire_owned();
        let permit = tokio::time::timeout_at(deadline.into(), permit)
            .await
            .map_err(|_| QueryError::Timeout("query queue"))?
            .map_err(|_| QueryError::Canceled)?;
        drop(waiting);
        let queue = started.elapsed();
        let canceled = Arc::new(AtomicBool::new(false));
        let _cancel = CancelOnDrop(Arc::clone(&canceled));
        let watch = Watch { canceled, deadline };
        let inner = Arc::clone(&self.0);
        // The permit goes along: a thread that is still busy after its deadline counts.
        let task = tokio::task::spawn_blocking(move || {
            let running = inner.metrics.run();
            let result = work(&*inner.engine, &watch);
            drop((running, permit));
            result
        });
        match tokio::time::timeout_at((deadline + DEADLINE_SLACK).into(), task).await {
            Ok(Ok(result)) => result.map(|found| (found, queue)),
            Ok(Err(failed)) => {
                Err(QueryError::Internal(format!("the evaluation broke off: {failed}")))
            }
            Err(_) => Err(QueryError::Timeout("expression evaluation")),
        }
    }
}

/// How much longer than the deadline to wait for an evaluation to notice it.
const DEADLINE_SLACK: Duration = Duration::from_millis(500);

/// Tells a running evaluation to stop.
#[derive(Debug, Clone)]
pub struct Watch {
    canceled: Arc<AtomicBool>,
    deadline: Instant,
}

impl Watch {
    /// Why to stop now, if so.
    pub fn interrupted(&self) -> Option<QueryError> {
        if self.canceled.load(Ordering::Relaxed) {
            Some(QueryError::Canceled)
        } else if Instant::now() >= self.deadline {
            Some(QueryError::Timeout("expression evaluation"))
        } else {
            None
        }
    }
}

/// Cancels an evaluation when the future that waits for it is dropped.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_promql::ast::{Span, Text};

    /// Evaluates `spin` until interrupted, all else at once.
    struct Fake;

    impl Engine for Fake {
        fn evaluate(&self, job: &Job, watch: &Watch) -> Result<Answer, QueryError> {
            while job.expression == Expression::Text("spin".into()) {
                if let Some(why) = watch.interrupted() {
                    return Err(why);
                }
                std::thread::yield_now();
            }
            let value = Value::Text(Timestamp::default(), format!("{:?}", job.enforced));
            Ok(Answer { value, warnings: vec![], infos: vec![], cost: Cost::default() })
        }

        fn series(&self, look: &Look) -> Result<Vec<Labels>, QueryError> {
            assert!(look.sets().iter().all(|set| !set.is_empty()));
            Ok(vec![])
        }

        fn label_names(&self, _: &Look) -> Result<Vec<Arc<str>>, QueryError> {
            Ok(vec![])
        }

        fn label_values(&self, _: &str, _: &Look) -> Result<Vec<Arc<str>>, QueryError> {
            Ok(vec![])
        }

        fn latest(&self, _: &Look) -> Result<Vec<(Labels, Point)>, QueryError> {
            Ok(vec![])
        }

        fn samples(&self, _: &Look, _: Take<'_>, _: &Watch) -> Result<(), QueryError> {
            Ok(())
        }

        fn metadata(&self) -> Result<Vec<(String, Metadata)>, QueryError> {
            Ok(vec![])
        }

        fn gaps(&self) -> Result<Vec<Gap>, QueryError> {
            Ok(vec![])
        }
    }

    fn queries(timeout: Duration) -> Queries {
        let lookback = Duration::from_secs(300);
        Queries::new(
            Fake,
            Bounds {
                timeout,
                max_concurrency: 1,
                max_samples: 10,
                lookback,
                features: Features::default(),
            },
        )
    }

    const AT: Timestamp = Timestamp::from_millis(0);

    #[tokio::test]
    async fn a_long_evaluation_times_out_and_so_does_waiting_for_it() {
        let queries = queries(Duration::from_secs(60));
        let short = || Call { timeout: Some(Duration::from_millis(5)), ..Call::default() };
        let timed_out = queries.instant("spin", AT, short()).await;
        assert_eq!(timed_out, Err(QueryError::Timeout("expression evaluation")));
        let mut running = Box::pin(queries.instant("spin", AT, Call::default()));
        assert!(futures_util::poll!(running.as_mut()).is_pending());
        let waited = queries.instant("1", AT, short()).await;
        assert_eq!(waited, Err(QueryError::Timeout("query queue")));
    }

    #[tokio::test]
    async fn a_dropped_query_frees_its_place() {
        let queries = queries(Duration::from_secs(60));
        {
            let mut running = Box::pin(queries.instant("spin", AT, Call::default()));
            let started = futures_util::poll!(running.as_mut());
            assert!(started.is_pending());
        }
        assert!(queries.instant("1", AT, Call::default()).await.is_ok());
    }

    #[tokio::test]
    async fn rules_do_not_wait_for_queries() {
        let queries = queries(Duration::from_secs(60));
        let mut running = Box::pin(queries.instant("spin", AT, Call::default()));
        assert!(futures_util::poll!(running.as_mut()).is_pending());
        let one = Expr::String(Text { text: String::new(), span: Span::default() });
        let enforced = [Matcher::equal("cluster", "local")];
        let answer = queries.instant_scoped(&one, AT, &enforced).await.unwrap();
        assert_eq!(answer.value, Value::Text(AT, format!("{enforced:?}")));
    }

    #[tokio::test]
    async fn every_ending_is_counted() {
        let queries = queries(Duration::from_secs(60));
        let mut registry = Registry::default();
        queries.register(&mut registry);
        let short = Call { timeout: Some(Duration::from_millis(1)), ..Call::default() };
        let _ = queries.instant("spin", AT, short).await;
        let _ = queries.instant("1", AT, Call::default()).await;
        let _ = queries.metadata().await;
        let text = crate::metrics::text(&registry);
        for line in [
            "queries_total{pool=\"query\",result=\"timeout\"} 1",
            "queries_total{pool=\"query\",result=\"ok\"} 1",
            "queries_total{pool=\"lookup\",result=\"ok\"} 1",
            "queries_waiting 0",
            "query_duration_seconds_count 3",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[tokio::test]
    async fn a_query_has_a_greatest_length() {
        let text = "1".repeat(MAX_QUERY_BYTES + 1);
        let refused = queries(Duration::from_secs(60)).instant(&text, AT, Call::default()).await;
        assert!(matches!(refused, Err(QueryError::Refused(_))));
    }
}
