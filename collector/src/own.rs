//! Writes the collector's own metrics as local series, so that rules and queries see them without a scrape.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tributary_model::exposition::{self, ExpositionError, Format};
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp, stale_nan};
use tributary_model::series::Metadata;

use crate::metrics;
use crate::scrape::{Sink, merged};

/// How often; also how often the built-in alerts are evaluated.
const INTERVAL: Duration = Duration::from_secs(15);

/// Copies the registry into the store. There is no `up` beside its series: a collector that is not up writes nothing.
pub struct OwnMetrics<S> {
    registry: Arc<Registry>,
    sink: S,
    /// What every series carries.
    target: Labels,
    /// The series of the last time: they become stale when they vanish.
    seen: HashSet<Labels>,
}

impl<S: Sink> OwnMetrics<S> {
    /// The metrics of `registry`, under `job="tributary-collector"`.
    pub fn new(registry: Arc<Registry>, sink: S) -> Self {
        let target = Labels::from_pairs([("job", "tributary-collector")]).unwrap_or_default();
        Self { registry, sink, target, seen: HashSet::new() }
    }

    /// Writes until `stop`; for the first time at once, so that counters are known from their beginning.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let written = match self.samples(SystemTime::now().into()) {
                Ok((samples, metadata)) => self.sink.write(samples, metadata).await,
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = written {
                tracing::warn!(error, "storing the collector's own metrics failed");
            }
        }
    }

    fn samples(&mut self, at: Timestamp) -> Result<Found, ExpositionError> {
        let text = metrics::text(&self.registry);
        let exposition = exposition::read(&text, Format::OpenMetrics)?;
        let rows = exposition.rows.into_iter();
        let mut samples: Vec<_> = rows
            .map(|(labels, value, _)| {
                (merged(&renamed(&labels), &self.target, false), Sample { at, value })
            })
            .collect();
        let seen = samples.iter().map(|(labels, _)| labels.clone()).collect();
        let vanished = std::mem::replace(&mut self.seen, seen);
        let stale = Sample { at, value: stale_nan() };
        samples.extend(vanished.difference(&self.seen).map(|labels| (labels.clone(), stale)));
        Ok((samples, exposition.metadata))
    }
}

/// `cluster` names an agent's cluster here, whatever the label is that holds a series' own.
fn renamed(labels: &Labels) -> Labels {
    let name = |name: &str| if name == "cluster" { "exported_cluster" } else { name }.to_owned();
    let pairs = labels.iter().map(|label| (name(&label.name), &*label.value));
    Labels::from_pairs(pairs).unwrap_or_else(|_| labels.clone())
}

type Found = (Vec<(Labels, Sample)>, Vec<Metadata>);

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;

    #[derive(Clone)]
    struct Nowhere;

    impl Sink for Nowhere {
        async fn write(&self, _: Vec<(Labels, Sample)>, _: Vec<Metadata>) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn series_are_local_and_end_when_they_vanish() {
        let streams: Family<Vec<(String, String)>, Gauge> = Family::default();
        let mut registry = metrics::registry();
        registry.register("streams", "Streams", streams.clone());
        let labels = vec![("cluster".to_owned(), "eu-1".to_owned())];
        streams.get_or_create(&labels).set(2);
        let mut own = OwnMetrics::new(Arc::new(registry), Nowhere);
        let series =
            r#"tributary_collector_streams{exported_cluster="eu-1", job="tributary-collector"}"#;

        let (first, metadata) = own.samples(Timestamp::from_millis(1)).unwrap();
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].0.to_string().as_str(), first[0].1.value), (series, 2.0));
        assert_eq!(metadata[0].metric, "tributary_collector_streams");

        streams.clear();
        let (second, _) = own.samples(Timestamp::from_millis(2)).unwrap();
        assert_eq!(second[0].0.to_string(), series);
        assert!(tributary_model::sample::is_stale(second[0].1.value));
        assert!(own.samples(Timestamp::from_millis(3)).unwrap().0.is_empty());
    }
}
