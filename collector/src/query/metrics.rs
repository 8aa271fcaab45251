//! What queries count: how many, how they ended, how long they waited and ran.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::QueryError;

/// Seconds that queries take are sorted into these.
const BUCKETS: [f64; 9] = [0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];

/// Metrics of the queries. Cheap to clone.
#[derive(Debug, Clone)]
pub struct QueryMetrics {
    ended: Family<Ending, Counter>,
    waiting: Gauge,
    running: Gauge,
    seconds: Histogram,
}

/// Whose query it was and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ending {
    pool: &'static str,
    result: &'static str,
}

impl Default for QueryMetrics {
    fn default() -> Self {
        Self {
            ended: Family::default(),
            waiting: Gauge::default(),
            running: Gauge::default(),
            seconds: Histogram::new(BUCKETS),
        }
    }
}

impl QueryMetrics {
    /// Shows them in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let ended = "Queries and lookups that ended, by pool and result";
        registry.register("queries", ended, self.ended.clone());
        let waiting = "Queries and lookups that wait for others";
        registry.register("queries_waiting", waiting, self.waiting.clone());
        let running = "Queries and lookups that run";
        registry.register("queries_running", running, self.running.clone());
        let seconds = "Time that queries and lookups took, waiting included";
        registry.register("query_duration_seconds", seconds, self.seconds.clone());
    }

    /// Counts one as waiting until the result is dropped.
    pub(super) fn wait(&self) -> Counted {
        Counted::new(&self.waiting)
    }

    /// Counts one as running until the result is dropped.
    pub(super) fn run(&self) -> Counted {
        Counted::new(&self.running)
    }

    /// Counts one that ended.
    pub(super) fn ended(&self, pool: &'static str, error: Option<&QueryError>, seconds: f64) {
        let result = match error {
            None => "ok",
            Some(QueryError::Parse(_) | QueryError::Refused(_)) => "refused",
            Some(QueryError::Execution(_)) => "failed",
            Some(QueryError::Timeout(_)) => "timeout",
            Some(QueryError::Canceled) => "canceled",
            Some(QueryError::Internal(_)) => "internal",
        };
        self.ended.get_or_create(&Ending { pool, result }).inc();
        self.seconds.observe(seconds);
    }
}

/// One of those that a gauge shows.
pub(super) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
