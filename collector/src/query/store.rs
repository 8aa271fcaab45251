//! The store as a source of series and as the engine behind the queries.

use std::collections::BTreeMap;
use std::sync::Arc;

use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Numbers, Timestamp};
use tributary_model::series::Metadata;
use tributary_promql::source::{SampleReader, Select, Series, Source, SourceError};
use tributary_store::{SelectedSeries, Store};

use super::engine::evaluate;
use super::{Answer, Engine, Gap, Job, Look, Point, QueryError, Take, Watch};

/// Evaluates over a store.
#[derive(Clone)]
pub struct StoreEngine(pub Store);

impl Source for StoreEngine {
    fn select(&self, request: &Select<'_>) -> Result<Vec<Series>, SourceError> {
        let found = self.0.select(request.matchers, request.from, request.to);
        let series = |series: SelectedSeries| Series {
            labels: series.labels.clone(),
            samples: Box::new(Reader(series)),
        };
        Ok(found.map_err(SourceError::new)?.into_iter().map(series).collect())
    }
}

struct Reader(SelectedSeries);

// Since when samples count, which `read_starts` would hand out, the store does not keep.
impl SampleReader for Reader {
    fn read(
        &self,
        from: Timestamp,
        to: Timestamp,
        numbers: &mut Numbers,
        histograms: &mut Vec<HistogramSample>,
    ) -> Result<(), SourceError> {
        self.0.read(from, to, numbers, histograms).map_err(SourceError::new)
    }
}

impl Engine for StoreEngine {
    fn evaluate(&self, job: &Job, watch: &Watch) -> Result<Answer, QueryError> {
        evaluate(job, self, watch)
    }

    fn series(&self, look: &Look) -> Result<Vec<Labels>, QueryError> {
        Ok(union(look, |set| self.0.series(set, look.from, look.to)))
    }

    fn label_names(&self, look: &Look) -> Result<Vec<Arc<str>>, QueryError> {
        Ok(texts(look, |set| self.0.label_names(set, look.from, look.to)))
    }

    fn label_values(&self, name: &str, look: &Look) -> Result<Vec<Arc<str>>, QueryError> {
        Ok(texts(look, |set| self.0.label_values(name, set, look.from, look.to)))
    }

    fn latest(&self, look: &Look) -> Result<Vec<(Labels, Point)>, QueryError> {
        let mut newest = BTreeMap::new();
        let (mut numbers, mut histograms) = (Numbers::default(), Vec::new());
        for set in look.sets() {
            let found = self.0.select(&set, look.from, look.to).map_err(failed)?;
            for series in found {
                if newest.contains_key(&series.labels) {
                    continue;
                }
                numbers.clear();
                histograms.clear();
                let read = series.read(look.from, look.to, &mut numbers, &mut histograms);
                read.map_err(failed)?;
                let last = numbers.iter().last().map(Point::Number);
                let last = last.into_iter().chain(histograms.pop().map(Point::Histogram));
                if let Some(last) = last.max_by_key(Point::at) {
                    newest.insert(series.labels.clone(), last);
                }
            }
        }
        Ok(newest.into_iter().filter(|(_, point)| !point.is_stale()).collect())
    }

