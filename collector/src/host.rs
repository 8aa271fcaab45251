//! What rules, scrapes and notifications ask of the collector, carried out by the store and the queries.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::series::Metadata;
use tributary_promql::ast::Expr;
use tributary_store::Store;

use crate::api::remote::write::{Outcome, Pushed, Sink};
use crate::ingest::policy::{Policies, stamp};
use crate::local::{Samples, Writer};
use crate::notify::{Alert, StateError, StateStore};
use crate::query::{Answer, Point, Queries, QueryError};
use crate::rules::{self, HostError};
use crate::scrape;

/// The collector, as its own parts see it. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    /// Samples and small state.
    pub store: Store,
    /// Evaluation.
    pub queries: Queries,
    /// The way into the store for what the collector itself makes.
    pub writer: Writer,
    /// The label that holds a series' cluster.
    pub cluster_label: String,
    /// The collector's own name in that label.
    pub local_cluster: ClusterName,
    /// The notifier's queue; none without alerting.
    pub alerts: Option<mpsc::Sender<Vec<Alert>>>,
}

/// One change of durable state: a key, and its new value or nothing.
type Change = (String, Option<Vec<u8>>);

impl rules::Host for Host {
    fn evaluate(
        &self,
        expr: &Expr,
        at: Timestamp,
        enforced: &[Matcher],
    ) -> impl Future<Output = Result<Answer, QueryError>> + Send {
        self.queries.instant_scoped(expr, at, enforced)
    }

    async fn write(&self, points: Vec<(Labels, Point)>) -> Result<(), HostError> {
        let mut samples = Samples::default();
        for (labels, point) in points {
            match point {
                Point::Number(sample) => samples.numbers.push((labels, sample)),
                Point::Histogram(sample) => samples.histograms.push((labels, sample)),
            }
        }
        self.writer
            .write(samples, Vec::new())
            .await
            .map(|_| ())
            .map_err(|e| HostError(e.to_string()))
    }

    fn clusters(&self) -> Vec<ClusterName> {
        self.store.clusters().into_iter().map(|summary| summary.cluster).collect()
    }

    async fn notify(&self, alerts: Vec<Alert>) {
        if let Some(queue) = &self.alerts
            && queue.send(alerts).await.is_err()
        {
            tracing::warn!("alerts were not handed over: the notifier has stopped");
        }
    }

    async fn load(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, HostError> {
        load(&self.store, prefix).map_err(HostError)
    }

    async fn put(&self, changes: Vec<Change>) -> Result<(), HostError> {
        put(&self.store, changes).await.map_err(HostError)
    }
}

impl scrape::Sink for Host {
    async fn write(
        &self,
        samples: Vec<(Labels, Sample)>,
        metadata: Vec<Metadata>,
    ) -> Result<(), String> {
        let local = self.local_cluster.as_str();
        let stamped = |(labels, sample): (Labels, Sample)| {
            (stamp(&labels, &self.cluster_label, &self.local_cluster), sample)
        };
        let stamped: Vec<_> = samples.into_iter().map(stamped).collect();
        let written = self.writer.write(stamped, metadata).await;
        written.map(|_| ()).map_err(|e| format!("cluster {local}: {e}"))
    }
}

/// The way into the store for what is pushed to the HTTP port: stamped with the local cluster, within its limits.
pub struct PushHost {
    /// Knows which series there are.
    pub store: Store,
    /// Writes into a stream of its own.
    pub writer: Writer,
    /// The label that holds a series' cluster.
    pub cluster_label: String,
    /// The collector's own name in that label.
    pub cluster: ClusterName,
    /// Limits by cluster.
    pub policies: Arc<ArcSwap<Policies>>,
}

impl PushHost {
    async fn write(&self, samples: Samples, metadata: Vec<Metadata>) -> Result<Outcome, String> {
        let policy = self.policies.load().of(&self.cluster);
        let mut left = policy.max_series.saturating_sub(self.store.series_count(&self.cluster));
        let mut new: HashSet<Labels> = HashSet::new();
        let mut taken = Samples::default();
        let mut over_limits = 0;
        let mut fitting = |labels: &Labels| {
            let labels = stamp(labels, &self.cluster_label, &self.cluster);
            let fits = policy.check_shape(&labels).is_ok()
                && (new.contains(&labels)
                    || self.store.find(&self.cluster, &labels).is_some()
                    || {
                        let room = left > 0;
                        if room {
                            left -= 1;
                            new.insert(labels.clone());
                        }
                        room
                    });
            over_limits += u64::from(!fits);
            fits.then_some(labels)
        };
        for (labels, sample) in samples.numbers {
            taken.numbers.extend(fitting(&labels).map(|labels| (labels, sample)));
        }
        for (labels, sample) in samples.histograms {
            taken.histograms.extend(fitting(&labels).map(|labels| (labels, sample)));
        }
        let written = self.writer.write(taken, metadata).await;
        let accepted = written.map_err(|e| e.to_string())?;
        Ok(Outcome { accepted, over_limits })
    }
}

impl Sink for PushHost {
    fn push(&self, samples: Samples, metadata: Vec<Metadata>) -> Pushed<'_> {
        Box::pin(self.write(samples, metadata))
    }
}

impl StateStore for Host {
    async fn load(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StateError> {
        load(&self.store, prefix).map_err(StateError)
    }

    async fn put(&self, changes: Vec<Change>) -> Result<(), StateError> {
        put(&self.store, changes).await.map_err(StateError)
    }
}

fn load(store: &Store, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    store.state(prefix).map_err(|e| e.to_string())
}

/// Returns once the changes are on disk. The store's queue may be full: asking waits off the async threads.
async fn put(store: &Store, changes: Vec<Change>) -> Result<(), String> {
    let (done, answered) = oneshot::channel();
    let store = store.clone();
    let asked = tokio::task::spawn_blocking(move || {
        store.put_state(changes, Box::new(|result| drop(done.send(result))));
    });
    asked.await.map_err(|e| e.to_string())?;
    match answered.await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the store has stopped".to_owned()),
    }
}