    fn samples(&self, look: &Look, take: Take<'_>, watch: &Watch) -> Result<(), QueryError> {
        let mut numbers = Numbers::default();
        let (mut samples, mut histograms) = (Vec::new(), Vec::new());
        for set in look.sets() {
            let mut found = self.0.select(&set, look.from, look.to).map_err(failed)?;
            found.sort_by(|a, b| a.labels.cmp(&b.labels));
            for series in found {
                if let Some(why) = watch.interrupted() {
                    return Err(why);
                }
                numbers.clear();
                samples.clear();
                histograms.clear();
                let read = series.read(look.from, look.to, &mut numbers, &mut histograms);
                read.map_err(failed)?;
                samples.extend(numbers.iter());
                let none = samples.is_empty() && histograms.is_empty();
                if !none && !take(&series.labels, &samples, &histograms) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn metadata(&self) -> Result<Vec<(String, Metadata)>, QueryError> {
        let all = self.0.metadata().into_iter();
        Ok(all.map(|(cluster, metadata)| (cluster.to_string(), metadata)).collect())
    }

    fn gaps(&self) -> Result<Vec<Gap>, QueryError> {
        let gap = |gap: tributary_store::Gap| Gap {
            cluster: gap.stream.cluster.to_string(),
            instance: gap.stream.instance,
            from: gap.entry.from,
            to: gap.entry.to,
            cause: gap.entry.cause,
            samples: gap.entry.samples,
        };
        Ok(self.0.gaps().into_iter().map(gap).collect())
    }
}

/// Texts that are found for any of the sets, each once and in order, as they are found for one.
fn texts(look: &Look, find: impl Fn(&[Matcher]) -> Vec<Arc<str>>) -> Vec<Arc<str>> {
    match &*look.sets() {
        [set] => find(set),
        _ => union(look, find),
    }
}

/// What any of the sets finds, sorted, each once.
fn union<T: Ord>(look: &Look, find: impl Fn(&[Matcher]) -> Vec<T>) -> Vec<T> {
    let mut found: Vec<T> = look.sets().iter().flat_map(|set| find(set)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failed(error: tributary_store::Error) -> QueryError {
    QueryError::Internal(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tributary_model::sample::{Sample, stale_nan};
    use tributary_store::{Batch, Options, Replay, ReplayError, Resolver, StreamKey};

    use tributary_promql::feature::Features;

    use super::*;
    use crate::query::{Bounds, Call, Queries, Value};

    /// Nothing is read back in these tests.
    struct Nothing;

    impl Replay for Nothing {
        fn replay(&mut self, _: &Resolver, _: &[u8]) -> Result<Batch, ReplayError> {
            Err(ReplayError("the store is new".into()))
        }
    }

    const AT: Timestamp = Timestamp::from_millis(1_795_224_700_000);

    fn batch(cluster: &str, samples: Vec<(tributary_store::SeriesId, Sample)>) -> Batch {
        let cluster = cluster.parse().unwrap();
        Batch {
            stream: StreamKey { cluster, instance: "agent".into() },
            epoch: 1,
            seq: 1,
            starts_segment: true,
            state_only: false,
            received_at: AT,
            complete_until: AT,
            samples,
            metadata: vec![Metadata { metric: "up".into(), ..Metadata::default() }],
            histograms: Vec::new(),
            gaps: Vec::new(),
        }
    }

    fn store(folder: &tempfile::TempDir) -> Store {
        let options = Options { path: folder.path().join("data"), ..Options::default() };
        let (store, _) = Store::open(options, &mut [Nothing]).unwrap();
        for (cluster, last) in [("eu-1", 2.0), ("us-1", stale_nan())] {
            let pairs = [("__name__", "up"), ("cluster", cluster)];
            let labels = Labels::from_pairs(pairs).unwrap();
            let id = store.resolve(&cluster.parse().unwrap(), &labels);
            let sample =
                |secs: u64, value| (id, Sample { at: AT.minus(Duration::from_secs(secs)), value });
            let (done, stored) = mpsc::channel();
            let answer = Box::new(move |accepted| done.send(accepted).unwrap());
            store.append(
                Vec::new(),
                batch(cluster, vec![sample(60, 1.0), sample(30, last)]),
                answer,
            );
            assert_eq!(stored.recv().unwrap().unwrap().stored, 2);
        }
        store
    }

    #[tokio::test]
    async fn queries_read_the_store_and_obey_enforced_matchers() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds {
            timeout: Duration::from_secs(60),
            max_concurrency: 2,
            max_samples: 100,
            lookback: Duration::from_secs(300),
            features: Features::default(),
        };
        let queries = Queries::new(StoreEngine(store(&folder)), bounds);
        let number = async |text: &str, enforced: Vec<Matcher>| {
            let call = Call { enforced, ..Call::default() };
            match queries.instant(text, AT, call).await.unwrap().value {
                Value::Scalar(sample) => sample.value,
                other => panic!("{other:?}"),
            }
        };
        let us = || vec![Matcher::equal("cluster", "us-1")];
        assert_eq!(number("scalar(sum(up))", vec![]).await, 2.0);
        assert_eq!(number("scalar(sum(sum_over_time(up[5m])))", vec![]).await, 4.0);
        assert_eq!(number("scalar(sum(sum_over_time(up[5m])))", us()).await, 1.0);
        assert!(number("scalar(sum(up))", us()).await.is_nan());

        let look = |any_of: &[&str], enforced| Look {
            any_of: any_of.iter().map(|t| crate::query::text::parse_selector(t).unwrap()).collect(),
            enforced,
            from: AT.minus(Duration::from_secs(300)),
            to: AT,
        };
        let both = ["up", "{cluster=\"eu-1\"}"];
        assert_eq!(queries.series(look(&both, vec![])).await.unwrap().len(), 2);
        assert_eq!(queries.series(look(&both, us())).await.unwrap().len(), 1);
        let names = queries.label_names(look(&[], us())).await.unwrap();
        assert_eq!(names, ["__name__", "cluster"].map(Arc::from));
        let clusters = queries.label_values("cluster".into(), look(&[], vec![])).await.unwrap();
        assert_eq!(clusters, ["eu-1", "us-1"].map(Arc::from));
        let latest = queries.latest(look(&["up"], vec![])).await.unwrap();
        assert_eq!(latest.len(), 1, "a stale series has no newest sample");
        assert_eq!(queries.metadata().await.unwrap().len(), 2);
        assert!(queries.gaps().await.unwrap().is_empty());
    }
}
